//! What several nodes keep in one bucket, read from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_store::inspect::{Depth, Dialect, Fleet, Folder, InspectError, Inspection, TierState};
use undine_store::{Bucket, BucketError, Config, Store};

use super::bucket::Node;
use super::fixture::NOTES;

fn wait<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

/// Appends, seals and uploads in two rounds, so that a tier has several files.
pub(crate) fn upload(node: &Node, store: &Store, ids: &[i64]) {
    for half in ids.chunks(ids.len().div_ceil(2)) {
        node.append(store, half);
        node.seal(store).unwrap();
        node.upload(store).unwrap();
    }
}

/// Why the bucket cannot be looked at.
pub(crate) fn refusal(url: &str) -> String {
    match Fleet::open(url, None) {
        Err(error) => error.to_string(),
        Ok(fleet) => wait(fleet.inspect()).unwrap_err().to_string(),
    }
}

/// SQL for all nodes of a bucket.
pub(crate) fn views(url: &str, dialect: Dialect) -> String {
    let fleet = Fleet::open(url, None).unwrap();
    fleet.views(&wait(fleet.inspect()).unwrap(), dialect).unwrap()
}

/// Looks at a bucket that holds so many notes of each node.
pub(crate) fn check(url: &str, expected: &[(&str, u64)]) {
    let fleet = Fleet::open(url, None).unwrap();
    let verified = wait(fleet.verify(Depth::Footers)).unwrap();
    assert_eq!(verified.findings, []);
    assert!(verified.files > 0 && verified.files_in_bucket == 0);
    let held = &verified.inspection;
    assert_eq!(notes_of(held), expected.iter().copied().collect());
    for dialect in [Dialect::DuckDb, Dialect::ClickHouse] {
        match fleet.views(held, dialect) {
            Ok(sql) => check_views(&sql, held),
            Err(InspectError::Unnamable { .. }) => assert!(url.starts_with("az://")),
            Err(error) => panic!("{error}"),
        }
    }
    let (node, notes) = expected[1];
    let one = Fleet::open(url, Some(node.to_owned())).unwrap();
    let held = wait(one.inspect()).unwrap();
    assert_eq!(notes_of(&held), [(node, notes)].into());
    assert!(held.tiers.iter().all(|tier| tier.node == node));
    let other = Fleet::open(url, Some("node three".to_owned())).unwrap();
    let error = wait(other.inspect()).unwrap_err().to_string();
    assert!(error.contains("nothing of node node three") && error.contains("node two, node-1"));
}

/// How many notes each node has.
fn notes_of(held: &Inspection) -> BTreeMap<&str, u64> {
    let tiers = held.tiers.iter().filter(|tier| (&*tier.table, &*tier.tier) == (NOTES.name, "raw"));
    tiers.map(|tier| (tier.node.as_str(), tier.rows())).collect()
}

/// Every file is named once, and every view made once.
fn check_views(sql: &str, held: &Inspection) {
    for file in held.tiers.iter().flat_map(|tier| &tier.segments) {
        assert_eq!(sql.matches(&file.name).count(), 1, "{sql}");
    }
    let views: Vec<_> =
        sql.lines().filter(|line| line.starts_with("CREATE OR REPLACE VIEW")).collect();
    let tiers: BTreeSet<_> = held.tiers.iter().map(|tier| (&tier.table, &tier.tier)).collect();
    assert_eq!(views.len(), tiers.len(), "{views:?}");
    assert!(sql.contains("SELECT *, 'node two' AS node FROM"), "{sql}");
}

/// A bucket in a folder with two nodes, and the nodes.
fn two_nodes(dir: &TempDir) -> (String, [Node; 2]) {
    let url = format!("file://{}/shared", dir.path().display());
    let bucket = Arc::new(Bucket::open(&url).unwrap());
    let nodes = ["node-1", "node two"].map(|name| Node::at(Arc::clone(&bucket), name));
    upload(&nodes[0], &nodes[0].start(), &[1, 2, 3]);
    upload(&nodes[1], &nodes[1].start(), &[10, 20]);
    (url, nodes)
}

#[test]
fn a_bucket_is_read_with_all_its_nodes_or_one_and_looking_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (url, _nodes) = two_nodes(&dir);
    let files = super::inspect::files_below(dir.path());
    check(&url, &[("node-1", 3), ("node two", 2)]);
    let fleet = Fleet::open(&url, None).unwrap();
    assert_eq!(wait(fleet.verify(Depth::Pages)).unwrap().findings, []);
    assert_eq!(super::inspect::files_below(dir.path()), files);
}

