//! Sockets at the place in the kernel's memory of others whose end was missed; and one that looks like such a one.

use super::*;

/// Most connections that are made until sockets have had the places of others that were not seen to end.
const CONNECTIONS_MAX: usize = 400;
const TAKEN_AGAIN: u64 = 3;

#[test]
fn a_socket_is_not_taken_for_one_that_was_at_its_place_and_whose_end_was_missed() {
    let Some(_turn) = turn() else { return };
    let cgroup = own_cgroup("missed-ends");
    let mut program = Program::start();
    take(&cgroup, &program);
    let include = vec![Target::Cgroup(cgroup.path().to_path_buf())];
    let mut kernel = only(include, None, 1 << 20).build().unwrap();
    let control = kernel.control();
    control.programs().miss_ends();
    let mut made = 0;
    while made < CONNECTIONS_MAX && control.counters().unwrap().missed_ends < TAKEN_AGAIN {
        program.tell("many 3 100");
        program.hear("done");
        made += 1;
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
        assert_eq!(moved, vec![300; made], "of role {role}");
    }
    assert_eq!(counters.missed_ends, TAKEN_AGAIN, "{made} connections");
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
    assert_eq!(
        (counters.dropped, counters.faults, counters.missed_ends),
        (0, 0, 0),
        "{counters:?}"
    );

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
