//! What monitoring sees of each token, over the port for it: what the manual says, and that it is true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use strongroom_kms::{fleet::Health, hsm::Hsm};
use strongroom_proto::{KeyVersion, Reason, ZoneId};

use crate::{
    failover::becomes,
    fixture::{name, zone},
    pair::{LABELS, Pair},
    support::{Site, page},
};

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
const PREFIX: &str = "strongroom_kms_token_";

/// Names of measurements, each with the names of its labels.
type Measured = BTreeMap<String, BTreeSet<String>>;

/// The rows of the manual about tokens: `| `name`, `_other_end` | label, label | what |`.
fn documented() -> Measured {
    let manual = fs::read_to_string(MANUAL).expect("the manual");
    let mut measured = Measured::new();
    for row in manual.lines().filter(|row| row.starts_with(&format!("| `{PREFIX}"))) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels: BTreeSet<String> = cells[2].split(", ").map(str::to_owned).collect();
        let first = cells[1].split('`').nth(1).expect("a name");
        let ends = cells[1].split('`').skip(3).step_by(2);
        let start = first.rsplit_once('_').expect("a name of words").0;
        let others = ends.map(|end| format!("{start}{end}"));
        for name in std::iter::once(first.to_owned()).chain(others) {
            measured.insert(name, labels.clone());
        }
    }
    measured
}

/// The same as it is scraped; a histogram's three series are one.
fn scraped(text: &str) -> Measured {
    let mut measured = Measured::new();
    for line in text.lines().filter(|line| line.starts_with(PREFIX)) {
        let (series, labels) = line.split_once('{').expect("labels");
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| series.strip_suffix(end))
            .unwrap_or(series);
        let labels = labels.split_once('}').expect("labels end").0;
        let names = labels.split(',').map(|label| label.split_once('=').expect("a value").0);
        let names = names.filter(|name| *name != "le").map(str::to_owned).collect();
        let before = measured.insert(name.to_owned(), names);
        assert!(before.is_none_or(|before| before == measured[name]), "{line}");
    }
    measured
}

/// The value of one series.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {series} in:\n{text}"));
    value.parse().expect("a number")
}

fn of(text: &str, name: &str, label: &str) -> f64 {
    value(text, &format!("{PREFIX}{name}{{token=\"{label}\"}}"))
}

#[tokio::test]
async fn each_token_is_measured_as_the_manual_says() {
    let ((site, address), pair) = (Site::new().monitored(), Pair::new());
    let fleet = Arc::new(pair.start().await);
    let kms = site.start(&fleet).await;
    let created = kms.as_user("user/keyadmin").create("payroll").await.expect("in both");
    let mut metadata = kms.as_user("service/metadata");
    for _ in 0..4 {
        let minted = metadata.mint("payroll", ZoneId::generate(), 5).await;
        minted.expect("minted");
    }
    // Neither has it, so both fail the call.
    let failure = fleet.mint(&name("nothing"), KeyVersion(0), &zone(1), 1).await;
    assert_eq!(failure.expect_err("no such key").reason, Reason::KeyVersionUnusable);

    let scrape = async || page(&kms, address, "user/prometheus", "/metrics").await.1;
    let text = scrape().await;
    assert_eq!(scraped(&text), documented());
    for label in LABELS {
        let state = ["serving", "out", "versions_held", "versions_lacking", "calls", "items"];
        assert_eq!(
            state.map(|name| of(&text, name, label)),
            [1.0, 0.0, 1.0, 0.0, 0.0, 0.0],
            "{label}"
        );
        assert!(of(&text, "call_seconds_count", label) >= 2.0, "each had its turns");
        assert!(of(&text, "call_seconds_sum", label) > 0.0);
        let failed = format!("{PREFIX}failures_total{{token=\"{label}\",reason=\"key-version-unusable\"}}");
        assert!(value(&text, &failed) >= 1.0, "{label}");
    }

    let id = hex::encode(&created.versions[0].token_id);
    pair.probe(LABELS[1], "replace", &["strongroom:1:kw:payroll@0", &id, "no"]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Out(_))).await;
    let text = scrape().await;
    let state = |label: &str| ["serving", "out"].map(|name| of(&text, name, label));
    assert_eq!(LABELS.map(state), [[1.0, 0.0], [0.0, 1.0]]);
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    let text = scrape().await;
    assert_eq!(["serving", "out"].map(|name| of(&text, name, LABELS[1])), [0.0, 0.0]);
    kms.stop().await;
    fleet.stop().await;
}
