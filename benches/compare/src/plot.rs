//! The plot: one bar for each implementation at each size, and the limit as a line over them.

use std::fmt::Write as _;

use crate::report::Figure;

const SIZES: [&str; 6] = ["64B", "512B", "4KiB", "64KiB", "1MiB", "64MiB"];
/// Name in figures, label and colour; ours first, the limit last.
const SERIES: [(&str, &str, &str); 6] = [
    ("", "Strongroom", "#0b6e4f"),
    ("ipsec-mb", "ipsec-mb", "#4a7fb5"),
    ("aws-lc", "AWS-LC", "#d17a22"),
    ("openssl", "OpenSSL", "#7a6c5d"),
    ("rustcrypto", "RustCrypto", "#9a8fbf"),
    ("aes-limit", "AES rounds on registers alone", "#444444"),
];
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 370.0;

/// AES-256-CTR in place, in GB/s.
pub(crate) fn svg(figures: &[Figure]) -> String {
    let columns: Vec<[f64; 6]> = SIZES.iter().map(|size| rates(figures, size)).collect();
    let highest = columns.iter().flatten().copied().fold(1.0, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">AES-256-CTR in place, one core, GB/s</text>\n"
    );
    legend(&mut svg);
    scale(&mut svg, highest);
    for (position, (size, rates)) in SIZES.iter().zip(&columns).enumerate() {
        column(&mut svg, position, size, rates, highest);
    }
    limit(&mut svg, &columns, highest);
    svg + "</svg>\n"
}

/// What each series reached at a size; 0 where it was not measured.
fn rates(figures: &[Figure], size: &str) -> [f64; 6] {
    let start = format!("ctr/aes256/{size}/");
    // Our fastest backend comes first.
    let own = figures
        .iter()
        .find(|figure| figure.bench.starts_with(&start) && !figure.bench.contains("/copy"));
    SERIES.map(|(name, ..)| {
        let Some(own) = own else { return 0.0 };
        let against = figures
            .iter()
            .find(|figure| figure.bench == own.bench && figure.against == name);
        if name.is_empty() {
            own.value
        } else {
            against.map_or(0.0, |figure| own.value / figure.ratio)
        }
    })
}

fn height(rate: f64, highest: f64) -> f64 {
    (BOTTOM - TOP) * rate / (highest * 1.05)
}

fn legend(svg: &mut String) {
    for (position, (_, label, colour)) in SERIES.iter().enumerate() {
        let x = LEFT + 112.0 * position as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"38\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"49\">{label}</text>",
            x + 17.0
        );
    }
}

fn scale(svg: &mut String, highest: f64) {
    let step = if highest > 30.0 { 10.0 } else { 5.0 };
    let mut rate = 0.0;
    while rate <= highest {
        let y = BOTTOM - height(rate, highest);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate}</text>",
            WIDTH - 20.0,
            LEFT - 8.0,
            y + 4.0
        );
        rate += step;
    }
}

fn column(svg: &mut String, position: usize, size: &str, rates: &[f64; 6], highest: f64) {
    let left = LEFT + 15.0 + 128.0 * position as f64;
    let [bars @ .., _] = rates;
    for (bar, (rate, (_, _, colour))) in bars.iter().zip(SERIES).enumerate() {
        let (x, high) = (left + 21.0 * bar as f64, height(*rate, highest));
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"19\" height=\"{high:.1}\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{:.1}\" font-size=\"9\" text-anchor=\"middle\">{rate:.1}</text>",
            BOTTOM - high,
            x + 9.5,
            BOTTOM - high - 3.0
        );
    }
    let (x, y) = (left + 52.0, BOTTOM + 20.0);
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{size}</text>");
}

/// What registers can do is the same at each size: the median.
fn limit(svg: &mut String, columns: &[[f64; 6]], highest: f64) {
    let mut limits: Vec<f64> = columns.iter().map(|rates| rates[5]).collect();
    limits.sort_by(f64::total_cmp);
    let (y, right, colour) = (
        BOTTOM - height(limits[limits.len() / 2], highest),
        WIDTH - 20.0,
        SERIES[5].2,
    );
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
}
