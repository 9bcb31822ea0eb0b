//! The command line: what can be asked for and how it is explained. No logic.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use strongroom_kms::{
    audit::Outcome,
    policy::{Action, Authentication, GroupName},
};
use strongroom_proto::{EdekSuite, KeyName, ZoneId, ZonePath};

use crate::{
    error::EXIT_CODES_HELP,
    profile::{PROFILE_VARIABLE, PlainPath},
};

mod fs;
mod job;
mod key;
mod token;
mod zone;

pub(crate) use fs::{
    AclChangeArgs, FsArgs, FsCommand, GetArgs, PaceArgs, PutArgs, QuotaCommand, RewriteArgs, SetfaclArgs, SetfattrArgs,
};
pub(crate) use job::JobCommand;
pub(crate) use key::{AliasCommand, CreateArgs, DeleteArgs, ImportArgs, KeyCommand, TargetArgs, UpdateArgs};
pub(crate) use token::{
    LocalTokenCommand, MarksArgs, SealedArgs, TokenCommand, TokenInitArgs, TokenInspectArgs, TokenLinkArgs,
    TokenLinkStepArgs, TokenWorkerArgs,
};
use zone::zone_id;
pub(crate) use zone::{ZoneAdoptArgs, ZoneCommand, ZoneProofArgs};

/// Hardware-backed keys and encrypted zones.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Start with: strongroom dev\nExit codes: strongroom --help",
    after_long_help = format!("{EXIT_CODES_HELP}\n\nStart with:\n  strongroom dev")
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The client profile [default: ~/.config/strongroom/profile.toml]
    #[arg(long, global = true, value_name = "FILE", env = PROFILE_VARIABLE, hide_env_values = true)]
    pub(crate) profile: Option<PathBuf>,
    /// The identity to use, one of those in the profile
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(crate) identity: Option<String>,
    /// Have file keys delivered sealed to this process, also where their EZ key does not demand it
    #[arg(long, global = true)]
    pub(crate) sealed: bool,
    /// Print JSON: one document, or one line for each entry of a list
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more on standard error; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole Strongroom on this machine, for trying and for development
    #[command(after_help = "Example:\n  strongroom dev --data-dir /tmp/room --port-base 7600")]
    Dev(DevArgs),
    /// Run the key service
    #[command(after_help = "Example:\n  strongroom kms --config /etc/strongroom/kms.toml")]
    Kms(RoleArgs),
    /// Run the metadata service, or move its namespace
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  strongroom metadata --config /etc/strongroom/metadata.toml\n  strongroom metadata export --config metadata.toml -o namespace.export"
    )]
    Metadata(MetadataArgs),
    /// Run a block node
    #[command(after_help = "Example:\n  strongroom block --config /etc/strongroom/block.toml")]
    Block(RoleArgs),
    /// The process that holds the PKCS#11 library; started by the key service
    #[command(hide = true)]
    TokenWorker(TokenWorkerArgs),
    /// Make a token's key for clones, for `token link`
    #[command(hide = true)]
    TokenLinkKey(TokenLinkStepArgs),
    /// Have a token trust other tokens' keys, for `token link`
    #[command(hide = true)]
    TokenLinkTrust(TokenLinkStepArgs),
    /// Prepare PKCS#11 tokens, and look after those of the key service
    #[command(subcommand)]
    Token(TokenCommand),
    /// Manage EZ keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Try, check and import policies, without any service
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Manage encryption zones
    #[command(subcommand)]
    Zone(ZoneCommand),
    /// Look at long work in the background, pause and resume it
    #[command(subcommand)]
    Job(JobCommand),
    /// Verify and read the key service's audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Work with files and directories
    Fs(FsArgs),
    /// Check namespace, blocks and EDEKs, and repair what can be repaired
    #[command(
        after_help = "Examples:\n  strongroom fsck\n  strongroom fsck /payroll --deep\n  strongroom fsck --repair\n  strongroom fsck --repair --delete-strays\n  strongroom fsck --ciphertext /var/lib/strongroom/block"
    )]
    Fsck(FsckArgs),
    /// Show block nodes, missing replicas and queues
    #[command(after_help = "Example:\n  strongroom status")]
    Status,
    /// Show the instances of the key service, their leases and how far each is behind
    #[command(after_help = "Example:\n  strongroom instances")]
    Instances,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  strongroom completions bash > ~/.local/share/bash-completion/completions/strongroom"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Check only what is below a path [default: everything]
    pub(crate) path: Option<String>,
    /// Repair what can be repaired; nothing that is there is given up for that
    #[arg(long)]
    pub(crate) repair: bool,
    /// Have block nodes read all of every block, and not its header alone
    #[arg(long)]
    pub(crate) deep: bool,
    /// Have blocks on nodes deleted that nothing needs, however many they are; if the namespace is an old copy, they are of files that it lacks
    #[arg(long, requires = "repair", conflicts_with = "path")]
    pub(crate) delete_strays: bool,
    /// Look at the blocks in data directories of block nodes, on this machine: whether all are accounted for, and look like ciphertext
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with_all = ["path", "repair", "deep", "delete_strays"])]
    pub(crate) ciphertext: Vec<PathBuf>,
}

