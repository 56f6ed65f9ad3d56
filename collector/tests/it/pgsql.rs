//! What is seen of a real PostgreSQL server, against what it says itself.

use std::path::Path;

use undine_collector::{Cgroup, Config, Stats};
use undine_testbed::postgres::{PASSWORD, Postgres};
use undine_testbed::{Scene, Server, Wire};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, wait_until};
use super::postgres::{Logged, logged, pgbench, programs, psql, script};
use super::watch::seen_while;

const COLUMNS: [&str; 6] = ["req_cmd", "req", "resp", "failed", "trace_role", "quality"];

/// What the test knows of a server that was watched from its start to its end.
struct Seen {
    /// A row as its values in [`COLUMNS`].
    rows: Vec<Vec<String>>,
    statements: Vec<Logged>,
    /// Error and SQL.
    errors: Vec<[String; 2]>,
    losses: Vec<Vec<String>>,
    stats: Stats,
}

impl Seen {
    /// The rows of these commands, as the server would log them.
    fn logged(&self, keep: impl Fn(&[String]) -> bool) -> Vec<Logged> {
        let rows = self.rows.iter().filter(|row| keep(row));
        let mut logged: Vec<_> =
            rows.map(|row| Logged { command: row[0].clone(), request: row[1].clone() }).collect();
        logged.sort();
        logged
    }

    fn check_nothing_is_lost(&self) {
        assert!(self.stats.drained, "{:?}", self.stats);
        assert_eq!((self.stats.kernel.dropped, self.stats.missing_rows.max), (0, 0));
        // Of long rows not all bytes are captured, which costs no row.
        for loss in &self.losses {
            assert_eq!(loss[..2], ["truncated", "0"], "{loss:?}");
        }
        for row in &self.rows {
            assert_eq!(row[4..], ["2", "0"], "{row:?}");
            assert!(!row.concat().contains(PASSWORD), "{row:?}");
        }
    }
}

