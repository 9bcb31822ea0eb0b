//! Processes of their own: one that writes until it is killed, and one that opens what that left, says how long it took, and what memory
//! it took to work with it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    engine::{Engine, open},
    files::{self, mix},
    group::Committer,
    report::{Figure, median},
};

const WRITE: &str = "part-write";
const REOPEN: &str = "part-reopen";
/// How often an engine is killed, and after how many acknowledged files.
const KILLS: u64 = 3;
const FILES_BEFORE_KILL: usize = 500;
const WRITERS: u64 = 8;
/// Behind all files that were timed.
const FIRST: u64 = 3_000_000;
/// Files opened and renamed while memory is looked at.
const OPENED: u64 = 50_000;
const RENAMED: u64 = 500;

/// Plays a part, if `arguments` say so.
pub(crate) fn play_part(arguments: &[String]) -> Option<ExitCode> {
    let [part, name, path, files, from] = arguments else {
        return None;
    };
    let (files, from) = (files.parse().ok()?, from.parse().ok()?);
    match part.as_str() {
        WRITE => write_until_killed(name, Path::new(path), from),
        REOPEN => reopen(name, Path::new(path), files, from),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// Seconds from the start of a process to its first answer after the one before was killed, and its memory at work.
pub(crate) fn figures(name: &'static str, directory: &Path, files: u64) -> Vec<Figure> {
    let (mut seconds, mut megabytes) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let from = files + FIRST + kill * 100_000;
        let path = directory.join(name);
        let last = killed(name, &path, files, from);
        let output = part(REOPEN, name, &path, files, last).output().expect("it runs");
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("numbers");
        let numbers: Vec<f64> = text
            .split_whitespace()
            .map(|number| number.parse().expect("a number"))
            .collect();
        seconds.push(numbers[0]);
        megabytes.push(numbers[1]);
    }
    let figure = |bench: &str, values, unit| Figure::of(format!("engines/{bench}"), name, median(values), unit);
    vec![figure("reopen-killed", seconds, "s"), figure("memory", megabytes, "MB")]
}

fn part(part: &str, name: &str, path: &Path, files: u64, from: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args([part, name])
        .arg(path)
        .args([files.to_string(), from.to_string()]);
    command.stdout(Stdio::piped());
    command
}

/// Has a process write and kills it. Says the last file that it acknowledged.
fn killed(name: &str, path: &Path, files: u64, from: u64) -> u64 {
    let mut child = part(WRITE, name, path, files, from).spawn().expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut acknowledged = Vec::new();
    for line in lines.map_while(Result::ok) {
        acknowledged.push(line.parse::<u64>().expect("a number"));
        if acknowledged.len() == FILES_BEFORE_KILL {
            child.kill().expect("SIGKILL");
        }
    }
    child.wait().expect("it ends");
    assert!(
        acknowledged.len() >= FILES_BEFORE_KILL,
        "{name}: the writer ended by itself"
    );
    *acknowledged.last().expect("some")
}

/// Makes files and says which, until it is killed.
fn write_until_killed(name: &str, path: &Path, from: u64) {
    let engine: Arc<dyn Engine> = open(name, path).into();
    let committer = Committer::start(Arc::clone(&engine));
    let next = AtomicU64::new(from);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    files::create(engine.as_ref(), &committer, number);
                    let mut out = std::io::stdout().lock();
                    if writeln!(out, "{number}").and_then(|()| out.flush()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Opens what is there and says the seconds until the last acknowledged file was found, and the memory at the end.
fn reopen(name: &str, path: &Path, files: u64, last: u64) {
    let begun = Instant::now();
    let engine: Arc<dyn Engine> = open(name, path).into();
    files::open(engine.as_ref(), last);
    let seconds = begun.elapsed().as_secs_f64();
    for number in 0..OPENED {
        files::open(engine.as_ref(), mix(number) % files);
    }
    let committer = Committer::start(Arc::clone(&engine));
    for number in 0..RENAMED {
        files::rename(engine.as_ref(), &committer, mix(last ^ number) % files);
    }
    println!("{seconds} {}", memory_mb());
}

/// The most that this process had in memory.
fn memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("a number") * 1024.0 / 1e6
}
