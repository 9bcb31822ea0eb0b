//! `strongroom key …`: what can be asked for.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom_proto::{EdekSuite, KeyName};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key in the token
    #[command(
        after_help = "Examples:\n  strongroom key create payroll\n  strongroom key create lake --suite gcm --rotate-every 90d --tag team=analytics"
    )]
    Create(CreateArgs),
    /// Make a key of versions that come from elsewhere
    #[command(
        after_help = "A FILE is the raw AES key of one version, 16, 24 or 32 bytes, which only its owner may read (mode 600). It is\nwrapped here to a key in the token, so that nobody else sees it. Remove it when the key opens what it should.\n\nExample:\n  strongroom key import lake --suite hadoop --material lake@0.key --material lake@1.key"
    )]
    Import(ImportArgs),
    /// List keys
    #[command(visible_alias = "ls", after_help = "Example:\n  strongroom key list --json")]
    List,
    /// Show a key and its versions
    #[command(after_help = "Example:\n  strongroom key show payroll")]
    Show {
        /// The key's name or an alias
        name: KeyName,
    },
    /// List the versions of a key, however many there are
    #[command(after_help = "Example:\n  strongroom key versions payroll --from 1000 --through 1999")]
    Versions {
        /// The key's name or an alias
        name: KeyName,
        /// The first version to list
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u32,
        /// The last version to list
        #[arg(long, value_name = "N")]
        through: Option<u32>,
    },
    /// Make a new version, which wraps from then on
    #[command(after_help = "Example:\n  strongroom key roll payroll && strongroom zone reencrypt /payroll --wait")]
    Roll {
        /// The key's name or an alias
        name: KeyName,
    },
    /// Let a key that was rebuilt from the token wrap again, under a version that you looked at
    // `--version` is the key's here, not the program's; so it is below.
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  strongroom key confirm payroll --version 3 --kcv 1f09ac"
    )]
    Confirm {
        /// The key's name or an alias
        name: KeyName,
        /// The version that is to wrap
        #[arg(long, value_name = "N")]
        version: u32,
        /// Its key check value, as you know it: 6 hexadecimal digits
        #[arg(long, value_name = "HEX", value_parser = kcv)]
        kcv: [u8; 3],
    },
    /// Let a disabled key be used again
    #[command(after_help = "Example:\n  strongroom key enable payroll")]
    Enable {
        /// The key's name or an alias
        name: KeyName,
    },
    /// Let nothing be done with a key until it is enabled
    #[command(after_help = "Example:\n  strongroom key disable payroll")]
    Disable {
        /// The key's name or an alias
        name: KeyName,
    },
    /// Change a key's description, tags, demands or rotation
    #[command(
        after_help = "Example:\n  strongroom key update payroll --description 'salaries' --tag team=hr --rotate-every 180d"
    )]
    Update(UpdateArgs),
    /// Other names of keys
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Delete a key, or one version that does not wrap any more, after a waiting time
    #[command(
        disable_version_flag = true,
        after_help = "A key or version that files may need is not deleted: have each zone that used it prove that none does.\n\nExamples:\n  strongroom key delete payroll --version 0 --proof payroll.proof\n  strongroom key delete payroll --after-days 7"
    )]
    Delete(DeleteArgs),
    /// Take a deletion back
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  strongroom key cancel-delete payroll --version 0"
    )]
    CancelDelete(TargetArgs),
    /// Agree to a deletion that another user asked for
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  strongroom key approve payroll --as bob"
    )]
    Approve(TargetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The key's name
    pub(crate) name: KeyName,
    /// How its EDEKs are wrapped: kw, gcm or hadoop [default: the service's]
    #[arg(long, value_name = "SUITE")]
    pub(crate) suite: Option<EdekSuite>,
    /// Size of the key; 128 and 192 only for hadoop [default: 256]
    #[arg(long, value_name = "BITS")]
    pub(crate) key_bits: Option<u32>,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The key's name
    pub(crate) name: KeyName,
    /// How its EDEKs are wrapped: hadoop, kw or gcm
    #[arg(long, value_name = "SUITE")]
    pub(crate) suite: EdekSuite,
    /// The raw AES key of a version; given once for each version, from 0 on
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) material: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
}

