//! Checks of the workspace's own rules, and the instruments that the demonstration measures with.
//!
//! `imports` holds the table of who may import whom against the manifests; `tidy` looks for what must not
//! stay in the tree; `windows` looks for plaintext where only ciphertext may be. Each prints what it
//! looked at and ends with exit code 1 and one line per finding if it found anything.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod imports;
mod tidy;
mod windows;

use std::process::ExitCode;

const USAGE: &str =
    "usage: strongroom-checks imports | tidy | windows [--seed N] [--count N] --from DIR --plant DIR --in PATH…";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((name, [])) if name == "imports" => imports::run(),
        Some((name, [])) if name == "tidy" => tidy::run(),
        Some((name, rest)) if name == "windows" => windows::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(findings) => {
            for finding in findings {
                eprintln!("error: {finding}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What a check says when it is content.
type Summary = String;

/// What it says when it is not, one line each.
type Findings = Vec<String>;
