//! `strongroom token …` and the hidden `token-worker`: the only processes that load a PKCS#11 library.

use strongroom_kms::token::{
    init::{InitOptions, init_token},
    worker::{self as token_worker, SealedOptions, WorkerOptions},
};

use crate::{
    cli::{SealedArgs, TokenCommand, TokenInitArgs, TokenWorkerArgs},
    error::Error,
    output::Output,
    telemetry::log_as_service,
};

/// The key service's worker, until the key service goes away.
pub(super) fn worker(args: TokenWorkerArgs, level: &str) -> Result<(), Error> {
    log_as_service(level);
    let options = WorkerOptions {
        module: args.module,
        token_label: args.token_label,
        pin_file: args.pin_file,
        sealed: args.sealed.map(Into::into),
    };
    token_worker::run(options).map_err(|error| Error::Role {
        role: "token worker",
        source: Box::new(error),
    })
}

impl From<SealedArgs> for SealedOptions {
    fn from(args: SealedArgs) -> Self {
        Self {
            client_ca: args.client_ca,
            certificate: args.answer_certificate,
            key: args.answer_key,
            only: args.sealed_only,
        }
    }
}

/// `strongroom token …`
pub(super) fn run(command: TokenCommand, output: Output) -> Result<(), Error> {
    match command {
        TokenCommand::Init(args) => init(args, output),
    }
}

fn init(args: TokenInitArgs, output: Output) -> Result<(), Error> {
    let options = InitOptions {
        module: args.module,
        label: args.label,
        so_pin_file: args.so_pin_file,
        pin_file: args.pin_file,
    };
    let made = init_token(options).map_err(Error::Token)?;
    let document = serde_json::json!({"label": made.label, "serial": made.serial});
    output.result(&document, || {
        format!("initialised token {} (serial {})", made.label, made.serial)
    })
}
