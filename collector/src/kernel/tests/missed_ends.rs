//! Sockets at the place in the kernel's memory of others whose end was missed; and one that looks like such a one.

use super::*;

const CONNECTIONS: usize = 40;

#[test]
fn a_socket_is_not_taken_for_one_that_was_at_its_place_and_whose_end_was_missed() {
    let Some(_turn) = turn() else { return };
    let cgroup = own_cgroup("missed-ends");
    let mut program = Program::start();
    take(&cgroup, &program);
    let include = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(include, None, 1 << 20).build().unwrap();
    kernel.control().programs().miss_ends();
    for _ in 0..CONNECTIONS {
        program.tell("many 3 100");
        program.hear("done");
    }
    let mut messages = Vec::new();
    let counters = drain(&mut kernel, &mut messages);
    program.end();
    assert_eq!((counters.dropped, counters.faults), (0, 0), "{counters:?}");

    let all = connections(&messages);
    for (role, direction) in [(1, EGRESS), (2, INGRESS)] {
        let ends = all.values().filter(|seen| seen.open.is_some_and(|open| open.role == role));
        let moved: Vec<_> =
            ends.map(|seen| check_stream(&seen.data[usize::from(direction)]).bytes).collect();
        assert_eq!(moved, [300; CONNECTIONS], "of role {role}");
    }
    let ended = all.values().filter(|seen| seen.close.is_some()).count();
    assert!(ended > CONNECTIONS / 2, "{ended} places were used again");
}

#[test]
fn a_socket_that_is_connected_to_itself_is_one_connection() {
    let Some(_turn) = turn() else { return };
    let cgroup = own_cgroup("own");
    let mut program = Program::start();
    take(&cgroup, &program);
    let include = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(include, None, 1 << 20).build().unwrap();
    program.tell("own 3 100");
    program.hear("done");
    program.end();
    let mut messages = Vec::new();
    let counters = drain(&mut kernel, &mut messages);
    assert_eq!((counters.dropped, counters.faults), (0, 0), "{counters:?}");

    let all = connections(&messages);
    assert_eq!(all.len(), 1);
    let seen = all.values().next().unwrap();
    assert_eq!(seen.open.unwrap().role, 1);
    for direction in [EGRESS, INGRESS] {
        let moved = check_stream(&seen.data[usize::from(direction)]);
        assert_eq!((moved.bytes, moved.operations), (300, 3));
        assert_eq!(seen.close.unwrap().directions[usize::from(direction)], moved);
    }
}
