//! Compares what the store says with what the token holds. Pure: it changes the keys in memory and says what
//! must be stored and logged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use strongroom_proto::{KeyName, KeyVersion};

use super::{key::Key, version::Presence};
use crate::token::{Origin, TokenKeyVersion, UnfitVersion};

/// What comparing brought to light.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Keys whose records changed and must be stored.
    pub(super) changed: BTreeSet<KeyName>,
    /// Versions in the token that the store did not know: recorded, and they only open.
    pub(super) unknown: Vec<(KeyName, KeyVersion)>,
    /// Those of them that were brought into the token: they never mint.
    pub(super) planted: Vec<(KeyName, KeyVersion)>,
    /// Versions that the token lacks. Their records stay.
    pub(super) missing: Vec<(KeyName, KeyVersion)>,
    /// Versions whose place another key has taken.
    pub(super) different: Vec<(KeyName, KeyVersion)>,
    /// Destroyed versions that the token holds again.
    pub(super) returned: Vec<(KeyName, KeyVersion)>,
}

/// Notes with each version what is wrong with it in a token, by the token's label.
pub(super) fn note_unfit(keys: &mut BTreeMap<KeyName, Key>, unfit: Vec<(String, UnfitVersion)>) {
    for (token, UnfitVersion { key, version, why }) in unfit {
        let known = keys.get_mut(&key).and_then(|key| key.versions.get_mut(&version));
        if let Some(known) = known {
            let separator = if known.trouble.is_empty() { "" } else { "; " };
            _ = write!(known.trouble, "{separator}token {token:?}: {why}");
        }
    }
}

/// Brings `keys` up to what the tokens hold, which may clone keys or not, at the time `now_ms`.
pub(super) fn compare(
    keys: &mut BTreeMap<KeyName, Key>,
    token: &[TokenKeyVersion],
    clones: bool,
    now_ms: u64,
) -> Findings {
    let mut findings = Findings::default();
    for key in keys.values_mut() {
        for version in key.versions.values_mut() {
            version.presence = Presence::Missing;
            version.trouble.clear();
        }
    }
    for found in token {
        take_in(keys, found, clones, now_ms, &mut findings);
    }
    for key in keys.values() {
        for (&number, version) in &key.versions {
            if version.presence == Presence::Missing && !version.is_destroyed() {
                findings.missing.push((key.name.clone(), number));
            }
        }
    }
    findings
}

