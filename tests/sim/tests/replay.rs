//! A run of a seed is the same each time, and what is wrong in one is found.

use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom-sim"));
    command.args(arguments).output().expect("it starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first line that differs says where two runs went apart.
#[test]
fn a_seed_is_one_run_byte_for_byte() {
    let (first, second) = (simulate(&["run", "1"]), simulate(&["run", "1"]));
    let (first_text, second_text) = (text(&first), text(&second));
    let apart = first_text.lines().zip(second_text.lines()).find(|(a, b)| a != b);
    assert_eq!(apart, None);
    assert_eq!(first_text, second_text);
    assert!(first.status.success(), "{first_text}");
    assert!(first_text.contains("Done(Content("), "files were read");
    assert_ne!(
        first_text,
        text(&simulate(&["run", "2"])),
        "another seed is another run"
    );
}

/// Each kind of lie is found in one of a few runs.
#[test]
fn storage_that_lies_is_found_out() {
    for (sabotage, found) in [
        ("lost-commits", "not linearizable"),
        ("stale-reads", "not linearizable"),
        ("lost-blocks", "cannot be read"),
    ] {
        let is_found = ["1", "2", "3", "4"].iter().any(|seed| {
            let output = simulate(&["run", seed, "--sabotage", sabotage]);
            !output.status.success() && text(&output).contains(found)
        });
        assert!(is_found, "{sabotage} is not noticed");
    }
}

#[test]
fn a_batch_says_what_it_played() {
    let output = simulate(&["many", "--seeds", "1", "--first", "4"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 runs from seed 4") && said.contains("0 failed"),
        "{said}"
    );
    let none = simulate(&["many", "--seeds", "0"]);
    assert!(!none.status.success(), "no run shows nothing");
}
