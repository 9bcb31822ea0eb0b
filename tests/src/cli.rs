use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::strongroom;

/// Runs `strongroom` commands with one environment.
#[derive(Debug, Clone)]
pub struct Cli {
    home: PathBuf,
    identity: Option<String>,
    variables: Vec<(&'static str, PathBuf)>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was run.
    pub command: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, bytes as they came.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// Commands of a user whose home, and so whose default profile, is `home`.
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            identity: None,
            variables: Vec::new(),
        }
    }

    /// The same with `--as NAME`.
    #[must_use]
    pub fn as_user(&self, name: &str) -> Self {
        Self {
            identity: Some(name.to_owned()),
            ..self.clone()
        }
    }

    /// The same with a variable in the environment.
    #[must_use]
    pub fn with_variable(&self, name: &'static str, value: impl Into<PathBuf>) -> Self {
        let mut cli = self.clone();
        cli.variables.push((name, value.into()));
        cli
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null());
        let text = format!("{command:?}");
        let output = command.output().expect("the executable starts");
        Outcome {
            command: text,
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command given as one line, split at spaces.
    pub fn line(&self, line: &str) -> Outcome {
        self.run(line.split_whitespace())
    }

    /// The executable with the environment and identity, for what [`Cli::run`] does not do.
    pub fn command(&self) -> Command {
        let mut command = Command::new(strongroom());
        environment(&mut command, &self.home);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(identity) = &self.identity {
            command.args(["--as", identity]);
        }
        command
    }
}

impl Outcome {
    /// The outcome, which must be success.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{} failed: {}", self.command, self.stderr);
        self
    }

    /// Standard output as text, of a success.
    pub fn text(self) -> String {
        String::from_utf8(self.ok().stdout).expect("text")
    }

    /// The one JSON document on standard output, of a success.
    pub fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not one JSON document ({error}): {text}"))
    }

    /// Asserts the exit code and that standard error says every one of `words`; gives standard error.
    pub fn fails(self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{}: {}", self.command, self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{} does not say {word:?}: {}",
                self.command,
                self.stderr
            );
        }
        self.stderr
    }
}

/// Points a process at `home` and at nothing of the machine's user.
pub(crate) fn environment(command: &mut Command, home: &Path) {
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env_remove("STRONGROOM_PROFILE")
        .env_remove("SOFTHSM2_CONF");
}