/// Runs `work` on a server; nothing where that cannot be done here.
async fn watch(work: fn(&Postgres<'_>)) -> Option<Seen> {
    if !may_load() {
        return None;
    }
    let programs = programs()?;
    let (place, folder) = (Place::new("undine-pgsql"), tempfile::tempdir().unwrap());
    let config = Config { body_bytes_max: 4096, ..config(&place.cgroup, 16 << 20, None) };
    let (memory, stats, log) = seen_while(config, |_| {
        let postgres = start(&place, folder.path(), &programs);
        work(&postgres);
        postgres.stop().unwrap()
    })
    .await;
    let (mut statements, errors) = logged(&log);
    statements.sort();
    Some(Seen {
        rows: memory.rows("pgsql_events", &COLUMNS),
        statements,
        errors,
        losses: memory.rows("data_loss", &["reason", "rows_max", "bytes"]),
        stats,
    })
}

/// A server that logs all statements.
fn start<'p>(place: &'p Place, folder: &'p Path, programs: &Path) -> Postgres<'p> {
    let scene = Scene { place, folder, wire: Wire::Plain };
    Postgres::start(scene, programs, &["log_statement=all"]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_psql_sends_is_what_its_server_logged() {
    let _alone = alone().await;
    let work = |postgres: &Postgres<'_>| {
        let ran = psql(
            postgres,
            &[
                "CREATE TABLE people (id int PRIMARY KEY, name text)",
                "COPY people FROM STDIN",
                "INSERT INTO people VALUES (7, 'é'), (8, NULL)",
                "SELECT id, name FROM people ORDER BY id",
                "BEGIN; DELETE FROM people WHERE id = 8; COMMIT",
                "INSERT INTO people VALUES (7, 'twice')",
                "SELEC",
                "SELECT * FROM nowhere",
                "DO $$ BEGIN RAISE NOTICE 'noted'; END $$",
                "LISTEN here; NOTIFY here",
                "COPY people TO STDOUT",
                "SELECT repeat('x', 1000000)",
                "COPY (SELECT generate_series(1, 100000)) TO STDOUT",
                "",
                "SELECT pg_terminate_backend(pg_backend_pid())",
            ],
            "1\tAnn\n2\tBob\n",
        );
        println!("{}", String::from_utf8_lossy(&ran.stderr));
    };
    let Some(seen) = Box::pin(watch(work)).await else { return };
    seen.check_nothing_is_lost();
    // What has a mistake in its syntax is not logged as a statement.
    assert_eq!(seen.logged(|row| !row[2].starts_with("ERROR 42601")), seen.statements);
    let failed = seen.rows.iter().filter(|row| row[3] == "1");
    let failed: Vec<_> = failed.map(|row| [row[2].clone(), row[1].clone()]).collect();
    for row in &seen.rows {
        println!("{} {:.100} -> {:.100}", row[0], row[1], row[2].replace('\n', " | "));
    }
    // The last of them is the server that goes away.
    assert_eq!(failed[..failed.len() - 1], seen.errors);
    assert!(failed[3][0].starts_with("FATAL 57P01"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pgbench_runs_in_any_mode_is_what_its_server_logged() {
    let _alone = alone().await;
    let work = |postgres: &Postgres<'_>| {
        pgbench(postgres, &["-i"]);
        for mode in ["simple", "extended", "prepared"] {
            pgbench(postgres, &["-n", "-c", "4", "-t", "100", "-M", mode]);
        }
    };
    let Some(seen) = Box::pin(watch(work)).await else { return };
    println!("{} rows, {} statements, {:?}", seen.rows.len(), seen.statements.len(), seen.stats);
    seen.check_nothing_is_lost();
    assert_eq!(seen.logged(|_| true), seen.statements);
    assert_eq!(seen.stats.pipeline.rows_of_other_end, seen.rows.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_and_what_fails_in_them_are_what_the_server_logged() {
    let _alone = alone().await;
    let work = |postgres: &Postgres<'_>| {
        for mode in ["extended", "prepared"] {
            let pipeline = "\\set x 7\n\\startpipeline\nSELECT :x;\nSELECT 2;\nSELECT :x + 1;\n";
            script(postgres, mode, &format!("{pipeline}\\endpipeline\nSELECT 3;\n"));
            let nowhere = "\\startpipeline\nSELECT 4;\nSELECT * FROM nowhere;\nSELECT 5;\n";
            script(postgres, mode, &format!("{nowhere}\\endpipeline\n"));
            // These fail as they are parsed, planned and run.
            script(postgres, mode, "SELECT * FROM nowhere;\n");
            script(postgres, mode, "SELECT 1 / 0;\n");
            script(postgres, mode, "SELECT 1 / count(*) FROM pg_class WHERE false;\n");
        }
    };
    let Some(seen) = Box::pin(watch(work)).await else { return };
    for row in &seen.rows {
        println!("{} {} -> {}", row[0], row[1], row[2].replace('\n', " | "));
    }
    seen.check_nothing_is_lost();
    // What is skipped, or fails before it is run, is not logged as a statement.
    let ran = |row: &[String]| row[3] == "0" || row[0] == "Execute" && !row[2].is_empty();
    assert_eq!(seen.logged(ran), seen.statements);
    assert_eq!(seen.stats.pipeline.rows_of_other_end, seen.rows.len() as u64);
    let failed = seen.rows.iter().filter(|row| row[3] == "1" && !row[2].is_empty());
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.len(), seen.errors.len());
    for (row, [error, sql]) in failed.iter().zip(&seen.errors) {
        assert_eq!(&row[2], error);
        assert!(row[1].contains(sql), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_were_there_before_are_joined_and_never_paired_wrong() {
    let _alone = alone().await;
    let Some(programs) = may_load().then(programs).flatten() else { return };
    let (place, folder) = (Place::new("undine-pgsql"), tempfile::tempdir().unwrap());
    let clients = Cgroup::create("undine-pgsql-clients").unwrap();
    // Built when the load is running, of the place that the server has by then.
    let config = Config { body_bytes_max: 4096, ..config(&place.cgroup, 16 << 20, None) };
    let postgres = tokio::task::block_in_place(|| start(&place, folder.path(), &programs));
    let script = postgres.scene.path("random.sql");
    std::fs::write(&script, "\\set n random(1, 1000000)\nSELECT :n + 0;\n").unwrap();
    // Until enough of it is seen.
    let load = ["simple", "extended", "prepared"].map(|mode| {
        let mut pgbench = postgres.client_in(&clients, "pgbench");
        Server::start(pgbench.args(["-n", "-T", "600", "-M", mode, "-f"]).arg(&script)).unwrap()
    });
    tokio::task::block_in_place(|| {
        for begun in ["statement: SELECT", "execute <unnamed>: SELECT", "execute P_0: SELECT"] {
            wait_until(begun, || postgres.has_logged(begun).unwrap());
        }
    });
    let (memory, ..) = seen_while(config, |memory| {
        let is_enough = || joined(memory).iter().all(|rows| *rows > 100);
        wait_until("a hundred rows of each kind of session", is_enough);
        drop(load);
    })
    .await;
    println!("joined: {:?} rows of simple, extended and prepared sessions", joined(&memory));
}

/// How many statements of simple, extended and prepared sessions are seen, each with its own answer.
fn joined(memory: &Memory) -> [usize; 3] {
    let mut joined = [0; 3];
    for row in memory.rows("pgsql_events", &COLUMNS) {
        let (mode, number) = match row[1].strip_prefix("SELECT ") {
            Some(sql) => (0, sql.strip_suffix(" + 0;").unwrap()),
            None if row[1].starts_with("query=[SELECT $1 + 0;]") => (1, param(&row[1])),
            None => (2, param(&row[1])),
        };
        joined[mode] += 1;
        assert_eq!(row[2], format!("?column?\n{number}\nSELECT 1"));
        assert_eq!(row[3..5], ["0", "2"], "{row:?}");
        assert_eq!(row[5], "2", "{row:?}");
    }
    joined
}

/// The only parameter of an execution.
fn param(request: &str) -> &str {
    request.split_once("params=[").unwrap().1.strip_suffix(']').unwrap()
}
