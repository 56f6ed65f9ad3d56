//! Every TLS handshake of real clients and servers is a row, with what they say of it themselves.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use undine_testbed::mariadb::{self, Mariadb};
use undine_testbed::nginx::{self, Nginx};
use undine_testbed::postgres::Postgres;
use undine_testbed::{Scene, Server, Wire};

use super::kernel::{alone, config, may_load};
use super::memory::Memory;
use super::place::{Place, are_installed, succeed};
use super::postgres::programs;
use super::watch::{seen_while, watched};

const PORT: u16 = 4433;
/// The port of the server that accepts a group which clients do not begin with.
const RETRY_PORT: u16 = 4434;
const COLUMNS: [&str; 7] =
    ["server_name", "version", "cipher", "alpn", "failed", "quality", "trace_role"];

/// Makes a certificate in a folder.
fn certify(place: &Place, folder: &Path) {
    let mut command = openssl(place, "req");
    command.args(["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shop.example"]);
    succeed(command.current_dir(folder).args(["-keyout", "key.pem", "-out", "cert.pem"]));
}

/// OpenSSL's own program, whatever the machine's settings forbid.
fn openssl(place: &Place, what: &str) -> Command {
    let mut command = place.command("openssl");
    command.env("OPENSSL_CONF", "/dev/null").arg(what);
    command
}

fn serve(place: &Place, folder: &Path, port: u16, args: &[&str]) -> Server {
    let mut command = openssl(place, "s_server");
    command.current_dir(folder).args(["-www", "-cert", "cert.pem", "-key", "key.pem"]);
    command.args(["-cipher", "ALL:@SECLEVEL=0", "-alpn", "h2,http/1.1"]);
    place.serve(command.args(["-accept", &format!("127.0.0.1:{port}")]).args(args), port)
}

/// What a client says that it agreed on with the server: version, cipher suite and protocol, as
/// OpenSSL names them; nothing where it was refused.
fn connect(place: &Place, port: u16, args: &[&str]) -> Option<[String; 3]> {
    let mut command = openssl(place, "s_client");
    command.args(["-connect", &format!("127.0.0.1:{port}")]).args(args);
    // It ends with its input.
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |start: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(start));
        line.map(|rest| rest.trim().to_owned())
    };
    let (version, cipher) =
        said.lines().find_map(|line| line.strip_prefix("New, ")?.split_once(", Cipher is "))?;
    // The line names the version that the suite is from.
    let version = after("Protocol  : ").unwrap_or_else(|| version.to_owned());
    let alpn = after("ALPN protocol: ").unwrap_or_default();
    (cipher != "(NONE)").then(|| [version, cipher.to_owned(), alpn])
}

/// The names of cipher suites in IANA's registry by those of OpenSSL.
fn suites(place: &Place) -> BTreeMap<String, String> {
    let list = succeed(openssl(place, "ciphers").args(["-stdname", "ALL:@SECLEVEL=0"]));
    let names = |line: &str| {
        let mut words = line.split_whitespace();
        let (iana, _dash, openssl) = (words.next()?, words.next()?, words.next()?);
        Some((openssl.to_owned(), iana.to_owned()))
    };
    list.lines().filter_map(names).collect()
}

/// `TLSv1.2` as rows have it.
fn version(openssl: &str) -> String {
    let number = openssl.strip_prefix("TLSv").unwrap();
    format!("TLS {number}{}", if number.contains('.') { "" } else { ".0" })
}

