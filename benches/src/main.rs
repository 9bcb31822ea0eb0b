//! Benchmarks: `ci/bench AREA [CASE…] [--json]`. Ours and what it is held against run interleaved in one run, and every result is
//! checked before it is timed. Ratios above 1 mean that ours is better. The data plane's peers are second crypto stacks, so its
//! benchmark is a program of its own: `benches/compare`.

#[path = "../../storage/kv/tests/cluster/mod.rs"]
mod cluster;
mod kms;
mod latency;
mod namespace;
mod report;
mod site;
mod store;

use std::process::ExitCode;

use crate::report::Figure;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Benchmarks run their other processes from this same file.
    if let Some(code) = kms::play_part(&arguments).or_else(|| store::play_part(&arguments)) {
        return code;
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let areas: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "--json")
        .collect();
    let figures: Vec<Figure> = match areas[..] {
        ["kms", ref cases @ ..] if kms::are_cases(cases) => kms::run(cases),
        ["namespace", ref engines @ ..] if namespace::are_engines(engines) => namespace::run(engines),
        ["store", ref cases @ ..] if store::are_cases(cases) => store::run(cases),
        _ => {
            report::usage();
            return ExitCode::from(2);
        }
    };
    report::print(&figures, json);
    ExitCode::SUCCESS
}
