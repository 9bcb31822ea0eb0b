//! Random lives of a key, held against a naive model: what the store would have after each step is what is gone on with.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message as _;
use strongroom_proto::{EdekSuite, KeyName, KeyVersion, ZoneId};

use super::{
    compare::{Look, compare},
    deletion::{Begun, Proven, Quorum, Target, Zones},
    key::Key,
    records::{KeyRecord, VersionRecord, key_key, read_key, read_version, version_key},
    rotation::Rotation,
};
use crate::{
    hsm::Held,
    token::{Kcv, Origin, TokenKeyVersion, TokenObjectId},
};

const APPROVALS: usize = 2;
const PENDING_MS: u64 = 700;
const USERS: [&str; 4] = ["user a", "user b", "user c", "user d"];

#[derive(Debug, Clone)]
enum Step {
    Roll,
    Disable(bool),
    /// Confirms the newest version, or one before it.
    Confirm(u32),
    Mint(u8),
    Schedule(Option<u32>, usize),
    Prove(u8, u32),
    Cancel(Option<u32>),
    Approve(Option<u32>, usize),
    Tick(u64),
    TokenLoses(u32),
    TokenReturns,
    StoreLost,
    Rotation(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let target = || prop_oneof![Just(None), (0_u32..4).prop_map(Some)];
    let step = prop_oneof![
        3 => Just(Step::Roll),
        1 => any::<bool>().prop_map(Step::Disable),
        2 => (0_u32..3).prop_map(Step::Confirm),
        4 => (0_u8..3).prop_map(Step::Mint),
        3 => (target(), 0_usize..4).prop_map(|(target, who)| Step::Schedule(target, who)),
        3 => (0_u8..3, 0_u32..5).prop_map(|(zone, through)| Step::Prove(zone, through)),
        1 => target().prop_map(Step::Cancel),
        2 => (target(), 0_usize..4).prop_map(|(target, who)| Step::Approve(target, who)),
        4 => (1_u64..900).prop_map(Step::Tick),
        1 => (0_u32..4).prop_map(Step::TokenLoses),
        1 => Just(Step::TokenReturns),
        1 => Just(Step::StoreLost),
        1 => any::<bool>().prop_map(Step::Rotation),
    ];
    prop::collection::vec(step, 1..60)
}

/// The world around one key: the token, the store, and what the model knows of the key.
struct World {
    now_ms: u64,
    key: Key,
    zones: Zones,
    token: BTreeMap<u32, TokenKeyVersion>,
    /// Objects that the token lost, and those that a backup of it still has.
    backup: BTreeMap<u32, TokenKeyVersion>,
    /// Model: zones by version that hold EDEKs of it.
    edeks: BTreeMap<u32, BTreeSet<ZoneId>>,
    destroyed: BTreeSet<u32>,
    store_lost: bool,
    quorum: Quorum,
}

fn name() -> KeyName {
    "payroll".parse().expect("a key name")
}

fn zone(number: u8) -> ZoneId {
    ZoneId::from_bytes([number + 1; 16])
}

fn object(version: u32) -> TokenKeyVersion {
    let byte = u8::try_from(version).expect("few versions");
    TokenKeyVersion {
        key: name(),
        version: KeyVersion(version),
        suite: EdekSuite::Kw,
        kcv: Kcv::from_bytes([byte; 3]),
        token_id: TokenObjectId::from_bytes([byte; 16]),
        origin: Origin::Generated,
    }
}

fn target(version: Option<u32>) -> Target {
    version.map_or(Target::Key, |number| Target::Version(KeyVersion(number)))
}

impl World {
    fn new(outside_zones: bool, always: bool) -> Self {
        let mut key = Key::new(name(), EdekSuite::Kw, 0);
        key.attributes.outside_zones = outside_zones;
        key.activate(&object(0), false, 0);
        Self {
            now_ms: 1000,
            key,
            zones: Zones::new(),
            token: BTreeMap::from([(0, object(0))]),
            backup: BTreeMap::from([(0, object(0))]),
            edeks: BTreeMap::new(),
            destroyed: BTreeSet::new(),
            quorum: Quorum {
                approvals: APPROVALS,
                always,
            },
            store_lost: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Roll => self.roll(),
            Step::Disable(disabled) => self.key.disabled = disabled,
            Step::Confirm(back) => {
                let numbers: Vec<u32> = self.key.versions.keys().map(|number| number.0).collect();
                let place = numbers.len().saturating_sub(1 + back as usize);
                let number = numbers[place];
                _ = self.key.confirm(KeyVersion(number), object(number).kcv);
            }
            Step::Mint(number) => self.mint(zone(number)),
            Step::Schedule(version, who) => {
                let at = target(version);
                if self.key.schedule(at, USERS[who], PENDING_MS).is_ok() {
                    self.key.retired(at, self.now_ms);
                    self.key.make_pending(at, &self.zones, self.now_ms);
                }
            }
            Step::Prove(number, through) => self.prove(zone(number), through),
            Step::Cancel(version) => _ = self.key.cancel(target(version)),
            Step::Approve(version, who) => _ = self.key.approve(target(version), USERS[who], self.now_ms),
            Step::Tick(by_ms) => self.tick(by_ms),
            Step::TokenLoses(version) => {
                self.token.remove(&version);
                self.compare();
            }
            Step::TokenReturns => {
                self.token = self.backup.clone();
                self.compare();
            }
            Step::StoreLost => {
                if self.token.keys().any(|number| !self.destroyed.contains(number)) {
                    self.store_lost = true;
                    self.key = Key::new(name(), EdekSuite::Kw, self.now_ms);
                    // What was destroyed and came back cannot be told from what was not, any more.
                    for number in self.destroyed.clone() {
                        self.token.remove(&number);
                        self.backup.remove(&number);
                    }
                    self.edeks.retain(|number, _| !self.destroyed.contains(number));
                    self.destroyed.clear();
                    self.zones.clear();
                    self.compare();
                }
            }
            Step::Rotation(on) => self.key.rotation = on.then(|| Rotation::starting(5000, self.now_ms)),
        }
        self.reload();
    }

