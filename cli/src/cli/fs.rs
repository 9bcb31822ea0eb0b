//! `strongroom fs …`: what can be asked for.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use strongroom_fs::AclEntry;
use strongroom_proto::{ParseError, groups::GroupName, transport::UserName};

#[derive(Debug, Args)]
pub(crate) struct FsArgs {
    /// Carry ciphertext with its EDEK, ACL and attributes and without any key: get, put, ls and stat; putting is for superusers.
    /// With -r whole trees: the same command goes on with a copy that was cut off
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(subcommand)]
    pub(crate) command: FsCommand,
}

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
        /// Permission bits, octal [default: 777 without the umask, or what the default ACL above gives]
        #[arg(long, value_name = "MODE", value_parser = octal_mode)]
        mode: Option<u32>,
    },
    /// List a directory
    #[command(after_help = "Example:\n  strongroom fs ls -l /payroll")]
    Ls {
        /// Directories or files
        #[arg(default_value = "/")]
        paths: Vec<String>,
        /// With mode (+ means an ACL), owner, group, length and time
        #[arg(short, long)]
        long: bool,
    },
    /// Store local files or directory trees
    #[command(
        after_help = "Examples:\n  strongroom fs put -r ./2026 /payroll/\n  pg_dump hr | strongroom fs put - /payroll/hr.sql\n  strongroom fs --raw put hr.raw /payroll/hr.sql\n  strongroom fs --raw put -r ./carried/payroll / --as fsadmin"
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
    /// Put files of several pieces in one
    ///
    /// Every append and every flush of a file begins another extent, of which it can have 1024. Files are rewritten in place: they are readable
    /// all the time, and nothing else about them changes. One that somebody has open to write it is skipped. A command that was
    /// interrupted goes on where it was when it is given again; see `strongroom job`.
    #[command(after_help = "Example:\n  strongroom fs compact -r /logs")]
    Compact(RewriteArgs),
    /// Put files under new data keys
    ///
    /// What was sealed before is sealed anew under keys that nobody had yet. Otherwise as `fs compact`. To do so with a whole zone:
    /// `strongroom zone rekey`.
    #[command(after_help = "Example:\n  strongroom fs rekey -r /payroll/2026 --throttle 50")]
    Rekey(RewriteArgs),
    /// Fetch files or directory trees
    #[command(
        after_help = "Examples:\n  strongroom fs get -r /payroll/2026 ./restored\n  strongroom fs --raw get /payroll/hr.sql hr.raw\n  strongroom fs --raw get -r /payroll ./carried --as fsadmin\n  strongroom fs --raw get --hdfs /lake/f f"
    )]
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
    /// Show how files are encrypted, as hdfs crypto -getFileEncryptionInfo does
    ///
    /// Takes the right to read the file. No key is asked for.
    #[command(after_help = "Example:\n  strongroom fs encryption-info /payroll/hr.sql")]
    EncryptionInfo {
        /// Files
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Rename a file or directory, or move it into a directory that exists
    #[command(
        after_help = "Examples:\n  strongroom fs mv /payroll/new.csv /payroll/2026/\n  strongroom fs mv --transfer /payroll/2019 /archive/"
    )]
    Mv {
        /// What to rename
        from: String,
        /// Its new path
        to: String,
        /// Replace a file that is there
        #[arg(short, long)]
        force: bool,
        /// Also to another encryption zone: EDEKs are moved in the token, which takes the right to unwrap with the one zone's key and to
        /// mint with the other's. A directory moves at once at the end; the same command goes on with one that was cut off
        #[arg(long)]
        transfer: bool,
    },
    /// Remove files, or directories with -r
    ///
    /// They are moved into your trash, .Trash/USER in the root of their zone, where they are kept for as long as the metadata service is
    /// told: fs mv brings them back. What is in no zone goes to /user/USER/.Trash, and what is in the trash already is gone for good.
    #[command(
        after_help = "Examples:\n  strongroom fs rm -r /payroll/2019\n  strongroom fs mv /payroll/.Trash/alice/Current/payroll/2019 /payroll/2019\n  strongroom fs rm --skip-trash /payroll/big.bin"
    )]
    Rm {
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
        /// Remove directories with all they hold
        #[arg(short, long)]
        recursive: bool,
        /// Remove them for good
        #[arg(long)]
        skip_trash: bool,
    },
    /// Empty your trash
    ///
    /// Of what you removed since the last checkpoint another is made, named by the time in UTC, and checkpoints that have been there for
    /// as long as the metadata service keeps them are removed for good. The service does the same by itself.
    #[command(after_help = "Examples:\n  strongroom fs expunge\n  strongroom fs expunge --immediate")]
    Expunge {
        /// Remove all that is there for good, however short it has been there
        #[arg(long)]
        immediate: bool,
    },
    /// Change permission bits; for their owner
    #[command(after_help = "Example:\n  strongroom fs chmod 770 /payroll/2026")]
    Chmod {
        /// Permission bits, octal; with an ACL the middle digit is its mask
        #[arg(value_parser = octal_mode)]
        mode: u32,
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
        /// Also all that directories hold
        #[arg(short = 'R', long)]
        recursive: bool,
    },
    /// Change the owner, and the group; for superusers
    #[command(
        after_help = "Examples:\n  strongroom fs chown --as fsadmin alice:hr /payroll\n  strongroom fs chown --as fsadmin -R bob /payroll/bob"
    )]
    Chown {
        /// USER, USER:GROUP or :GROUP
        #[arg(value_parser = owner)]
        owner: Owner,
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
        /// Also all that directories hold
        #[arg(short = 'R', long)]
        recursive: bool,
    },
    /// Change the group; for superusers, and owners who are in it
    #[command(after_help = "Example:\n  strongroom fs chgrp hr /payroll/2026")]
    Chgrp {
        /// The group
        group: GroupName,
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
        /// Also all that directories hold
        #[arg(short = 'R', long)]
        recursive: bool,
    },
    /// Show permissions beyond the mode
    #[command(after_help = "Example:\n  strongroom fs getfacl /payroll")]
    Getfacl {
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Change permissions beyond the mode; for their owner
    #[command(
        after_help = "An ENTRY is user:NAME:rwx, group:NAME:r-x, mask::r-x or other::---; without a name it is the owner's or owning group's.\nWith default: before it, what is made in that directory begins with it.\n\nExamples:\n  strongroom fs setfacl -m user:bob:r-x,default:user:bob:r-x /payroll\n  strongroom fs setfacl -x user:bob /payroll"
    )]
    Setfacl(SetfaclArgs),
    /// Bound what directories may hold with all below them
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Show attributes that users have attached
    #[command(after_help = "Example:\n  strongroom fs getfattr -d /payroll/hr.sql")]
    Getfattr {
        /// With their values
        #[arg(short, long)]
        dump: bool,
        /// This one alone, with its value
        #[arg(short, long)]
        name: Option<String>,
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Attach attributes, or remove them
    #[command(
        after_help = "A VALUE is text, or bytes in hexadecimal after 0x or in Base64 after 0s.\n\nExamples:\n  strongroom fs setfattr -n user.origin --value sap /payroll/hr.sql\n  strongroom fs setfattr -x user.origin /payroll/hr.sql"
    )]
    Setfattr(SetfattrArgs),
    /// Count files and bytes
    #[command(after_help = "Example:\n  strongroom fs du /payroll")]
    Du {
        /// Files or directories
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Set or change a directory's quota; for superusers
    #[command(after_help = "Example:\n  strongroom fs quota set /payroll --as fsadmin --names 1000000 --bytes 20T")]
    Set {
        /// A directory
        path: String,
        #[command(flatten)]
        limits: QuotaArgs,
    },
    /// Take a directory's quota away, or one of its bounds; for superusers
    #[command(after_help = "Example:\n  strongroom fs quota clear /payroll --as fsadmin")]
    Clear {
        /// Directories
        #[arg(required = true)]
        paths: Vec<String>,
        /// Only the bound of names
        #[arg(long, conflicts_with = "bytes")]
        names: bool,
        /// Only the bound of bytes
        #[arg(long)]
        bytes: bool,
    },
    /// Show what directories may hold and do, and those above them
    #[command(after_help = "Example:\n  strongroom fs quota show /payroll")]
    Show {
        /// Directories
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct QuotaArgs {
    /// Files and directories, the directory itself included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    pub(crate) names: Option<u64>,
    /// Bytes as users see them, whatever the number of replicas: for example 500M, 20T
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    pub(crate) bytes: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct SetfattrArgs {
    #[command(flatten)]
    pub(crate) change: XattrChangeArgs,
    /// Its value [default: empty]
    #[arg(long, requires = "name")]
    pub(crate) value: Option<String>,
    /// Files or directories
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct XattrChangeArgs {
    /// The attribute to set: user. and a name
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// The attribute to remove
    #[arg(short = 'x', long, value_name = "NAME")]
    pub(crate) remove: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RewriteArgs {
    /// A file, or a directory with -r
    pub(crate) path: String,
    /// Rewrite all files below a directory
    #[arg(short, long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PaceArgs {
    /// MiB a second at most; 0 for no bound
    #[arg(long, value_name = "N")]
    pub(crate) throttle: Option<u32>,
    /// Files in flight at once
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: u16,
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
    /// With --raw: a file of HDFS, with its attribute beside it in LOCAL.raw.hdfs.crypto.file.encryption.info
    #[arg(long)]
    pub(crate) hdfs: bool,
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
    /// With --raw: as HDFS has the file, with its attribute beside it in LOCAL.raw.hdfs.crypto.file.encryption.info
    #[arg(long)]
    pub(crate) hdfs: bool,
}

/// A number of bytes, or of KiB, MiB and so on after K, M, G, T, P or E.
fn byte_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let unit = text[digits.len()..].trim_end_matches("iB");
    let power = ["", "K", "M", "G", "T", "P", "E"]
        .iter()
        .position(|known| *known == unit);
    let factor = power.and_then(|power| 1024_u64.checked_pow(u32::try_from(power).ok()?));
    let bytes = digits.parse::<u64>().ok().zip(factor);
    let bytes = bytes.and_then(|(number, factor)| number.checked_mul(factor));
    let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or_else(|| "bytes, or KiB, MiB, … after K, M, G, T, P or E: for example 500M".to_owned())
}

/// Permission bits as `chmod` takes them.
fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permission bits are octal, 0 to 7777, for example 750".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct SetfaclArgs {
    #[command(flatten)]
    pub(crate) change: AclChangeArgs,
    /// Files or directories
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AclChangeArgs {
    /// Add entries, or change those that are there
    #[arg(short, long, value_name = "ENTRY,…", value_delimiter = ',')]
    pub(crate) modify: Vec<AclEntry>,
    /// Remove entries, written without rights
    #[arg(short = 'x', long, value_name = "ENTRY,…", value_delimiter = ',', value_parser = AclEntry::parse_tag)]
    pub(crate) remove: Vec<AclEntry>,
    /// Put these in the place of all, user::, group:: and other:: among them
    #[arg(long, value_name = "ENTRY,…", value_delimiter = ',')]
    pub(crate) set: Vec<AclEntry>,
    /// Remove all that goes beyond the mode
    #[arg(short = 'b', long)]
    pub(crate) remove_all: bool,
    /// Remove what a directory has files and directories begin with
    #[arg(short = 'k', long)]
    pub(crate) remove_default: bool,
}

/// To whom something is given.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) user: Option<UserName>,
    pub(crate) group: Option<GroupName>,
}

/// An owner as `chown` takes it.
pub(super) fn owner(text: &str) -> Result<Owner, String> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let owner = Owner {
        user: given(user)?,
        group: group.map_or(Ok(None), given)?,
    };
    if owner.user.is_none() && owner.group.is_none() {
        return Err("USER, USER:GROUP or :GROUP, for example alice:hr".to_owned());
    }
    Ok(owner)
}

fn given<T: FromStr<Err = ParseError>>(text: &str) -> Result<Option<T>, String> {
    let text = Some(text).filter(|text| !text.is_empty());
    text.map(str::parse)
        .transpose()
        .map_err(|error: ParseError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::byte_size;

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("1K", Some(1024)),
            ("20T", Some(20 << 40)),
            ("3GiB", Some(3 << 30)),
            ("7E", Some(7 << 60)),
            ("8E", None),
            ("", None),
            ("T", None),
            ("5X", None),
            ("-1", None),
        ] {
            assert_eq!(byte_size(text).ok(), bytes, "{text}");
        }
    }
}
