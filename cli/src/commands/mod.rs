//! One file per command: it parses names, asks a service and prints the answer.

mod adopt;
mod audit;
mod fs;
mod fsck;
mod instances;
mod job;
mod key;
mod metadata;
mod policy;
mod roles;
mod session;
mod status;
mod token;
mod tokens;
mod zone;

use std::{io, time::Duration};

use clap::CommandFactory as _;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use crate::{
    cli::{Cli, Command, DevArgs, Global, MetadataArgs, TokenCommand},
    dev::{self, DevOptions},
    error::Error,
    output::Output,
    signals::Stop,
    telemetry::log_for_people,
};
use session::Session;

/// How long a client command that failed waits for what it still tells the services.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);
/// The pause between two looks whether it has.
const GIVE_UP_POLL: Duration = Duration::from_millis(5);

/// Does what was asked for.
pub(crate) fn run(cli: Cli, output: Output) -> Result<(), Error> {
    let Cli { global, command } = cli;
    // A service sets up its own log, since its configuration has a say in it.
    let level = if global.verbose == 0 { "info" } else { "debug" };
    if !is_service(&command) {
        log_for_people(client_level(&global));
    }
    match command {
        Command::Completions { shell } => completions(shell),
        Command::TokenWorker(args) => token::worker(args, level),
        Command::TokenLinkKey(args) => token::link_key(args),
        Command::TokenLinkTrust(args) => token::link_trust(args),
        Command::Token(TokenCommand::List) => {
            on_runtime(client(async { tokens::list(&Session::open(global)?, output).await }))
        }
        Command::Token(TokenCommand::Resync { label }) => on_runtime(client(async {
            tokens::resync(&Session::open(global)?, &label, output).await
        })),
        Command::Token(TokenCommand::Local(command)) => token::run(command, output),
        Command::Policy(command) => policy::run(command, &global, output),
        Command::Kms(args) => on_runtime(roles::kms(&args, level)),
        Command::Metadata(MetadataArgs {
            command: Some(command), ..
        }) => on_runtime(client(metadata::run(command, output))),
        Command::Metadata(MetadataArgs { role: Some(args), .. }) => on_runtime(roles::metadata(&args, level)),
        Command::Metadata(_) => Err(metadata::nothing_asked()),
        Command::Block(args) => on_runtime(roles::block(&args, level)),
        Command::Dev(args) => on_runtime(dev::run(dev_options(args), output)),
        Command::Key(command) => on_runtime(client(async {
            key::run(&Session::open(global)?, command, output).await
        })),
        Command::Zone(command) => on_runtime(client(async {
            zone::run(&Session::open(global)?, command, output).await
        })),
        Command::Job(command) => on_runtime(client(async {
            job::run(&Session::open(global)?, command, output).await
        })),
        Command::Fs(args) => on_runtime(client(async { fs::run(&Session::open(global)?, args, output).await })),
        Command::Audit(command) => on_runtime(client(async {
            match audit::offline(command, output).await? {
                Some(command) => audit::online(&Session::open(global)?, command, output).await,
                None => Ok(()),
            }
        })),
        Command::Instances => on_runtime(client(async { instances::run(&Session::open(global)?, output).await })),
        Command::Fsck(args) => on_runtime(client(async { fsck::run(&Session::open(global)?, args, output).await })),
        Command::Status => on_runtime(client(async { status::run(&Session::open(global)?, output).await })),
    }
}

const fn is_service(command: &Command) -> bool {
    matches!(
        command,
        Command::Kms(_)
            | Command::Metadata(MetadataArgs { command: None, .. })
            | Command::Block(_)
            | Command::TokenWorker(_)
    )
}

fn on_runtime(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            what: "the runtime",
            source,
        })?;
    // The future lives on the heap: a command's state machine is larger than a stack frame should be.
    runtime.block_on(Box::pin(work))
}

/// A client command ends at SIGINT or SIGTERM; what it holds open is given up as its future is dropped.
async fn client(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let stop = Stop::listen()?;
    let idle = tasks_alive();
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = stop.requested() => Err(Error::Interrupted),
    };
    if outcome.is_err() {
        wait_for_tasks(idle).await;
    }
    outcome
}

/// A file that was being written is given up by a task of its own: it has to get its call out before the runtime ends,
/// or the file stays open until its lease does. Connections end with their last user, so all tasks soon have ended.
async fn wait_for_tasks(idle: usize) {
    let deadline = Instant::now() + GIVE_UP_MAX;
    while tasks_alive() > idle && Instant::now() < deadline {
        sleep(GIVE_UP_POLL).await;
    }
}

fn tasks_alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn dev_options(args: DevArgs) -> DevOptions {
    DevOptions {
        data_dir: args.data_dir,
        port_base: args.port_base,
        profile_out: args.profile_out,
        pkcs11_module: args.pkcs11_module,
        tokens: args.tokens,
        plain: args.plain,
    }
}

/// A client command tells only what goes wrong, unless asked. `RUST_LOG` overrides that.
fn client_level(global: &Global) -> &'static str {
    match global.verbose {
        // Programs that asked for JSON find their error alone on standard error.
        0 if global.json => "off",
        // Who waits because a service is away is told so.
        0 => "error,strongroom_proto::transport::retry=warn",
        1 => "info",
        _ => "debug",
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "strongroom", &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script).map_err(Error::Output)
}
