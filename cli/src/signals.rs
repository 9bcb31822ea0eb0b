//! What asks a long-running command to stop: SIGTERM, SIGINT, and for a child of `strongroom dev` the end of its
//! standard input.

use std::io::Read as _;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::error::Error;

/// Remembers that a stop was asked for; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    asked: watch::Receiver<bool>,
}

impl Stop {
    /// Listens for SIGTERM and SIGINT.
    pub(crate) fn listen() -> Result<Self, Error> {
        Ok(Self::start()?.0)
    }

    /// Listens for SIGTERM, SIGINT and the end of standard input. Whoever holds the other end of that pipe can die in
    /// any way and we still hear of it.
    pub(crate) fn listen_with_stdin() -> Result<Self, Error> {
        let (stop, ask) = Self::start()?;
        // A thread of its own, not the runtime's: a read that never returns must not hold up the end of the process.
        std::thread::Builder::new()
            .name("stdin-watch".to_owned())
            .spawn(move || {
                drain_stdin();
                ask.send_replace(true);
            })
            .map_err(|source| Error::System {
                what: "the watch on standard input",
                source,
            })?;
        Ok(stop)
    }

    /// Resolves once a stop was asked for.
    pub(crate) async fn requested(&self) {
        let mut asked = self.asked.clone();
        // The sender lives as long as the process: an error cannot come, and would mean a stop.
        _ = asked.wait_for(|asked| *asked).await;
    }

    fn start() -> Result<(Self, watch::Sender<bool>), Error> {
        let mut terminate = handler(SignalKind::terminate())?;
        let mut interrupt = handler(SignalKind::interrupt())?;
        let (ask, asked) = watch::channel(false);
        let asker = ask.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asker.send_replace(true);
        });
        Ok((Self { asked }, ask))
    }
}

fn handler(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|source| Error::System {
        what: "signal handling",
        source,
    })
}

fn drain_stdin() {
    let mut buffer = [0; 64];
    let mut stdin = std::io::stdin().lock();
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}
