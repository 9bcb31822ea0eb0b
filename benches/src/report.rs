//! Figures as a table or as JSON lines.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "output is what this program is for"
)]

/// One measured figure.
#[derive(serde::Serialize)]
pub(crate) struct Figure {
    pub(crate) bench: String,
    #[serde(rename = "impl")]
    pub(crate) implementation: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    pub(crate) ratio: f64,
}

pub(crate) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Prints the figures for people, or one JSON object a line.
pub(crate) fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure).expect("figures are plain"));
        }
        return;
    }
    println!("{:<28} {:>10} {:<5} {:>7}  against", "bench", "value", "unit", "ratio");
    for figure in figures {
        println!(
            "{:<28} {:>10.2} {:<5} {:>7.2}  {}",
            figure.bench, figure.value, figure.unit, figure.ratio, figure.against
        );
    }
}

/// Says what is being measured, to who waits.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Says why a process of the benchmark ended.
pub(crate) fn complain(text: &str) {
    eprintln!("error: {text}");
}

pub(crate) fn usage() {
    eprintln!(
        "usage: ci/bench kms [CASE…] [--json]\n       ci/bench store [--json]\ncases of kms, all of them unless named: kw gcm audit tokens keys"
    );
}
