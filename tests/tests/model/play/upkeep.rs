//! What is done to files and directories as they are: into the trash and out of it, attributes, whole trees rewritten; and writers who vanish.

use std::time::{Duration, Instant};

use bytes::Bytes;
use strongroom_fs::{Attributes, FsError, JobAction, Removed, RewriteOptions, Rewriting, RewritingKind};
use strongroom_proto::{Reason, ZonePath};

use super::{Game, JOBS_MAX, agree, told};
use crate::{nodes::NODES, operation::Spot, world::LEASE};

const XATTRS: [&str; 3] = ["user.a", "user.b", "user.c"];

impl Game {
    pub(super) async fn trash(&mut self, at: &Spot, recursive: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let expected = self.oracle.goes_to_trash(&path, recursive);
        let removed = self.world.fs.move_to_trash(&path, recursive).await;
        match (removed, expected) {
            (Ok(Removed::ToTrash(to)), Ok(true)) => self.oracle.move_to_trash(&path, &to),
            (Ok(Removed::ForGood(_)), Ok(false)) => agree(Ok(()), self.oracle.remove(&path, true)),
            (Ok(removed), expected) => Err(format!("{removed:?}, expected {expected:?}")),
            (Err(error), expected) => agree(Err(error), expected.map(drop)),
        }
    }

    pub(super) async fn expunge(&mut self, immediate: bool) -> Result<(), String> {
        let expunged = self.world.fs.expunge(immediate).await.map_err(|error| told(&error))?;
        for trash in expunged {
            let path = ZonePath::parse(trash.path.as_bytes()).map_err(|error| error.to_string())?;
            self.oracle
                .expunged(&path, trash.checkpoint.as_deref(), &trash.removed)?;
            if !trash.kept.is_empty() {
                return Err(format!("a superuser keeps {:?}", trash.kept));
            }
        }
        if !immediate {
            return Ok(());
        }
        match self.oracle.left_in_trash() {
            Some(path) => Err(format!("something is left in {path}")),
            None => Ok(()),
        }
    }

    pub(super) async fn set_xattr(&mut self, at: &Spot, name: usize, value: Option<u8>) -> Result<(), String> {
        let (path, name) = (at.path(&self.oracle), XATTRS[name]);
        let value = value.map(|byte| vec![byte; usize::from(byte)]);
        let set = match value.clone() {
            Some(value) => self.world.fs.set_xattr(&path, name, Bytes::from(value)).await,
            None => self.world.fs.remove_xattr(&path, name).await,
        };
        agree(set.map(drop), self.oracle.set_xattr(&path, name, value.as_deref()))
    }

    pub(super) async fn set_mode(&mut self, at: &Spot, mode: u32) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let wanted = Attributes {
            mode: Some(mode),
            ..Attributes::default()
        };
        let set = self.world.fs.set_attributes(&path, &wanted).await;
        agree(set.map(drop), self.oracle.set_mode(&path, mode))
    }

    /// Nothing that can be seen changes.
    pub(super) async fn rewrite_all(&mut self, at: &Spot, rekey: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let options = RewriteOptions {
            kind: if rekey {
                RewritingKind::Rekeying
            } else {
                RewritingKind::Compaction
            },
            throttle: None,
            whole_zone: false,
        };
        let started = self.world.fs.start_rewriting(&path, &options).await;
        let job = match (started, self.oracle.look(&path).map(drop)) {
            (Ok(job), Ok(())) => job,
            (started, expected) => return agree(started.map(drop), expected),
        };
        for file in self.oracle.paths() {
            if file.is_within(&path) && self.oracle.is_file(&file) && !self.rewrite_one(&job, &file, rekey).await? {
                let id = job.job().job_id;
                let canceled = self.world.fs.control_job(id, JobAction::Cancel).await;
                return canceled.map(drop).map_err(|error| told(&error));
            }
        }
        job.end().await.map(drop).map_err(|error| told(&error))
    }

    /// Says whether the job is still this client's: after a long pause of the service it is not.
    async fn rewrite_one(&mut self, job: &Rewriting, file: &ZonePath, rekey: bool) -> Result<bool, String> {
        let expected = match rekey && self.oracle.has_no_dek(file) {
            true => Err(Reason::NotEncrypted),
            false => self.oracle.rewrite(file),
        };
        let rewritten = self.patiently(expected.is_ok(), || job.rewrite(file)).await;
        if let Ok(Some(_)) = &rewritten {
            self.oracle.rewritten(file);
        }
        let reason = rewritten.as_ref().err().map(FsError::reason);
        match (reason, expected) {
            (Some(Reason::JobStopped), _) => return Ok(false),
            // The client refuses a DEK that the file has already, which only a key service that repeats itself gives.
            (Some(Reason::Internal), _) if self.world.keys.repeats() => job.fail(),
            (Some(Reason::LeaseHeld), Err(Reason::LeaseHeld)) => job.skip(),
            (Some(Reason::NotEncrypted), Err(Reason::NotEncrypted)) => job.fail(),
            // There is nothing to do for a file of one extent, whoever writes it.
            (None, _) => {}
            (_, expected) => agree(rewritten.map(drop), expected)?,
        }
        Ok(true)
    }

    /// Nobody renews a lease any more, and all of them run out.
    pub(super) async fn vanish(&mut self) -> Result<(), String> {
        for open in self.writers.drain(..) {
            self.oracle.let_go(&open.draft);
            self.vanished.push(open.writer);
            self.dropped = true;
        }
        self.world.pass(LEASE + Duration::from_secs(1));
        self.all_nodes().await
    }

    pub(super) async fn node_comes_back(&self) -> Result<(), String> {
        self.world.nodes.come_back();
        self.all_nodes().await
    }

    /// Waits until the service has heard of all nodes but the one that is away.
    async fn all_nodes(&self) -> Result<(), String> {
        let end = Instant::now() + JOBS_MAX;
        loop {
            let status = self.world.fs.cluster_status().await.map_err(|error| told(&error))?;
            let alive = status.nodes.iter().filter(|node| node.alive).count();
            if alive + self.world.nodes.away() == NODES.len() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{alive} nodes are alive"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
