//! The token worker and the token initialiser as a program of their own, for this crate's tests: a PKCS#11 library can be
//! initialised once per process only, and each test has a token of its own.
//!
//! `token_worker token-worker --module M --token-label L --pin-file F` or
//! `token_worker token-init --module M --token-label L --so-pin-file S --pin-file F`, and the whole key service with
//! `token_worker kms --config F`, which ends when it is killed.

use std::{
    collections::HashMap,
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

use strongroom_kms::token::{
    init::{InitOptions, init_token},
    worker::{SealedOptions, WorkerOptions, run},
};

fn main() -> ExitCode {
    match work(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn work(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let command = arguments.next().ok_or("token-worker or token-init expected")?;
    let (mut options, mut only) = (HashMap::new(), Vec::new());
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or("every option has a value")?;
        if name == "--sealed-only" {
            only.push(value.parse()?);
        } else {
            options.insert(name, value);
        }
    }
    if let Some(config) = options.remove("--config") {
        return serve(&PathBuf::from(config));
    }
    let sealed = options.remove("--client-ca").map(PathBuf::from);
    let mut take = |name: &str| options.remove(name).ok_or_else(|| format!("{name} is missing"));
    let (module, label) = (PathBuf::from(take("--module")?), take("--token-label")?);
    let pin_file = PathBuf::from(take("--pin-file")?);
    if command == "token-worker" {
        let sealed = match sealed {
            Some(client_ca) => Some(SealedOptions {
                client_ca,
                certificate: PathBuf::from(take("--answer-certificate")?),
                key: PathBuf::from(take("--answer-key")?),
                only,
            }),
            None => None,
        };
        return Ok(run(WorkerOptions {
            module,
            token_label: label,
            pin_file,
            sealed,
        })?);
    }
    init_token(InitOptions {
        module,
        label,
        so_pin_file: PathBuf::from(take("--so-pin-file")?),
        pin_file,
    })?;
    Ok(())
}

fn serve(config: &Path) -> Result<(), Box<dyn Error>> {
    let config = strongroom_kms::Config::load(config)?;
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(strongroom_kms::run(config, std::future::pending()))?)
}

#[allow(clippy::print_stderr)]
fn say(error: &dyn Error) {
    eprintln!("{error}");
    let mut next = error.source();
    while let Some(source) = next {
        eprintln!("  {source}");
        next = source.source();
    }
}
