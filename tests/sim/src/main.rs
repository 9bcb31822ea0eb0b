//! Runs the metadata service, block nodes and clients under a deterministic simulation of their network, machines and storage.
//!
//! `strongroom-sim run SEED` plays one run and prints what happened, the same lines each time; `strongroom-sim many` plays
//! runs of one seed after the other, each in a process of its own. `docs/adr/0042-simulation.md` says what is real in them.

mod chance;
mod checker;
mod chunk;
mod disk;
mod faults;
mod history;
mod judge;
mod kms;
mod machine;
mod many;
mod model;
mod network;
mod run;
mod sabotage;
mod site;
mod store;
mod trace;
mod workload;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{many::Batch, run::run, sabotage::Sabotage};

#[derive(Parser)]
#[command(name = "strongroom-sim", about = "Strongroom under a deterministic simulation")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run: prints what happened, and fails if that must not be
    Run {
        /// The run's number: the same one is the same run
        seed: u64,
        /// The services' log lines too
        #[arg(long)]
        verbose: bool,
        /// Something that is made to be wrong, to see it found
        #[arg(long, value_enum)]
        sabotage: Option<Sabotage>,
    },
    /// Many runs, as many at once as there are processors: prints those that fail
    Many {
        /// How many
        #[arg(long, default_value_t = u64::MAX)]
        seeds: u64,
        /// The first one's number
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// After that many seconds no more are begun
        #[arg(long, default_value_t = u64::MAX)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run {
            seed,
            verbose,
            sabotage,
        } => one(seed, verbose, sabotage),
        Command::Many { seeds, first, seconds } => many::play(Batch { seeds, first, seconds }),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            _ = writeln!(io::stderr(), "strongroom-sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Plays one run; whether all was as it has to be.
fn one(seed: u64, verbose: bool, sabotage: Option<Sabotage>) -> io::Result<bool> {
    let report = run(seed, verbose, sabotage);
    let mut out = io::stdout().lock();
    out.write_all(report.trace.as_bytes())?;
    let (calls, violations) = (report.calls, report.violations.len());
    let searched = if report.undecided {
        ", too many orders to search"
    } else {
        ""
    };
    writeln!(out, "seed {seed}: {calls} calls, {violations} violations{searched}")?;
    Ok(report.violations.is_empty())
}
