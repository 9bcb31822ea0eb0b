//! `strongroom zone …`: what can be asked for.

use std::path::PathBuf;

use super::fs::{Owner, PaceArgs, owner};
use clap::{Args, Subcommand};
use strongroom_proto::{DataSuite, FrameSize, KeyName, ZoneId};

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// Make an empty directory a zone under a key
    #[command(
        after_help = "Examples:\n  strongroom zone create /payroll --key payroll\n  strongroom zone create /records --key records --frame-size 4KiB --owner alice:hr\n  strongroom zone create /lake --key lake --suite ctr-hdfs"
    )]
    Create {
        /// An existing, empty directory
        path: String,
        /// The zone's EZ key
        #[arg(long, value_name = "NAME")]
        key: KeyName,
        /// How files are encrypted: gcm, or ctr-hdfs with a key of EDEK suite hadoop
        ///
        /// gcm notices every byte that was changed. ctr-hdfs is what HDFS does (AES-CTR), for files that are to be moved from or
        /// to HDFS without a key: whoever can write to block nodes' disks can change bytes of a file without being noticed.
        #[arg(long, value_name = "SUITE", default_value_t)]
        suite: DataSuite,
        /// How much is sealed at once and must be fetched to read a byte: a power of two from 4KiB to 1MiB [default: 64KiB]
        #[arg(long, value_name = "SIZE")]
        frame_size: Option<FrameSize>,
        /// The id of a zone elsewhere whose ciphertext is to be brought in: fs --raw put
        #[arg(long, value_name = "ID", value_parser = zone_id)]
        id: Option<ZoneId>,
        /// Hand the directory over, so that its user may write there: USER, USER:GROUP or :GROUP
        #[arg(long, value_name = "OWNER", value_parser = owner)]
        owner: Option<Owner>,
        /// Make no .Trash in it; it is made when something is removed into it first
        #[arg(long)]
        no_trash: bool,
    },
    /// Make the directory for the trash of a zone's users, .Trash with mode 1777, or mend its mode
    #[command(after_help = "Example:\n  strongroom zone provision-trash /payroll")]
    ProvisionTrash {
        /// The zone
        path: String,
    },
    /// List zones
    #[command(visible_alias = "ls", after_help = "Example:\n  strongroom zone list")]
    List,
    /// Show the zone that holds a path, with its files by key version
    #[command(after_help = "Example:\n  strongroom zone info /payroll/2026")]
    Info {
        /// A path in the zone
        path: String,
    },
    /// Re-wrap the EDEKs of a zone's files under the key's newest version
    #[command(
        after_help = "Examples:\n  strongroom zone reencrypt /payroll --wait\n  strongroom zone reencrypt /payroll --throttle 500\n  strongroom zone reencrypt /payroll --cancel"
    )]
    Reencrypt {
        /// The zone
        path: String,
        /// Files a second at most; 0 for no bound
        #[arg(long, value_name = "N")]
        throttle: Option<u32>,
        /// End the re-encryption that is under way; files that were done stay so
        #[arg(long, conflicts_with_all = ["throttle", "wait"])]
        cancel: bool,
        /// Return when it is done
        #[arg(long)]
        wait: bool,
    },
    /// Put all files of a zone under new data keys
    ///
    /// Takes the right to read and write the files and to unwrap their EDEKs, so it is done by this client, in the foreground: what
    /// was interrupted goes on when the command is given again, and `strongroom job` pauses, shows and cancels it. Zones inside are left alone.
    #[command(after_help = "Example:\n  strongroom zone rekey /payroll --throttle 50")]
    Rekey {
        /// The zone
        path: String,
        #[command(flatten)]
        pace: PaceArgs,
    },
    /// Make a directory a zone with all it holds, and encrypt that in place
    ///
    /// For directories in no zone. The zone is made at once, by the profile's zone administrator: files made from then on are encrypted, who is
    /// appending to one that is not may end what he has in hand, and what was there stays readable while the profile's user of files encrypts it, file by file, in the foreground. What was interrupted
    /// goes on when the command is given again, by whoever may read and write the files. The profile has to list the directory:
    /// plain = ["/landing"]. Zones inside are left alone. Old bytes are deleted as those of any file: docs/operations.md says what that leaves.
    #[command(
        after_help = "Examples:\n  strongroom zone adopt /landing --key landing\n  strongroom zone adopt /landing --throttle 50"
    )]
    Adopt(ZoneAdoptArgs),
    /// Have it proved that a zone uses no key version up to one, for key delete
    #[command(
        after_help = "Examples:\n  strongroom zone proof /payroll --through-version 3 -o payroll.proof\n  strongroom zone proof --zone-id 3f2a…0c --key payroll --through-version 3 -o gone.proof"
    )]
    Proof(ZoneProofArgs),
    /// Show how far the re-encryption of a zone is, or those of all zones
    #[command(after_help = "Examples:\n  strongroom zone status\n  strongroom zone status /payroll")]
    Status {
        /// The zone
        path: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ZoneAdoptArgs {
    /// A directory in no zone, or one whose adoption was begun
    pub(crate) path: String,
    /// The zone's EZ key; to go on it need not be given
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<KeyName>,
    /// How files are encrypted, as in zone create [default: gcm]
    #[arg(long, value_name = "SUITE")]
    pub(crate) suite: Option<DataSuite>,
    /// How much is sealed at once, as in zone create
    #[arg(long, value_name = "SIZE")]
    pub(crate) frame_size: Option<FrameSize>,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ZoneProofArgs {
    /// The zone
    #[arg(required_unless_present = "zone_id", conflicts_with = "zone_id")]
    pub(crate) path: Option<String>,
    /// The zone by its id, 32 hexadecimal digits, also one that was removed
    #[arg(long, value_name = "ID", value_parser = zone_id)]
    pub(crate) zone_id: Option<ZoneId>,
    /// The key that a removed zone had
    #[arg(long, value_name = "NAME", requires = "zone_id")]
    pub(crate) key: Option<KeyName>,
    /// The newest version that the proof is to speak of; it speaks of all older ones too
    #[arg(long, value_name = "N")]
    pub(crate) through_version: u32,
    /// Where the proof goes
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// A zone's id as `zone info` shows it.
pub(super) fn zone_id(text: &str) -> Result<ZoneId, String> {
    let bytes = hex::decode(text).map_err(|_| "a zone's id is 32 hexadecimal digits".to_owned())?;
    ZoneId::try_from(bytes.as_slice()).map_err(|error| error.to_string())
}
