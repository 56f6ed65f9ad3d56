//! A folder looked at from outside: what is wrong is found, nothing else is, and a copy is a store.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use undine_schema::tables::{STORAGE_SEGMENTS, STORAGE_TABLES};
use undine_schema::{Append, Frame, TableDef, TimeNs};
use undine_store::inspect::{
    Depth, Dialect, Folder, InspectError, SegmentState, Severity, TierState, Unneeded, Vacuum,
    Verification,
};
use undine_store::{BuildError, Store};

use super::fixture::{NOTES, REQUESTS, Row, clock, config, copy, integers, notes, requests};

/// What is done to a file.
type Harm<'a> = &'a dyn Fn(&Path);

const HOUR: Duration = Duration::from_hours(1);
/// A time after every file of a test.
const LATER: TimeNs = TimeNs::new(i64::MAX / 2);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn rows(round: i64) -> Vec<Row> {
    let row = |at: i64| Row {
        time: 1_700_000_000_000_000_000 + (round * 10 + at) * 1_000_000_007,
        kind: u8::try_from(at).unwrap(),
        value: round * 10 + at,
        path_bytes: 10,
    };
    (0..10).map(row).collect()
}

fn append(store: &Store, round: i64) {
    let rows = rows(round);
    store.append(Frame::captured(&REQUESTS, requests(&rows))).unwrap();
    store.append(Frame::captured(&NOTES, notes(&[round], rows[0].time))).unwrap();
}

/// A store with merged segments, files that are no longer needed and rows in its log alone.
fn filled(dir: &Path, runtime: &Runtime) -> Store {
    let store = config(dir, clock()).build().unwrap();
    for round in 0..5 {
        append(&store, round);
        runtime.block_on(store.seal()).unwrap();
    }
    assert!(runtime.block_on(store.tidy()).unwrap().merged_segments > 0);
    for round in 5..7 {
        append(&store, round);
        runtime.block_on(store.seal()).unwrap();
    }
    append(&store, 7);
    runtime.block_on(store.sync()).unwrap();
    store
}

fn verify(dir: &Path, depth: Depth) -> Verification {
    runtime().block_on(Folder::open(dir).unwrap().verify(depth)).unwrap()
}

/// The files below a folder.
pub(crate) fn files_below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.insert(path);
        }
    }
    files
}

#[test]
fn a_sound_folder_has_no_findings_and_tells_what_it_holds_beside_a_running_store() {
    let dir = TempDir::new().unwrap();
    let runtime = runtime();
    let store = filled(dir.path(), &runtime);
    let before = files_below(dir.path());
    let folder = Folder::open(dir.path()).unwrap();
    for depth in [Depth::Footers, Depth::Pages] {
        let verified = runtime.block_on(folder.verify(depth)).unwrap();
        assert_eq!(verified.findings, []);
        assert!(verified.frames > 0);
        let held = &verified.inspection;
        assert_eq!(held.in_use_by.as_deref(), Some(std::process::id().to_string().as_str()));
        assert_eq!((held.node.as_deref(), held.lives), (Some("node-1"), 1));
        let of = |table: &'static str| held.tiers.iter().filter(move |tier| tier.table == table);
        let tiers: Vec<_> = of("requests").map(|tier| tier.tier.as_str()).collect();
        let expected = ["10s", "1m", "10s.service", "1m.service", "exemplars", "raw"];
        assert_eq!(tiers, expected);
        let stats = store.stats();
        let requests = stats.table("requests").unwrap();
        let of_all_rows = of("requests").filter(|tier| tier.tier != "exemplars");
        for tier in of_all_rows {
            assert_eq!(tier.source_rows(), 70, "{}", tier.tier);
            assert_eq!((tier.sealed_to, tier.node.as_str()), (requests.sealed_to, "node-1"));
            let times = (rows(0)[0].time, rows(6)[9].time);
            assert_eq!(tier.times().map(|(a, b)| (a.get(), b.get())), Some(times));
            assert!(tier.unneeded.iter().any(|file| file.why == Unneeded::Removed));
        }
        assert_eq!(of("requests").map(TierState::bytes).sum::<u64>(), requests.segment_bytes);
        let segments: usize = of("requests").map(|tier| tier.segments.len()).sum();
        assert_eq!(segments as u64, requests.segments);
        assert_eq!(of("notes.Beta").map(TierState::rows).sum::<u64>(), 7);
    }
    assert_eq!(files_below(dir.path()), before, "looking changes nothing");
    drop(store);
    assert_eq!(runtime.block_on(folder.inspect()).unwrap().in_use_by, None);
}