fn take_in(
    keys: &mut BTreeMap<KeyName, Key>,
    found: &TokenKeyVersion,
    clones: bool,
    now_ms: u64,
    findings: &mut Findings,
) {
    let key = keys
        .entry(found.key.clone())
        .or_insert_with(|| Key::new(found.key.clone(), found.suite, now_ms));
    let suite = key.suite;
    let same_suite = suite == found.suite;
    match key.versions.get_mut(&found.version) {
        Some(known) if known.is_destroyed() => {
            known.presence = Presence::Present;
            findings.returned.push((key.name.clone(), found.version));
        }
        Some(known) if known.is_in(found) && same_suite => {
            known.presence = Presence::Present;
            if known.token_id != found.token_id {
                // The same key in a new object: a token restored from its backup.
                known.token_id = found.token_id;
                findings.changed.insert(key.name.clone());
            }
        }
        Some(known) => {
            known.presence = Presence::Different;
            known.trouble = known.difference(found, suite);
            findings.different.push((key.name.clone(), found.version));
        }
        None => {
            key.add(found, clones, now_ms);
            key.unconfirmed = true;
            key.zones_lost = true;
            findings.unknown.push((key.name.clone(), found.version));
            if key.versions[&found.version].origin == Origin::Imported {
                findings.planted.push((key.name.clone(), found.version));
            }
            findings.changed.insert(key.name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::EdekSuite;

    use super::{super::deletion::Target, *};
    use crate::token::{Kcv, TokenObjectId};

    fn in_token(name: &str, version: u32, kcv: u8) -> TokenKeyVersion {
        TokenKeyVersion {
            key: name.parse().expect("a key name"),
            version: KeyVersion(version),
            suite: EdekSuite::Kw,
            kcv: Kcv::from_bytes([kcv; 3]),
            token_id: TokenObjectId::from_bytes([kcv; 16]),
            origin: Origin::Generated,
        }
    }

    fn from(origin: Origin, version: TokenKeyVersion) -> TokenKeyVersion {
        TokenKeyVersion { origin, ..version }
    }

    /// Key `a` with versions 0 and 1, of which 1 mints.
    fn known() -> BTreeMap<KeyName, Key> {
        let name: KeyName = "a".parse().expect("a key name");
        let mut key = Key::new(name.clone(), EdekSuite::Kw, 5);
        key.activate(&in_token("a", 0, 10), false, 5);
        key.activate(&in_token("a", 1, 11), false, 6);
        BTreeMap::from([(name, key)])
    }

    #[test]
    fn a_token_that_agrees_changes_nothing() {
        let mut keys = known();
        let findings = compare(&mut keys, &[in_token("a", 1, 11), in_token("a", 0, 10)], false, 9);
        assert_eq!(findings, Findings::default());
        assert_eq!(keys, known());
    }

    #[test]
    fn what_differs_is_found_and_stops_only_what_it_must() {
        struct Case {
            token: Vec<TokenKeyVersion>,
            current: Option<u32>,
            opens: &'static [u32],
        }
        for case in [
            // The version that mints is gone: nothing mints, the other opens.
            Case {
                token: vec![in_token("a", 0, 10)],
                current: None,
                opens: &[0],
            },
            // An old version is gone: minting goes on.
            Case {
                token: vec![in_token("a", 1, 11)],
                current: Some(1),
                opens: &[1],
            },
            // Another key in the place of an old version.
            Case {
                token: vec![in_token("a", 0, 99), in_token("a", 1, 11)],
                current: Some(1),
                opens: &[1],
            },
            // A version nobody here made: minting stops, all open.
            Case {
                token: vec![in_token("a", 0, 10), in_token("a", 1, 11), in_token("a", 2, 12)],
                current: None,
                opens: &[0, 1, 2],
            },
            Case {
                token: vec![],
                current: None,
                opens: &[],
            },
        ] {
            let mut keys = known();
            compare(&mut keys, &case.token, false, 9);
            let key = keys.values().next().expect("the key is never forgotten");
            assert_eq!(key.current(), case.current.map(KeyVersion), "{:?}", case.token);
            for version in 0..3 {
                let opens = key.opening(KeyVersion(version)).is_ok();
                assert_eq!(opens, case.opens.contains(&version), "{version} of {:?}", case.token);
            }
            assert!(key.versions.len() >= 2);
        }
    }

    #[test]
    fn a_key_rebuilt_from_the_token_mints_once_confirmed() {
        let mut keys = BTreeMap::new();
        let token = [in_token("a", 0, 10), in_token("a", 1, 11)];
        let findings = compare(&mut keys, &token, false, 9);
        assert_eq!(findings.unknown.len(), 2);
        let key = keys.values_mut().next().expect("rebuilt");
        let refusal = key.minting().expect_err("not confirmed").message;
        assert!(refusal.contains("strongroom key confirm a"), "{refusal}");
        let newest = KeyVersion(1);
        key.confirm(newest, Kcv::from_bytes([10; 3]))
            .expect_err("another check value");
        assert_eq!(key.confirm(newest, Kcv::from_bytes([11; 3])), Ok(true));
        assert_eq!(key.current(), Some(newest));
        assert_eq!(key.confirm(newest, Kcv::from_bytes([11; 3])), Ok(false));
    }

    #[test]
    fn a_destroyed_version_that_comes_back_is_not_used() {
        let mut keys = known();
        let key = keys.values_mut().next().expect("known");
        key.bury(Target::Version(KeyVersion(0)), 8);
        assert_eq!(
            compare(&mut keys, &[in_token("a", 1, 11)], false, 9),
            Findings::default()
        );
        let findings = compare(&mut keys, &[in_token("a", 0, 10), in_token("a", 1, 11)], false, 9);
        assert_eq!(findings.returned.len(), 1);
        assert!(findings.changed.is_empty() && findings.unknown.is_empty());
        let key = keys.values().next().expect("known");
        key.opening(KeyVersion(0)).expect_err("destroyed");
        assert!(
            key.versions[&KeyVersion(0)]
                .detail()
                .contains("destroyed version again")
        );
    }

    #[test]
    fn a_known_version_whose_origin_changes_is_another_key() {
        for origin in [Origin::Imported, Origin::Cloned] {
            let mut keys = known();
            let planted = from(origin, in_token("a", 1, 11));
            let findings = compare(&mut keys, &[in_token("a", 0, 10), planted], false, 9);
            assert_eq!(findings.different.len(), 1, "{origin:?}");
            let key = keys.values().next().expect("known");
            let failure = key.minting().expect_err("its version is not there");
            assert!(failure.message.contains("its origin is"), "{failure}");
            key.opening(KeyVersion(1)).expect_err("not used");
            key.opening(KeyVersion(0)).expect("as before");
        }
    }

    /// The deployment may have one token left later, which holds clones only.
    #[test]
    fn what_was_made_where_tokens_clone_may_be_found_as_a_clone() {
        let mut keys = BTreeMap::new();
        compare(&mut keys, &[in_token("a", 0, 10)], true, 9);
        let clone = from(Origin::Cloned, in_token("a", 0, 10));
        for clones in [true, false] {
            let findings = compare(&mut keys, std::slice::from_ref(&clone), clones, 9);
            assert_eq!(findings, Findings::default());
        }
        let imported = from(Origin::Imported, clone);
        assert_eq!(compare(&mut keys, &[imported], true, 9).different.len(), 1);
    }

    #[test]
    fn a_version_that_somebody_brought_in_never_mints_and_a_roll_goes_on() {
        let mut keys = known();
        let planted = from(Origin::Imported, in_token("a", 2, 12));
        let token = [in_token("a", 0, 10), in_token("a", 1, 11), planted];
        let findings = compare(&mut keys, &token, false, 9);
        assert_eq!(
            (findings.unknown.len(), findings.planted.as_slice()),
            (1, findings.unknown.as_slice())
        );
        let key = keys.values_mut().next().expect("known");
        let way_out = "strongroom key roll a";
        let refusal = key.minting().expect_err("nobody looked at it").message;
        assert!(refusal.contains(way_out), "{refusal}");
        let refusal = key
            .confirm(KeyVersion(2), Kcv::from_bytes([12; 3]))
            .expect_err("brought in");
        assert!(refusal.message.contains("somebody brought it in"), "{refusal}");
        assert!(refusal.message.contains(way_out), "{refusal}");
        key.opening(KeyVersion(2)).expect("it opens what it made");

        key.rolling().expect("the way out");
        key.activate(&in_token("a", 3, 13), false, 10);
        assert_eq!(key.minting(), Ok(KeyVersion(3)));
        assert_eq!(compare(&mut keys, &token, false, 11).unknown, [], "looked at once");
    }

    #[test]
    fn an_older_version_that_the_token_made_can_be_confirmed_beside_one_that_was_brought_in() {
        let mut keys = known();
        // Only where tokens clone is there an honest clone.
        let planted = from(Origin::Cloned, in_token("a", 2, 12));
        compare(&mut keys, &[in_token("a", 1, 11), planted], false, 9);
        let key = keys.values_mut().next().expect("known");
        assert_eq!(key.confirm(KeyVersion(1), Kcv::from_bytes([11; 3])), Ok(true));
        assert_eq!(key.minting(), Ok(KeyVersion(1)));
    }
}
