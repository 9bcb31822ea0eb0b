//! Reading a policy file: parse, validate against the schema, and say where it is wrong.

use std::{io, path::Path, path::PathBuf};

use cedar_policy::{PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

/// What policies are written about.
const SCHEMA: &str = include_str!("../../policy/strongroom.cedarschema");
/// Bytes of the largest policy file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a policy file is not used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is far larger than any policy.
    #[error("the policy file {} is over 4 MiB; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not Cedar, or does not fit the schema.
    #[error("{}:{line}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line of the first error, from 1.
        line: usize,
        /// What Cedar says.
        reason: String,
    },
}

pub(super) fn read(path: &Path) -> Result<PolicySet, PolicyError> {
    let unreadable = |source| PolicyError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(PolicyError::TooLarge { path: path.to_owned() });
    }
    parse(path, &std::fs::read_to_string(path).map_err(unreadable)?)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<PolicySet, PolicyError> {
    let policies: PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| {
        let first = error.iter().next();
        let reason = first.map_or_else(|| error.to_string(), ToString::to_string);
        invalid(path, text, &error, reason)
    })?;
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("the compiled-in schema is valid");
    let verdict = Validator::new(schema).validate(&policies, ValidationMode::Strict);
    match verdict.validation_errors().next() {
        Some(error) => Err(invalid(path, text, error, with_help(error))),
        None => Ok(policies),
    }
}

/// The error and Cedar's hint, for example the name that was probably meant.
fn with_help(error: &dyn Diagnostic) -> String {
    match error.help() {
        Some(help) => format!("{error} ({help})"),
        None => error.to_string(),
    }
}

fn invalid(path: &Path, text: &str, error: &dyn Diagnostic, reason: String) -> PolicyError {
    let offset = error
        .labels()
        .and_then(|mut labels| labels.next())
        .map_or(0, |l| l.offset());
    PolicyError::Invalid {
        path: path.to_owned(),
        line: text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        for (text, line, word) in [
            (
                "permit (principal, action, resource);\npermit (principal action);",
                2,
                "unexpected token",
            ),
            (
                "permit (principal, action, resource);\n\npermit (principal, action == Action::\"destroy\", resource);",
                3,
                "destroy",
            ),
            (
                "permit (principal == Person::\"alice\", action, resource);",
                1,
                "Person",
            ),
            (
                "permit (principal, action, resource)\nwhen { resource.owner == \"alice\" };",
                2,
                "owner",
            ),
        ] {
            let error = parse(Path::new("kms/p.cedar"), text)
                .expect_err("must be refused")
                .to_string();
            assert!(error.starts_with(&format!("kms/p.cedar:{line}: ")), "{error}");
            assert!(error.contains(word), "{error} does not mention {word}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nonexistent/policy.cedar"))
            .expect_err("must be refused")
            .to_string();
        assert_eq!(error, "cannot read the policy file /nonexistent/policy.cedar");
    }
}
