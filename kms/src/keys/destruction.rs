//! The end of a key or version. Pure.

use strongroom_proto::KeyVersion;

use super::{
    deletion::{Begun, Quorum, Target, Zones},
    key::Key,
    version::{Presence, Standing},
};

impl Key {
    /// Whether the target may be destroyed at `now_ms`.
    pub(crate) fn is_due(&self, target: Target, zones: &Zones, quorum: Quorum, now_ms: u64) -> bool {
        let Some(deletion) = self.deletions.get(&target) else {
            return false;
        };
        let obstacles = self.obstacles(target, zones, quorum).unwrap_or_default();
        deletion.begun.is_some()
            || (deletion.due_ms.is_some_and(|due| due <= now_ms)
                && obstacles.zones.is_empty()
                && obstacles.approvals == 0)
    }

    /// From now on the destruction cannot be taken back. Answers whether it was begun before: then it keeps its name.
    pub(crate) fn begin_destruction(&mut self, target: Target, begun: Begun) -> bool {
        let Some(deletion) = self.deletions.get_mut(&target) else {
            return false;
        };
        let repeated = deletion.begun.is_some();
        deletion.begun.get_or_insert(begun);
        repeated
    }

    /// The versions that are to be destroyed with the target.
    pub(crate) fn going(&self, target: Target) -> Vec<KeyVersion> {
        let going = self
            .versions
            .iter()
            .filter(|(n, v)| target.covers(**n) && !v.is_destroyed());
        going.map(|(&number, _)| number).collect()
    }

    /// Leaves nothing of the target but its records.
    pub(crate) fn bury(&mut self, target: Target, now_ms: u64) {
        for (&number, version) in &mut self.versions {
            if target.covers(number) && !version.is_destroyed() {
                version.standing = Standing::Destroyed { at_ms: now_ms };
                version.presence = Presence::Missing;
            }
        }
        let covered = |other: &Target| matches!(other, Target::Version(number) if target.covers(*number));
        self.deletions.retain(|other, _| *other != target && !covered(other));
        if self.is_destroyed() {
            self.deletions.clear();
            self.rotation = None;
        }
    }
}
