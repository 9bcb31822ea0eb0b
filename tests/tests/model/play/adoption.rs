//! Zones that are made of directories whatever these hold.

use strongroom_fs::{AdoptOptions, Adoption, FsError, JobAction, RewriteOptions, RewritingKind};
use strongroom_proto::{DataSuite, FrameSize, KeyName, Reason, ZonePath};

use super::{FRAME_BYTES, Game, agree, told};
use crate::{
    keys::{KEYS, NO_KEY},
    operation::{Spot, TOP},
};

impl Game {
    /// Not with the homes in it: they stay what they are for the trash.
    pub(super) async fn adopt(&mut self, at: &Spot, key: usize) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let homes = ZonePath::root().child(TOP[TOP.len() - 1]).expect("a name");
        if homes.is_within(&path) || path.is_within(&homes) {
            return Ok(());
        }
        let key = KEYS.get(key).copied();
        let adopted = self.adopt_at(&path, key.unwrap_or(NO_KEY)).await;
        let expected = self.oracle.adopt(&path, key);
        match adopted {
            Ok(adoption) if expected.is_ok() => self.check_adoption(&path, adoption),
            other => agree(other.map(drop), expected),
        }
    }

    /// The answer to a call that takes the next step.
    async fn adopt_at(&self, path: &ZonePath, key: &str) -> Result<Option<Adoption>, FsError> {
        let name: KeyName = key.parse().expect("a name");
        let options = AdoptOptions {
            key: Some(name),
            data_suite: None,
            frame: Some(FrameSize::from_wire(FRAME_BYTES).expect("a size")),
        };
        Ok(self.world.fs.adopt_zone(path, &options).await?.adoption)
    }

    /// Files that are being removed may be counted yet.
    fn check_adoption(&mut self, path: &ZonePath, adoption: Option<Adoption>) -> Result<(), String> {
        let left = self.oracle.not_encrypted(path).len() as u64;
        match adoption {
            Some(adoption) if adoption.ended => self.oracle.through(path),
            Some(adoption) if adoption.looked && adoption.left >= left => Ok(()),
            other => Err(format!("{path} says {other:?}, where {left} files are not encrypted")),
        }
    }

    /// Every file of a zone has its turn.
    pub(super) async fn encrypt(&mut self, zone: usize) -> Result<(), String> {
        let adopted = self.oracle.adopted();
        let Some((path, _)) = zone.checked_rem(adopted.len()).map(|zone| adopted[zone].clone()) else {
            return Ok(());
        };
        let zone = self.world.fs.zone(&path).await.map_err(|error| told(&error))?;
        let options = RewriteOptions {
            kind: RewritingKind::Adoption {
                key: zone.key_name,
                suite: zone.data_suite,
            },
            throttle: None,
            whole_zone: true,
        };
        let job = self.world.fs.start_rewriting(&path, &options).await;
        let job = job.map_err(|error| told(&error))?;
        for file in self.oracle.not_encrypted(&path) {
            let expected = self.oracle.rewrite(&file);
            let rewritten = self.patiently(expected.is_ok(), || job.rewrite(&file)).await;
            match (rewritten.as_ref().map_err(FsError::reason), expected) {
                (Err(Reason::JobStopped), _) => {
                    let id = job.job().job_id;
                    let canceled = self.world.fs.control_job(id, JobAction::Cancel).await;
                    return canceled.map(drop).map_err(|error| told(&error));
                }
                (Ok(Some(stat)), Ok(())) if stat.data_suite == Some(DataSuite::Gcm) => {
                    self.oracle.rewritten(&file);
                    self.adopted += 1;
                }
                (Err(Reason::LeaseHeld), Err(Reason::LeaseHeld)) => job.skip(),
                (_, expected) => return Err(format!("{file} became {rewritten:?}, expected {expected:?}")),
            }
        }
        job.end().await.map(drop).map_err(|error| told(&error))
    }

    /// With nothing under way, each zone knows how many files it has yet to encrypt.
    pub(super) async fn look_at_adopted(&mut self) -> Result<(), String> {
        for (path, key) in self.oracle.adopted() {
            let left = self.oracle.not_encrypted(&path).len() as u64;
            let adoption = self.adopt_at(&path, &key).await.map_err(|error| told(&error))?;
            let expected = Adoption {
                looked: true,
                left,
                ended: left == 0,
            };
            if adoption != Some(expected) {
                return Err(format!("{path} says {adoption:?} at the end, expected {expected:?}"));
            }
        }
        Ok(())
    }
}
