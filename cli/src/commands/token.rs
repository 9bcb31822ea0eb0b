//! `strongroom token init|inspect|link` and the hidden `token-worker`: the only processes that load a PKCS#11 library.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use strongroom_kms::{
    fleet::Redundancy,
    token::{
        IvSource, TokenKeyVersion,
        init::{InitOptions, init_token},
        marks_directory,
        trust::{self, KeysReadable, LinkOptions, Linked, TrustOptions},
        worker::{self as token_worker, Inspection, SealedOptions, WorkerOptions},
    },
};
use strongroom_proto::{EdekSuite, Failure, Reason};

use crate::{
    cli::{
        LocalTokenCommand, MarksArgs, SealedArgs, TokenInitArgs, TokenInspectArgs, TokenLinkArgs, TokenLinkStepArgs,
        TokenWorkerArgs,
    },
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
        marks: args.marks,
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

/// What is done with a token itself, without a key service.
pub(super) fn run(command: LocalTokenCommand, output: Output) -> Result<(), Error> {
    match command {
        LocalTokenCommand::Init(args) => init(args, output),
        LocalTokenCommand::Inspect(args) => inspect(args, output),
        LocalTokenCommand::Link(args) => link(&args, output),
    }
}

fn init(args: TokenInitArgs, output: Output) -> Result<(), Error> {
    let options = InitOptions {
        marks: marks(args.marks, &args.module, &args.label)?,
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
        marks: if log_in {
            marks(args.marks, &args.module, &args.label)?
        } else {
            PathBuf::new()
        },
        module: args.module,
        token_label: args.label,
        pin_file: args.pin_file.unwrap_or_default(),
        sealed: None,
    };
    let seen = token_worker::inspect(&options, log_in)?;
    output.result(&inspection_json(&seen), || inspection_text(&seen))
}

/// Where the marks of a token's refused PINs are.
fn marks(args: MarksArgs, module: &Path, label: &str) -> Result<PathBuf, Error> {
    if let Some(config) = &args.config {
        return marks_of_service(config, module, label);
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = || {
        let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        state.map(|state| state.join("strongroom"))
    };
    let directory = args.data_dir.or_else(own).ok_or_else(|| {
        Failure::new(
            Reason::InvalidArgument,
            "it must be noted somewhere if the token refuses a PIN, and neither HOME nor XDG_STATE_HOME says where; name a directory \
             with --data-dir",
        )
    })?;
    Ok(marks_directory(&directory, label))
}

/// Where the key service with that configuration keeps those of one of its tokens.
fn marks_of_service(config: &Path, module: &Path, label: &str) -> Result<PathBuf, Error> {
    let service = load(config)?;
    let mut tokens = service.tokens.iter();
    // The module's path is part of a mark: another spelling would not be known again.
    let token = tokens.find(|token| token.label == label && token.module == module);
    let token = token.ok_or_else(|| {
        let (config, module) = (config.display(), module.display());
        let text = format!(
            "{config} has no token labelled {label:?} with the module {module}; name both as they are there, or a directory for marks \
             with --data-dir"
        );
        Failure::new(Reason::InvalidArgument, text)
    })?;
    Ok(marks_directory(&service.data_dir, token.name()))
}

fn load(config: &Path) -> Result<strongroom_kms::Config, Error> {
    strongroom_kms::Config::load(config).map_err(|error| Error::RoleConfig {
        role: "kms",
        path: config.to_owned(),
        source: Box::new(error),
    })
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
        "default_suite": profile.default_suite().map(EdekSuite::as_str),
        "tried": profile.tried,
        "gcm_iv": profile.gcm_iv.map(IvSource::as_str),
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

/// Each step that loads a PKCS#11 library is a process of its own.
fn link(args: &TokenLinkArgs, output: Output) -> Result<(), Error> {
    let config = load(&args.config)?;
    if config.redundancy.mode == Redundancy::ReplicatedByHsm {
        return Err(Error::from(Failure::new(
            Reason::InvalidArgument,
            "these tokens replicate by themselves (redundancy.mode = \"replicated-by-hsm\"), so that there is nothing to link; set up \
             their replication with the HSM's own tools",
        )));
    }
    let executable = std::env::current_exe().map_err(|source| Error::System {
        what: "this program",
        source,
    })?;
    let linked = trust::link(&LinkOptions {
        executable: &executable,
        tokens: &config.tokens,
        so_pin_files: &args.so_pin_file,
        state_dir: &config.data_dir,
        keys_readable_with_pin: &args.keys_readable_with_pin,
        check_only: args.check,
    })?;
    // What cannot be told whom to trust is found out by telling it, which --check does not.
    let sends = |token: &Linked| token.lacks.is_empty();
    let complete = linked.iter().any(sends)
        && linked
            .iter()
            .all(|token| sends(token) || token.receives_only || args.check);
    let document = serde_json::json!(
        linked
            .iter()
            .map(|token| serde_json::json!({
                "label": token.label,
                "fingerprint": token.key.fingerprint().to_string(),
                "trusts": token.trusts,
                "lacks": token.lacks,
                "receives_only": token.receives_only,
                "keys_readable_with_pin": token.keys_readable_with_pin.is_some(),
            }))
            .collect::<Vec<_>>()
    );
    output.result(&document, || {
        let lines: Vec<_> = linked.iter().map(describe_linked).collect();
        lines.join("\n")
    })?;
    if complete {
        return Ok(());
    }
    Err(Error::from(Failure::new(
        Reason::TokenRefused,
        "the tokens are not linked; run the command without --check, with every security officer's PIN",
    )))
}

fn describe_linked(token: &Linked) -> String {
    let list = |labels: &[String]| match labels {
        [] => "none".to_owned(),
        labels => labels.join(", "),
    };
    let sends = match (token.receives_only, token.lacks.as_slice()) {
        (true, _) => "\n  receives clones only: its security officer cannot mark a key as trusted",
        (false, []) => "",
        (false, _) => "\n  sends no clones as it is",
    };
    let readable = match token.keys_readable_with_pin {
        None => "",
        Some(KeysReadable::UserTrusts) => {
            "\n  KEYS READABLE WITH PIN: whoever has its user PIN can make trusted keys, and so read every key that can be cloned"
        }
        Some(KeysReadable::Unguarded) => {
            "\n  KEYS READABLE WITH PIN: it wraps under any key what only trusted keys may wrap, so whoever has its user PIN can read every \
             key that can be cloned"
        }
    };
    format!(
        "token {}\n  clone key {}\n  trusts: {}; does not trust: {}{sends}{readable}",
        token.label,
        token.key.fingerprint(),
        list(&token.trusts),
        list(&token.lacks)
    )
}

/// `token-link-key`, which `token link` starts.
pub(super) fn link_key(args: TokenLinkStepArgs) -> Result<(), Error> {
    let check = args.check;
    Ok(trust::run_make_key(&step(args), check, io::stdout())?)
}

/// `token-link-trust`, which `token link` starts and gives the keys to trust on standard input.
pub(super) fn link_trust(args: TokenLinkStepArgs) -> Result<(), Error> {
    let input = io::read_to_string(io::stdin()).map_err(|source| Error::System {
        what: "standard input",
        source,
    })?;
    let check = args.check;
    Ok(trust::run_trust(&step(args), check, &input, io::stdout())?)
}

fn step(args: TokenLinkStepArgs) -> TrustOptions {
    TrustOptions {
        module: args.module,
        token_label: args.token_label,
        pin_file: args.pin_file.into(),
        marks: args.marks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_the_service_that_uses_the_token() {
        let sample = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../kms/kms.sample.toml"));
        let service = load(sample).expect("the sample is valid");
        let token = &service.tokens[0];
        let of = |module: &Path, label: &str| {
            let args = MarksArgs {
                config: Some(sample.to_owned()),
                data_dir: None,
            };
            marks(args, module, label)
        };
        let found = of(&token.module, &token.label).expect("a token of the sample");
        assert_eq!(found, marks_directory(&service.data_dir, token.name()));
        for (module, label) in [
            (token.module.as_path(), "another"),
            (Path::new("/other.so"), &token.label),
        ] {
            let error = of(module, label).expect_err("no such token").to_string();
            assert!(error.contains("has no token labelled"), "{error}");
        }
    }
}
