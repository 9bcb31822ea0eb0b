//! `fs compact`, `fs rekey`, `zone rekey`, `zone adopt`: files that are rewritten in place, as a job that this client holds.

use std::sync::Arc;

use strongroom_fs::{Entry, FileKind, FsError, RewriteOptions, Rewriting, RewritingKind, Zone, ZoneFs};
use strongroom_proto::{JobId, Reason, ZonePath};

use super::Listing;
use crate::{
    cli::{PaceArgs, RewriteArgs},
    error::Error,
    output::{Output, note},
    transfer::{Pool, Report, Verb},
};

/// How often a file is tried that others change while it is rewritten.
const TRIES_MAX: u32 = 3;

/// What is asked for.
pub(in crate::commands) struct Wanted {
    options: RewriteOptions,
    recursive: bool,
    jobs: u16,
}

impl Wanted {
    /// A file, or all below a directory.
    pub(super) fn files(kind: RewritingKind, args: &RewriteArgs) -> Self {
        Self {
            options: RewriteOptions {
                kind,
                throttle: args.pace.throttle,
                whole_zone: false,
            },
            recursive: args.recursive,
            jobs: args.pace.jobs,
        }
    }

    /// New DEKs for a zone.
    pub(in crate::commands) fn zone(pace: &PaceArgs) -> Self {
        Self::whole(RewritingKind::Rekeying, pace)
    }

    /// First DEKs for what a zone adopts, as the zone has them.
    pub(in crate::commands) fn adoption(zone: &Zone, pace: &PaceArgs) -> Self {
        let (key, suite) = (zone.key_name.clone(), zone.data_suite);
        Self::whole(RewritingKind::Adoption { key, suite }, pace)
    }

    fn whole(kind: RewritingKind, pace: &PaceArgs) -> Self {
        Self {
            options: RewriteOptions {
                kind,
                throttle: pace.throttle,
                whole_zone: true,
            },
            recursive: true,
            jobs: pace.jobs,
        }
    }
}

/// Rewrites what is at `path`, and tells of the job.
pub(in crate::commands) async fn run(
    fs: ZoneFs,
    path: &ZonePath,
    wanted: &Wanted,
    output: Output,
) -> Result<(), Error> {
    let report = Arc::new(Report::start(Verb::Rewritten));
    let stopped = pass(&fs, path, wanted, &report).await?;
    report.finish(output)?;
    stopped.map_or(Ok(()), |job| Err(Error::JobEnded { job }))
}

/// Gives every file its turn once. The job, if it was ended before all had it.
pub(in crate::commands) async fn pass(
    fs: &ZoneFs,
    path: &ZonePath,
    wanted: &Wanted,
    report: &Arc<Report>,
) -> Result<Option<JobId>, Error> {
    let root = Entry::from(fs.stat(path).await?);
    if root.kind == FileKind::Directory && !wanted.recursive {
        let message = format!("{path} is a directory; pass -r to rewrite all files below it");
        return Err(Error::Usage { message });
    }
    let rewriting = fs.start_rewriting(path, &wanted.options).await?;
    let id = rewriting.job().job_id;
    note(&format!(
        "strongroom: this is job {id}; if it is interrupted, the same command goes on with it"
    ));
    let work = Work {
        rewriting: rewriting.clone(),
        report: Arc::clone(report),
    };
    let mut pool = Pool::new(wanted.jobs);
    if root.kind == FileKind::Directory {
        work.below(fs, path, wanted.options.whole_zone, &mut pool).await?;
    } else {
        pool.spawn(work.clone().file(path.clone())).await;
    }
    pool.finish().await;
    if !rewriting.goes_on().await {
        return Ok(Some(id));
    }
    // What cannot be reached is left to another try.
    if !work.report.is_hopeless() {
        rewriting.end().await?;
    }
    Ok(None)
}

#[derive(Clone)]
struct Work {
    rewriting: Rewriting,
    report: Arc<Report>,
}

impl Work {
    /// All files below a directory, and of a zone those that are its own. What cannot be listed fails, the rest goes on.
    async fn below(&self, fs: &ZoneFs, root: &ZonePath, whole_zone: bool, pool: &mut Pool) -> Result<(), Error> {
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            let mut listing = Listing::of(fs, &directory);
            while let Some(entries) = listing.next().await.unwrap_or_else(|error| {
                self.fail(&directory, &error);
                None
            }) {
                for entry in entries {
                    let path = directory.join(&entry.name)?;
                    if !self.goes_on().await {
                        return Ok(());
                    }
                    if entry.kind != FileKind::Directory {
                        pool.spawn(self.clone().file(path)).await;
                    } else if !(whole_zone && entry.zone_root) {
                        directories.push(path);
                    }
                }
            }
            self.report.directory_done();
        }
        Ok(())
    }

    async fn goes_on(&self) -> bool {
        !self.report.is_hopeless() && self.rewriting.goes_on().await
    }

    /// Rewrites a file. What others do with it meanwhile goes first.
    async fn file(self, path: ZonePath) {
        let mut tries = 0;
        while self.goes_on().await {
            tries += 1;
            let error = match Box::pin(self.rewriting.rewrite(&path)).await {
                Ok(Some(stat)) => return self.report.file_done(stat.length),
                Ok(None) => return self.report.unchanged(),
                Err(error) => error,
            };
            match error.reason() {
                // It waits, or is over.
                Reason::JobStopped => {}
                Reason::FileChanged if tries < TRIES_MAX => {}
                Reason::FileChanged | Reason::LeaseHeld => return self.skip(&path, &error),
                // It was removed, or moved; then it is found, or done, elsewhere.
                Reason::NotFound | Reason::LeaseLost => return,
                _ => return self.fail(&path, &error.into()),
            }
        }
    }

    fn skip(&self, path: &ZonePath, error: &FsError) {
        self.rewriting.skip();
        self.report.skip(path.as_str(), &error.to_string(), false);
    }

    fn fail(&self, path: &ZonePath, error: &Error) {
        self.rewriting.fail();
        self.report.fail(path.as_str(), error);
    }
}
