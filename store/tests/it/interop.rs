//! A folder for other engines to read, made on request.
//!
//! `echo DIR | cargo test --release -p undine-store --test it -- --ignored --exact
//! it::interop::a_folder_for_other_engines --nocapture` prints what they should find.

use std::path::Path;

use undine_schema::{Append, Frame};

use super::fixture::{NOTES, REQUESTS, Row, clock, config, notes, requests};

#[test]
#[ignore = "is for a person with other engines at hand"]
fn a_folder_for_other_engines() {
    let mut dir = String::new();
    std::io::stdin().read_line(&mut dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = config(Path::new(dir.trim()), clock()).build().unwrap();
    let mut sum = 0;
    for round in 0..120_i64 {
        let rows: Vec<_> = (0..400_i64)
            .map(|row| Row {
                time: 1_700_000_000_000_000_000 + (round * 400 + row) * 7_000_001,
                kind: u8::try_from(row % 30).unwrap(),
                value: row * round % 9999,
                path_bytes: 10,
            })
            .collect();
        sum += rows.iter().map(|row| row.value).sum::<i64>();
        store.append(Frame::captured(&REQUESTS, requests(&rows))).unwrap();
        store.append(Frame::captured(&NOTES, notes(&[round], rows[0].time))).unwrap();
        runtime.block_on(store.seal()).unwrap();
        if round == 60 {
            let tidied = runtime.block_on(store.tidy()).unwrap();
            println!("tidied {tidied:?}");
        }
    }
    println!("rows 48000, sum of sizes {sum}");
}
