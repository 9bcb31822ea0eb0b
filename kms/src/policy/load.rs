//! Reading a policy file: parse, validate against the schema, and say where it is wrong.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use cedar_policy::{PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::rules::PolicyName;
use strongroom_proto::groups::{END, InvalidGroups, line_of};

/// What policies are written about.
const SCHEMA: &str = include_str!("../../policy/strongroom.cedarschema");
/// Knows the schema.
static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("the compiled-in schema is valid");
    Validator::new(schema)
});
/// Bytes of the largest policy or groups file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a policy or groups file is not used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy or groups file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is far larger than any policy.
    #[error("{} is over 4 MiB; is it the right policy or groups file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file ended with [`END`] before and does not now.
    #[error(
        "{} does not end with the line {END:?} as the file that is in force does: it may have been cut; complete it, or to do without that line restart the key service",
        path.display()
    )]
    Cut {
        /// The file.
        path: PathBuf,
    },
    /// The file is not Cedar that fits the schema, or not a table of groups.
    #[error("{}:{line}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line of the first error, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

impl From<InvalidGroups> for PolicyError {
    fn from(InvalidGroups { path, line, reason }: InvalidGroups) -> Self {
        Self::Invalid { path, line, reason }
    }
}

pub(super) fn read(path: &Path) -> Result<String, PolicyError> {
    let unreadable = |source| PolicyError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(PolicyError::TooLarge { path: path.to_owned() });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<PolicySet, PolicyError> {
    let policies: PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| {
        let first = error.iter().next();
        let reason = first.map_or_else(|| error.to_string(), ToString::to_string);
        invalid(path, text, &error, reason)
    })?;
    let verdict = VALIDATOR.validate(&policies, ValidationMode::Strict);
    match verdict.validation_errors().next() {
        Some(error) => Err(invalid(path, text, error, with_help(error))),
        None => Ok(policies),
    }
}

/// What the policies are called, and where they are. Decisions name their policies, so that no two may have one name.
pub(super) fn names(
    path: &Path,
    text: &str,
    policies: &PolicySet,
) -> Result<HashMap<PolicyId, PolicyName>, PolicyError> {
    let lines = statement_lines(text);
    let mut names = HashMap::new();
    let mut taken = HashMap::new();
    for (number, line) in lines.into_iter().enumerate() {
        // Cedar calls policies after their places in the file.
        let cedars = PolicyId::new(format!("policy{number}"));
        let Some(policy) = policies.policy(&cedars) else {
            continue;
        };
        let own = policy.annotation("id").filter(|id| !id.is_empty());
        let id = own.map_or_else(|| cedars.to_string(), str::to_owned);
        if let Some(other) = taken.insert(id.clone(), line) {
            return Err(PolicyError::Invalid {
                path: path.to_owned(),
                line,
                reason: format!(
                    "the policy on line {other} has the @id {id:?} too; the audit log could not tell them apart"
                ),
            });
        }
        names.insert(cedars, PolicyName { id, line });
    }
    Ok(names)
}

/// The lines on which the statements of a policy file start: each ends with the `;` that is in no string and no comment.
fn statement_lines(text: &str) -> Vec<usize> {
    let (mut lines, mut line, mut within) = (Vec::new(), 1, false);
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\n' => line += 1,
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|&next| next != '\n').is_some() {},
            ';' => within = false,
            character if character.is_whitespace() => {}
            character => {
                if !within {
                    lines.push(line);
                    within = true;
                }
                if character == '"' {
                    line += skip_string(&mut rest);
                }
            }
        }
    }
    lines
}

/// Goes on behind the end of a string; answers how many line ends are in it.
fn skip_string(rest: &mut impl Iterator<Item = char>) -> usize {
    let mut line_ends = 0;
    while let Some(character) = rest.next() {
        match character {
            '"' => break,
            '\\' => _ = rest.next(),
            '\n' => line_ends += 1,
            _ => {}
        }
    }
    line_ends
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
        line: line_of(text, offset),
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
        assert_eq!(error, "cannot read the policy or groups file /nonexistent/policy.cedar");
    }

    #[test]
    fn policies_are_found_on_their_lines_and_no_name_is_taken_twice() {
        let text = "// first; not a statement\n@id(\"a;\\\"\") permit (principal, action, resource) // ;\n;\n\n\
                    forbid (principal, action, resource)\nwhen { resource.name == \"x\ny;\" };permit(principal,action,resource);";
        let policies = parse(Path::new("p.cedar"), text).expect("valid");
        let names = names(Path::new("p.cedar"), text, &policies).expect("no name is taken");
        let mut found: Vec<_> = names.values().map(|name| (name.line, name.id.as_str())).collect();
        found.sort_unstable();
        assert_eq!(found, [(2, "a;\""), (5, "policy1"), (7, "policy2")]);

        let twice =
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);";
        let policies = parse(Path::new("p.cedar"), twice).expect("Cedar does not mind");
        let error = super::names(Path::new("p.cedar"), twice, &policies).expect_err("ambiguous");
        assert!(
            error.to_string().starts_with("p.cedar:2: the policy on line 1"),
            "{error}"
        );
    }
}
