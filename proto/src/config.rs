//! Configuration files of the services: TOML, whose relative paths are taken from the file's directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or not this configuration.
    #[error("the configuration {} is not valid; compare it with {sample}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// A file that shows how it must be.
        sample: &'static str,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value breaks a rule.
    #[error("the configuration {} is not valid: {rule}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule.
        rule: &'static str,
    },
}

/// Reads a configuration file. `finish` takes its relative paths from the file's directory, which it is given, and says which
/// rule is broken, if one is. `sample` is a file that shows how it must be.
///
/// # Errors
/// Names the file and what is wrong with it; in its source, the line.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    sample: &'static str,
    finish: impl FnOnce(T, &Path) -> Result<T, &'static str>,
) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let config = toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        sample,
        source: Box::new(source),
    })?;
    let directory = path.parent().unwrap_or(Path::new("."));
    finish(config, directory).map_err(|rule| ConfigError::Rule {
        path: path.to_owned(),
        rule,
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Two {
        file: PathBuf,
        number: u32,
    }

    fn two(path: &Path) -> Result<Two, ConfigError> {
        load(path, "two.sample.toml", |two: Two, directory| match two.number {
            0 => Err("number must be from 1"),
            number => Ok(Two {
                file: directory.join(two.file),
                number,
            }),
        })
    }

    #[test]
    fn a_configuration_is_whole_and_its_mistakes_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("two.toml");
        let said = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let error = two(&path).expect_err("a mistake");
            let source = error.source().map(|source| format!(": {source}"));
            format!("{error}{}", source.unwrap_or_default())
        };
        let not_valid = format!("the configuration {} is not valid", path.display());
        for (text, rest) in [
            (
                "file = 'a'\nnumber = -1",
                "; compare it with two.sample.toml: TOML parse error at line 2",
            ),
            ("file = 'a'\nnumber = 1\nother = 1", "unknown field `other`"),
            ("file = 'a'", "missing field `number`"),
            ("file = 'a'\nnumber = 0", ": number must be from 1"),
        ] {
            let said = said(text);
            assert!(said.starts_with(&not_valid) && said.contains(rest), "{said}");
        }
        std::fs::write(&path, "file = 'a'\nnumber = 1").expect("written");
        let expected = Two {
            file: directory.path().join("a"),
            number: 1,
        };
        assert_eq!(two(&path).expect("valid"), expected);
        let absent = two(&directory.path().join("none")).expect_err("not there");
        assert!(
            absent.to_string().starts_with("cannot read the configuration"),
            "{absent}"
        );
    }
}
