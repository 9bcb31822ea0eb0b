//! Compares what the store says with what a look at the tokens brought to light. Pure: it changes the keys in memory and
//! says what must be stored and logged.
//!
//! A look takes its time, and keys change meanwhile. So it decides only about versions that were the same when it began as
//! they are now; of the others what their change found out stands, and what stays in doubt is to be looked at again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use strongroom_proto::{KeyName, KeyVersion};

use super::{
    key::Key,
    version::{Presence, Version},
};
use crate::{
    hsm::Held,
    token::{Origin, TokenKeyVersion, UnfitVersion},
};

/// Where a version is or is not.
pub(super) type Place = (KeyName, KeyVersion);

/// A look at the tokens.
#[derive(Debug)]
pub(super) struct Look {
    /// The keys as they were when it began.
    before: BTreeMap<KeyName, Key>,
    /// The places that were looked at; all if none.
    places: Option<BTreeSet<Place>>,
    /// What was there.
    held: Held,
    /// Keys of which versions were made or given up since it began.
    touched: Touched,
}

/// Names of keys that something happened to.
#[derive(Debug, Default)]
pub(super) struct Touched {
    names: BTreeSet<KeyName>,
    all: bool,
}

/// What comparing brought to light.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Keys whose records changed and must be stored.
    pub(super) changed: BTreeSet<KeyName>,
    /// Versions in the token that the store did not know: recorded, and they only open.
    pub(super) unknown: Vec<Place>,
    /// Those of them that were brought into the token: they never mint.
    pub(super) planted: Vec<Place>,
    /// Versions that the token lacks. Their records stay.
    pub(super) missing: Vec<Place>,
    /// Versions whose place another key has taken.
    pub(super) different: Vec<Place>,
    /// Destroyed versions that the token holds again.
    pub(super) returned: Vec<Place>,
    /// What the look is too old for.
    pub(super) open: BTreeSet<Place>,
}

impl Findings {
    /// Leaves out what was found of keys of which nothing was kept. What is to be looked at again stays.
    pub(super) fn leave_out(&mut self, keys: &BTreeSet<KeyName>) {
        self.changed.retain(|name| !keys.contains(name));
        for places in [
            &mut self.unknown,
            &mut self.planted,
            &mut self.missing,
            &mut self.different,
            &mut self.returned,
        ] {
            places.retain(|(name, _)| !keys.contains(name));
        }
    }
}

impl Touched {
    pub(super) fn add(&mut self, name: KeyName) {
        self.names.insert(name);
    }

    /// Notes that it is not known which keys something happened to.
    pub(super) fn add_all(&mut self) {
        self.all = true;
    }

    fn contains(&self, name: &KeyName) -> bool {
        self.all || self.names.contains(name)
    }
}

impl Look {
    /// A look at `places`, or all of them, that began when the keys were as `before`.
    pub(super) fn new(before: BTreeMap<KeyName, Key>, places: Option<BTreeSet<Place>>, held: Held) -> Self {
        Self {
            before,
            places,
            held,
            touched: Touched::default(),
        }
    }

    /// Takes in what happened while it was taken.
    pub(super) fn since(self, touched: Touched) -> Self {
        Self { touched, ..self }
    }

    /// Leaves out what is nobody's version yet.
    pub(super) fn leave_out(&mut self, is_begun: impl Fn(&KeyName, KeyVersion) -> bool) {
        self.held.versions.retain(|found| !is_begun(&found.key, found.version));
    }

    /// The places of a key that it looked at.
    pub(super) fn places_of(&self, key: &Key) -> Vec<Place> {
        let looked_at = key.versions.keys().filter(|number| self.covers(&key.name, **number));
        looked_at.map(|&number| (key.name.clone(), number)).collect()
    }

    /// The places of a key at which something was found.
    pub(super) fn found_of<'a>(&'a self, name: &'a KeyName) -> impl Iterator<Item = Place> + 'a {
        let found = self.held.versions.iter().filter(move |found| found.key == *name);
        found.map(|found| (found.key.clone(), found.version))
    }

    fn covers(&self, name: &KeyName, number: KeyVersion) -> bool {
        let covers = |places: &BTreeSet<Place>| places.contains(&(name.clone(), number));
        self.places.as_ref().is_none_or(covers)
    }

    /// Whether it decides about a version: that it looked there, and that the version was then what it is now.
    fn decides(&self, key: &Key, number: KeyVersion, version: &Version) -> bool {
        let same = |before: &Key| {
            before.versions.get(&number).is_some_and(|known| {
                known.token_id == version.token_id
                    && known.kcv == version.kcv
                    && known.is_destroyed() == version.is_destroyed()
                    && before.is_begun(number) == key.is_begun(number)
            })
        };
        self.covers(&key.name, number) && self.before.get(&key.name).is_some_and(same)
    }
}

