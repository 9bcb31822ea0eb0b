//! Whatever is done to a log's files is found, up to its last checkpoint; behind it, a cut is found by who knows the end.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use proptest::prelude::{Strategy, any, prop_oneof};
use strongroom_kms::audit::{AuditConfig, AuditLog, Caller, Checkpoint, Entry, Expected, VerifyOptions, verify};
use strongroom_proto::transport::PeerIdentity;

use crate::{seed, support::SoftKey};

/// Records of the log, and the ones after which a checkpoint is made.
const RECORDS: usize = 60;
const CHECKPOINTS: [usize; 3] = [15, 30, 45];
const CASES: u32 = 600;

#[derive(Debug, Clone)]
enum Harm {
    Flip { at: f64, bit: u8 },
    RemoveByte { at: f64 },
    RemoveLine { line: f64 },
    Swap { one: f64, other: f64 },
    Insert { from: f64, to: f64 },
    RemoveSegment { segment: f64 },
    SwapSegments { one: f64, other: f64 },
}

fn harms() -> impl Strategy<Value = Harm> {
    let place = || any::<u32>().prop_map(|n| f64::from(n) / (f64::from(u32::MAX) + 1.0));
    prop_oneof![
        6 => (place(), 0..8u8).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        2 => place().prop_map(|at| Harm::RemoveByte { at }),
        2 => place().prop_map(|line| Harm::RemoveLine { line }),
        2 => (place(), place()).prop_map(|(one, other)| Harm::Swap { one, other }),
        2 => (place(), place()).prop_map(|(from, to)| Harm::Insert { from, to }),
        1 => place().prop_map(|segment| Harm::RemoveSegment { segment }),
        1 => (place(), place()).prop_map(|(one, other)| Harm::SwapSegments { one, other }),
    ]
}

#[test]
fn no_change_before_the_last_checkpoint_and_no_cut_from_a_known_end_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(write_log(dir.path()));
    let whole = segments(dir.path());
    let before = verify(&[dir.path().to_owned()], VerifyOptions::default()).expect("a chain");
    assert!(
        before.segments > 3 && before.signed_seq > 40 && before.unsigned_records > 5,
        "{before:?}"
    );
    seed::check(CASES, &harms(), |harm| {
        let harmed = apply(&whole, &harm);
        if text(&harmed) == text(&whole) && names(&harmed) == names(&whole) {
            return Ok(());
        }
        let copy = tempfile::tempdir().map_err(|error| error.to_string())?;
        for (name, bytes) in &harmed {
            fs::write(copy.path().join(name), bytes).map_err(|error| error.to_string())?;
        }
        let paths = [copy.path().to_owned()];
        let Ok(_) = verify(&paths, VerifyOptions::default()) else {
            return Ok(());
        };
        let changed = first_change(&text(&whole), &text(&harmed));
        if changed <= before.signed_seq && !is_cut(&text(&whole), &text(&harmed)) {
            return Err(format!("a change of record {changed} is not found"));
        }
        let expect = VerifyOptions {
            expect: Some(Expected {
                seq: before.last_seq,
                hash: hash(&before.head),
            }),
            ..VerifyOptions::default()
        };
        match verify(&paths, expect) {
            Err(_) => Ok(()),
            Ok(_) => Err(format!("{harm:?} is not found by who knows the end")),
        }
    });
}

/// What the test above allows, pinned: only these go unnoticed without knowledge from elsewhere.
#[test]
fn a_cut_at_the_end_and_a_change_of_the_last_record_are_what_a_log_alone_cannot_tell() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(write_log(dir.path()));
    let whole = segments(dir.path());
    let (name, last) = whole.last().expect("segments").clone();
    let path = dir.path().join(&name);
    let lines: Vec<_> = last.split_inclusive(|&byte| byte == b'\n').collect();
    let passes = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        verify(&[dir.path().to_owned()], VerifyOptions::default()).is_ok()
    };
    assert!(passes(&lines[..lines.len() - 1].concat()), "the last record cut off");
    let renamed = String::from_utf8(last.clone()).expect("text");
    let at = renamed.rfind("service metadata").expect("in the last record");
    let renamed = [&renamed[..at], "service somebody", &renamed[at + 16..]].concat();
    assert!(
        passes(renamed.as_bytes()),
        "the last record changed, which no record follows"
    );
    assert!(!passes(
        &[lines[..lines.len() - 2].concat(), lines[lines.len() - 1].to_vec()].concat()
    ));
    fs::remove_file(&path).expect("removed");
    assert!(
        verify(&[dir.path().to_owned()], VerifyOptions::default()).is_ok(),
        "the last segment removed"
    );
}

