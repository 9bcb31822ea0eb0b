//! `strongroom fs …`: what can be asked for.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum FsCommand {
    /// Make directories
    #[command(after_help = "Example:\n  strongroom fs mkdir -p /payroll/2026")]
    Mkdir {
        /// Directories to make
        #[arg(required = true)]
        paths: Vec<String>,
        /// Make missing parents; accept a directory that exists
        #[arg(short, long)]
        parents: bool,
        /// Permission bits, octal
        #[arg(long, value_name = "MODE", default_value = "755", value_parser = octal_mode)]
        mode: u32,
    },
    /// List a directory
    #[command(after_help = "Example:\n  strongroom fs ls -l /payroll")]
    Ls {
        /// Directories or files
        #[arg(default_value = "/")]
        paths: Vec<String>,
        /// With mode, owner, length and time
        #[arg(short, long)]
        long: bool,
    },
    /// Store local files or directory trees
    #[command(
        after_help = "Examples:\n  strongroom fs put -r ./2026 /payroll/\n  pg_dump hr | strongroom fs put - /payroll/hr.sql"
    )]
    Put(PutArgs),
    /// Append a local file to a file that is there
    ///
    /// Readers see all of it at once when it is done. Nobody else can write the file meanwhile.
    #[command(
        after_help = "Examples:\n  strongroom fs append today.csv /payroll/all.csv\n  journalctl -o json | strongroom fs append - /logs/host-a"
    )]
    Append {
        /// A local file, or - for standard input
        #[arg(value_name = "LOCAL")]
        source: PathBuf,
        /// The file to append to
        #[arg(value_name = "REMOTE")]
        target: String,
    },
    /// Cut files short
    #[command(after_help = "Example:\n  strongroom fs truncate --length 0 /logs/host-a")]
    Truncate {
        /// How many bytes of each file stay
        #[arg(long, value_name = "BYTES")]
        length: u64,
        /// Files
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Take files from writers who left them open
    ///
    /// A file that somebody opened to append to it is theirs for ten minutes after they were last heard of. This ends it at
    /// once: the file stays as it was published last, and what was written after that is given up.
    #[command(after_help = "Example:\n  strongroom fs recover /logs/host-a")]
    Recover {
        /// Files
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Fetch files or directory trees
    #[command(after_help = "Example:\n  strongroom fs get -r /payroll/2026 ./restored")]
    Get(GetArgs),
    /// Write files to standard output
    #[command(after_help = "Example:\n  strongroom fs cat --offset 1000 --length 100 /payroll/hr.sql")]
    Cat {
        /// Files
        #[arg(required = true)]
        paths: Vec<String>,
        /// First byte
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        offset: u64,
        /// At most this many bytes of each file
        #[arg(long, value_name = "BYTES")]
        length: Option<u64>,
    },
    /// Show what is known of files or directories
    #[command(after_help = "Example:\n  strongroom fs stat /payroll/hr.sql")]
    Stat {
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Rename a file or directory, or move it into a directory that exists
    #[command(after_help = "Example:\n  strongroom fs mv /payroll/new.csv /payroll/2026/")]
    Mv {
        /// What to rename
        from: String,
        /// Its new path
        to: String,
        /// Replace a file that is there
        #[arg(short, long)]
        force: bool,
    },
    /// Remove files, or directories with -r
    #[command(after_help = "Example:\n  strongroom fs rm -r /payroll/2019")]
    Rm {
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
        /// Remove directories with all they hold
        #[arg(short, long)]
        recursive: bool,
    },
    /// Count files and bytes
    #[command(after_help = "Example:\n  strongroom fs du /payroll")]
    Du {
        /// Files or directories
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Take directories with all they hold
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace files that are there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Files in flight at once
    #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Local files or directories, or - for standard input
    #[arg(required = true, value_name = "LOCAL")]
    pub(crate) sources: Vec<PathBuf>,
    /// Where to: a directory that exists takes them in, any other path is the new name
    #[arg(value_name = "REMOTE")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
    /// Leave out symbolic links, devices, sockets and pipes without failing
    #[arg(long)]
    pub(crate) skip_special: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Files or directories
    #[arg(required = true, value_name = "REMOTE")]
    pub(crate) sources: Vec<String>,
    /// Where to: a directory that exists takes them in, any other path is the new name
    #[arg(value_name = "LOCAL")]
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// Permission bits as `chmod` takes them.
fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permission bits are octal, 0 to 7777, for example 750".to_owned()),
    }
}
