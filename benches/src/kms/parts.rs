//! The processes that take part, all of them this program under another first argument.

use std::{
    collections::HashMap,
    error::Error,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use strongroom_kms::token::{
    init::{InitOptions, init_token},
    worker::{self, WorkerOptions},
};

use super::raw;

/// Runs as another process of the benchmark, if the arguments say so.
pub(crate) fn play_part(arguments: &[String]) -> Option<ExitCode> {
    let (part, options) = arguments.split_first()?;
    let outcome = match part.as_str() {
        "kms-service" => serve(options),
        "token-worker" => parse(options).and_then(|mut options| work(&mut options)),
        "token-init" => parse(options).and_then(|mut options| init(&mut options)),
        "raw-pkcs11" => parse(options).and_then(|mut options| raw_loop(&mut options)),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::report::complain(&format!("{part}: {error}"));
            ExitCode::FAILURE
        }
    })
}

type Outcome<T> = Result<T, Box<dyn Error>>;
type Options = HashMap<String, String>;

fn parse(arguments: &[String]) -> Outcome<Options> {
    let pairs = arguments.chunks(2).map(|pair| match pair {
        [name, value] => Ok((name.clone(), value.clone())),
        _ => Err("every option has a value".into()),
    });
    pairs.collect()
}

fn take(options: &mut Options, name: &str) -> Outcome<String> {
    options.remove(name).ok_or_else(|| format!("{name} is missing").into())
}

/// The key service, until standard input ends.
fn serve(arguments: &[String]) -> Outcome<()> {
    let [config] = arguments else {
        return Err("a configuration expected".into());
    };
    let config = strongroom_kms::Config::load(Path::new(config))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        _ = std::io::stdin().lock().read_until(b'\n', &mut Vec::new());
        drop(stop);
    });
    runtime.block_on(Box::pin(strongroom_kms::run(config, async { _ = stopped.await })))?;
    Ok(())
}

fn work(options: &mut Options) -> Outcome<()> {
    Ok(worker::run(WorkerOptions {
        module: PathBuf::from(take(options, "--module")?),
        token_label: take(options, "--token-label")?,
        pin_file: PathBuf::from(take(options, "--pin-file")?),
        sealed: None,
    })?)
}

fn init(options: &mut Options) -> Outcome<()> {
    init_token(InitOptions {
        module: PathBuf::from(take(options, "--module")?),
        label: take(options, "--token-label")?,
        so_pin_file: PathBuf::from(take(options, "--so-pin-file")?),
        pin_file: PathBuf::from(take(options, "--pin-file")?),
    })?;
    Ok(())
}

/// Answers each line `operation suite milliseconds` with operations a second.
fn raw_loop(options: &mut Options) -> Outcome<()> {
    let token = raw::open(
        Path::new(&take(options, "--module")?),
        &take(options, "--token-label")?,
        &take(options, "--pin")?,
    )?;
    for line in std::io::stdin().lock().lines() {
        let rate = raw::measure(&token, &line?)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{rate}")?;
        out.flush()?;
    }
    Ok(())
}

/// The process of the bare loop.
pub(super) struct Raw {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Raw {
    pub(super) fn start(mut command: Command) -> Self {
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

    /// Operations a second of the bare loop, measured for `millis` milliseconds.
    pub(super) fn rate(&mut self, operation: &str, suite: &str, millis: u64) -> f64 {
        writeln!(self.requests, "{operation} {suite} {millis}").expect("the bare loop runs");
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