    fn roll(&mut self) {
        let Ok(next) = self.key.next_version() else { return };
        if self.key.rolling().is_err() || next.0 > 40 {
            return;
        }
        // After the loss of the store, an old number may be taken in a backup of the token.
        if self.backup.contains_key(&next.0) {
            return;
        }
        self.token.insert(next.0, object(next.0));
        self.backup.insert(next.0, object(next.0));
        self.key.activate(&object(next.0), false, self.now_ms);
    }

    fn mint(&mut self, zone: ZoneId) {
        let Ok(version) = self.key.minting() else { return };
        assert!(
            !self.key.disabled && !self.destroyed.contains(&version.0),
            "{version} minted"
        );
        self.zones.entry(zone).or_default();
        self.edeks.entry(version.0).or_default().insert(zone);
    }

    /// The metadata service re-encrypts what it can and proves what is true then.
    fn prove(&mut self, zone: ZoneId, through: u32) {
        for (&version, zones) in &mut self.edeks {
            if version <= through {
                zones.remove(&zone);
            }
        }
        let proven = Proven {
            through: KeyVersion(through),
            issued_ms: self.now_ms + 1,
            known: true,
            hash: [0; 32],
        };
        if let Some(known) = self.zones.get_mut(&zone) {
            *known = Some(proven);
        }
        let targets: Vec<Target> = self.key.deletions.keys().copied().collect();
        for at in targets {
            self.key.make_pending(at, &self.zones, self.now_ms);
        }
        self.now_ms += 2;
    }

    fn tick(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        let targets: Vec<Target> = self.key.deletions.keys().copied().collect();
        for at in targets {
            if !self.key.is_due(at, &self.zones, self.quorum, self.now_ms) {
                continue;
            }
            let approvals = self.key.deletions[&at].approvals.len();
            let begun = Begun {
                at_ms: self.now_ms,
                id: [1; 16],
            };
            assert!(!self.key.begin_destruction(at, begun), "begun and not buried");
            for number in self.key.going(at) {
                let left = self.edeks.get(&number.0).is_some_and(|zones| !zones.is_empty());
                if self.key.attributes.outside_zones || self.store_lost {
                    assert!(approvals >= APPROVALS, "{number} went with {approvals} approvals");
                } else {
                    assert!(
                        approvals >= APPROVALS || !self.quorum.always,
                        "{number} went without approvals"
                    );
                    assert!(!left, "{number} was destroyed while a zone has EDEKs of it");
                }
                self.token.remove(&number.0);
                self.destroyed.insert(number.0);
            }
            self.key.bury(at, self.now_ms);
        }
    }

    fn compare(&mut self) {
        let mut keys = BTreeMap::from([(name(), self.key.clone())]);
        let found: Vec<TokenKeyVersion> = self.token.values().cloned().collect();
        let held = Held {
            versions: found,
            unfit: Vec::new(),
            unseen: Vec::new(),
        };
        let look = Look::new(keys.clone(), None, held);
        compare(&mut keys, &look, false, self.now_ms);
        self.key = keys.remove(&name()).expect("no key is ever forgotten");
    }

    /// What the store has is all that is left after a crash.
    fn reload(&mut self) {
        let record = KeyRecord::of(&self.key).encode_to_vec();
        let mut read = read_key(&key_key(&name()), &record).expect("what was written");
        for (&number, version) in &self.key.versions {
            let record = VersionRecord::of(version).encode_to_vec();
            let (_, number, known) = read_version(&version_key(&name(), number), &record).expect("what was written");
            read.versions.insert(number, known);
        }
        let before = std::mem::replace(&mut self.key, read);
        self.compare();
        for (number, version) in &before.versions {
            assert_eq!(
                self.key.versions[number].standing, version.standing,
                "{number} after a crash"
            );
        }
        assert_eq!(
            (&before.deletions, before.rotation),
            (&self.key.deletions, self.key.rotation)
        );
        assert_eq!(
            (before.disabled, &before.attributes),
            (self.key.disabled, &self.key.attributes)
        );
    }

    fn check(&self) {
        let active = self.key.versions.values().filter(|version| version.is_active()).count();
        assert!(active <= 1, "{active} versions mint");
        let current = self.key.current();
        for &number in &self.destroyed {
            assert_ne!(current, Some(KeyVersion(number)), "a destroyed version mints");
            self.key
                .opening(KeyVersion(number))
                .expect_err("a destroyed version opens");
        }
        if self.key.disabled || self.key.unconfirmed || self.key.deletions.contains_key(&Target::Key) {
            assert_eq!(current, None);
        }
        if let Some(current) = current {
            assert!(self.token.contains_key(&current.0), "mints without the token");
            assert!(!self.key.deletions.contains_key(&Target::Version(current)));
        }
        if self.key.disabled {
            for &number in self.key.versions.keys() {
                self.key.opening(number).expect_err("a disabled key opens");
            }
        } else {
            self.check_opens();
        }
    }

    /// What the token has and nobody destroyed opens.
    fn check_opens(&self) {
        for &number in self.token.keys().filter(|number| !self.destroyed.contains(number)) {
            let known = self.key.versions.contains_key(&KeyVersion(number));
            assert_eq!(self.key.opening(KeyVersion(number)).is_ok(), known, "version {number}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_key_lives_by_its_rules(outside_zones in any::<bool>(), always in any::<bool>(), steps in steps()) {
        let mut world = World::new(outside_zones, always);
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}