#[test]
fn every_kind_of_damage_is_found_where_it_is() {
    let whole = TempDir::new().unwrap();
    drop(filled(whole.path(), &runtime()));
    let tier = "tables/requests/10s/node-1";
    let live = {
        let held = verify(whole.path(), Depth::Footers).inspection;
        let tier = held.tiers.iter().find(|tier| tier.tier == "10s").unwrap();
        tier.segments.iter().map(|file| file.name.clone()).collect::<Vec<_>>()
    };
    let file = format!("{tier}/{}", live[0]);
    let commit = |version: u64| format!("{tier}/_delta_log/{version:020}.json");
    let log = "log/0000000000000001.log".to_owned();
    let cut = |path: &Path, by: usize| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - by]).unwrap();
    };
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 0xff;
        fs::write(path, &bytes).unwrap();
    };
    // What is done to which file; how deep one must look; where it is found and as what.
    let error = Some(Severity::Error);
    let cases: [(&str, &String, Harm<'_>, Depth, &String, &str); 10] = [
        ("deleted", &file, &|p| fs::remove_file(p).unwrap(), Depth::Footers, &file, "missing"),
        ("cut", &file, &|p| cut(p, 1), Depth::Footers, &file, "bytes instead of"),
        ("emptied", &file, &|p| fs::write(p, "").unwrap(), Depth::Footers, &file, "0 bytes"),
        (
            "footer",
            &file,
            &|p| flip(p, fs::read(p).unwrap().len() - 5),
            Depth::Footers,
            &file,
            "footer",
        ),
        ("page", &file, &|p| flip(p, 200), Depth::Pages, &file, "page"),
        (
            "swapped",
            &file,
            &|p| assert!(fs::copy(p.with_file_name(&live[1]), p).unwrap() > 0),
            Depth::Footers,
            &file,
            "bytes instead of",
        ),
        (
            "commit gone",
            &commit(2),
            &|p| fs::remove_file(p).unwrap(),
            Depth::Footers,
            &commit(3),
            "commit 2 is missing",
        ),
        (
            "commit emptied",
            &commit(1),
            &|p| fs::write(p, "").unwrap(),
            Depth::Footers,
            &commit(1),
            "it is empty",
        ),
        ("commit torn", &commit(1), &|p| cut(p, 9), Depth::Footers, &commit(1), ""),
        ("log", &log, &|p| flip(p, 100), Depth::Footers, &log, "checksums"),
    ];
    for (name, harmed, harm, depth, place, what) in cases {
        let dir = TempDir::new().unwrap();
        copy(whole.path(), dir.path());
        harm(&dir.path().join(harmed));
        let verified = verify(dir.path(), depth);
        let found = verified.findings.iter().find(|finding| finding.place == *place);
        let found = found.unwrap_or_else(|| panic!("{name}: {:?}", verified.findings));
        assert!(found.what.contains(what), "{name}: {found:?}");
        assert_eq!(Some(found.severity), error, "{name}: {found:?}");
        assert!(!found.remedy.is_empty());
    }
}

#[test]
fn what_a_power_loss_leaves_is_no_error() {
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), &runtime()));
    let tier = dir.path().join("tables/requests/10s/node-1/_delta_log");
    let commits = fs::read_dir(&tier).unwrap().count();
    fs::write(tier.join(format!("{commits:020}.json")), "{\"add\":").unwrap();
    let log = dir.path().join("log/0000000000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes.extend_from_slice(b"UWL1 and then the power went");
    fs::write(&log, bytes).unwrap();
    let verified = verify(dir.path(), Depth::Pages);
    assert_eq!(verified.errors().count(), 0, "{:?}", verified.findings);
    assert_eq!(verified.findings.len(), 2, "{:?}", verified.findings);
}