fn rows(memory: &Memory) -> Vec<Vec<String>> {
    memory.rows("tls_events", &COLUMNS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handshake_of_openssl_is_a_row_with_what_it_agreed_on() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (memory, expected) = watched("undine-tls-events", 64, |place| {
        certify(place, folder.path());
        let _server = serve(place, folder.path(), PORT, &[]);
        let _retrying = serve(place, folder.path(), RETRY_PORT, &["-groups", "P-384"]);
        let suites = suites(place);
        let mut expected = Vec::new();
        for (name, port, args) in [
            ("", PORT, &["-noservername"][..]),
            ("shop.example", PORT, &["-servername", "shop.example"]),
            ("a.example", PORT, &["-servername", "a.example", "-alpn", "h2,http/1.1"]),
            ("b.example", PORT, &["-servername", "b.example", "-tls1_2", "-alpn", "http/1.1"]),
            ("c.example", PORT, &["-servername", "c.example", "-tls1_2", "-cipher", "AES128-SHA"]),
            (
                "d.example",
                PORT,
                &["-servername", "d.example", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
            ),
            (
                "e.example",
                PORT,
                &["-servername", "e.example", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            ),
            (
                "f.example",
                PORT,
                &["-servername", "f.example", "-tls1", "-cipher", "ALL:@SECLEVEL=0"],
            ),
            ("g.example", RETRY_PORT, &["-servername", "g.example"]),
        ] {
            let [spoken, cipher, alpn] = connect(place, port, args).unwrap();
            let spoken = version(&spoken);
            // From 1.3 on the server's choice is encrypted.
            let alpn = if spoken == "TLS 1.3" { String::new() } else { alpn };
            let row = [name, &spoken, &suites[&cipher], &alpn, "0", "0", "2"];
            expected.push(row.map(str::to_owned).to_vec());
        }
        // The server has none of the suites that this client offers.
        let refused = ["-servername", "h.example", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"];
        assert_eq!(connect(place, PORT, &refused), None);
        expected.push(["h.example", "", "", "", "1", "0", "2"].map(str::to_owned).to_vec());
        expected
    })
    .await;
    let seen = rows(&memory);
    for row in memory.rows("tls_events", &["server_name", "req_body", "resp_body", "latency"]) {
        println!("{row:?}");
        assert!(row[3].parse::<u64>().unwrap() > 0, "{row:?}");
    }
    assert_eq!(seen, expected);
    let answers = memory.rows("tls_events", &["server_name", "resp_body"]);
    let answer = |name: &str| &answers.iter().find(|row| row[0] == name).unwrap()[1];
    assert!(answer("g.example").contains(r#""group":"secp384r1","retried":true"#));
    assert_eq!(answer("h.example"), r#"{"alert":"handshake_failure"}"#);
    let stats = memory.rows("conn_stats", &["protocol", "trace_role"]);
    assert!(stats.iter().any(|row| *row == ["13", "2"]), "{stats:?}");
    let lost = memory.rows("data_loss", &["reason", "bytes"]);
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handshake_that_nginx_logged_is_a_row() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["openssl", "nginx", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (memory, logged) = watched("undine-tls-nginx", 64, |place| {
        certify(place, folder.path());
        let root = folder.path().display();
        let http = format!(
            "ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache builtin:1000;
             server {{ listen 127.0.0.1:{PORT} ssl; return 200 'hello'; }}"
        );
        let log =
            "$ssl_server_name $ssl_protocol $ssl_cipher $ssl_alpn_protocol $ssl_session_reused";
        let config = nginx::Config { port: PORT, workers: 0, log: Some(log), http: &http };
        let server = Nginx::start(place.command("nginx"), place, folder.path(), config).unwrap();
        for (name, args) in [
            ("one.example", &["--tls-max", "1.2"][..]),
            ("two.example", &["--tlsv1.3"]),
            ("three.example", &["--tls-max", "1.2", "--no-alpn"]),
            ("four.example", &["--parallel", "--parallel-max", "8"]),
        ] {
            let url = format!("https://{name}:{PORT}/[1-25]");
            let mut curl = place.command("curl");
            curl.args(["-sk", "--http1.1", "-H", "Connection: close", "-o", "/dev/null"]);
            curl.args(["--resolve", &format!("{name}:{PORT}:127.0.0.1")]).args(args);
            succeed(curl.arg(url));
        }
        let suites = suites(place);
        server.stop().unwrap().lines().map(|line| as_row(line, &suites)).collect::<Vec<_>>()
    })
    .await;
    let columns = ["server_name", "version", "cipher", "alpn", "resp_body"];
    let seen = memory.rows("tls_events", &columns);
    let seen = seen.into_iter().map(|mut row| {
        let resumed = row[4].contains(r#""resumed":true"#);
        row[4].clear();
        write!(row[4], "{resumed}").unwrap();
        row
    });
    let [mut seen, mut logged] = [seen.collect::<Vec<_>>(), logged];
    let resumed = logged.iter().filter(|row| row[4] == "true").count();
    println!("{} handshakes, {resumed} of them resumed", logged.len());
    assert_eq!(logged.len(), 100);
    seen.sort();
    logged.sort();
    assert_eq!(seen, logged);
    assert!(rows(&memory).iter().all(|row| row[4..] == ["0", "0", "2"]));
    assert_eq!(memory.rows("data_loss", &["reason"]), Vec::<Vec<String>>::new());
}

/// What was seen while `act` had clients go over to TLS, once its rows are what it says of them:
/// version and cipher suite of each. In the folder is a certificate.
async fn gone_over(
    name: &str,
    act: impl FnOnce(Scene<'_>, &BTreeMap<String, String>) -> Vec<[String; 2]>,
) -> Arc<Memory> {
    let (place, folder) = (Place::new(name), tempfile::tempdir().unwrap());
    let config = config(&place.cgroup, 16 << 20, None);
    let (memory, stats, expected) = seen_while(config, |_| {
        certify(&place, folder.path());
        let scene = Scene { place: &place, folder: folder.path(), wire: Wire::Plain };
        act(scene, &suites(&place))
    })
    .await;
    let row = |[version, cipher]: [String; 2]| vec![version, cipher, "2".to_owned()];
    let expected: Vec<_> = expected.into_iter().map(row).collect();
    assert_eq!(memory.rows("tls_events", &["version", "cipher", "trace_role"]), expected);
    assert_eq!(stats.missing_rows.max, 0, "{stats:?}");
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_postgresql_that_go_over_to_tls_are_rows() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["openssl"]) {
        return;
    }
    let Some(programs) = programs() else { return };
    let memory = gone_over("undine-tls-pgsql", |scene, suites| {
        let file = |setting, name| format!("ssl_{setting}_file={}", scene.text(name));
        let [certificate, key] = [file("cert", "cert.pem"), file("key", "key.pem")];
        let settings = ["ssl=on", &certificate, &key];
        let postgres = Postgres::start(scene, &programs, &settings).unwrap();
        let question = "SELECT version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let ask = |mode: &str| {
            let mut psql = postgres.client("psql");
            psql.args(["--no-psqlrc", "-tAF ", "-c", question]).env("PGSSLMODE", mode);
            succeed(&mut psql).trim().to_owned()
        };
        assert_eq!(ask("disable"), "");
        let answers = (0..5).map(|_| ask("require"));
        let agreed = answers.map(|answer| {
            let (spoken, cipher) = answer.split_once(' ').unwrap();
            [version(spoken), suites[cipher].clone()]
        });
        agreed.collect()
    })
    .await;
    assert_eq!(memory.rows("pgsql_events", &["req_cmd"]), [["Query"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_mariadb_that_go_over_to_tls_are_rows_of_one_end() {
    let _alone = alone().await;
    if !may_load() || !are_installed(&["openssl"]) || !are_installed(&mariadb::PROGRAMS) {
        return;
    }
    gone_over("undine-tls-mysql", |scene, suites| {
        let file = |option, name| format!("--ssl-{option}={}", scene.text(name));
        let files = [file("cert", "cert.pem"), file("key", "key.pem")];
        let server = Mariadb::start(scene, &[&files[0], &files[1]]).unwrap();
        let question = "show session status where variable_name in ('Ssl_cipher', 'Ssl_version')";
        let ask = |versions| {
            let versions = format!("--tls-version={versions}");
            let args = ["--ssl", "--skip-ssl-verify-server-cert", &versions, "-Ne", question];
            let said = succeed(&mut server.client("mariadb", &args));
            let of = |name| {
                let value = said.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap().trim().to_owned()
            };
            [version(&of("Ssl_version")), suites[&of("Ssl_cipher")].clone()]
        };
        ["TLSv1.2", "TLSv1.3", "TLSv1.2,TLSv1.3"].map(ask).to_vec()
    })
    .await;
}

/// A line of nginx' log as a row has it.
fn as_row(line: &str, suites: &BTreeMap<String, String>) -> Vec<String> {
    let words: Vec<_> = line.split(' ').collect();
    let [name, spoken, cipher, alpn, reused] = words[..] else { panic!("{line}") };
    let spoken = version(spoken);
    // A `-` stands for nothing, as 1.3 shows nothing.
    let alpn = if spoken == "TLS 1.3" || alpn == "-" { "" } else { alpn };
    let reused = (reused == "r").to_string();
    [name, &spoken, &suites[cipher], alpn, &reused].map(str::to_owned).to_vec()
}
