//! Rows are what a real CQL driver asked a server that is no Cassandra but speaks its protocol.

use undine_testbed::Program;

use super::kernel::{alone, may_load};
use super::place::{happen_to_be_installed, python_that_happens_to_have};
use super::watch::watched;

/// What the Python driver does: 200 inserts of a prepared statement, many of them at once.
const CLIENT: &str = r#"
import sys
from cassandra.cluster import Cluster, ExecutionProfile, EXEC_PROFILE_DEFAULT
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import WhiteListRoundRobinPolicy
from cassandra.query import BatchStatement
profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]))
cluster = Cluster(["127.0.0.1"], port=int(sys.argv[1]), protocol_version=4, compression=False,
                  execution_profiles={EXEC_PROFILE_DEFAULT: profile},
                  schema_metadata_enabled=False, token_metadata_enabled=False)
session = cluster.connect()
session.execute("CREATE KEYSPACE IF NOT EXISTS ks with replication={'class':'SimpleStrategy','replication_factor':1}")
session.execute("CREATE TABLE ks.t (id int PRIMARY KEY, v text);")
insert = session.prepare("insert into ks.t (id,v) values (?,?)")
execute_concurrent_with_args(session, insert, [(i, "x%d" % i) for i in range(200)], concurrency=50)
print(len(list(session.execute("select * from ks.t"))))
try:
    session.execute("select * from ks.nosuch")
except Exception:
    pass
batch = BatchStatement()
batch.add(insert, (1000, "b"))
session.execute(batch)
cluster.shutdown()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_driver_asks_are_rows() {
    let _alone = alone().await;
    let Some(python) = python_that_happens_to_have(&["cassandra"]) else { return };
    if !may_load() || !happen_to_be_installed(&["cqlsrv"]) {
        return;
    }
    let (memory, read) = watched("undine-cql", 1024, |place| {
        let mut server = Program::start(place.command("cqlsrv").arg("300")).unwrap();
        let at = server.hear("").unwrap();
        let port = at.rsplit(':').next().unwrap();
        place.run(&python, &["-c", CLIENT, port])
    })
    .await;
    let rows = memory.rows("cql_events", &["req_op", "req_body", "resp_op", "resp_body"]);
    let count = |op: &str, body: &str| {
        rows.iter().filter(|row| row[0] == op && row[1].contains(body)).count()
    };
    println!("{} rows, {} inserted rows were read", rows.len(), read.trim());
    let insert = "insert into ks.t (id,v) values (?,?)";
    assert_eq!((count("10", insert), count("10", "")), (200, 200), "{rows:?}");
    assert_eq!((count("9", insert), count("13", insert)), (1, 1), "{rows:?}");
    let answer = |op: &str, body: &str| {
        let row = rows.iter().find(|row| row[0] == op && row[1].contains(body));
        row.map(|row| (row[2].clone(), row[3].clone())).unwrap_or_default()
    };
    let select = answer("7", "select * from ks.t");
    assert_eq!(select.0, "8");
    assert!(select.1.contains(r#""columns":["id","v"]"#), "{select:?}");
    assert!(select.1.contains(&format!(r#""rows":{}"#, read.trim())), "{select:?}");
    assert_eq!(answer("7", "ks.nosuch").0, "0");
    assert_eq!(answer("1", "CQL_VERSION").0, "2");
    assert_eq!(memory.rows("data_loss", &["reason"]), Vec::<Vec<String>>::new());
}
