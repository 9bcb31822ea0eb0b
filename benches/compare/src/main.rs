//! Holds the data plane against its peers and against the limits of the machine, all in one run: `ci/bench dataplane`.
//!
//! Ours are first held against OpenSSL, AWS-LC and ring on random inputs (`TEST_SEED` repeats them), and every implementation
//! encrypts a pattern; the run stops if one differs. Then all of them take short turns at
//! each size; medians are shown, and ratios of turns that were next to each other, which a noisy machine disturbs least.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "output is what this program is for"
)]

mod cases;
mod crosscheck;
mod ipsec;
mod limit;
mod measure;
mod peers;
mod plot;
mod report;

use std::{fs, process::ExitCode};

use cases::Case;
use measure::Effort;

const USAGE: &str = "usage: strongroom-compare [--json] [--quick] [--svg FILE] [NAME…]
NAME: only benchmarks whose names start so, such as ctr/aes256 or gcm/; ctr-large/ (1 GiB, takes 5 GiB of memory) runs only so";

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    crosscheck::all();
    let mut figures = Vec::new();
    for case in cases::all() {
        if options.wants(&case) {
            eprintln!("{}", case.name);
            figures.extend(case.figures(options.effort));
        }
    }
    report::print(&figures, options.json);
    if let Some(path) = options.svg
        && let Err(error) = fs::write(&path, plot::svg(&figures))
    {
        eprintln!("error: cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Options {
    json: bool,
    effort: Effort,
    svg: Option<String>,
    names: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--quick" => options.effort = Effort::Quick,
                "--svg" => options.svg = Some(arguments.next()?),
                name if name.starts_with('-') => return None,
                name => options.names.push(name.to_owned()),
            }
        }
        Some(options)
    }

    fn wants(&self, case: &Case) -> bool {
        let is_named = self.names.iter().any(|start| case.name.starts_with(start.as_str()));
        is_named || (self.names.is_empty() && !case.on_request)
    }
}