#[test]
fn damage_in_a_bucket_is_found_at_the_node_that_has_it() {
    let dir = TempDir::new().unwrap();
    let (url, _nodes) = two_nodes(&dir);
    let fleet = Fleet::open(&url, None).unwrap();
    let held = wait(fleet.inspect()).unwrap();
    let of = |node: &str, tier: &str| -> TierState {
        let is_it = |t: &&TierState| (&*t.table, &*t.tier, &*t.node) == ("requests", tier, node);
        held.tiers.iter().find(is_it).unwrap().clone()
    };
    let (missing, lying) = (of("node two", "10s"), of("node-1", "1m"));
    let place = format!("{}/{}", missing.prefix, missing.segments[0].name);
    let shared = dir.path().join("shared");
    fs::remove_file(shared.join(&place)).unwrap();
    // The log of one tier says of a row less than the other tiers of its node do.
    let log = shared.join(lying.prefix.as_ref()).join("_delta_log");
    let commit = log.join(format!("{:020}.json", lying.version));
    let text = fs::read_to_string(&commit).unwrap();
    let changed = text.replace("\"sourceRows\":\"1\"", "\"sourceRows\":\"0\"");
    assert_ne!(text, changed);
    fs::write(&commit, changed).unwrap();
    let verified = wait(fleet.verify(Depth::Footers)).unwrap();
    let places: BTreeSet<_> = verified.errors().map(|error| error.place.as_str()).collect();
    assert!(places.contains(place.as_str()), "{:?}", verified.findings);
    assert!(places.iter().any(|place| place.ends_with("node-1")), "{:?}", verified.findings);
    assert!(!places.iter().any(|place| place.ends_with("node+20two")), "{:?}", verified.findings);
    assert!(verified.errors().all(|error| error.remedy.contains("older versions")));
}

#[test]
fn what_is_no_bucket_of_undine_is_refused_with_what_to_do_and_nothing_is_made() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| format!("file://{}/{name}", dir.path().display());
    let error = refusal("ftp://somewhere");
    assert!(
        error.contains("ftp://somewhere") && error.contains("write s3://BUCKET/PREFIX"),
        "{error}"
    );
    let error = Fleet::open(&at("missing"), None).unwrap_err();
    assert!(matches!(error, InspectError::Bucket(BucketError::Missing { .. })), "{error}");
    assert!(error.to_string().contains(&at("missing")), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::create_dir_all(dir.path().join("empty/of/anything/_delta_log")).unwrap();
    let error = refusal(&at("empty"));
    assert!(error.contains(&at("empty")) && error.contains("store.bucket"), "{error}");
}

#[test]
fn a_node_is_restored_from_its_bucket_into_a_folder_that_needs_none() {
    let dir = TempDir::new().unwrap();
    let (url, nodes) = two_nodes(&dir);
    let to = dir.path().join("restored");
    let all = Fleet::open(&url, None).unwrap();
    let error = wait(all.restore(&to)).unwrap_err();
    assert!(error.to_string().contains("--node: node two, node-1"), "{error}");
    let one = Fleet::open(&url, Some("node two".to_owned())).unwrap();
    let restored = wait(one.restore(&to)).unwrap();
    assert_eq!(restored.verification.findings, []);
    assert!(restored.files > 10 && restored.bytes > 0);
    let config = Config { dir: to.clone(), bucket: None, ..nodes[1].config() };
    let store = config.build().unwrap();
    assert_eq!(nodes[1].ids(&store), [10, 20]);
    assert_eq!(store.incarnation().get(), 2, "a life after the one that wrote to the bucket");
    assert_eq!(store.stats().table(NOTES.name).unwrap().lost_rows, 0);
    nodes[1].append(&store, &[30]);
    nodes[1].seal(&store).unwrap();
    drop(store);
    assert_eq!(wait(Folder::open(&to).unwrap().verify(Depth::Pages)).unwrap().findings, []);
    let again = wait(one.restore(&to)).unwrap_err();
    assert!(matches!(again, InspectError::NotEmpty { .. }), "{again}");
}

#[test]
fn a_folder_whose_files_are_in_a_bucket_is_whole_and_says_where_they_are() {
    let dir = TempDir::new().unwrap();
    let (url, [node, _]) = two_nodes(&dir);
    let store = node.start();
    node.append(&store, &[4]);
    node.seal(&store).unwrap();
    let folder = Folder::open(node.dir.path()).unwrap();
    let verified = wait(folder.verify(Depth::Pages)).unwrap();
    assert_eq!(verified.findings, []);
    assert!(verified.files > 0 && verified.files_in_bucket > 0, "{verified:?}");
    assert_eq!(verified.inspection.bucket.as_deref(), Some(&*url));
    let refused = folder.views(&verified.inspection, Dialect::DuckDb).unwrap_err().to_string();
    assert!(refused.contains(&format!("export-view --bucket {url}")), "{refused}");
    let copy = dir.path().join("copy");
    wait(folder.restore(&copy)).unwrap();
    assert!(!copy.join("cache").exists());
    drop(store);
    let store = Config { dir: copy, ..node.config() }.build().unwrap();
    assert_eq!(node.ids(&store), [1, 2, 3, 4]);
}