#[test]
fn a_vacuum_deletes_what_no_version_needs_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let runtime = runtime();
    let store = filled(dir.path(), &runtime);
    let orphan = dir.path().join("tables/requests/1m/node-1/01ORPHAN.parquet");
    fs::write(&orphan, "half a file").unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let refused = runtime.block_on(folder.vacuum(HOUR, LATER, Vacuum::Delete)).unwrap_err();
    let pid = std::process::id().to_string();
    assert!(refused.to_string().contains(&pid), "{refused}");
    let would = runtime.block_on(folder.vacuum(HOUR, LATER, Vacuum::DryRun)).unwrap();
    assert!(would.files.len() > 6, "{would:?}");
    let snapshot = store.snapshot(&REQUESTS);
    let values = integers(dir.path(), &snapshot, "size");
    drop(store);

    let before = files_below(dir.path());
    let young = runtime.block_on(folder.vacuum(HOUR, TimeNs::ZERO, Vacuum::Delete)).unwrap();
    assert_eq!((young.files.len(), young.kept), (0, would.files.len() as u64));
    assert_eq!(files_below(dir.path()), before);
    let done = runtime.block_on(folder.vacuum(HOUR, LATER, Vacuum::Delete)).unwrap();
    assert_eq!(done.files, would.files);
    let gone: BTreeSet<_> = before.difference(&files_below(dir.path())).cloned().collect();
    let named = done.files.iter().map(|(tier, file)| dir.path().join(tier).join(&file.name));
    assert_eq!(gone, named.collect());
    assert!(gone.contains(&orphan));
    let verified = verify(dir.path(), Depth::Pages);
    assert_eq!(verified.findings, []);
    assert!(verified.inspection.tiers.iter().all(|tier| tier.unneeded.is_empty()));
    let store = config(dir.path(), clock()).build().unwrap();
    assert_eq!(integers(dir.path(), &store.snapshot(&REQUESTS), "size"), values);
}

#[test]
fn a_copy_of_a_running_store_is_a_store_with_the_same_rows() {
    let dir = TempDir::new().unwrap();
    let runtime = runtime();
    let store = filled(dir.path(), &runtime);
    fs::create_dir(dir.path().join("model")).unwrap();
    fs::write(dir.path().join("model/state"), "learned").unwrap();
    let values = integers(dir.path(), &store.snapshot(&REQUESTS), "size");
    assert_eq!(values, (0..80).collect::<Vec<_>>());
    let place = TempDir::new().unwrap();
    let to = place.path().join("below/copy");
    let folder = Folder::open(dir.path()).unwrap();
    let restored = runtime.block_on(folder.restore(&to)).unwrap();
    assert!(restored.files > 10 && restored.bytes > 0);
    assert_eq!(restored.verification.findings, []);
    assert_eq!(fs::read_to_string(to.join("model/state")).unwrap(), "learned");
    let beside: Vec<_> = fs::read_dir(place.path().join("below")).unwrap().collect();
    assert_eq!(beside.len(), 1, "no draft is left");
    // The first store is still there: the copy has a lock and a life of its own.
    let second = config(&to, clock()).build().unwrap();
    assert_eq!(integers(&to, &second.snapshot(&REQUESTS), "size"), values);
    assert_eq!(second.stats().table("requests").unwrap().lost_rows, 0);
    append(&second, 8);
    runtime.block_on(second.seal()).unwrap();
    drop(second);
    assert_eq!(verify(&to, Depth::Pages).findings, []);

    let again = runtime.block_on(folder.restore(&to)).unwrap_err();
    assert!(matches!(again, InspectError::NotEmpty { .. }), "{again}");
}

#[test]
fn a_damaged_folder_is_not_restored_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let runtime = runtime();
    drop(filled(dir.path(), &runtime));
    let folder = Folder::open(dir.path()).unwrap();
    let held = runtime.block_on(folder.inspect()).unwrap();
    let tier = held.tiers.iter().find(|tier| tier.tier == "1m").unwrap();
    let file = dir.path().join("tables/requests/1m/node-1").join(&tier.segments[0].name);
    let mut bytes = fs::read(&file).unwrap();
    bytes[200] ^= 0xff;
    fs::write(&file, bytes).unwrap();
    let place = TempDir::new().unwrap();
    let refused = runtime.block_on(folder.restore(&place.path().join("to"))).unwrap_err();
    assert!(matches!(refused, InspectError::Damaged { errors: 1, .. }), "{refused}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    let nothing = Folder::open(place.path()).unwrap_err();
    assert!(matches!(nothing, InspectError::NotAStore { .. }), "{nothing}");
}

