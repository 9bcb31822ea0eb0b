//! EDEKs: minted, unwrapped and re-wrapped, and bound to key, version and zone.

use bytes::Bytes;
use strongroom_kms::token::{Token, WireDek};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason};

use crate::fixture::{Fixture, fresh, name, zone};

const V0: KeyVersion = KeyVersion(0);
const V1: KeyVersion = KeyVersion(1);

fn edek(key: &str, version: KeyVersion, zone_byte: u8, wrapped: &Bytes) -> Edek {
    Edek {
        key: name(key),
        version,
        zone: zone(zone_byte),
        suite: EdekSuite::Kw,
        wrapped: wrapped.clone(),
    }
}

async fn deks(token: &Token, edeks: &[Edek]) -> Vec<Result<Bytes, Reason>> {
    let results = token.unwrap(edeks).await.expect("the call succeeds");
    results
        .into_iter()
        .map(|result| result.map(WireDek::into_wire).map_err(|failure| failure.reason))
        .collect()
}

async fn one_dek(token: &Token, edek: Edek) -> Result<Bytes, Reason> {
    deks(token, &[edek]).await.remove(0)
}

async fn with_versions(fixture: &Fixture) -> Token {
    let token = fixture.start().await;
    for (key, version) in [("payroll", V0), ("payroll", V1), ("other", V0)] {
        let made = token.generate(&fresh(key, version.0)).await;
        made.expect("a fresh version");
    }
    token
}

#[tokio::test]
async fn deks_survive_mint_rewrap_and_unwrap() {
    let fixture = Fixture::new();
    let token = with_versions(&fixture).await;
    let payroll = name("payroll");
    let minted = token.mint(&payroll, V0, &zone(1), 450).await.expect("minted");
    assert_eq!(minted.len(), 450);
    assert!(minted.iter().all(|wrapped| wrapped.len() == 48));

    let old: Vec<_> = minted.iter().map(|wrapped| edek("payroll", V0, 1, wrapped)).collect();
    let plain = deks(&token, &old).await;
    let mut distinct: Vec<_> = plain.iter().map(|dek| dek.clone().expect("a valid EDEK")).collect();
    assert!(distinct.iter().all(|dek| dek.len() == 32));
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 450, "every DEK is its own");

    let items = minted.iter().map(|wrapped| (V0, wrapped.clone())).collect();
    let rewrapped = token.rewrap(&payroll, V1, &zone(1), items).await.expect("re-wrapped");
    let new: Vec<_> = rewrapped
        .iter()
        .map(|wrapped| edek("payroll", V1, 1, wrapped.as_ref().expect("a valid EDEK")))
        .collect();
    assert_eq!(deks(&token, &new).await, plain, "the same DEKs under the new version");
    assert!(old.iter().zip(&new).all(|(old, new)| old.wrapped != new.wrapped));
}

#[tokio::test]
async fn an_edek_opens_only_under_its_key_version_and_zone() {
    let fixture = Fixture::new();
    let token = with_versions(&fixture).await;
    let minted = token.mint(&name("payroll"), V0, &zone(1), 1).await.expect("minted");
    let wrapped = &minted[0];
    let results = deks(
        &token,
        &[
            edek("payroll", V0, 1, wrapped),
            edek("other", V0, 1, wrapped),
            edek("payroll", V1, 1, wrapped),
            edek("payroll", V0, 2, wrapped),
            edek("payroll", V0, 1, &wrapped.slice(..32)),
            edek("payroll", V0, 1, &Bytes::from([wrapped.as_ref(), &[0; 8]].concat())),
            edek("payroll", KeyVersion(7), 1, wrapped),
            edek("absent", V0, 1, wrapped),
            edek("payroll", V0, 1, wrapped),
        ],
    )
    .await;
    let reasons: Vec<_> = results.iter().map(|result| result.as_ref().err().copied()).collect();
    let (invalid, unusable) = (Some(Reason::EdekInvalid), Some(Reason::KeyVersionUnusable));
    let expected = [
        None, invalid, invalid, invalid, invalid, invalid, unusable, unusable, None,
    ];
    assert_eq!(reasons, expected);
    assert_eq!(results[0], results[8]);

    let wrong = vec![(V1, wrapped.clone()), (V0, wrapped.clone())];
    let rewrapped = token
        .rewrap(&name("payroll"), V1, &zone(1), wrong)
        .await
        .expect("the call succeeds");
    assert_eq!(
        rewrapped[0].as_ref().map_err(|failure| failure.reason),
        Err(Reason::EdekInvalid)
    );
    assert!(rewrapped[1].is_ok(), "each item has its own result");
    let elsewhere = token
        .rewrap(&name("payroll"), V1, &zone(2), vec![(V0, wrapped.clone())])
        .await;
    let elsewhere = elsewhere.expect("the call succeeds").remove(0);
    assert_eq!(elsewhere.map_err(|failure| failure.reason), Err(Reason::EdekInvalid));
}

#[tokio::test]
async fn every_flipped_bit_is_refused() {
    let fixture = Fixture::new();
    let token = with_versions(&fixture).await;
    let minted = token.mint(&name("payroll"), V0, &zone(1), 1).await.expect("minted");
    let flipped: Vec<_> = (0..48 * 8)
        .map(|bit| {
            let mut bytes = minted[0].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            edek("payroll", V0, 1, &Bytes::from(bytes))
        })
        .collect();
    for (bit, result) in deks(&token, &flipped).await.into_iter().enumerate() {
        assert_eq!(result, Err(Reason::EdekInvalid), "bit {bit}");
    }
    assert!(one_dek(&token, edek("payroll", V0, 1, &minted[0])).await.is_ok());
    assert_eq!(fixture.starts().len(), 1, "bad EDEKs cost no worker");
}

#[tokio::test]
async fn more_zones_than_are_cached_all_work() {
    let fixture = Fixture::new();
    let token = with_versions(&fixture).await;
    let mut edeks = Vec::new();
    for number in 0..4200_u16 {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let zone = strongroom_proto::ZoneId::from_bytes(id);
        let wrapped = token
            .mint(&name("payroll"), V0, &zone, 1)
            .await
            .expect("minted")
            .remove(0);
        let mut edek = edek("payroll", V0, 0, &wrapped);
        edek.zone = zone;
        edeks.push(edek);
    }
    for result in deks(&token, &edeks).await {
        assert!(result.is_ok(), "{result:?}");
    }
}

#[tokio::test]
async fn a_dek_does_not_show_in_debug() {
    let fixture = Fixture::new();
    let token = with_versions(&fixture).await;
    let minted = token.mint(&name("payroll"), V0, &zone(1), 1).await.expect("minted");
    let results = token
        .unwrap(&[edek("payroll", V0, 1, &minted[0])])
        .await
        .expect("unwrapped");
    assert_eq!(format!("{results:?}"), "[Ok(WireDek(withheld))]");
}
