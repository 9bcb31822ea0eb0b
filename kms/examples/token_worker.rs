//! The processes that load a PKCS#11 library as a program of their own, for this crate's tests: a library can be
//! initialised once per process only, and each test has tokens of its own.
//!
//! `token_worker token-worker|token-inspect|token-link-key|token-link-trust --module M --token-label L --pin-file F --marks D [--check]` or
//! `token_worker token-init --module M --token-label L --so-pin-file S --pin-file F --marks D`, and the whole key service with
//! `token_worker kms --config F`, which ends when it is killed.

use std::{
    collections::HashMap,
    error::Error,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use strongroom_kms::token::{
    init::{InitOptions, init_token},
    trust::{TrustOptions, run_make_key, run_trust},
    worker::{SealedOptions, WorkerOptions, inspect, run},
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
    let command = arguments.next().ok_or("a command expected")?;
    let (mut options, mut only) = (HashMap::new(), Vec::new());
    while let Some(name) = arguments.next() {
        let value = if name == "--check" {
            Some(String::new())
        } else {
            arguments.next()
        };
        let value = value.ok_or("every option has a value")?;
        if name == "--sealed-only" {
            only.push(value.parse()?);
        } else {
            options.insert(name, value);
        }
    }
    if let Some(config) = options.remove("--config") {
        return serve(&PathBuf::from(config));
    }
    let check_only = options.remove("--check").is_some();
    let sealed = options.remove("--client-ca").map(PathBuf::from);
    let mut take = |name: &str| options.remove(name).ok_or_else(|| format!("{name} is missing"));
    let (module, token_label) = (PathBuf::from(take("--module")?), take("--token-label")?);
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
            token_label,
            pin_file,
            marks: PathBuf::from(take("--marks")?),
            sealed,
        })?);
    }
    if command == "token-init" {
        init_token(InitOptions {
            module,
            label: token_label,
            so_pin_file: PathBuf::from(take("--so-pin-file")?),
            pin_file,
            marks: PathBuf::from(take("--marks")?),
        })?;
        return Ok(());
    }
    if command == "token-inspect" {
        let seen = inspect(
            &WorkerOptions {
                module,
                token_label,
                pin_file,
                marks: PathBuf::from(take("--marks")?),
                sealed: None,
            },
            true,
        )?;
        let versions = seen.versions.map_or(0, |versions| versions.len());
        return Ok(writeln!(io::stdout(), "{versions}")?);
    }
    let options = TrustOptions {
        module,
        token_label,
        pin_file,
        marks: PathBuf::from(take("--marks")?),
    };
    match command.as_str() {
        "token-link-key" => Ok(run_make_key(&options, check_only, io::stdout())?),
        "token-link-trust" => {
            let input = io::read_to_string(io::stdin())?;
            Ok(run_trust(&options, check_only, &input, io::stdout())?)
        }
        other => Err(format!("{other} is no command of this program").into()),
    }
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
