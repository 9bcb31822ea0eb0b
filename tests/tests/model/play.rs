//! Does an operation in the world and in the oracle, and holds the outcomes against each other.

mod adoption;
mod upkeep;

use std::time::{Duration, Instant};

use strongroom_fs::{
    CreateOptions, FileWriter, FsError, Job, JobAction, JobKind, JobState, QuotaLimit, Stat, ZoneOptions,
};
use strongroom_proto::{DataSuite, EdekSuite, FrameSize, KeyName, Reason, ZonePath};

use crate::{
    compare,
    keys::{KEYS, NO_KEY, suite_of},
    ledger::plaintext,
    operation::{Operation, Spot},
    oracle::{Draft, Found, Oracle},
    world::World,
};

/// Files that are open for writing at once.
const WRITERS_MAX: usize = 6;
/// How long one operation may take, restarts of the service included: a client is patient for 20 s.
const OPERATION_MAX: Duration = Duration::from_secs(240);
/// How long work in the background may take to be done once nothing disturbs it.
const JOBS_MAX: Duration = Duration::from_secs(60);
/// Frames as small as can be, so that files have several.
const FRAME_BYTES: u32 = 4096;

/// The world, the oracle, and the files that are open.
pub(crate) struct Game {
    pub(crate) world: World,
    oracle: Oracle,
    writers: Vec<Open>,
    /// Those that are never heard of again.
    vanished: Vec<FileWriter>,
    /// Extents begun, and publications.
    extents: u64,
    time_ms: u64,
    /// A writer was dropped, who lets go of his file in his own time.
    dropped: bool,
    /// Files that were encrypted in zones which adopted them.
    pub(crate) adopted: u64,
}

struct Open {
    writer: FileWriter,
    draft: Draft,
    /// Which extent it writes, and how far.
    extent: u64,
    offset: u64,
}

impl Game {
    pub(crate) fn new(world: World) -> Self {
        Self::over(world, Oracle::new(false))
    }

    /// In a world in which files may be in no zone.
    pub(crate) fn with_plain_files(world: World) -> Self {
        Self::over(world, Oracle::new(true))
    }

    fn over(world: World, oracle: Oracle) -> Self {
        Self {
            world,
            oracle,
            writers: Vec::new(),
            vanished: Vec::new(),
            extents: 0,
            time_ms: 1_700_000_000_000,
            dropped: false,
            adopted: 0,
        }
    }

    /// Does all of `operations`, lets things settle, and compares all that there is.
    pub(crate) async fn play(&mut self, operations: &[Operation]) -> Result<(), String> {
        for (turn, operation) in operations.iter().enumerate() {
            let done = self.play_one(operation).await;
            done.map_err(|wrong| format!("operation {turn}, {wrong}"))?;
        }
        self.settle().await
    }

    /// Does one operation.
    pub(crate) async fn play_one(&mut self, operation: &Operation) -> Result<(), String> {
        let done = tokio::time::timeout(OPERATION_MAX, self.step(operation)).await;
        let done = done.unwrap_or_else(|_| Err(format!("no end within {} s", OPERATION_MAX.as_secs())));
        done.map_err(|wrong| format!("{operation:?}: {wrong}"))
    }

    /// Holds all there is against the oracle.
    pub(crate) async fn compare(&self) -> Result<(), String> {
        compare::all(&self.world.fs, &self.oracle).await
    }