fn plain_directory(text: &str) -> Result<ZonePath, String> {
    PlainPath::try_from(text.to_owned()).map(|directory| directory.path())
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where everything is kept [default: ~/.local/share/strongroom-dev]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The first of five consecutive ports [default: free ones, kept for later starts]
    #[arg(long, value_name = "N")]
    pub(crate) port_base: Option<u16>,
    /// Write the client profile here instead of its default path
    #[arg(long, value_name = "FILE")]
    pub(crate) profile_out: Option<PathBuf>,
    /// The PKCS#11 library [default: SoftHSM2 where distributions put it]
    #[arg(long, value_name = "FILE")]
    pub(crate) pkcs11_module: Option<PathBuf>,
    /// Let files below this directory be in no zone, and not encrypted; may be given several times
    #[arg(long, value_name = "DIR", value_parser = plain_directory)]
    pub(crate) plain: Vec<ZonePath>,
    /// Keep every key in that many tokens, 1 or 2, so that one may fail [default: 1, or what the directory has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) tokens: Option<u8>,
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// The role's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(crate) stop_on_stdin_eof: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MetadataArgs {
    #[command(flatten)]
    pub(crate) role: Option<RoleArgs>,
    #[command(subcommand)]
    pub(crate) command: Option<MetadataCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetadataCommand {
    /// Write the namespace of a store into a file, to move it to another engine
    #[command(
        after_help = "Example:\n  strongroom metadata export --config /etc/strongroom/metadata.toml -o namespace.export"
    )]
    Export(MetadataExportArgs),
    /// Read an export into an empty store; cut off, repeat it with the same file
    #[command(
        after_help = "Example:\n  strongroom metadata import --config /etc/strongroom/metadata-postgres.toml namespace.export"
    )]
    Import(MetadataImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MetadataExportArgs {
    /// The metadata service's configuration, which names the store
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where the export goes, a new file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Export although a service works on the store: a copy of this moment, not a move
    #[arg(long)]
    pub(crate) running: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MetadataImportArgs {
    /// The metadata service's configuration, which names the store
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The export
    pub(crate) export: PathBuf,
    /// Refuse any export but the one with this SHA-256, as `metadata export` showed it
    #[arg(long, value_name = "HASH", value_parser = sha256)]
    pub(crate) sha256: Option<[u8; 32]>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether somebody may do something with a key, and by which policy; code 4 if not
    #[command(
        after_help = "Examples:\n  strongroom policy test --policy policy.cedar --groups groups.toml --as user:alice unwrap payroll --tag team=hr\n  strongroom policy test --policy policy.cedar --as user:bob --group admins manage payroll --operation roll"
    )]
    Test(PolicyTestArgs),
    /// Say whether a policy file is valid
    #[command(after_help = "Example:\n  strongroom policy check policy.cedar --groups groups.toml")]
    Check(PolicyCheckArgs),
    /// Make policies of Hadoop's kms-acls.xml
    #[command(
        after_help = "Example:\n  strongroom policy import-hadoop kms-acls.xml --kms-site kms-site.xml -o policy.cedar"
    )]
    ImportHadoop(ImportHadoopArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// What is asked for: manage, view, mint, rewrap, unwrap, audit or approve
    pub(crate) action: Action,
    /// The key's name
    pub(crate) key: KeyName,
    /// The policies
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// Who is in which group
    #[arg(long, value_name = "FILE")]
    pub(crate) groups: Option<PathBuf>,
    /// A group that the caller's token names; may be given many times
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Vec<GroupName>,
    /// A tag of the key; may be given many times
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tag: Vec<(String, String)>,
    /// The key's suite
    #[arg(long, value_name = "SUITE")]
    pub(crate) suite: Option<EdekSuite>,
    /// The key demands sealed delivery
    #[arg(long)]
    pub(crate) sealed_required: bool,
    /// The zone's id, 32 hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = zone_id)]
    pub(crate) zone: Option<ZoneId>,
    /// The call, by its word in the audit log, for example create or roll [default: the action]
    #[arg(long, value_name = "WORD")]
    pub(crate) operation: Option<String>,
    /// How the caller proves who it is: certificate or bearer
    #[arg(long, value_name = "HOW", default_value = "certificate")]
    pub(crate) authentication: Authentication,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// The policies
    pub(crate) policy: PathBuf,
    /// Who is in which group
    #[arg(long, value_name = "FILE")]
    pub(crate) groups: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportHadoopArgs {
    /// Hadoop's kms-acls.xml
    pub(crate) acls: PathBuf,
    /// Hadoop's kms-site.xml, which may switch the ACLs of keys off
    #[arg(long, value_name = "FILE")]
    pub(crate) kms_site: Option<PathBuf>,
    /// Where the policies go, a new file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// A tag as `name=value`.
fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a tag is NAME=VALUE, for example team=hr".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify a log, or a copy of one: every record, the chain and the checkpoints' signatures
    #[command(after_help = "Example:\n  strongroom audit verify /var/lib/strongroom/kms/audit --public-key audit.pem")]
    Verify(AuditVerifyArgs),
    /// Show the last records of a log
    #[command(after_help = "Example:\n  strongroom audit tail -f --outcome denied /var/lib/strongroom/kms/audit")]
    Tail(AuditTailArgs),
    /// Write a log's records to standard output
    #[command(
        after_help = "Example:\n  strongroom audit export --from 2026-11-01T00:00:00Z --format csv /backup/audit > november.csv"
    )]
    Export(AuditExportArgs),
    /// Print the public keys that sign checkpoints now
    #[command(after_help = "Example:\n  strongroom audit key > audit.pem")]
    Key,
    /// Begin a new segment, so that those before it can be moved away
    #[command(after_help = "Example:\n  strongroom audit rotate")]
    Rotate,
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    /// The log's directory, or its segments in order
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// A public key whose checkpoints are believed, in PEM; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Vec<PathBuf>,
    /// Accept that segments at the beginning were moved away
    #[arg(long)]
    pub(crate) archived: bool,
    /// A record that the log must have, from a checkpoint that was kept elsewhere
    #[arg(long, value_name = "N")]
    pub(crate) expect_seq: Option<u64>,
    /// The hash of that record's line, 64 hexadecimal digits
    #[arg(long, value_name = "HASH", requires = "expect_seq", value_parser = sha256)]
    pub(crate) expect_hash: Option<[u8; 32]>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditTailArgs {
    /// The log's directory
    pub(crate) dir: PathBuf,
    /// Go on as records come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// So many of the last records
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = lines)]
    pub(crate) lines: usize,
    #[command(flatten)]
    pub(crate) filter: AuditFilter,
}

