//! `strongroom job …`: long work of the metadata service and of clients.

use strongroom_fs::{Job, JobAction, JobKind, JobState};

use super::session::Session;
use crate::{
    cli::JobCommand,
    error::Error,
    output::{Output, human_bytes, one_line, table, time_text},
};

/// `strongroom job …`
pub(super) async fn run(session: &Session, command: JobCommand, output: Output) -> Result<(), Error> {
    let fs = session.zones()?;
    let (id, action) = match command {
        JobCommand::List { all } => return list(&fs.jobs(!all).await?, output),
        JobCommand::Show { id } => return show(&fs.job(id).await?, output),
        JobCommand::Pause { id } => (id, JobAction::Pause),
        JobCommand::Resume { id, throttle } => (id, JobAction::Resume { throttle }),
        JobCommand::Cancel { id } => (id, JobAction::Cancel),
    };
    show(&fs.control_job(id, action).await?, output)
}

fn list(jobs: &[Job], output: Output) -> Result<(), Error> {
    if output.is_json() {
        return jobs.iter().try_for_each(|job| output.result(job, String::new));
    }
    let rows: Vec<_> = jobs.iter().map(row).collect();
    let headings = [
        "ID", "KIND", "STATE", "OWNER", "DONE", "LEFT", "FAILED", "STARTED", "PATH",
    ];
    crate::output::print(&table(headings, &rows))
}

fn row(job: &Job) -> [String; 9] {
    [
        job.job_id.to_string(),
        kind(job.kind).to_owned(),
        state(job.state).to_owned(),
        job.owner.clone(),
        job.done.to_string(),
        job.left.map_or_else(|| "-".to_owned(), |left| left.to_string()),
        job.failures.to_string(),
        time_text(job.created_ms),
        one_line(&job.path).into_owned(),
    ]
}

fn show(job: &Job, output: Output) -> Result<(), Error> {
    output.result(job, || text(job))
}

fn text(job: &Job) -> String {
    let left = job.left.map_or_else(String::new, |left| format!(", {left} left"));
    let pace = match (job.throttle, job.bytes) {
        (0, _) => format!("{} a second", job.rate),
        (throttle, None) => format!("{} a second, at most {throttle}", job.rate),
        (throttle, Some(_)) => format!("{} a second, at most {throttle} MiB", job.rate),
    };
    let mut lines = vec![
        format!("job      {}", job.job_id),
        format!("kind     {} of {}", kind(job.kind), one_line(&job.path)),
        format!("state    {}", state(job.state)),
        format!("owner    {}", job.owner),
        format!("done     {}{left}{}, {} failed", job.done, skipped(job), job.failures),
        format!("pace     {pace}"),
        format!("started  {}", time_text(job.created_ms)),
    ];
    lines.extend(job.finished_ms.map(|ms| format!("ended    {}", time_text(ms))));
    if !job.message.is_empty() {
        lines.push(format!("note     {}", one_line(&job.message)));
    }
    lines.join("\n")
}

/// What there is to say of a rewriting alone.
fn skipped(job: &Job) -> String {
    job.bytes.map_or_else(String::new, |bytes| {
        format!(" ({}), {} skipped", human_bytes(bytes), job.skipped)
    })
}

const fn kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Reencryption => "re-encryption",
        JobKind::Removal => "removal",
        JobKind::Compaction => "compaction",
        JobKind::Rekeying => "re-keying",
        JobKind::Adoption => "adoption",
        JobKind::Transfer => "transfer",
    }
}

const fn state(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Completed => "completed",
        JobState::Canceled => "canceled",
    }
}