#[test]
fn a_folder_in_use_cannot_be_taken_by_a_second_store_and_is_free_again_afterwards() {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), &runtime());
    let refused = config(dir.path(), clock()).build().unwrap_err();
    assert!(matches!(refused, BuildError::Locked { .. }), "{refused}");
    drop(store);
    for _ in 0..3 {
        verify(dir.path(), Depth::Footers);
        drop(config(dir.path(), clock()).build().unwrap());
    }
}

#[test]
fn views_name_every_file_of_the_present_versions_and_no_other() {
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), &runtime()));
    let folder = Folder::open(dir.path()).unwrap();
    let held = runtime().block_on(folder.inspect()).unwrap();
    for dialect in [Dialect::DuckDb, Dialect::ClickHouse] {
        let sql = folder.views(&held, dialect).unwrap();
        for tier in &held.tiers {
            for file in &tier.segments {
                assert_eq!(sql.matches(&file.name).count(), 1, "{sql}");
            }
            for file in &tier.unneeded {
                assert_eq!(sql.matches(&file.name).count(), 0, "{sql}");
            }
        }
        for view in ["\"requests\"", "\"requests__10s\"", "\"requests__1m\"", "\"notes.Beta\""] {
            assert!(sql.contains(&format!("CREATE OR REPLACE VIEW {view} AS")), "{view}");
        }
        assert!(sql.contains("\"data_loss\""), "a table without files is a view without rows");
    }
}

#[test]
fn the_store_tells_of_its_tables_and_files_as_tables() {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), &runtime());
    let stats = store.stats();
    let rows_of = |table: &TableDef| {
        let snapshot = store.snapshot(table);
        assert!(snapshot.raw.is_none() && snapshot.tiers.is_empty());
        let hot = snapshot.hot();
        let [slice] = hot.as_slice() else { panic!("{snapshot:?}") };
        assert_eq!(slice.seqs.rows(), slice.rows.num_rows() as u64);
        slice.rows.clone()
    };
    let tables = rows_of(&STORAGE_TABLES);
    let text = |rows: &RecordBatch, column: &str, at: usize| {
        rows[column].as_string::<i32>().value(at).to_owned()
    };
    let int = |rows: &RecordBatch, column: &str, at: usize| {
        rows[column].as_primitive::<Int64Type>().value(at).cast_unsigned()
    };
    assert_eq!(tables.num_rows(), stats.tables.len());
    let at = stats.tables.iter().position(|table| table.table == "requests").unwrap();
    let requests = &stats.tables[at];
    assert_eq!(text(&tables, "table_name", at), "requests");
    assert_eq!(text(&tables, "kind", at), "event");
    assert_eq!(text(&tables, "newest", at), "1.80");
    assert_eq!(text(&tables, "sealed_to", at), "1.70");
    assert_eq!(int(&tables, "sealed_rows", at), 70);
    assert_eq!(int(&tables, "hot_bytes", at), requests.hot_bytes);
    assert_eq!(int(&tables, "hot_bytes_max", at), 64 << 20);
    assert_eq!(int(&tables, "horizon", at), 0, "no row is missing");
    let segments = rows_of(&STORAGE_SEGMENTS);
    let held = runtime().block_on(Folder::open(dir.path()).unwrap().inspect()).unwrap();
    let mut said: Vec<_> = (0..segments.num_rows())
        .map(|at| {
            let (path, tier) = (text(&segments, "path", at), text(&segments, "tier", at));
            assert!(
                path.starts_with(&format!("{}/{tier}/node-1/", text(&segments, "table_name", at)))
            );
            (path, int(&segments, "bytes", at), int(&segments, "source_rows", at))
        })
        .collect();
    said.sort();
    let files = held.tiers.iter().flat_map(|tier| {
        let of = |file: &SegmentState| {
            (format!("{}/{}", tier.prefix, file.name), file.bytes, file.source_rows)
        };
        tier.segments.iter().map(of).collect::<Vec<_>>()
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    assert_eq!(said, files);
}
