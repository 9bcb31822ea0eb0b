//! The background side of re-encryption: passes over the stale files of a zone. Some pages are re-wrapped at once; they are swapped in
//! in their order, so that the job's cursor never passes a page that is not done.

use futures::{
    SinkExt as _, StreamExt as _,
    channel::mpsc::{Receiver, Sender, channel},
    stream::FuturesOrdered,
};
use strongroom_kv::Store;
use strongroom_proto::{JobId, KeyName, KeyVersion, ZoneId};

use super::{
    rewrap::Rewrapper,
    swap::{Cursor, Outcome, Stale, apply, finish, stale_page},
};
use crate::{
    core::Core,
    error::MetadataError,
    jobs::{pace::Pace, record},
    schema::{
        access,
        records::{Job, JobState},
    },
    zones::source::EdekSource,
};

/// Files re-wrapped in one call to the key service.
const PAGE: usize = 500;
/// Pages that are re-wrapped at once. As many may wait to be swapped in.
const PAGES_AT_ONCE: usize = 4;

/// Why a pass ends before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The job was paused or canceled, or somebody else is working on it.
    Void,
    /// The key was rolled again: another pass has begun.
    Again,
    Failed(MetadataError),
}

impl From<MetadataError> for Stop {
    fn from(error: MetadataError) -> Self {
        Self::Failed(error)
    }
}

/// Works on a re-encryption until it is over or paused.
pub(crate) async fn run<S: Store, E: EdekSource>(core: &Core<S, E>, id: JobId) -> Result<(), MetadataError> {
    while let Some(pass) = Pass::begin(core, id).await? {
        match pass.run().await {
            Ok(()) | Err(Stop::Void | Stop::Again) => {}
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    Ok(())
}

/// A pass over the stale files of a zone, as one instance does it.
struct Pass<'a, S, E> {
    core: &'a Core<S, E>,
    id: JobId,
    job: Job,
    zone: ZoneId,
    key: KeyName,
}

impl<'a, S: Store, E: EdekSource> Pass<'a, S, E> {
    /// The pass where it stopped; none if the job does not run.
    async fn begin(core: &'a Core<S, E>, id: JobId) -> Result<Option<Self>, MetadataError> {
        let mut view = core.store.snapshot().await?;
        let Some(job) = record::running(&mut view, id).await? else {
            return Ok(None);
        };
        let zone = job.zone_id.as_ref().try_into()?;
        let record = access::zone(&mut view, zone).await?;
        let record = record.ok_or(MetadataError::Corrupt { what: "zone" })?;
        Ok(Some(Self {
            core,
            id,
            job,
            zone,
            key: record.key_name.parse()?,
        }))
    }

    async fn run(&self) -> Result<(), Stop> {
        let (to_rewrap, listed) = channel(0);
        let (to_swap_in, rewrapped) = channel(PAGES_AT_ONCE);
        let ((), (), last) = futures::try_join!(
            self.list(to_rewrap),
            self.rewrap_all(listed, to_swap_in),
            self.swap_in(rewrapped)
        )?;
        if finish(&self.core.store, self.id, &last, self.core.clock.now_ms()).await? {
            tracing::info!(job = %self.id, done = last.done, failures = last.failures, "re-encryption completed");
        }
        Ok(())
    }

    /// Lists page after page, at the job's pace. Whoever takes them stops before the end only with a failure of its own, which ends
    /// this, too.
    async fn list(&self, mut pages: Sender<Vec<Stale>>) -> Result<(), Stop> {
        let (mut cursor, mut pace) = (self.job.cursor()?, Pace::new());
        loop {
            let stale = self.next_page(cursor, &mut pace).await?;
            let Some(last) = stale.last() else { return Ok(()) };
            cursor = Some((last.version, last.file));
            pages.send(stale).await.map_err(|_| Stop::Void)?;
        }
    }

    /// Has the pages re-wrapped, some at once, and hands them on in their order.
    async fn rewrap_all(&self, mut listed: Receiver<Vec<Stale>>, mut done: Sender<Vec<Outcome>>) -> Result<(), Stop> {
        let rewrapper = Rewrapper::new(self.core, self.id, self.zone, &self.key);
        let (mut under_way, mut is_end) = (FuturesOrdered::new(), false);
        loop {
            tokio::select! {
                Some(page) = under_way.next(), if !under_way.is_empty() => {
                    done.send(page?).await.map_err(|_| Stop::Void)?;
                }
                more = listed.next(), if !is_end && under_way.len() < PAGES_AT_ONCE => match more {
                    Some(stale) => under_way.push_back(rewrapper.rewrap(stale)),
                    None => is_end = true,
                },
                else => return Ok(()),
            }
        }
    }

    /// The stale files behind a cursor, when the job's pace allows for them; none at the end.
    async fn next_page(&self, cursor: Cursor, pace: &mut Pace) -> Result<Vec<Stale>, Stop> {
        let job = self.current().await?;
        let files = Pace::step(job.throttle, PAGE);
        pace.wait(files, job.throttle).await;
        let mut view = self.core.store.snapshot().await.map_err(MetadataError::from)?;
        let target = KeyVersion(self.job.target_version);
        Ok(stale_page(&mut view, self.zone, target, cursor, files).await?)
    }

    async fn current(&self) -> Result<Job, Stop> {
        let mut view = self.core.store.snapshot().await.map_err(MetadataError::from)?;
        let job = access::job(&mut view, self.id).await?;
        job.filter(|job| job.state() == JobState::Running).ok_or(Stop::Void)
    }

    /// Swaps pages in as they come. The job as the last one left it.
    async fn swap_in(&self, mut pages: Receiver<Vec<Outcome>>) -> Result<Job, Stop> {
        let mut job = self.job.clone();
        while let Some(outcomes) = pages.next().await {
            let applied = apply(&self.core.store, self.id, &job, &outcomes).await?;
            job = applied.ok_or(Stop::Void)?;
            if job.target_version > self.job.target_version {
                let version = job.target_version;
                tracing::info!(job = %self.id, version, "the key was rolled again; re-encryption aims at the new version");
                self.core.stock.drop_zone(self.zone);
                return Err(Stop::Again);
            }
        }
        Ok(job)
    }
}
