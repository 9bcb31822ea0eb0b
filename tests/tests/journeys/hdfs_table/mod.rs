//! One row for each rule and each error of HDFS' encryption zones: what HDFS does, what is the same here and what is not, and what shows
//! it: commands that are run on real services, or a test elsewhere. `docs/hdfs-differences.md` is the same table, and held against it:
//! `STRONGROOM_WRITE_DOCS=1` writes it anew.

mod given;
mod page;
mod pointers;
mod rows;
mod steps;

use std::{env, fs, path::PathBuf};

use strongroom_tests::{Cli, Dev};

use self::{rows::TOPICS, steps::Step};

/// What a part of the page is about.
struct Topic {
    title: &'static str,
    rows: &'static [Row],
}

/// A rule of HDFS.
struct Row {
    /// What HDFS does.
    hdfs: &'static str,
    here: Here,
    /// What shows it, in this order. In commands `{d}` is a directory of the row's own in no zone, `{p}` one where files may be in no
    /// zone, `{z}` one in a zone under the key `payroll`, `{o}` one in a zone under the key `other`, `{k}` a name of the row's own, `{f}` a
    /// local file, and `{t}` a local directory called `tree` with 20 files.
    steps: &'static [Step],
}

/// How it is here.
enum Here {
    Same,
    /// As in HDFS, and what is better.
    Better(&'static str),
    /// Otherwise than in HDFS.
    Otherwise(&'static str),
    /// Not there, and why.
    NotThere(&'static str),
}

const fn row(hdfs: &'static str, here: Here, steps: &'static [Step]) -> Row {
    Row { hdfs, here, steps }
}

const DOCUMENT: &str = "docs/hdfs-differences.md";
const WRITE: &str = "STRONGROOM_WRITE_DOCS";
/// Files in the local tree: with one a second, a re-encryption of them takes longer than the commands beside it.
const TREE_FILES: usize = 20;

#[test]
fn every_rule_is_as_the_table_says() {
    let dev = Dev::builder().argument("--plain").argument("/landing").start();
    let (payroll, other) = (dev.zone("payroll"), dev.zone("other"));
    let (file, tree) = (dev.scratch("local").join("file"), dev.scratch("local").join("tree"));
    fs::write(&file, "what is in the file").expect("own directory");
    fs::create_dir(&tree).expect("own directory");
    for number in 0..TREE_FILES {
        fs::write(tree.join(format!("f{number:02}")), "one of many").expect("own directory");
    }
    let mut places: Vec<_> = (1..=rows().count())
        .map(|number| Places {
            values: [
                ("d", format!("/t{number}")),
                ("p", format!("/landing/t{number}")),
                ("z", format!("{payroll}/t{number}")),
                ("o", format!("{other}/t{number}")),
                ("k", format!("key{number}")),
                ("f", file.display().to_string()),
                ("t", tree.display().to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        })
        .collect();
    make_places(&dev.cli(), &places);
    let mut wrong = Vec::new();
    for (row, places) in rows().zip(&mut places) {
        if let Err(why) = steps::run(&dev, row.steps, places) {
            wrong.push(format!("{}\n  {why}", row.hdfs));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_document_has_the_table() {
    let path = workspace().join(DOCUMENT);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, page::text()).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page::text(),
        "{DOCUMENT} is not the table; write it with {WRITE}=1"
    );
}

#[test]
fn every_row_is_shown_or_not_there() {
    for row in rows() {
        let shows = |step: &Step| !matches!(step, Step::Done(_) | Step::Given(_));
        let is_shown = row.steps.iter().any(shows);
        assert!(
            is_shown || matches!(row.here, Here::NotThere(_)),
            "nothing is looked at: {}",
            row.hdfs
        );
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    TOPICS.iter().flat_map(|topic| topic.rows)
}

/// The root of the sources.
fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands for the names in braces.
struct Places {
    values: Vec<(String, String)>,
}

impl Places {
    fn fill(&self, text: &str) -> String {
        let fill = |text: String, (name, value): &(String, String)| text.replace(&format!("{{{name}}}"), value);
        self.values.iter().fold(text.to_owned(), fill)
    }
}

/// A few commands for all rows.
fn make_places(cli: &Cli, places: &[Places]) {
    let all = |name| {
        let filled: Vec<_> = places.iter().map(|place| place.fill(name)).collect();
        filled.join(" ")
    };
    let admin = cli.as_user("fsadmin");
    admin.line("fs mkdir /landing").ok();
    let outside = format!("fs mkdir --mode 777 {} {}", all("{d}"), all("{p}"));
    admin.line(&outside).ok();
    cli.line(&format!("fs mkdir {} {}", all("{z}"), all("{o}"))).ok();
}
