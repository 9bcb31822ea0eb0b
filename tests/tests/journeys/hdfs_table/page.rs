//! The table for people.

use std::fmt::Write as _;

use super::{
    Here, Row,
    pointers::{KINDS, kind_of},
    rows,
    rows::TOPICS,
    steps::Step,
};

/// The page.
pub(super) fn text() -> String {
    let mut text = head();
    for topic in TOPICS {
        write!(
            text,
            "\n## {}\n\n| HDFS | Strongroom | shown by |\n|---|---|---|\n",
            topic.title
        )
        .expect("a string takes it");
        for row in topic.rows {
            writeln!(text, "| {} | {} | {} |", row.hdfs, here(row), shown_by(row)).expect("a string takes it");
        }
    }
    text
}

fn head() -> String {
    let all = rows().count();
    let commands = rows().filter(|row| has_commands(row)).count();
    let absent = rows().filter(|row| row.steps.is_empty()).count();
    let pointed = all - commands - absent;
    let mut text = format!(
        "# What is as in HDFS, and what is not\n\n\
        Every rule and every error of HDFS' transparent encryption, and of what belongs to it, with what Strongroom does. This page is written\n\
        from `tests/tests/journeys/hdfs_table`. Of its {all} rows, {commands} are shown by commands, which that test runs against real services, a token,\n\
        a metadata service and three block nodes, and checks what they say. {pointed} have no command: each names tests that show it; that these are there\n\
        and are not ignored is checked, and they are run with their own suites, not with the table. {absent} are of what Strongroom does not have, where there is nothing to run.\n\n\
        The kinds of named tests:\n\n"
    );
    for kind in KINDS {
        writeln!(text, "- *{}*: {}", kind.name, kind.over).expect("a string takes it");
    }
    text
}

fn here(row: &Row) -> String {
    match &row.here {
        Here::Same => "the same".to_owned(),
        Here::Better(how) => format!("better: {how}"),
        Here::Otherwise(how) => (*how).to_owned(),
        Here::NotThere(why) => format!("not there: {why}"),
    }
}

fn has_commands(row: &Row) -> bool {
    row.steps.iter().any(|step| !matches!(step, Step::Test(..)))
}

fn shown_by(row: &Row) -> String {
    let mut shown = Vec::new();
    if has_commands(row) {
        shown.push("commands".to_owned());
    }
    for step in row.steps {
        if let Step::Test(file, function) = step {
            shown.push(format!("*{}*: `{function}`", kind_of(file).name));
        }
    }
    match shown.is_empty() {
        true => "nothing to run".to_owned(),
        false => shown.join("; "),
    }
}
