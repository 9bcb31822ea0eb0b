//! Keys as clients see them.

use std::collections::BTreeMap;

use strongroom_proto::{KeyVersion, kms::v1 as pb};

use super::{
    deletion::{Deletion, Quorum, Target, Zones},
    key::Key,
    version::{Presence, Standing, Version},
};

/// Versions, aliases and zones that one answer lists.
pub(crate) const VERSIONS_MAX: usize = 1000;
const ALIASES_MAX: usize = 100;
const ZONES_MAX: usize = 100;

/// What is known of a key besides itself.
#[derive(Debug, Default)]
pub(crate) struct Around {
    pub(crate) aliases: Vec<String>,
    /// When each version was last used, in milliseconds since 1970.
    pub(crate) uses: BTreeMap<KeyVersion, u64>,
    pub(crate) zones: Zones,
    /// Whose agreement deletions need.
    pub(crate) quorum: Quorum,
}

impl Key {
    /// The key with its newest versions.
    pub(crate) fn to_wire(&self, around: &Around) -> pb::Key {
        let hidden = self.versions.len().saturating_sub(VERSIONS_MAX);
        let shown = self.versions.keys().skip(hidden);
        pb::Key {
            versions: shown
                .filter_map(|&number| self.version_to_wire(number, around))
                .collect(),
            aliases: around.aliases.iter().take(ALIASES_MAX).cloned().collect(),
            ..self.summary_to_wire(around)
        }
    }

    /// The key without its versions.
    pub(crate) fn summary_to_wire(&self, around: &Around) -> pb::Key {
        pb::Key {
            name: self.name.as_str().to_owned(),
            suite: self.suite.as_str().to_owned(),
            current_version: self.current().map(|version| version.0),
            versions: Vec::new(),
            created_ms: self.created_ms,
            version_count: u32::try_from(self.versions.len()).unwrap_or(u32::MAX),
            disabled: self.disabled,
            unconfirmed: self.unconfirmed,
            description: self.attributes.description.clone(),
            tags: self.attributes.tags.iter().map(tag).collect(),
            sealed_required: self.attributes.sealed_required,
            outside_zones: self.attributes.outside_zones,
            rotation_period_ms: self.rotation.map_or(0, |rotation| rotation.period_ms),
            next_rotation_ms: self.rotation.map(|rotation| rotation.starts_ms(&self.name)),
            aliases: Vec::new(),
            deletion: self.deletion_to_wire(Target::Key, around),
        }
    }

    /// One version of the key.
    pub(crate) fn version_to_wire(&self, number: KeyVersion, around: &Around) -> Option<pb::KeyVersion> {
        let version = self.versions.get(&number)?;
        let destroyed_ms = match version.standing {
            Standing::Destroyed { at_ms } => Some(at_ms),
            _ => None,
        };
        Some(pb::KeyVersion {
            version: number.0,
            state: state(version, self.unconfirmed).into(),
            created_ms: version.created_ms,
            kcv: version.kcv.into(),
            token_id: version.token_id.into(),
            detail: version.detail(),
            last_used_ms: around.uses.get(&number).copied(),
            destroyed_ms,
            deletion: self.deletion_to_wire(Target::Version(number), around),
            origin: version.origin.as_str().to_owned(),
        })
    }

    fn deletion_to_wire(&self, target: Target, around: &Around) -> Option<pb::Deletion> {
        let Deletion {
            requested_by,
            retired_ms,
            due_ms,
            begun,
            approvals,
            ..
        } = self.deletions.get(&target)?;
        let obstacles = self.obstacles(target, &around.zones, around.quorum).unwrap_or_default();
        Some(pb::Deletion {
            requested_by: requested_by.clone(),
            retired_ms: *retired_ms,
            due_ms: *due_ms,
            begun: begun.is_some(),
            approved_by: approvals.keys().cloned().collect(),
            approvals_missing: u32::try_from(obstacles.approvals).unwrap_or(u32::MAX),
            zones_without_proof: obstacles
                .zones
                .iter()
                .take(ZONES_MAX)
                .map(|&zone| zone.into())
                .collect(),
            zones_without_proof_count: u32::try_from(obstacles.zones.len()).unwrap_or(u32::MAX),
        })
    }
}

fn state(version: &Version, unconfirmed: bool) -> pb::KeyVersionState {
    match version.presence {
        _ if version.is_destroyed() => pb::KeyVersionState::Destroyed,
        // A version whose place another key has taken is as absent as one that is gone.
        Presence::Missing | Presence::Different => pb::KeyVersionState::Missing,
        Presence::Present | Presence::Unchecked if version.is_active() && !unconfirmed => pb::KeyVersionState::Active,
        Presence::Present | Presence::Unchecked => pb::KeyVersionState::DecryptOnly,
    }
}

fn tag((name, value): (&String, &String)) -> pb::Tag {
    pb::Tag {
        name: name.clone(),
        value: value.clone(),
    }
}
