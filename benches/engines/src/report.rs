//! Figures, as a table for people or a line of JSON each.

use std::collections::BTreeMap;

use serde::Serialize;

/// One figure. A ratio above 1 means that it is better than redb.
#[derive(Serialize)]
pub(crate) struct Figure {
    bench: String,
    #[serde(rename = "impl")]
    implementation: &'static str,
    value: f64,
    unit: &'static str,
    against: &'static str,
    ratio: f64,
}

const OURS: &str = "redb";

impl Figure {
    pub(crate) fn of(bench: String, implementation: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            bench,
            implementation,
            value,
            unit,
            against: OURS,
            ratio: 1.0,
        }
    }
}

/// How each is against ours: above 1 it is better than that.
pub(crate) fn with_ratios(mut figures: Vec<Figure>) -> Vec<Figure> {
    let ours: BTreeMap<String, f64> = figures
        .iter()
        .filter(|figure| figure.implementation == OURS)
        .map(|figure| (figure.bench.clone(), figure.value))
        .collect();
    for figure in &mut figures {
        let Some(ours) = ours.get(&figure.bench) else { continue };
        let is_rate = figure.unit.ends_with("/s");
        figure.ratio = if is_rate {
            figure.value / ours
        } else {
            ours / figure.value
        };
    }
    figures
}

pub(crate) fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure).expect("plain values"));
        }
        return;
    }
    let mut rows: Vec<(&str, &str, Vec<&Figure>)> = Vec::new();
    for figure in figures {
        match rows.iter_mut().find(|(bench, ..)| *bench == figure.bench) {
            Some((.., row)) => row.push(figure),
            None => rows.push((&figure.bench, figure.unit, vec![figure])),
        }
    }
    for (bench, unit, row) in rows {
        let cells = row.iter().map(|figure| {
            format!(
                "{:>8} {:>10.*} ({:>5.2})",
                figure.implementation,
                digits(figure.value),
                figure.value,
                figure.ratio
            )
        });
        println!("{bench:<24} {unit:<10} {}", cells.collect::<Vec<_>>().join("  "));
    }
}

const fn digits(value: f64) -> usize {
    if value < 10.0 { 3 } else { 0 }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
