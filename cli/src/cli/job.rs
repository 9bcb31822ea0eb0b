//! `strongroom job …`: what can be asked for.

use clap::Subcommand;
use strongroom_proto::JobId;

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List long work: re-encryptions and removals in the background, rewritings by clients
    #[command(visible_alias = "ls", after_help = "Example:\n  strongroom job list --all")]
    List {
        /// With jobs that are over; they are kept for a week
        #[arg(short, long)]
        all: bool,
    },
    /// Show a job and how far it is
    #[command(after_help = "Example:\n  strongroom job show 01a2…0b")]
    Show {
        /// Its id, as `job list` shows it
        #[arg(value_parser = job_id)]
        id: JobId,
    },
    /// Stop a job until it is resumed
    #[command(after_help = "Example:\n  strongroom job pause 01a2…0b")]
    Pause {
        /// Its id
        #[arg(value_parser = job_id)]
        id: JobId,
    },
    /// Have a job go on, or change its pace
    #[command(after_help = "Example:\n  strongroom job resume 01a2…0b --throttle 1000")]
    Resume {
        /// Its id
        #[arg(value_parser = job_id)]
        id: JobId,
        /// Operations a second, of a rewriting MiB a second, at most; 0 for no bound
        #[arg(long, value_name = "N")]
        throttle: Option<u32>,
    },
    /// End a job; what was done stays so. A removal cannot be canceled
    #[command(after_help = "Example:\n  strongroom job cancel 01a2…0b")]
    Cancel {
        /// Its id
        #[arg(value_parser = job_id)]
        id: JobId,
    },
}

fn job_id(text: &str) -> Result<JobId, String> {
    let bytes = hex::decode(text).map_err(|_| "a job's id is 32 hexadecimal digits".to_owned())?;
    JobId::try_from(bytes.as_slice()).map_err(|error| error.to_string())
}
