//! Holds the engine of the embedded store against others, under the access pattern of the metadata service and with the same durable group
//! commit for each: `ci/bench engines`. ADR 43 says what was decided by it.
//!
//! Each engine is first held against a map in memory, over a restart, and has to keep what it acknowledged when its process is killed; the run stops if one does
//! not. Then they take turns at each case.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "output is what this program is for"
)]

mod cases;
mod check;
mod child;
mod engine;
mod files;
mod fjall;
mod group;
mod redb;
mod report;
mod rocks;
mod sqlite;

use std::{path::Path, process::ExitCode};

const USAGE: &str = "usage: strongroom-engines [--json] [--files N] [ENGINE…]
--files: how many files there are, 100000 unless given; 1000000 takes 3 GB of disk and ten minutes
ENGINE: redb, fjall, rocksdb, sqlite";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = child::play_part(&arguments) {
        return code;
    }
    let Some(options) = Options::parse(arguments.into_iter()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // On the disk that is to be measured, not in memory.
    let directory = tempfile::tempdir_in(".").expect("a directory");
    for name in &options.engines {
        eprintln!("checking {name}");
        check::all(name, &directory.path().join(format!("{name}-check")));
    }
    report::print(&figures(&options, directory.path()), options.json);
    ExitCode::SUCCESS
}

fn figures(options: &Options, directory: &Path) -> Vec<report::Figure> {
    let mut figures = cases::run(&options.engines, directory, options.files);
    for name in &options.engines {
        eprintln!("killing {name}");
        figures.extend(child::figures(name, directory, options.files));
    }
    report::with_ratios(figures)
}

struct Options {
    json: bool,
    files: u64,
    engines: Vec<&'static str>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            json: false,
            files: 100_000,
            engines: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--files" => {
                    let files: u64 = arguments.next()?.parse().ok().filter(|files| *files >= 10_000)?;
                    options.files = files.next_multiple_of(files::PER_DIRECTORY);
                }
                name => options
                    .engines
                    .push(engine::NAMES.into_iter().find(|known| *known == name)?),
            }
        }
        if options.engines.is_empty() {
            options.engines = engine::NAMES.to_vec();
        }
        Some(options)
    }
}