    async fn step(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::MakeDirectory { at, parents } => self.make_directory(at, *parents).await,
            Operation::MakeZone { at, key, ctr } => self.make_zone(at, *key, *ctr).await,
            Operation::Adopt { at, key } => self.adopt(at, *key).await,
            Operation::Encrypt { zone } => self.encrypt(*zone).await,
            Operation::Write { at, bytes, overwrite } => self.write(at, *bytes, *overwrite).await,
            Operation::Create { at, overwrite } => {
                let path = at.path(&self.oracle);
                self.create(&path, *overwrite).await.map(drop)
            }
            Operation::Append { at, from } => {
                let path = at.path(&self.oracle);
                let from = from.map(|from| self.within(&path, from));
                self.append(&path, from).await.map(drop)
            }
            Operation::Add { writer, bytes } => match self.pick(*writer) {
                Some(writer) => self.add(writer, *bytes).await,
                None => Ok(()),
            },
            Operation::Flush { writer } => match self.pick(*writer) {
                Some(writer) => self.flush(writer).await,
                None => Ok(()),
            },
            Operation::Finish { writer } => match self.pick(*writer) {
                Some(writer) => self.finish(writer).await,
                None => Ok(()),
            },
            Operation::Abandon { writer } => match self.pick(*writer) {
                Some(writer) => self.abandon(writer).await,
                None => Ok(()),
            },
            Operation::Drop { writer } => {
                if let Some(writer) = self.pick(*writer) {
                    self.let_go(writer);
                }
                Ok(())
            }
            Operation::Truncate { at, keep } => self.truncate(at, *keep).await,
            Operation::Transfer { from, to, overwrite } => self.transfer(from, to, *overwrite).await,
            Operation::Rewrite { at } => self.rewrite(at).await,
            Operation::Rename { from, to, overwrite } => self.rename(from, to, *overwrite).await,
            Operation::Remove { at, recursive } => self.remove(at, *recursive).await,
            Operation::SetQuota { at, clear } => self.set_quota(at, *clear).await,
            Operation::Recover { at } => self.recover(at).await,
            Operation::Trash { at, recursive } => self.trash(at, *recursive).await,
            Operation::Expunge { immediate } => self.expunge(*immediate).await,
            Operation::SetXattr { at, name, value } => self.set_xattr(at, *name, *value).await,
            Operation::SetMode { at, mode } => self.set_mode(at, *mode).await,
            Operation::RewriteAll { at, rekey } => self.rewrite_all(at, *rekey).await,
            Operation::Vanish => self.vanish().await,
            Operation::NodeDown { node } => {
                self.world.nodes.go(*node);
                Ok(())
            }
            Operation::NodeUp => self.node_comes_back().await,
            Operation::Read { at } => compare::path(&self.world.fs, &self.oracle, &at.path(&self.oracle)).await,
            Operation::Roll { key } => {
                self.world.keys.roll(KEYS[*key]);
                Ok(())
            }
            Operation::Reencrypt { at, throttle } => self.reencrypt(at, *throttle).await,
            Operation::CancelReencryption { at } => self.cancel_reencryption(at).await,
            Operation::Await => self.finish_jobs().await,
            Operation::LookForOld { at } => self.look_for_old(at).await,
            Operation::PauseJob { job } => self.control(*job, JobAction::Pause).await,
            Operation::ResumeJob { job } => self.control(*job, JobAction::Resume { throttle: Some(0) }).await,
            Operation::Restart => {
                self.world.restart().await;
                Ok(())
            }
            Operation::Fail { commits, fault } => {
                self.world.faults.arm(*commits, *fault);
                Ok(())
            }
        }
    }

    async fn make_directory(&mut self, at: &Spot, parents: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let made = self.world.fs.make_directory(&path, 0o755, parents).await;
        agree(made.map(drop), self.oracle.make_directory(&path, parents))
    }

    /// A key service that gives an EDEK out twice gets no zone whose files are under the DEK itself.
    async fn make_zone(&mut self, at: &Spot, key: usize, ctr: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let key = KEYS.get(key).copied();
        let name: KeyName = key.unwrap_or(NO_KEY).parse().expect("a name");
        let ctr = ctr && !self.world.keys.repeats();
        let frame = FrameSize::from_wire(FRAME_BYTES).expect("a size");
        let options = ZoneOptions {
            data_suite: if ctr { DataSuite::CtrHdfs } else { DataSuite::Gcm },
            frame: (!ctr).then_some(frame),
            ..ZoneOptions::default()
        };
        let made = self.world.fs.create_zone(&path, &name, &options).await;
        let expected = match key {
            None => Err(Reason::KeyNotFound),
            Some(key) if ctr && suite_of(key) != EdekSuite::Hadoop => Err(Reason::InvalidArgument),
            Some(key) => self.oracle.make_zone(&path, key),
        };
        agree(made.map(drop), expected)
    }

    /// The client refuses a DEK that the file has already, which only a key service that repeats itself gives.
    async fn rewrite(&mut self, at: &Spot) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let expected = self.oracle.rewrite(&path);
        let fs = self.world.fs.clone();
        let rewritten = self.patiently(expected.is_ok(), || fs.rewrite(&path)).await;
        let is_refused = matches!(&rewritten, Err(error) if error.reason() == Reason::Internal);
        if !(is_refused && self.world.keys.repeats()) {
            let is_done = rewritten.is_ok();
            agree(rewritten.map(drop), expected)?;
            if is_done {
                self.oracle.rewritten(&path);
            }
        }
        compare::path(&self.world.fs, &self.oracle, &path).await
    }

    async fn rename(&mut self, from: &Spot, to: &Spot, overwrite: bool) -> Result<(), String> {
        let (from, to) = (from.path(&self.oracle), to.path(&self.oracle));
        let moved = self.world.fs.rename(&from, &to, overwrite).await;
        agree(moved.map(drop), self.oracle.rename(&from, &to, overwrite))
    }

    async fn transfer(&mut self, from: &Spot, to: &Spot, overwrite: bool) -> Result<(), String> {
        let (from, to) = (from.path(&self.oracle), to.path(&self.oracle));
        let moved = self.world.fs.transfer(&from, &to, overwrite, |_| {}).await;
        let failed = moved.is_err();
        agree(moved.map(drop), self.oracle.transfer(&from, &to, overwrite))?;
        match failed {
            // A zone below was found when the job was begun.
            true => self.end_transfers().await,
            false => Ok(()),
        }
    }

    /// Waits until nothing is left of moves that came to nothing: until then what was to be moved is refused to others.
    async fn end_transfers(&self) -> Result<(), String> {
        let is_one = |job: &Job| job.kind == JobKind::Transfer && job.state == JobState::Running;
        let end = Instant::now() + JOBS_MAX;
        while self.jobs().await?.iter().any(is_one) {
            if Instant::now() > end {
                return Err("a move that cannot be does not end".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Those that are not over.
    async fn jobs(&self) -> Result<Vec<Job>, String> {
        self.world.fs.jobs(true).await.map_err(|error| told(&error))
    }

    async fn remove(&mut self, at: &Spot, recursive: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let removed = self.world.fs.remove(&path, recursive).await;
        agree(removed.map(drop), self.oracle.remove(&path, recursive))
    }

    /// A quota that is never reached: what it has counted is looked at in the store.
    async fn set_quota(&mut self, at: &Spot, clear: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let limit = if clear {
            QuotaLimit::Clear
        } else {
            QuotaLimit::Set(1 << 40)
        };
        let set = self.world.fs.set_quota(&path, limit, limit).await;
        let expected = match self.oracle.look(&path) {
            Ok(Found::File(_)) => Err(Reason::NotADirectory),
            found => found.map(drop),
        };
        agree(set.map(drop), expected)
    }

    async fn recover(&mut self, at: &Spot) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let taken = self.world.fs.recover(&path).await.map(|writer| writer.is_some());
        let expected = self.oracle.recover(&path);
        if !self.dropped && taken.as_ref().ok() != expected.as_ref().ok() {
            return Err(format!("somebody had {path} open: {taken:?}, expected {expected:?}"));
        }
        agree(taken.map(drop), expected.map(drop))
    }

    /// A whole new file.
    async fn write(&mut self, at: &Spot, bytes: usize, overwrite: bool) -> Result<(), String> {
        let path = at.path(&self.oracle);
        if self.create(&path, overwrite).await? {
            let last = self.writers.len() - 1;
            self.add(last, bytes).await?;
            self.finish(last).await?;
            compare::path(&self.world.fs, &self.oracle, &path).await?;
        }
        Ok(())
    }

    /// Says whether it is the last of the writers now.
    async fn create(&mut self, path: &ZonePath, overwrite: bool) -> Result<bool, String> {
        if self.writers.len() == WRITERS_MAX {
            return Ok(false);
        }
        let options = CreateOptions { mode: 0o644, overwrite };
        let created = self.world.fs.create(path, options).await;
        let expected = self.oracle.create(path, overwrite);
        self.enter(created, expected)
    }

    async fn append(&mut self, path: &ZonePath, from: Option<u64>) -> Result<bool, String> {
        if self.writers.len() == WRITERS_MAX {
            return Ok(false);
        }
        let expected = self.oracle.append(path, from);
        let fs = self.world.fs.clone();
        let opened = self.patiently(expected.is_ok(), || fs.append(path, from)).await;
        self.enter(opened, expected)
    }

    /// Calls again while a file is held by a writer who was dropped, and who lets go of it in his own time.
    async fn patiently<T, F>(&self, is_free: bool, mut call: impl FnMut() -> F) -> Result<T, FsError>
    where
        F: Future<Output = Result<T, FsError>>,
    {
        let end = Instant::now() + JOBS_MAX;
        loop {
            let outcome = call().await;
            let is_held = matches!(&outcome, Err(error) if error.reason() == Reason::LeaseHeld);
            if !(is_held && is_free && self.dropped && Instant::now() < end) {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn enter(&mut self, opened: Result<FileWriter, FsError>, expected: Result<Draft, Reason>) -> Result<bool, String> {
        match (opened, expected) {
            (Ok(writer), Ok(draft)) => {
                self.extents += 1;
                self.writers.push(Open {
                    writer,
                    draft,
                    extent: self.extents,
                    offset: 0,
                });
                Ok(true)
            }
            (opened, expected) => agree(opened.map(drop), expected.map(drop)).map(|()| false),
        }
    }

    /// A writer who lost his file hears of it now or when he publishes: it may be in a directory that was removed and not emptied yet.
    async fn add(&mut self, writer: usize, bytes: usize) -> Result<(), String> {
        let open = &mut self.writers[writer];
        let data = plaintext(open.extent, open.offset, bytes);
        let is_lost = self.oracle.is_lost(&open.draft);
        match open.writer.write(&data).await {
            Ok(()) => {
                open.draft.write(&data);
                open.offset += bytes as u64;
                Ok(())
            }
            Err(error) if is_lost && error.reason() == Reason::LeaseLost => {
                self.let_go(writer);
                Ok(())
            }
            Err(error) => Err(told(&error)),
        }
    }

    async fn flush(&mut self, writer: usize) -> Result<(), String> {
        let mtime_ms = self.later();
        let open = &mut self.writers[writer];
        let changes = open.draft.changes();
        let flushed = open.writer.flush(mtime_ms).await;
        let expected = self.oracle.publish(&mut open.draft, mtime_ms);
        if changes {
            self.extents += 1;
            (open.extent, open.offset) = (self.extents, 0);
        }
        let failed = flushed.is_err();
        agree(flushed.map(drop), expected)?;
        if failed {
            self.let_go(writer);
        }
        Ok(())
    }

    async fn finish(&mut self, writer: usize) -> Result<(), String> {
        let mtime_ms = self.later();
        let mut open = self.writers.remove(writer);
        let finished = open.writer.finish(mtime_ms).await;
        self.dropped |= finished.is_err();
        let expected = self.oracle.publish(&mut open.draft, mtime_ms);
        self.oracle.let_go(&open.draft);
        agree(finished.map(drop), expected)
    }

    async fn abandon(&mut self, writer: usize) -> Result<(), String> {
        let open = self.writers.remove(writer);
        self.oracle.let_go(&open.draft);
        agree(open.writer.abandon().await, Ok(()))
    }

    fn let_go(&mut self, writer: usize) {
        let open = self.writers.remove(writer);
        self.oracle.let_go(&open.draft);
        self.dropped = true;
    }

    async fn truncate(&mut self, at: &Spot, keep: u16) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let keep = self.within(&path, keep);
        if self.append(&path, Some(keep)).await? {
            self.finish(self.writers.len() - 1).await?;
            compare::path(&self.world.fs, &self.oracle, &path).await?;
        }
        Ok(())
    }

    async fn reencrypt(&mut self, at: &Spot, throttle: Option<u32>) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let started = self.world.fs.start_reencryption(&path, throttle).await;
        agree(started.map(drop), self.is_zone(&path))
    }

    async fn cancel_reencryption(&mut self, at: &Spot) -> Result<(), String> {
        let path = at.path(&self.oracle);
        let canceled = self.world.fs.cancel_reencryption(&path).await;
        agree(canceled.map(drop), self.is_zone(&path))
    }

    async fn look_for_old(&self, at: &Spot) -> Result<(), String> {
        let root = at.path(&self.oracle);
        for path in self.oracle.paths() {
            let zone = self.oracle.zone(&path).ok().flatten();
            let Some((_, zone)) = zone.filter(|(of, _)| *of == root && self.oracle.is_file(&path)) else {
                continue;
            };
            let info = self.world.fs.encryption_info(&path).await;
            let version = info.map_err(|error| told(&error))?.map(|info| info.ez_key_version_name);
            let newest = self.world.keys.newest(&zone.key);
            if version.as_ref() != Some(&newest) {
                return Err(format!("{path} has an EDEK of {version:?}, expected {newest}"));
            }
        }
        Ok(())
    }

    fn is_zone(&self, path: &ZonePath) -> Result<(), Reason> {
        let zone = self.oracle.zone(path)?;
        let is_root = zone.is_some_and(|(root, _)| root == *path);
        is_root.then_some(()).ok_or(Reason::NotInZone)
    }

    async fn control(&self, job: usize, action: JobAction) -> Result<(), String> {
        let jobs = self.jobs().await?;
        let Some(job) = jobs.get(job % jobs.len().max(1)) else {
            return Ok(());
        };
        let controlled = self.world.fs.control_job(job.job_id, action).await;
        controlled.map(drop).map_err(|error| told(&error))
    }

    fn pick(&self, writer: usize) -> Option<usize> {
        writer.checked_rem(self.writers.len())
    }

    /// A position in a file, now and then one behind its end.
    fn within(&self, path: &ZonePath, position: u16) -> u64 {
        let length = compare::length(&self.oracle, path);
        match position % 16 {
            0 => length,
            1 => length + 1,
            _ => u64::from(position) * 61 % (length + 1),
        }
    }

    fn later(&mut self) -> u64 {
        self.time_ms += 1;
        self.time_ms
    }

    /// Ends what was begun with no more faults, and compares all there is.
    pub(crate) async fn settle(&mut self) -> Result<(), String> {
        self.world.faults.disarm();
        self.end_all().await.map_err(|wrong| format!("at the end: {wrong}"))
    }

    async fn end_all(&mut self) -> Result<(), String> {
        self.node_comes_back().await?;
        while !self.writers.is_empty() {
            self.abandon(0).await?;
        }
        self.finish_jobs().await?;
        self.look_at_adopted().await?;
        self.compare().await
    }

    async fn finish_jobs(&self) -> Result<(), String> {
        let end = Instant::now() + JOBS_MAX;
        loop {
            let jobs = self.jobs().await?;
            if jobs.is_empty() {
                return Ok(());
            }
            for job in &jobs {
                if job.state == JobState::Paused || job.throttle > 0 {
                    let action = JobAction::Resume { throttle: Some(0) };
                    let resumed = self.world.fs.control_job(job.job_id, action).await;
                    resumed.map_err(|error| told(&error))?;
                }
            }
            if Instant::now() > end {
                return Err(format!("these jobs do not end: {jobs:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether the world did what the oracle says.
fn agree(done: Result<(), FsError>, expected: Result<(), Reason>) -> Result<(), String> {
    match (done, expected) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Err(reason)) if error.reason() == reason => Ok(()),
        (Ok(()), Err(reason)) => Err(format!("done, though {} was expected", reason.as_str())),
        (Err(error), expected) => Err(format!("{}, expected {expected:?}", told(&error))),
    }
}

pub(crate) fn told(error: &FsError) -> String {
    format!("{}: {error}", error.reason().as_str())
}

/// What a stat has to say of a file.
pub(crate) fn is_as(stat: &Stat, length: u64, mtime_ms: u64) -> bool {
    (stat.length, stat.mtime_ms) == (length, mtime_ms)
}
