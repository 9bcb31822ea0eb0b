//! The bare loop as a process of its own: this program under another first argument.

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use super::raw;

/// The first argument that makes this program the bare loop: `raw-pkcs11 MODULE LABEL PIN`.
pub(crate) const RAW: &str = "raw-pkcs11";

/// Runs as the bare loop, if the arguments say so.
pub(crate) fn play_part(arguments: &[String]) -> Option<ExitCode> {
    let [part, module, label, pin] = arguments else {
        return None;
    };
    if part != RAW {
        return None;
    }
    Some(match raw_loop(Path::new(module), label, pin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::report::complain(&format!("{RAW}: {error}"));
            ExitCode::FAILURE
        }
    })
}

/// Answers each line `operation suite milliseconds` with operations a second.
fn raw_loop(module: &Path, label: &str, pin: &str) -> Result<(), Box<dyn Error>> {
    let token = raw::open(module, label, pin)?;
    for line in std::io::stdin().lock().lines() {
        let rate = raw::measure(&token, &line?)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{rate}")?;
        out.flush()?;
    }
    Ok(())
}

/// The process of the bare loop.
pub(crate) struct Raw {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Raw {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let requests = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            requests,
            answers,
        }
    }
}

impl Raw {
    /// Makes that many keys of suite `kw`.
    pub(crate) fn fill(&mut self, keys: u32) {
        self.ask(&format!("fill kw {keys}"));
    }

    /// Operations a second of the bare loop, measured for `millis` milliseconds.
    pub(crate) fn rate(&mut self, operation: &str, suite: &str, millis: u64) -> f64 {
        self.ask(&format!("{operation} {suite} {millis}"))
    }

    fn ask(&mut self, request: &str) -> f64 {
        writeln!(self.requests, "{request}").expect("the bare loop runs");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the bare loop answers");
        line.trim().parse().expect("a number: see what the bare loop said")
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
