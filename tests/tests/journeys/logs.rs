//! An auditor with the key service's log: fetches the keys that sign it, verifies the log and copies that were tampered
//! with, looks at its end and exports it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use strongroom_tests::{Cli, Dev, until};

use crate::commands::json;

const LIMIT: Duration = Duration::from_secs(30);
const REPORT: &str = "log\",\"segments";

/// A log with some history and a signed first segment, and nothing that still writes to it.
struct Finished {
    dev: Dev,
    keys: Vec<Value>,
}

impl Finished {
    fn new() -> Self {
        let mut dev = Dev::builder().argument("--tokens").argument("2").start();
        let admin = dev.cli().as_user("keyadmin");
        admin.line("key create payroll").ok();
        dev.cli().as_user("guest").line("key roll payroll").fails(4, &["guest"]);
        let rotated = json(&admin, "audit rotate", "segment");
        assert_eq!(rotated["segment"], 2);
        let answer = admin.line("--json audit key").text();
        let keys = answer.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let keys: Vec<Value> = keys.collect();
        assert_eq!(keys.len(), 2, "each token has one: {answer}");
        let log = dev.data("state/kms/audit");
        let verify = format!("audit verify {}", log.display());
        until("the first segment's end is signed", LIMIT, || {
            let signed = json(&dev.cli(), &verify, REPORT)["signed_seq"].as_u64();
            (signed > Some(0)).then_some(())
        });
        follows(&dev, &log);
        dev.stop();
        Self { dev, keys }
    }

    fn log(&self) -> PathBuf {
        self.dev.data("state/kms/audit")
    }

    fn cli(&self) -> Cli {
        self.dev.cli()
    }

    fn lines(&self) -> Vec<String> {
        segments(&self.log()).lines().map(str::to_owned).collect()
    }

    /// A copy of the log's segments, with the bytes of the first one changed.
    fn copy(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let folder = self.dev.scratch(name);
        for segment in ["000001.log", "000002.log"] {
            fs::copy(self.log().join(segment), folder.join(segment)).expect("a segment");
        }
        let first = folder.join("000001.log");
        let mut bytes = fs::read(&first).expect("a segment");
        change(&mut bytes);
        fs::write(&first, bytes).expect("own file");
        folder.display().to_string()
    }

    /// A key in a file of its own.
    fn key_file(&self, key: &Value) -> PathBuf {
        let path = self.dev.scratch("keys").join(key["key_id"].as_str().expect("text"));
        fs::write(&path, key["public_key"].as_str().expect("PEM")).expect("own file");
        path
    }
}

fn segments(log: &Path) -> String {
    let read = |name: &str| fs::read_to_string(log.join(name)).expect("a segment");
    read("000001.log") + &read("000002.log")
}

/// `tail --follow` shows a call's record while the service runs.
fn follows(dev: &Dev, log: &Path) {
    let mut command = dev.cli().command();
    command.args(["--json", "audit", "tail", "--follow", "-n", "1", "--key", "followed"]);
    command.arg(log).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut tail = command.spawn().expect("the executable starts");
    let created = dev.cli().as_user("keyadmin").line("key create followed");
    let mut line = String::new();
    let mut shown = BufReader::new(tail.stdout.take().expect("piped"));
    shown.read_line(&mut line).expect("a record");
    tail.kill().expect("it follows still");
    tail.wait().expect("our child");
    created.ok();
    let record: Value = serde_json::from_str(&line).expect("a record");
    assert_eq!(
        (&record["key"], &record["who"]),
        (&"followed".into(), &"user keyadmin".into())
    );
}

fn verify(log: &Finished, rest: &str) -> strongroom_tests::Outcome {
    log.cli().line(&format!("--json audit verify {rest}"))
}

#[test]
fn an_auditor_verifies_reads_and_exports_the_log() {
    let log = Finished::new();
    verifies_what_is_whole(&log);
    finds_what_is_not(&log);
    shows_the_end(&log);
    exports(&log);
}

fn verifies_what_is_whole(log: &Finished) {
    let path = log.log().display().to_string();
    let files: Vec<PathBuf> = log.keys.iter().map(|key| log.key_file(key)).collect();
    let given = format!(
        "--public-key {} --public-key {}",
        files[0].display(),
        files[1].display()
    );
    let report = json(&log.cli(), &format!("audit verify {path} {given}"), REPORT);
    assert_eq!(report["records"], log.lines().len());
    assert_eq!(report["unsigned_records"], 0, "the stop had the end signed");
    let signed_by = report["keys"].as_array().expect("a list");
    assert!(
        !signed_by.is_empty() && signed_by.iter().all(|key| key["given"] == true),
        "{report}"
    );
    // By the log's own word the same, but for that.
    let alone = json(&log.cli(), &format!("audit verify {path}"), REPORT);
    assert_eq!(
        (&alone["head"], &alone["keys"][0]["given"]),
        (&report["head"], &false.into())
    );
    // The end is known from elsewhere.
    let (seq, head) = (&report["last_seq"], report["head"].as_str().expect("hex"));
    verify(log, &format!("{path} --expect-seq {seq} --expect-hash {head}")).ok();
    // The first segment was put away.
    let second = log.log().join("000002.log").display().to_string();
    verify(log, &second).fails(6, &["record 1"]);
    let rest = verify(log, &format!("{second} --archived")).json();
    assert_eq!((&rest["head"], &rest["segments"]), (&report["head"], &1.into()));
}