/// What a new key is made with besides its name and versions.
#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// One line that says what it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) description: String,
    /// A label that policies can ask for; may be given several times
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// Give DEKs out by sealed delivery only
    #[arg(long)]
    pub(crate) sealed_required: bool,
    /// EDEKs are kept by others than the metadata service: its deletion asks for approvals, not for proofs
    #[arg(long)]
    pub(crate) outside_zones: bool,
    /// Roll the key by itself: 90d, 12h, 3600s
    #[arg(long, value_name = "TIME", value_parser = period_ms)]
    pub(crate) rotate_every: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The key's name or an alias
    pub(crate) name: KeyName,
    /// One line that says what it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A label to set; may be given several times
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// A label to remove; may be given several times
    #[arg(long = "remove-tag", value_name = "NAME")]
    pub(crate) remove_tags: Vec<String>,
    /// Whether DEKs are given out by sealed delivery only
    #[arg(long, value_name = "true|false")]
    pub(crate) sealed_required: Option<bool>,
    /// Whether EDEKs are kept by others than the metadata service; only false
    #[arg(long, value_name = "false")]
    pub(crate) outside_zones: Option<bool>,
    /// Roll the key by itself from now on: 90d, 12h, 3600s
    #[arg(long, value_name = "TIME", value_parser = period_ms, conflicts_with = "no_rotation")]
    pub(crate) rotate_every: Option<u64>,
    /// Do not roll the key by itself any more
    #[arg(long)]
    pub(crate) no_rotation: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AliasCommand {
    /// Make an alias, or move one to another key
    #[command(after_help = "Example:\n  strongroom key alias set current-payroll payroll-2027 --move")]
    Set {
        /// The other name
        alias: KeyName,
        /// The key's own name
        key: KeyName,
        /// Move the alias if it names another key
        #[arg(long = "move")]
        moving: bool,
    },
    /// Remove an alias
    #[command(after_help = "Example:\n  strongroom key alias delete current-payroll")]
    Delete {
        /// The other name
        alias: KeyName,
    },
    /// List aliases
    #[command(visible_alias = "ls", after_help = "Example:\n  strongroom key alias list")]
    List,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How long it can be taken back once nothing is missing
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(7..=30))]
    pub(crate) after_days: u32,
    /// A file with the metadata service's proof of a zone; may be given several times
    #[arg(long = "proof", value_name = "FILE")]
    pub(crate) proofs: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The key's name or an alias
    pub(crate) name: KeyName,
    /// One version only
    #[arg(long, value_name = "N")]
    pub(crate) version: Option<u32>,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a tag is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn kcv(text: &str) -> Result<[u8; 3], String> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| "a key check value is 6 hexadecimal digits".to_owned())
}

/// A time in milliseconds.
fn period_ms(text: &str) -> Result<u64, String> {
    let unit_ms = match text.chars().last() {
        Some('d') => 24 * 3600 * 1000,
        Some('h') => 3600 * 1000,
        Some('s') => 1000,
        _ => 0,
    };
    let number = text
        .get(..text.len().saturating_sub(1))
        .and_then(|number| number.parse().ok());
    let period_ms = number.and_then(|number: u64| number.checked_mul(unit_ms));
    period_ms
        .filter(|&period_ms| period_ms > 0)
        .ok_or_else(|| "a time is a whole number of days, hours or seconds: 90d, 12h, 3600s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(period_ms("90d"), Ok(90 * 24 * 3600 * 1000));
        assert_eq!(period_ms("12h"), Ok(12 * 3600 * 1000));
        assert_eq!(period_ms("1s"), Ok(1000));
        for text in ["", "d", "90", "0d", "-1d", "1.5h", "9µ", "99999999999999999999d"] {
            period_ms(text).expect_err(text);
        }
    }
}
