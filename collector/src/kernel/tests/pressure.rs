//! What the programs send while the ring fills, and what they remember of a process.

use undine_ebpf::{FLAG_SHED, load::RUNG_PAYLOAD_BYTES};

use super::*;

/// Bytes of an operation that every rung cuts.
const BYTES: u32 = 6000;

#[test]
fn a_ring_that_fills_cuts_operations_before_it_loses_any() {
    let Some(_turn) = turn() else { return };
    let cgroup = own_cgroup("pressure");
    let mut program = Program::start();
    take(&cgroup, &program);
    let include = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(include, None, 256 * 1024).build().unwrap();
    // Nobody reads, so the ring fills; but not to its end.
    program.tell(&format!("many 40 {BYTES}"));
    let sent = program.hear("done")[0];
    let mut messages = Vec::new();
    let counters = drain(&mut kernel, &mut messages);
    assert_eq!((counters.dropped, counters.faults), (0, 0), "{counters:?}");
    assert_eq!((counters.operations, counters.operation_bytes), (80, 2 * sent));
    let data: Vec<_> = messages.iter().filter(|message| message.kind() == Kind::Data).collect();
    assert!(data.iter().all(|message| message.header.len == BYTES));
    // The longer the ring is not read, the less of an operation is sent; each CPU sees that itself.
    let captured: Vec<_> = data.iter().map(|message| u64::from(message.header.captured)).collect();
    for (rung, (bytes, cut)) in RUNG_PAYLOAD_BYTES.iter().zip(counters.shed_operations).enumerate()
    {
        let sent = captured.iter().filter(|captured| *captured == bytes).count();
        assert!(sent > 0 && sent as u64 == cut, "rung {rung} of {captured:?}: {counters:?}");
    }
    let is_cut = |message: &&&Message| message.header.flags & FLAG_SHED != 0;
    let shed: u64 = counters.shed_operations.iter().sum();
    assert_eq!(data.iter().filter(is_cut).count() as u64, shed);
    assert_eq!(captured.iter().sum::<u64>() + counters.shed_bytes, counters.operation_bytes);
    for connection in kernel.control().connections().unwrap() {
        for totals in connection.totals.directions {
            assert_eq!(totals.bytes, totals.captured_bytes + totals.truncated_bytes, "{totals:?}");
        }
    }
    // It was read, so everything is sent again; each CPU comes down one rung with each operation.
    let cut_max = 3 * kernel.control().counters_per_cpu().unwrap().len();
    messages.clear();
    for _ in 0..cut_max {
        program.tell(&format!("many 1 {BYTES}"));
        program.hear("done");
        drain(&mut kernel, &mut messages);
    }
    let data = messages.iter().filter(|message| message.kind() == Kind::Data);
    let (cut, whole): (Vec<_>, Vec<_>) = data.partition(|message| is_cut(&message));
    assert!(cut.len() <= cut_max && cut.len() + whole.len() == 2 * cut_max, "{}", cut.len());
    assert!(whole.iter().all(|message| message.header.captured == BYTES));
    program.end();
}

#[test]
fn a_verdict_is_not_remembered_past_a_change_of_targets_or_cgroup() {
    let Some(_turn) = turn() else { return };
    let (inside, outside) = (own_cgroup("inside"), own_cgroup("outside"));
    let mut program = Program::start();
    take(&inside, &program);
    let target = Target::Cgroup(inside.path().to_path_buf());
    let kernel = only(vec![target.clone()], None, 4 << 20).build().unwrap();
    let control = kernel.control();
    let mut seen = 0;
    let mut moves = |what: &str, is_seen: bool| {
        program.tell("many 5 100");
        program.hear("done");
        let operations = control.counters().unwrap().operations;
        assert_eq!(operations - seen, if is_seen { 10 } else { 0 }, "{what}");
        seen = operations;
        // So that it can be moved between two parts.
        program.child.id()
    };
    let id = moves("in its cgroup", true);
    moves("and once more", true);
    fs::write(outside.path().join("cgroup.procs"), id.to_string()).unwrap();
    moves("in another cgroup", false);
    moves("and still", false);
    fs::write(inside.path().join("cgroup.procs"), id.to_string()).unwrap();
    moves("back again", true);
    control.add_target(&Target::Pid(id), Verdict::Exclude).unwrap();
    moves("excluded by its number", false);
    control.remove_target(&Target::Pid(id)).unwrap();
    moves("no longer", true);
    control.remove_target(&target).unwrap();
    moves("without a target", false);
    control.add_target(&target, Verdict::Include).unwrap();
    moves("with it", true);
    program.end();
}
