//! One row for each rule and each error of HDFS' encryption zones: what HDFS does, what is the same here and what is not, and
//! commands that show it on real services. `docs/hdfs-differences.md` is the same table, and held against it:
//! `STRONGROOM_WRITE_DOCS=1` writes it anew.

mod rows;

use std::{env, fmt::Write as _, fs, path::Path};

use strongroom_tests::{Cli, Dev};

use self::rows::ROWS;

/// A rule of HDFS.
struct Row {
    topic: &'static str,
    /// What HDFS does.
    hdfs: &'static str,
    here: Here,
    /// In this order. In each, `{d}` is a directory of the row's own in no zone, `{z}` one in a zone under the key `payroll`, `{o}` one in
    /// a zone under the key `other`, `{k}` a name of the row's own, `{f}` a local file.
    steps: &'static [Step],
}

/// How it is here.
enum Here {
    Same,
    /// As in HDFS, and what is better.
    Better(&'static str),
    /// Otherwise than in HDFS.
    Otherwise(&'static str),
}

/// Something that shows it. `user> ` before a command has that user run it.
enum Step {
    /// A command that succeeds.
    Done(&'static str),
    /// One that succeeds and says these words on standard output.
    Says(&'static str, &'static [&'static str]),
    /// One that fails with this code and says these words on standard error.
    Refused(&'static str, i32, &'static [&'static str]),
    /// A test elsewhere: file and function.
    Test(&'static str, &'static str),
}

const DOCUMENT: &str = "docs/hdfs-differences.md";
const WRITE: &str = "STRONGROOM_WRITE_DOCS";

#[test]
fn every_rule_is_as_the_table_says() {
    let dev = Dev::start();
    let (payroll, other) = (dev.zone("payroll"), dev.zone("other"));
    let file = dev.scratch("local").join("file");
    fs::write(&file, "what is in the file").expect("own directory");
    let places: Vec<_> = (1..=ROWS.len())
        .map(|number| Places {
            values: [
                ("{d}", format!("/t{number}")),
                ("{z}", format!("{payroll}/t{number}")),
                ("{o}", format!("{other}/t{number}")),
                ("{k}", format!("key{number}")),
                ("{f}", file.display().to_string()),
            ],
        })
        .collect();
    make_places(&dev.cli(), &places);
    let mut wrong = Vec::new();
    for (row, places) in ROWS.iter().zip(&places) {
        for step in row.steps {
            if let Err(why) = step.run(&dev.cli(), places) {
                wrong.push(format!("{}: {}\n  {why}", row.topic, row.hdfs));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_document_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DOCUMENT);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, document()).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == document(),
        "{DOCUMENT} is not the table; write it with {WRITE}=1"
    );
}

/// What stands for the names in braces.
struct Places {
    values: [(&'static str, String); 5],
}

impl Places {
    fn fill(&self, text: &str) -> String {
        let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        self.values.iter().fold(text.to_owned(), fill)
    }
}

/// A few commands for all rows.
fn make_places(cli: &Cli, places: &[Places]) {
    let all = |name| {
        places
            .iter()
            .map(|place| place.fill(name))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let outside = format!("fs mkdir --mode 777 {}", all("{d}"));
    cli.as_user("fsadmin").line(&outside).ok();
    cli.line(&format!("fs mkdir {} {}", all("{z}"), all("{o}"))).ok();
}

impl Step {
    fn run(&self, cli: &Cli, places: &Places) -> Result<(), String> {
        match self {
            Self::Done(command) => check(cli, places, command, 0, &[]),
            Self::Says(command, words) => check(cli, places, command, 0, words),
            Self::Refused(command, code, words) => check(cli, places, command, *code, words),
            Self::Test(file, function) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
                let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
                let is_there = text.contains(&format!("fn {function}("));
                is_there.then_some(()).ok_or(format!("{file} has no test {function}"))
            }
        }
    }
}

fn check(cli: &Cli, places: &Places, command: &str, code: i32, words: &[&str]) -> Result<(), String> {
    let command = places.fill(command);
    let (cli, line) = match command.split_once("> ") {
        Some((user, line)) => (cli.as_user(user), line),
        None => (cli.clone(), command.as_str()),
    };
    let outcome = cli.line(line);
    let stdout = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let said = if code == 0 { &stdout } else { &outcome.stderr };
    if outcome.code != Some(code) {
        return Err(format!("{command}: code {:?}: {}", outcome.code, outcome.stderr));
    }
    let words = words.iter().map(|word| places.fill(word));
    let missing: Vec<_> = words.filter(|word| !said.contains(word.as_str())).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("{command} does not say {missing:?}: {said}"))
}

/// The table for people.
fn document() -> String {
    let mut text = "# What is as in HDFS, and what is not\n\n\
        Every rule and every error of HDFS' transparent encryption, with what Strongroom does. Where nothing is said it is the same. Each row\n\
        is run against real services by `tests/tests/journeys/hdfs_table`, from which this page is written.\n"
        .to_owned();
    let mut topic = "";
    for row in ROWS {
        if row.topic != topic {
            topic = row.topic;
            write!(text, "\n## {topic}\n\n| HDFS | Strongroom |\n|---|---|\n").expect("a string takes it");
        }
        let here = match &row.here {
            Here::Same => "the same".to_owned(),
            Here::Better(how) => format!("better: {how}"),
            Here::Otherwise(how) => (*how).to_owned(),
        };
        writeln!(text, "| {} | {here} |", row.hdfs).expect("a string takes it");
    }
    text
}
