//! `strongroom token …`, and the hidden commands that load a PKCS#11 library.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};
use strongroom_kms::token::SealedOnly;

#[derive(Debug, Args)]
pub(crate) struct TokenWorkerArgs {
    /// The PKCS#11 library
    #[arg(long, value_name = "FILE")]
    pub(crate) module: PathBuf,
    /// The token's label
    #[arg(long, value_name = "LABEL")]
    pub(crate) token_label: String,
    /// The file with the user PIN
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: PathBuf,
    /// Where marks of a refused PIN are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) marks: PathBuf,
    #[command(flatten)]
    pub(crate) sealed: Option<SealedArgs>,
}

/// What sealed delivery needs, all or nothing.
#[derive(Debug, Args)]
pub(crate) struct SealedArgs {
    /// The CA of users' certificates
    #[arg(long, value_name = "FILE", required = false, requires = "answer_certificate")]
    pub(crate) client_ca: PathBuf,
    /// The certificate that signs answers
    #[arg(long, value_name = "FILE", required = false, requires = "answer_key")]
    pub(crate) answer_certificate: PathBuf,
    /// The certificate's key
    #[arg(long, value_name = "FILE", required = false, requires = "client_ca")]
    pub(crate) answer_key: PathBuf,
    /// A key whose DEKs are handed out sealed only, or * for all
    #[arg(long, value_name = "KEY", requires = "client_ca")]
    pub(crate) sealed_only: Vec<SealedOnly>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    #[command(flatten)]
    Local(LocalTokenCommand),
    /// Show the key service's tokens: whether they are used, why not, and what they hold
    #[command(after_help = "Example:\n  strongroom token list --json")]
    List,
    /// Clone into a token what it lacks, from the others
    #[command(after_help = "Example:\n  strongroom token resync hsm-b")]
    Resync {
        /// The token's label
        label: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocalTokenCommand {
    /// Initialise an empty token with its label and PINs
    #[command(
        after_help = "Example:\n  strongroom token init --module /usr/lib/softhsm/libsofthsm2.so --label strongroom \\\n    --so-pin-file so.pin --pin-file user.pin"
    )]
    Init(TokenInitArgs),
    /// Show what a token is, which EDEK suites it can serve and, with a PIN, which keys it holds
    #[command(
        after_help = "Example:\n  strongroom token inspect --module /usr/lib/softhsm/libsofthsm2.so --label strongroom \\\n    --pin-file user.pin --config kms.toml"
    )]
    Inspect(TokenInspectArgs),
    /// Introduce the tokens of a key service to one another, so that each can send its keys to every other
    #[command(
        after_help = "Example:\n  strongroom token link --config kms.toml --so-pin-file hsm-a=a.so.pin --so-pin-file hsm-b=b.so.pin\n  strongroom token link --config kms.toml --check"
    )]
    Link(TokenLinkArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenLinkArgs {
    /// The key service's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The file with a token's security officer PIN; once for each token
    #[arg(long, value_name = "LABEL=FILE", value_parser = labelled_file)]
    pub(crate) so_pin_file: Vec<(String, PathBuf)>,
    /// Take a token although it lets whoever has its user PIN make trusted keys, and so read every key that can be cloned;
    /// once for each such token
    #[arg(long, value_name = "LABEL")]
    pub(crate) keys_readable_with_pin: Vec<String>,
    /// Change nothing; say what is missing
    #[arg(long)]
    pub(crate) check: bool,
}

/// One step of linking, in a process of its own.
#[derive(Debug, Args)]
pub(crate) struct TokenLinkStepArgs {
    /// The PKCS#11 library
    #[arg(long, value_name = "FILE")]
    pub(crate) module: PathBuf,
    /// The token's label
    #[arg(long, value_name = "LABEL")]
    pub(crate) token_label: String,
    /// The file with the PIN of whoever makes the step; empty where nobody logs in
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: OsString,
    /// The directory with the marks of PINs that the token refused
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) marks: PathBuf,
    /// Change nothing
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenInspectArgs {
    /// The PKCS#11 library
    #[arg(long, value_name = "FILE")]
    pub(crate) module: PathBuf,
    /// The token's label
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: String,
    /// The file with the user PIN; without it the token is not tried and its keys are not listed
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) marks: MarksArgs,
}

/// Where it is noted that a token refused a PIN, which is then not tried again.
#[derive(Debug, Args)]
pub(crate) struct MarksArgs {
    /// The configuration of the key service that uses the token, so that no PIN is tried that it was refused; without it or
    /// --data-dir marks are kept in ~/.local/state/strongroom, and a wrong PIN is tried once although the service knows it
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    pub(crate) config: Option<PathBuf>,
    /// The data_dir of that key service, where its configuration cannot be read
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

fn labelled_file(text: &str) -> Result<(String, PathBuf), String> {
    // A label may hold any character; a path that holds a '=' is rarer still.
    let (label, file) = text.rsplit_once('=').ok_or("expected LABEL=FILE")?;
    Ok((label.to_owned(), PathBuf::from(file)))
}

#[derive(Debug, Args)]
pub(crate) struct TokenInitArgs {
    /// The PKCS#11 library
    #[arg(long, value_name = "FILE")]
    pub(crate) module: PathBuf,
    /// The label that the token gets
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: String,
    /// The file with the security officer's PIN
    #[arg(long, value_name = "FILE")]
    pub(crate) so_pin_file: PathBuf,
    /// The file with the user PIN
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: PathBuf,
    #[command(flatten)]
    pub(crate) marks: MarksArgs,
}
