//! How many EDEKs a second, so that a change that costs a factor shows in the log of a test run.

use std::time::Instant;

use strongroom_kms::token::Token;
use strongroom_proto::{Edek, EdekSuite, KeyVersion};

use crate::fixture::{Fixture, fresh, name, zone};

/// Far below what SoftHSM2 does, far above what a search per operation would leave.
const MINTS_PER_SECOND_MIN: f64 = 500.0;

#[tokio::test]
async fn batches_of_a_hundred_run_at_token_speed() {
    let fixture = Fixture::new();
    let token: Token = fixture.start().await;
    let (key, version) = (name("payroll"), KeyVersion(0));
    token.generate(&fresh("payroll", 0)).await.expect("a fresh version");
    let start = Instant::now();
    let mut minted = Vec::new();
    for _ in 0..50 {
        minted.extend(token.mint(&key, version, &zone(1), 100).await.expect("minted"));
    }
    let mint_rate = 5000.0 / start.elapsed().as_secs_f64();
    let edeks: Vec<_> = minted
        .into_iter()
        .map(|wrapped| Edek {
            key: key.clone(),
            version,
            zone: zone(1),
            suite: EdekSuite::Kw,
            wrapped,
        })
        .collect();
    let start = Instant::now();
    for batch in edeks.chunks(100) {
        token.unwrap(batch).await.expect("unwrapped");
    }
    let unwrap_rate = 5000.0 / start.elapsed().as_secs_f64();
    tracing::info!(mint_rate, unwrap_rate, "EDEKs a second in batches of 100");
    assert!(
        mint_rate > MINTS_PER_SECOND_MIN,
        "{mint_rate:.0} mints/s, {unwrap_rate:.0} unwraps/s"
    );
}