/// Brings `keys` up to what the tokens hold, which may clone keys or not, at the time `now_ms`.
pub(super) fn compare(keys: &mut BTreeMap<KeyName, Key>, look: &Look, clones: bool, now_ms: u64) -> Findings {
    let mut findings = Findings::default();
    let decided = decided(keys, look);
    for (name, number) in &decided {
        if let Some(version) = version(keys, name, *number) {
            version.presence = Presence::Missing;
            version.trouble.clear();
        }
    }
    for found in &look.held.versions {
        take_in(keys, found, look, &decided, (clones, now_ms), &mut findings);
    }
    for (name, number) in &decided {
        let missing = |version: &mut Version| version.presence == Presence::Missing && !version.is_destroyed();
        if version(keys, name, *number).is_some_and(missing) {
            findings.missing.push((name.clone(), *number));
        }
    }
    for key in keys.values() {
        let unchecked = key.versions.iter().filter(|(number, version)| {
            version.presence == Presence::Unchecked && !version.is_destroyed() && look.covers(&key.name, **number)
        });
        findings
            .open
            .extend(unchecked.map(|(number, _)| (key.name.clone(), *number)));
    }
    note_unfit(keys, &look.held.unfit, &decided);
    findings
}

fn decided(keys: &BTreeMap<KeyName, Key>, look: &Look) -> BTreeSet<Place> {
    let versions = keys.values().flat_map(|key| {
        let versions = key.versions.iter();
        let decided = versions.filter(|(number, version)| look.decides(key, **number, version));
        decided.map(|(number, _)| (key.name.clone(), *number))
    });
    versions.collect()
}

fn version<'a>(keys: &'a mut BTreeMap<KeyName, Key>, name: &KeyName, number: KeyVersion) -> Option<&'a mut Version> {
    keys.get_mut(name)?.versions.get_mut(&number)
}

/// Notes with each version what is wrong with it in a token, by the token's label.
fn note_unfit(keys: &mut BTreeMap<KeyName, Key>, unfit: &[(String, UnfitVersion)], decided: &BTreeSet<Place>) {
    for (
        token,
        UnfitVersion {
            key,
            version: number,
            why,
        },
    ) in unfit
    {
        if let Some(known) = version(keys, key, *number).filter(|_| decided.contains(&(key.clone(), *number))) {
            let separator = if known.trouble.is_empty() { "" } else { "; " };
            _ = write!(known.trouble, "{separator}token {token:?}: {why}");
        }
    }
}

