//! Figures as a table or as JSON lines.

/// One measured figure, and one thing that it is held against.
#[derive(serde::Serialize)]
pub(crate) struct Figure {
    /// `area/what/size/variant`.
    pub(crate) bench: String,
    #[serde(rename = "impl")]
    pub(crate) implementation: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    /// Above 1: ours is better.
    pub(crate) ratio: f64,
}

pub(crate) fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure).expect("figures are plain"));
        }
        return;
    }
    println!("{:<44} {:>9}  against", "bench", "value");
    let mut start = 0;
    while start < figures.len() {
        let first = &figures[start];
        let same = figures[start..]
            .iter()
            .take_while(|figure| figure.bench == first.bench)
            .count();
        let ratios: Vec<String> = figures[start..start + same]
            .iter()
            .map(|figure| format!("{} {:.2}", figure.against, figure.ratio))
            .collect();
        println!(
            "{:<44} {:>9.2} {}  {}",
            first.bench,
            first.value,
            first.unit,
            ratios.join("  ")
        );
        start += same;
    }
}