async fn write_log(dir: &Path) {
    let config = AuditConfig {
        segment_bytes: 4096,
        ..AuditConfig::default()
    };
    let (log, writer) = AuditLog::open(dir, &config).expect("a log");
    let key = SoftKey::new();
    let caller = || Caller::certified(PeerIdentity::Metadata, SocketAddr::from(([127, 0, 0, 1], 7)));
    for number in 0..RECORDS {
        log.record(vec![Entry::new(&caller(), "mint").count(number)])
            .await
            .expect("written");
        if CHECKPOINTS.contains(&number) {
            let head = log.head();
            // Records come between a head and its checkpoint.
            log.record(vec![Entry::new(&caller(), "rewrap")])
                .await
                .expect("written");
            let checkpoint = Checkpoint::new(&head, &key.sign(&head));
            let entry = Entry {
                checkpoint: Some(checkpoint),
                ..Entry::new(&caller(), "checkpoint")
            };
            log.record(vec![entry]).await.expect("written");
        }
    }
    drop(log);
    writer.finish().await;
}

type Segments = Vec<(String, Vec<u8>)>;

fn segments(dir: &Path) -> Segments {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("readable"))
    };
    paths.into_iter().map(read).collect()
}

fn text(segments: &Segments) -> Vec<u8> {
    segments.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
}

fn names(segments: &Segments) -> Vec<&str> {
    segments.iter().map(|(name, _)| name.as_str()).collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a small list"
)]
fn place(at: f64, length: usize) -> usize {
    (at * length as f64) as usize
}

/// The log with some harm done to it.
fn apply(whole: &Segments, harm: &Harm) -> Segments {
    let mut segments = whole.clone();
    match *harm {
        Harm::RemoveSegment { segment } => _ = segments.remove(place(segment, whole.len())),
        Harm::SwapSegments { one, other } => {
            let (one, other) = (place(one, whole.len()), place(other, whole.len()));
            segments[one].1.clone_from(&whole[other].1);
            segments[other].1.clone_from(&whole[one].1);
        }
        Harm::Flip { at, bit } => on_bytes(&mut segments, at, |bytes, at| bytes[at] ^= 1 << bit),
        Harm::RemoveByte { at } => on_bytes(&mut segments, at, |bytes, at| _ = bytes.remove(at)),
        Harm::RemoveLine { line } => on_lines(&mut segments, |lines| _ = lines.remove(place(line, lines.len()))),
        Harm::Swap { one, other } => on_lines(&mut segments, |lines| {
            let (one, other) = (place(one, lines.len()), place(other, lines.len()));
            lines.swap(one, other);
        }),
        Harm::Insert { from, to } => on_lines(&mut segments, |lines| {
            let line = lines[place(from, lines.len())].clone();
            lines.insert(place(to, lines.len() + 1), line);
        }),
    }
    segments
}

fn on_bytes(segments: &mut Segments, at: f64, change: impl FnOnce(&mut Vec<u8>, usize)) {
    let total = segments.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut at = place(at, total);
    for (_, bytes) in segments {
        if at < bytes.len() {
            return change(bytes, at);
        }
        at -= bytes.len();
    }
}

/// Changes the lines of the log as a whole; segments keep their numbers of lines, but for the last.
fn on_lines(segments: &mut Segments, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let split = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes
            .split_inclusive(|&byte| byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let counts: Vec<usize> = segments.iter().map(|(_, bytes)| split(bytes).len()).collect();
    let mut lines: Vec<Vec<u8>> = segments.iter().flat_map(|(_, bytes)| split(bytes)).collect();
    change(&mut lines);
    let mut lines = lines.into_iter();
    let last = segments.len() - 1;
    for (number, (_, bytes)) in segments.iter_mut().enumerate() {
        *bytes = if number == last {
            lines.by_ref().flatten().collect()
        } else {
            lines.by_ref().take(counts[number]).flatten().collect()
        };
    }
}

/// The number of the first record that is not as it was.
fn first_change(whole: &[u8], harmed: &[u8]) -> u64 {
    let same = whole.iter().zip(harmed).take_while(|(one, other)| one == other).count();
    whole[..same].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1
}

fn is_cut(whole: &[u8], harmed: &[u8]) -> bool {
    whole.starts_with(harmed)
}

fn hash(head: &str) -> Option<[u8; 32]> {
    hex::decode(head).ok()?.try_into().ok()
}
