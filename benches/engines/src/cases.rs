//! What is timed, and what an engine takes on the disk.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    engine::{Engine, open},
    files::{self, PER_DIRECTORY, mix},
    group::Committer,
    report::{Figure, median},
};

/// Files in one commit while the data is made.
const FILES_PER_FILL: u64 = 5000;
/// Files behind the last that creates may get to.
const ROOM: u64 = 4_000_000;
/// How long each engine is at a case, in turns.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(800);

/// One engine with its data.
struct Contestant {
    name: &'static str,
    engine: Arc<dyn Engine>,
    /// The next file to make.
    next: AtomicU64,
    files: u64,
}

type Operation = fn(&Contestant, &Committer, u64);

/// What each engine does in a second, and the bytes that a file takes.
pub(crate) fn run(names: &[&'static str], directory: &Path, files: u64) -> Vec<Figure> {
    let mut figures = Vec::new();
    for name in names {
        eprintln!("making {files} files in {name}");
        let (seconds, bytes) = fill(name, &directory.join(name), files);
        let figure =
            |bench: &str, value: f64, unit: &'static str| Figure::of(format!("engines/{bench}"), name, value, unit);
        figures.push(figure("fill", files as f64 / seconds, "file/s"));
        figures.push(figure("disk", bytes as f64 / files as f64, "byte/file"));
    }
    let contestants: Vec<Contestant> = names
        .iter()
        .map(|name| Contestant {
            name,
            engine: open(name, &directory.join(name)).into(),
            next: AtomicU64::new(files),
            files,
        })
        .collect();
    let cases: [(&str, usize, Operation); 7] = [
        ("create/1", 1, create),
        ("create/64", 64, create),
        ("open/1", 1, open_one),
        ("open/64", 64, open_one),
        ("list1000/1", 1, list),
        ("rename/1", 1, rename),
        ("rename/64", 64, rename),
    ];
    for (case, writers, operation) in cases {
        eprintln!("{case}");
        figures.extend(timed(&contestants, case, writers, operation));
    }
    for contestant in &contestants {
        contestant.check();
    }
    figures
}

/// Makes the data anew. Says how long it took and how many bytes it takes on the disk once it is closed.
fn fill(name: &str, directory: &Path, files: u64) -> (f64, u64) {
    let engine = open(name, directory);
    engine.commit(&files::directories(files + ROOM));
    let begun = Instant::now();
    let mut made = 0;
    while made < files {
        let batch = made..(made + FILES_PER_FILL).min(files);
        made = batch.end;
        let (mut writes, mut adds) = (crate::engine::Writes::new(), Vec::new());
        for number in batch {
            let change = files::made(number);
            writes.extend(change.writes);
            adds = change.adds;
        }
        for (key, by) in adds {
            writes.insert(key, Some((by * made as i64).to_be_bytes().to_vec()));
        }
        engine.commit(&writes);
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(engine);
    (seconds, size(directory))
}

fn size(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("readable");
        let metadata = entry.metadata().expect("readable");
        bytes += if metadata.is_dir() {
            size(&entry.path())
        } else {
            // What it has of the disk: files may be made larger than they are full.
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        };
    }
    bytes
}

/// Operations a second of each engine, in turns.
fn timed(contestants: &[Contestant], case: &str, writers: usize, operation: Operation) -> Vec<Figure> {
    let mut rates = vec![Vec::new(); contestants.len()];
    for turn in 0..TURNS {
        for (contestant, rates) in contestants.iter().zip(&mut rates) {
            rates.push(contestant.rate(writers, operation, turn as u64));
        }
    }
    let figures = contestants
        .iter()
        .zip(rates)
        .map(|(contestant, rates)| Figure::of(format!("engines/{case}"), contestant.name, median(rates), "op/s"));
    figures.collect()
}

impl Contestant {
    fn rate(&self, writers: usize, operation: Operation, turn: u64) -> f64 {
        let committer = Committer::start(Arc::clone(&self.engine));
        let done = AtomicU64::new(0);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for writer in 0..writers as u64 {
                let (committer, done) = (&committer, &done);
                scope.spawn(move || {
                    let mut number = 0;
                    while begun.elapsed() < TURN {
                        // No two writers have the same file in hand.
                        let chance = mix(turn << 48 | writer << 32 | number);
                        let slice = self.files / writers as u64;
                        operation(self, committer, slice * writer + chance % slice);
                        number += 1;
                    }
                    done.fetch_add(number, Ordering::Relaxed);
                });
            }
        });
        done.into_inner() as f64 / begun.elapsed().as_secs_f64()
    }

    /// That nothing was lost or done twice.
    fn check(&self) {
        let next = self.next.load(Ordering::Relaxed);
        let counted = files::counted(self.engine.view().as_mut());
        assert_eq!(counted, next as i64, "{}: files by the counter", self.name);
        for number in [0, self.files / 2, self.files - 1, next - 1] {
            files::open(self.engine.as_ref(), number);
        }
    }
}

fn create(contestant: &Contestant, committer: &Committer, _: u64) {
    let number = contestant.next.fetch_add(1, Ordering::Relaxed);
    files::create(contestant.engine.as_ref(), committer, number);
}

fn open_one(contestant: &Contestant, _: &Committer, number: u64) {
    files::open(contestant.engine.as_ref(), number);
}

fn list(contestant: &Contestant, _: &Committer, number: u64) {
    let found = files::list(contestant.engine.as_ref(), number);
    assert_eq!(found as u64, PER_DIRECTORY, "{}", contestant.name);
}

fn rename(contestant: &Contestant, committer: &Committer, number: u64) {
    files::rename(contestant.engine.as_ref(), committer, number);
}
