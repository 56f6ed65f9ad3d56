//! What is left of a conversation of which some is missing.

use proptest::prelude::*;

use super::super::super::dialogue::talk::{Sent, hear, server, split};
use super::super::{Pgsql, Side};
use super::wire::{
    asks, bind, complete, done, error, execute, parse, query, ready, row, says, sync,
};
use super::{show, turn};

#[test]
fn a_hole_in_what_is_not_kept_costs_nothing() {
    let long = row(&[Some(&"x".repeat(10_000))]);
    let (head, rest) = long.split_at(1000);
    let sent = [
        asks(&[query("SELECT x")]),
        server(head),
        Sent::Hole(Side::Server, rest.len() as u64),
        says(&[complete("SELECT 1"), ready()]),
    ];
    let shown = hear::<Pgsql>(&sent, show);
    assert_eq!(shown, [format!("Query SELECT x -> {} q0", "x".repeat(64))]);
}

#[test]
fn no_pair_spans_a_gap() {
    let select = |n: u8| asks(&[query(&format!("SELECT {n}"))]);
    let selected = |n: u8| says(&[complete(&format!("SELECT {n}")), ready()]);
    let turn = |sql: &str| asks(&[parse("", sql), bind("", "", &[]), execute(""), sync()]);
    let done_turn = || says(&[done('1'), done('2'), complete("DONE"), ready()]);
    let sent = [
        select(1),
        Sent::Hole(Side::Server, 7),
        turn("a"),
        done_turn(),
        turn("b"),
        done_turn(),
        select(2),
        selected(2),
    ];
    assert_eq!(
        hear::<Pgsql>(&sent, show),
        [
            "Execute query=[b] params=[] -> DONE q0",
            "Query SELECT 2 -> SELECT 2 q0",
            "lost 2..=2 ring_full"
        ]
    );
    // What fails before it is run may be the answer to something that was lost.
    let failing = [
        Sent::Hole(Side::Client, 6),
        asks(&[parse("", "SELEC"), sync()]),
        says(&[error("42601", "syntax error"), ready()]),
        turn("a"),
        done_turn(),
        select(2),
        selected(2),
    ];
    assert_eq!(
        hear::<Pgsql>(&failing, show),
        ["Query SELECT 2 -> SELECT 2 q0", "lost 2..=3 ring_full"]
    );
    // What was prepared before the gap may mean something else by now.
    let again = || asks(&[bind("", "s", &[]), execute(""), sync()]);
    let prepared = [
        asks(&[parse("s", "SELECT 1"), sync()]),
        says(&[done('1'), ready()]),
        Sent::Hole(Side::Client, 6),
        again(),
        says(&[done('2'), complete("SELECT 1"), ready()]),
        again(),
        says(&[done('2'), complete("SELECT 2"), ready()]),
    ];
    assert_eq!(
        hear::<Pgsql>(&prepared, show),
        ["Execute query=[<unknown statement s>] params=[] -> SELECT 2 q0", "lost 1..=2 ring_full"]
    );
    // Where no operation begins with a whole message, nothing proves which response is whose.
    let in_bytes = hear::<Pgsql>(&split(&sent, 1), show);
    assert!(in_bytes.len() == 1 && in_bytes[0].starts_with("lost 1..="), "{in_bytes:?}");
}

#[test]
fn a_client_that_does_not_wait_its_turn_is_not_paired_again_after_a_gap() {
    let sent = [
        Sent::Hole(Side::Client, 60),
        asks(&[query("SELECT 1")]),
        asks(&[query("SELECT 2")]),
        says(&[complete("SELECT 0"), ready()]),
        says(&[complete("SELECT 1"), ready()]),
    ];
    let shown = hear::<Pgsql>(&sent, show);
    assert!(shown.len() == 1 && shown[0].starts_with("lost 2..="), "{shown:?}");
}

proptest! {
    #[test]
    fn losing_any_operation_never_pairs_wrong_and_the_bounds_hold(
        turns in proptest::collection::vec((0_u8..3, any::<bool>(), any::<bool>()), 1..30),
    ) {
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for (at, (how, ask_is_lost, answer_is_lost)) in turns.iter().enumerate() {
            let (operations, row) = turn(&format!("t{at}"), *how);
            let lost = [*ask_is_lost, *answer_is_lost];
            sent.extend(operations.into_iter().zip(lost).map(lose));
            expected.push(row);
        }
        let mut shown = hear::<Pgsql>(&sent, show);
        let lost = shown.pop_if(|line| line.starts_with("lost"));
        let bounds = lost.as_deref().map_or("0..=0", |line| line.split(' ').nth(1).unwrap());
        let (min, max) = bounds.split_once("..=").unwrap();
        // A row that is there is right, but for a last one that was never answered.
        let missing = expected.len() - shown.len();
        for row in shown.iter().filter(|row| !row.ends_with(" q4")) {
            prop_assert!(expected.contains(row), "{row}");
        }
        prop_assert!(min.parse::<usize>().unwrap() <= missing, "{missing} of {bounds}");
        prop_assert!(missing <= max.parse::<usize>().unwrap(), "{missing} of {bounds}");
    }
}

/// An operation, or a hole in its place.
fn lose((operation, is_lost): (Sent, bool)) -> Sent {
    match operation {
        Sent::Client(bytes) if is_lost => Sent::Hole(Side::Client, bytes.len() as u64),
        Sent::Server(bytes) if is_lost => Sent::Hole(Side::Server, bytes.len() as u64),
        operation => operation,
    }
}
