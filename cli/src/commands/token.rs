//! `strongroom token …` and the hidden `token-worker`: the only processes that load a PKCS#11 library.

use strongroom_kms::token::{
    TokenKeyVersion,
    init::{InitOptions, init_token},
    worker::{self as token_worker, Inspection, SealedOptions, WorkerOptions},
};

use crate::{
    cli::{SealedArgs, TokenCommand, TokenInitArgs, TokenInspectArgs, TokenWorkerArgs},
    error::Error,
    output::{Output, table},
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
        TokenCommand::Inspect(args) => inspect(args, output),
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

fn inspect(args: TokenInspectArgs, output: Output) -> Result<(), Error> {
    let log_in = args.pin_file.is_some();
    let options = WorkerOptions {
        module: args.module,
        token_label: args.label,
        pin_file: args.pin_file.unwrap_or_default(),
        sealed: None,
    };
    let seen = token_worker::inspect(&options, log_in)?;
    output.result(&inspection_json(&seen), || inspection_text(&seen))
}

fn inspection_json(seen: &Inspection) -> serde_json::Value {
    let profile = &seen.profile;
    let suites: Vec<_> = profile.suites.iter().map(|suite| suite.as_str()).collect();
    let key = |version: &TokenKeyVersion| {
        serde_json::json!({
            "name": version.key.as_str(),
            "version": version.version.0,
            "suite": version.suite.as_str(),
            "kcv": version.kcv.to_string(),
            "token_id": version.token_id.to_string(),
            "origin": version.origin.as_str(),
        })
    };
    serde_json::json!({
        "label": profile.label,
        "manufacturer": profile.manufacturer,
        "model": profile.model,
        "serial": profile.serial,
        "library": profile.library,
        "mechanisms": profile.mechanisms,
        "suites": suites,
        "default_suite": profile.default_suite().map(|suite| suite.as_str()),
        "tried": profile.tried,
        "gcm_iv": profile.gcm_iv.map(|source| source.as_str()),
        "oaep_hashes": profile.oaep_hashes,
        "sessions_max": profile.sessions_max,
        "keys": seen.versions.as_ref().map(|versions| versions.iter().map(key).collect::<Vec<_>>()),
    })
}

fn inspection_text(seen: &Inspection) -> String {
    let profile = &seen.profile;
    let suites: Vec<_> = profile.suites.iter().map(|suite| suite.as_str()).collect();
    let tried = if profile.tried {
        "seen to work"
    } else {
        "as offered; not tried without a PIN"
    };
    let default = profile.default_suite().map_or("none", |suite| suite.as_str());
    let mut text = table(
        ["TOKEN", profile.label.as_str()],
        &[
            [
                "model".to_owned(),
                format!("{} {}", profile.manufacturer, profile.model),
            ],
            ["serial".to_owned(), profile.serial.clone()],
            ["library".to_owned(), profile.library.clone()],
            ["mechanisms".to_owned(), profile.mechanisms.join(" ")],
            ["suites".to_owned(), format!("{} ({tried})", suites.join(" "))],
            ["default suite".to_owned(), default.to_owned()],
            [
                "GCM IVs".to_owned(),
                profile.gcm_iv.map_or("-", |source| source.as_str()).to_owned(),
            ],
            ["OAEP hashes".to_owned(), profile.oaep_hashes.join(" ")],
        ],
    );
    if let Some(versions) = &seen.versions {
        let row = |version: &TokenKeyVersion| {
            [
                format!("{}@{}", version.key, version.version),
                version.suite.to_string(),
                version.kcv.to_string(),
                version.origin.as_str().to_owned(),
                version.token_id.to_string(),
            ]
        };
        let rows: Vec<_> = versions.iter().map(row).collect();
        text.push_str("\n\n");
        text.push_str(&table(["KEY", "SUITE", "KCV", "ORIGIN", "CKA_ID"], &rows));
    }
    text
}
