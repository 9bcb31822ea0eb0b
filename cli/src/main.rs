//! The `strongroom` executable: it parses the command line, wires the packages together and turns errors into exit
//! codes. What a service or the filesystem does is in their own packages.

mod cli;
mod commands;
mod dev;
mod error;
mod output;
mod profile;
mod signals;
mod telemetry;
mod transfer;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    cli::Cli,
    error::{Error, Exit},
    output::Output,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    let output = Output::new(cli.global.json);
    match commands::run(cli, output) {
        Ok(()) => Exit::Done.into(),
        // Whoever read our output has seen enough, as `head` has.
        Err(error) if error.is_broken_pipe() => Exit::Done.into(),
        Err(error) => {
            output.error(&error);
            Error::exit(&error).into()
        }
    }
}

/// Prints the help that was asked for, or what is wrong with the command line; the latter as JSON to who wants JSON.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        error.exit();
    }
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
    Output::new(true).error(&Error::Usage { message });
    Exit::Usage.into()
}
