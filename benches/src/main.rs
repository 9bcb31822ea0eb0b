//! Benchmarks: `ci/bench AREA [--json]`. Ours and what it is held against run interleaved in one process, and
//! every result is checked before it is timed. Ratios above 1 mean that ours is better.

mod dataplane;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let areas: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "--json")
        .collect();
    match areas[..] {
        ["dataplane"] => {
            report::print(&dataplane::run(), json);
            ExitCode::SUCCESS
        }
        _ => {
            report::usage();
            ExitCode::from(2)
        }
    }
}