#[derive(Debug, Args)]
pub(crate) struct AuditExportArgs {
    /// The log's directory, or its segments in order
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Records from this time on, for example 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<jiff::Timestamp>,
    /// Records before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<jiff::Timestamp>,
    /// The lines as they are, or columns
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ExportFormat,
    #[command(flatten)]
    pub(crate) filter: AuditFilter,
}

/// Which records.
#[derive(Debug, Args)]
pub(crate) struct AuditFilter {
    /// Only those of this caller: "user alice" or alice
    #[arg(long, value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Only those about this key
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<KeyName>,
    /// Only those that ended so: started, allowed, denied or failed
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    pub(crate) outcome: Option<Outcome>,
}

/// What an export looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    /// JSON, a record on each line, byte for byte as in the log.
    #[default]
    Jsonl,
    /// Comma-separated values with a line of headings (RFC 4180).
    Csv,
}

fn outcome(text: &str) -> Result<Outcome, String> {
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
        .ok_or_else(|| "outcomes are started, allowed, denied and failed".to_owned())
}

fn lines(text: &str) -> Result<usize, String> {
    let lines = text.parse().ok().filter(|lines| (1..=100_000).contains(lines));
    lines.ok_or_else(|| "1 to 100000".to_owned())
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).map_err(|_| "a hash is 64 hexadecimal digits".to_owned())?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                let example = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let is_group = sub.has_subcommands();
                assert!(
                    is_group || example.contains(&path),
                    "{path} --help shows no example of itself"
                );
                check(sub, &path);
            }
        }
        check(&Cli::command(), "strongroom");
    }
}