fn finds_what_is_not(log: &Finished) {
    let path = log.log().display().to_string();
    let third = log.lines()[..2].iter().map(|line| line.len() + 1).sum::<usize>();
    // Still a record, but not the one that the next carries the hash of.
    let flipped = log.copy("flipped", |bytes| bytes[20] ^= 1);
    verify(log, &flipped).fails(6, &["000001.log", "record 2", "hash of the record before"]);
    let without = log.copy("without", |bytes| drop(bytes.drain(..third)));
    verify(log, &without).fails(6, &["record 1"]);
    let cut = log.copy("cut", |bytes| bytes.truncate(third));
    verify(log, &cut).fails(6, &["000002.log", "record 3"]);
    // Alone, the first segment is a log whose end nobody knows; who kept a checkpoint does.
    let end = format!("{cut}/000001.log");
    verify(log, &end).ok();
    verify(log, &format!("{end} --expect-seq 3")).fails(6, &["record 3"]);
    let hash = "0".repeat(64);
    verify(log, &format!("{path} --expect-seq 2 --expect-hash {hash}")).fails(6, &["record 2", "another hash"]);
    verify(log, &format!("{path} --expect-seq 2 --expect-hash abc")).fails(2, &["64 hexadecimal digits"]);
    // A key that did not sign it, and a file that holds none.
    let other = log.dev.scratch("keys").join("other");
    let made = std::process::Command::new("openssl")
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
        .arg(&other)
        .status();
    assert!(made.expect("openssl is there").success());
    let public = log.dev.scratch("keys").join("other.pub");
    let made = std::process::Command::new("openssl")
        .args(["ec", "-pubout", "-in"])
        .arg(&other)
        .arg("-out")
        .arg(&public)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl is there").success());
    verify(log, &format!("{path} --public-key {}", public.display())).fails(6, &["key that was not given"]);
    verify(log, &format!("{path} --public-key {path}/000001.log")).fails(2, &["audit key"]);
    let empty = log.dev.scratch("empty");
    verify(log, &empty.display().to_string()).fails(3, &["holds no audit log"]);
    verify(log, &format!("{path}/nothing.log")).fails(3, &["nothing.log"]);
}

fn shows_the_end(log: &Finished) {
    let (path, lines) = (log.log().display().to_string(), log.lines());
    let last = log.cli().line(&format!("--json audit tail -n 3 {path}")).text();
    assert_eq!(
        last,
        lines[lines.len() - 3..].join("\n") + "\n",
        "as they are, and across segments"
    );
    let all = log.cli().line(&format!("--json audit tail -n 100000 {path}")).text();
    assert_eq!(all, segments(&log.log()));
    let denied = format!("audit tail --who guest --outcome denied --key payroll {path}");
    let text = log.cli().line(&denied).text();
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in ["user guest", "denied", "payroll", "permission-denied"] {
        assert!(text.contains(word), "{text}");
    }
    log.cli()
        .line(&format!("audit tail -n 0 {path}"))
        .fails(2, &["1 to 100000"]);
    log.cli()
        .line(&format!("audit tail --outcome well {path}"))
        .fails(2, &["started, allowed"]);
}

fn exports(log: &Finished) {
    let (path, lines) = (log.log().display().to_string(), log.lines());
    let export = |rest: &str| log.cli().line(&format!("audit export {path} {rest}")).text();
    assert_eq!(export(""), segments(&log.log()), "byte for byte");
    let csv = export("--format csv");
    let mut rows = csv.lines();
    let heading = rows.next().expect("a line of headings");
    assert!(
        heading.starts_with("seq,time,instance,who,from,action,key,version"),
        "{heading}"
    );
    assert_eq!(rows.clone().count(), lines.len());
    for (row, line) in rows.zip(&lines) {
        let record: Value = serde_json::from_str(line).expect("a record");
        let start = format!("{},{},", record["seq"], record["time"].as_str().expect("text"));
        assert!(row.starts_with(&start), "{row} is not {line}");
    }
    let time = |line: &str| -> String {
        let record: Value = serde_json::from_str(line).expect("a record");
        record["time"].as_str().expect("text").to_owned()
    };
    let (from, to) = (time(&lines[2]), time(&lines[4]));
    let within: Vec<&String> = lines
        .iter()
        .filter(|line| (&from..&to).contains(&&time(line)))
        .collect();
    let part = export(&format!("--from {from} --to {to}"));
    assert_eq!(part.lines().collect::<Vec<_>>(), within);
    assert_eq!(
        export("--who keyadmin --key followed --outcome started")
            .lines()
            .count(),
        1
    );
}
