//! Suite `gcm` in a token that makes its own IVs and writes them over the caller's, as AWS CloudHSM and tokens in FIPS mode
//! do. No token here does; a module in front of one does it for it.

use std::collections::BTreeSet;

use bytes::Bytes;
use strongroom_kms::token::{IvSource, NewVersion, Token, TokenConfig, TokenState, WireDek};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason};

use crate::fixture::{Fixture, fresh, name, zone};

const V0: KeyVersion = KeyVersion(0);
const V1: KeyVersion = KeyVersion(1);
const IV_BYTES: usize = 12;
const COUNT: usize = 50;

struct OwnIvs {
    fixture: Fixture,
    shim: Shim,
}

impl OwnIvs {
    fn new() -> Self {
        let fixture = Fixture::new();
        let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
        shim.set(Function::EncryptInit, Fault::OwnIv, When::Always);
        Self { fixture, shim }
    }

    /// A worker, and versions 0 and 1 of a key, which proved themselves with such IVs.
    async fn start(&self) -> Token {
        let module = self.shim.module();
        let config = TokenConfig {
            module,
            ..self.fixture.config()
        };
        let token = self.fixture.try_start(config).await.expect("all is there");
        assert_eq!(*token.subscribe().borrow(), TokenState::Ready);
        for version in [0, 1] {
            let new = NewVersion {
                suite: EdekSuite::Gcm,
                ..fresh("payroll", version)
            };
            token.generate(&new).await.expect("a fresh version");
        }
        token
    }
}

fn edek(version: KeyVersion, wrapped: &Bytes) -> Edek {
    Edek {
        key: name("payroll"),
        version,
        zone: zone(1),
        suite: EdekSuite::Gcm,
        wrapped: wrapped.clone(),
    }
}

async fn open(token: &Token, version: KeyVersion, wrapped: &[Bytes]) -> Vec<Result<Bytes, Reason>> {
    let edeks: Vec<_> = wrapped.iter().map(|wrapped| edek(version, wrapped)).collect();
    let results = token.unwrap(&edeks).await.expect("called");
    let plain = results.into_iter().map(|result| result.map(WireDek::into_wire));
    plain.map(|result| result.map_err(|failure| failure.reason)).collect()
}

#[tokio::test]
async fn edeks_carry_the_ivs_that_the_token_made() {
    let own = OwnIvs::new();
    let token = own.start().await;
    let profile = token.profile().await.expect("inspected");
    assert_eq!(profile.gcm_iv, Some(IvSource::Token));
    assert!(profile.suites.contains(&EdekSuite::Gcm), "it was tried and works");

    let minted = token.mint(&name("payroll"), V0, &zone(1), COUNT).await.expect("minted");
    let ivs: BTreeSet<_> = minted.iter().map(|wrapped| wrapped[..IV_BYTES].to_vec()).collect();
    assert_eq!(ivs.len(), COUNT, "each has its own");
    let deks = open(&token, V0, &minted).await;
    assert!(deks.iter().all(Result::is_ok), "{deks:?}");

    let items = minted.iter().map(|wrapped| (V0, wrapped.clone())).collect();
    let again = token
        .rewrap(&name("payroll"), V1, &zone(1), items)
        .await
        .expect("called");
    let again: Vec<Bytes> = again.into_iter().map(|wrapped| wrapped.expect("re-wrapped")).collect();
    assert_eq!(open(&token, V1, &again).await, deks, "the same DEKs");
    assert!(again.iter().all(|wrapped| !ivs.contains(&wrapped[..IV_BYTES])));
    assert!(
        own.shim.fired(Function::EncryptInit) >= 2 * COUNT as u64,
        "all with its own IVs"
    );

    // What is wrong is blamed on the client all the same: the token proves itself first.
    let mut bad = minted[0].to_vec();
    bad[0] ^= 1;
    assert_eq!(open(&token, V0, &[bad.into()]).await, [Err(Reason::EdekInvalid)]);
    token.stop().await;

    // By a token that takes the caller's IV, as a clone elsewhere may, they open as well.
    let other = own.fixture.start().await;
    assert_eq!(other.profile().await.expect("inspected").gcm_iv, Some(IvSource::Caller));
    assert_eq!(open(&other, V0, &minted).await, deks);
    assert_eq!(open(&other, V1, &again).await, deks);
    assert_eq!(own.fixture.starts().len(), 2, "no worker was lost");
    other.stop().await;
}
