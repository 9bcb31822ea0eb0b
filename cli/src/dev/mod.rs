//! `strongroom dev`: a whole Strongroom on one machine, for trying and for development.
//!
//! Once, it makes a data directory with a CA, certificates, a SoftHSM2 token and a policy. At every start it writes the
//! roles' configurations from them, starts the roles as child processes of this executable, and keeps them running.

mod config;
mod error;
mod files;
mod health;
mod layout;
mod pki;
mod plain;
mod ports;
mod profile;
mod supervisor;
mod token;

use std::{path::PathBuf, time::SystemTime};

pub(crate) use error::DevError;
use layout::Layout;
use ports::Ports;
use serde::Serialize;
use strongroom_proto::ZonePath;
use supervisor::Supervisor;

use crate::{
    error::Error,
    output::{Output, note},
};

/// What the user may choose.
#[derive(Debug)]
pub(crate) struct DevOptions {
    /// Where everything is kept; `None` for the default.
    pub(crate) data_dir: Option<PathBuf>,
    /// The first of five consecutive ports; `None` keeps the ports of the data directory or chooses free ones.
    pub(crate) port_base: Option<u16>,
    /// Where the client profile goes instead of its default path.
    pub(crate) profile_out: Option<PathBuf>,
    /// The PKCS#11 library; `None` looks in the usual places.
    pub(crate) pkcs11_module: Option<PathBuf>,
    /// How many tokens hold the keys, 1 or 2; `None` keeps what the data directory has.
    pub(crate) tokens: Option<u8>,
    /// Directories in which files may be in no zone; with none the metadata service allows no such file.
    pub(crate) plain: Vec<ZonePath>,
}

/// Makes what is missing, starts the roles, says how to connect, and keeps them running until SIGTERM or SIGINT.
pub(crate) async fn run(options: DevOptions, output: Output) -> Result<(), Error> {
    let stop = crate::signals::Stop::listen()?;
    let prepared = prepare(&options).await?;
    let supervisor = Supervisor::start(&prepared.layout)?;
    let ready = tokio::select! {
        ready = health::wait_until_ready(&prepared.layout, &prepared.ports) => Some(ready),
        () = stop.requested() => None,
    };
    let outcome = match ready {
        Some(Ok(())) => tell(&prepared, &options, output).await.map(|()| true),
        Some(Err(error)) => Err(error.into()),
        None => Ok(false),
    };
    if let Ok(true) = outcome {
        stop.requested().await;
        note("stopping");
    }
    supervisor.stop().await;
    outcome.map(|_| ())
}

/// Everything that a start needs, in place. Holds the data directory's lock.
struct Prepared {
    layout: Layout,
    ports: Ports,
    tokens: usize,
    profile: profile::Written,
    _lock: layout::Lock,
}

async fn prepare(options: &DevOptions) -> Result<Prepared, DevError> {
    let module = token::find_module(options.pkcs11_module.as_deref())?;
    let (layout, lock) = Layout::open(options.data_dir.as_deref())?;
    let ports = Ports::settle(&layout, options.port_base)?;
    pki::ensure(&layout, SystemTime::now())?;
    let tokens = token::settle(&layout, options.tokens)?;
    token::ensure(&layout, &module, tokens).await?;
    config::write_all(&layout, &ports, &module, tokens, !options.plain.is_empty())?;
    token::link(&layout, tokens).await?;
    let profile = profile::write(&layout, &ports, options.profile_out.as_deref(), &options.plain)?;
    Ok(Prepared {
        layout,
        ports,
        tokens: tokens.len(),
        profile,
        _lock: lock,
    })
}

/// What `--json` prints once everything is up.
#[derive(Serialize)]
struct Ready<'a> {
    event: &'static str,
    data_dir: String,
    kms: String,
    metadata: String,
    profile: String,
    profile_is_default: bool,
    tokens: usize,
    block: &'a [u16],
}

async fn tell(prepared: &Prepared, options: &DevOptions, output: Output) -> Result<(), Error> {
    if options.plain.is_empty() {
        plain::tell_of_unserved(&prepared.layout, &prepared.ports).await?;
    }
    announce(prepared, output)
}

fn announce(prepared: &Prepared, output: Output) -> Result<(), Error> {
    let Prepared {
        layout,
        ports,
        tokens,
        profile,
        ..
    } = prepared;
    let ready = Ready {
        event: "ready",
        data_dir: layout.root().display().to_string(),
        kms: ports.kms_remote(),
        metadata: ports.metadata_remote(),
        profile: profile.path.display().to_string(),
        profile_is_default: profile.is_default,
        tokens: *tokens,
        block: &ports.block,
    };
    output.result(&ready, || summary(&ready))
}

fn summary(ready: &Ready<'_>) -> String {
    let flag = if ready.profile_is_default {
        String::new()
    } else {
        format!(" --profile {}", ready.profile)
    };
    let tokens = match ready.tokens {
        1 => String::new(),
        tokens => format!(" with {tokens} tokens"),
    };
    format!(
        "Strongroom runs on this machine: key service {kms}{tokens}, metadata service {metadata}, 3 block nodes.
  data     {data}
  logs     {data}/logs
  profile  {profile}

Try, in another terminal:
  strongroom{flag} key create payroll
  strongroom{flag} --as fsadmin fs mkdir /payroll
  strongroom{flag} zone create /payroll --key payroll --owner alice
  strongroom{flag} fs put -r ./my-files /payroll/
  strongroom{flag} fs ls -l /payroll

Stop with Ctrl-C; everything is still there at the next start.
ready",
        kms = ready.kms,
        metadata = ready.metadata,
        data = ready.data_dir,
        profile = ready.profile,
    )
}
