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
    /// None of what is held against nothing.
    pub(crate) ratio: Option<f64>,
}

pub(crate) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Medians of values and of their ratios.
pub(crate) fn medians(rounds: &[(f64, f64)]) -> (f64, f64) {
    let (values, ratios): (Vec<f64>, Vec<f64>) = rounds.iter().copied().unzip();
    (median(values), median(ratios))
}

/// Prints the figures for people, or one JSON object a line.
pub(crate) fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure).expect("figures are plain"));
        }
        return;
    }
    println!("{:<48} {:>10} {:<6} {:>7}  against", "bench", "value", "unit", "ratio");
    for figure in figures {
        println!("{}", line(figure));
    }
}

fn line(figure: &Figure) -> String {
    let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    format!(
        "{:<48} {:>10.2} {:<6} {ratio:>7}  {}",
        figure.bench, figure.value, figure.unit, figure.against
    )
}

/// Says what was measured so far, to who waits: a run that takes hours may yet be cut off.
pub(crate) fn tell(figures: &[Figure]) {
    for figure in figures {
        note(&line(figure));
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
        "usage: ci/bench AREA [CASE…] [--json]\n\
         kms: kw gcm audit tokens keys sealed, all of them unless named\n\
         namespace: embedded postgres, both unless named; FILES=N in the environment for another number of files than 1000000\n\
         store: repair postgres, both unless named"
    );
}