fn take_in(
    keys: &mut BTreeMap<KeyName, Key>,
    found: &TokenKeyVersion,
    look: &Look,
    decided: &BTreeSet<Place>,
    (clones, now_ms): (bool, u64),
    findings: &mut Findings,
) {
    let place = (found.key.clone(), found.version);
    let known = version(keys, &found.key, found.version).is_some();
    if !known && look.touched.contains(&found.key) {
        // It may have been given up and destroyed since it was found.
        findings.open.insert(place);
        return;
    }
    let key = keys
        .entry(found.key.clone())
        .or_insert_with(|| Key::new(found.key.clone(), found.suite, now_ms));
    let suite = key.suite;
    let same_suite = suite == found.suite;
    match key.versions.get_mut(&found.version) {
        // It was made or destroyed since the look began; what was found may be what was there before.
        Some(known) if !decided.contains(&place) && known.is_destroyed() => {}
        Some(known) if !decided.contains(&place) => {
            if known.is_in(found) && same_suite {
                known.presence = Presence::Present;
            } else {
                findings.open.insert(place);
            }
        }
        Some(known) if known.is_destroyed() => {
            known.presence = Presence::Present;
            findings.returned.push(place);
        }
        Some(known) if known.is_in(found) && same_suite => {
            known.presence = Presence::Present;
            if known.token_id != found.token_id {
                // The same key in a new object: a token restored from its backup.
                known.token_id = found.token_id;
                findings.changed.insert(place.0);
            }
        }
        Some(known) => {
            known.presence = Presence::Different;
            known.trouble = known.difference(found, suite);
            findings.different.push(place);
        }
        None => {
            key.add(found, clones, now_ms);
            key.unconfirmed = true;
            key.zones_lost = true;
            findings.changed.insert(place.0.clone());
            if key.versions[&found.version].origin == Origin::Imported {
                findings.planted.push(place.clone());
            }
            findings.unknown.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::EdekSuite;

    use super::{super::deletion::Target, *};
    use crate::token::{Kcv, TokenObjectId};

    /// Compares with a look during which nothing changed.
    fn compare(keys: &mut BTreeMap<KeyName, Key>, token: &[TokenKeyVersion], clones: bool, now_ms: u64) -> Findings {
        super::compare(keys, &everywhere(keys, token), clones, now_ms)
    }

    fn everywhere(before: &BTreeMap<KeyName, Key>, token: &[TokenKeyVersion]) -> Look {
        let held = Held {
            versions: token.to_vec(),
            unfit: Vec::new(),
            unseen: Vec::new(),
        };
        Look::new(before.clone(), None, held)
    }

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

    #[test]
    fn what_was_made_since_a_look_began_is_neither_missing_nor_unknown() {
        let name: KeyName = "a".parse().expect("a key name");
        let mut keys = known();
        let look = everywhere(&keys, &[in_token("a", 0, 10)]);
        let key = keys.get_mut(&name).expect("known");
        key.activate(&in_token("a", 2, 12), false, 8);
        // Another instance made this one, so that nobody here has seen it in the token.
        let mut theirs = in_token("a", 3, 13);
        key.activate(&theirs, false, 8);
        let last = key.versions.get_mut(&KeyVersion(3)).expect("made");
        last.presence = Presence::Unchecked;
        let findings = super::compare(&mut keys, &look, false, 9);
        assert_eq!(
            findings.missing,
            [(name.clone(), KeyVersion(1))],
            "that was there before"
        );
        assert_eq!(findings.open, BTreeSet::from([(name.clone(), KeyVersion(3))]));
        assert_eq!(keys[&name].versions[&KeyVersion(2)].presence, Presence::Present);
        assert_eq!(keys[&name].minting(), Ok(KeyVersion(3)));

        // It is looked for, and nothing else is decided thereby.
        theirs.kcv = Kcv::from_bytes([99; 3]);
        let held = Held {
            versions: vec![theirs],
            unfit: Vec::new(),
            unseen: Vec::new(),
        };
        let look = Look::new(keys.clone(), Some(findings.open), held);
        let findings = super::compare(&mut keys, &look, false, 9);
        assert_eq!(findings.different, [(name.clone(), KeyVersion(3))]);
        assert!(findings.missing.is_empty() && findings.open.is_empty(), "{findings:?}");
        assert_eq!(keys[&name].versions[&KeyVersion(0)].presence, Presence::Present);
    }

    #[test]
    fn what_was_in_the_place_before_is_not_held_against_what_was_made_there_since() {
        let name: KeyName = "b".parse().expect("a key name");
        let mut keys = known();
        let look = everywhere(
            &keys,
            &[in_token("a", 0, 10), in_token("a", 1, 11), in_token("b", 0, 20)],
        );
        let mut key = Key::new(name.clone(), EdekSuite::Kw, 8);
        key.activate(&in_token("b", 0, 21), false, 8);
        keys.insert(name.clone(), key);
        let findings = super::compare(&mut keys, &look, false, 9);
        assert_eq!(findings.open, BTreeSet::from([(name.clone(), KeyVersion(0))]));
        assert!(findings.different.is_empty(), "{findings:?}");
        assert_eq!(keys[&name].minting(), Ok(KeyVersion(0)));
    }

    #[test]
    fn what_was_destroyed_or_given_up_since_a_look_began_has_not_come_back() {
        let name: KeyName = "a".parse().expect("a key name");
        let mut keys = known();
        let given_up = in_token("b", 0, 20);
        let token = [in_token("a", 0, 10), in_token("a", 1, 11), given_up.clone()];
        let look = everywhere(&keys, &token);
        keys.get_mut(&name)
            .expect("known")
            .bury(Target::Version(KeyVersion(0)), 8);
        let mut touched = Touched::default();
        touched.add(given_up.key.clone());
        let open = BTreeSet::from([(given_up.key.clone(), KeyVersion(0))]);
        let findings = super::compare(&mut keys, &look.since(touched), false, 9);
        assert_eq!(
            findings,
            Findings {
                open,
                ..Findings::default()
            }
        );
        assert_eq!(keys.len(), 1, "not taken for a key that somebody planted");

        // The next look begins after that, and it is gone, or is there and somebody's.
        let look = everywhere(&keys, &token);
        let findings = super::compare(&mut keys, &look, false, 9);
        assert_eq!(findings.returned, [(name, KeyVersion(0))]);
        assert_eq!(findings.unknown, [(given_up.key, KeyVersion(0))]);
    }

    /// Who missed more changes than the store remembers does not know what was given up.
    #[test]
    fn where_nobody_knows_what_happened_all_that_is_unknown_is_looked_at_again() {
        let mut keys = known();
        let mut touched = Touched::default();
        touched.add_all();
        let look = everywhere(&keys, &[in_token("a", 0, 10), in_token("c", 0, 30)]).since(touched);
        let findings = super::compare(&mut keys, &look, false, 9);
        assert_eq!((findings.missing.len(), findings.open.len()), (1, 1), "{findings:?}");
        assert!(findings.unknown.is_empty(), "{findings:?}");
    }
}
