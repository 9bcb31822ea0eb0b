//! A TCP proxy before PostgreSQL that can break a connection exactly at a COMMIT.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The message that commits, as the simple protocol sends it.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What happens to the next connection that commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtCommit {
    /// The server commits, and its answer is lost with the connection.
    LoseTheAnswer,
    /// The connection is lost on both sides before the server has heard it.
    LoseTheCommand,
    /// The client's side is lost; the server's stays open and never hears the command.
    HoldTheCommand,
    /// As [`Self::LoseTheAnswer`], and no new connection is taken until [`Proxy::come_back`].
    GoAway,
}

#[derive(Default)]
struct Plan {
    next: Option<AtCommit>,
    away: bool,
}

pub struct Proxy {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let listener = TcpListener::from_std(listener).expect("in a runtime");
        let plan = Arc::<Mutex<Plan>>::default();
        tokio::spawn(accept(listener, server, Arc::clone(&plan)));
        Self { port, plan }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn next_commit(&self, what: AtCommit) {
        self.plan.lock().expect("no panic").next = Some(what);
    }

    pub fn come_back(&self) {
        self.plan.lock().expect("no panic").away = false;
    }
}

async fn accept(listener: TcpListener, server: u16, plan: Arc<Mutex<Plan>>) {
    while let Ok((client, _)) = listener.accept().await {
        if plan.lock().expect("no panic").away {
            continue;
        }
        let server = TcpStream::connect(("127.0.0.1", server))
            .await
            .expect("the server is up");
        tokio::spawn(carry(client, server, Arc::clone(&plan)));
    }
}

async fn carry(client: TcpStream, server: TcpStream, plan: Arc<Mutex<Plan>>) {
    let (client_in, client_out) = client.into_split();
    let (mut server_in, server_out) = server.into_split();
    let (cut, cut_off) = tokio::sync::oneshot::channel::<()>();
    let back = tokio::spawn(async move {
        let mut client_out = client_out;
        tokio::select! {
            _ = tokio::io::copy(&mut server_in, &mut client_out) => {}
            _ = cut_off => {}
        }
        server_in
    });
    let Some((what, mut server_out)) = forward(client_in, server_out, &plan).await else {
        return;
    };
    // Nothing comes back from here on.
    _ = cut.send(());
    let server_in = back.await;
    match what {
        AtCommit::LoseTheCommand => {}
        AtCommit::HoldTheCommand => {
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_secs(30)).await;
                drop((server_in, server_out));
            });
        }
        AtCommit::LoseTheAnswer | AtCommit::GoAway => {
            _ = server_out.write_all(COMMIT).await;
            _ = server_out.flush().await;
            // Its answer means that it has committed.
            if let Ok(mut server_in) = server_in {
                _ = server_in.read(&mut [0; 64]).await;
            }
        }
    }
}

/// Carries to the server what the client says, until it says what the plan waits for.
async fn forward(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    plan: &Mutex<Plan>,
) -> Option<(AtCommit, OwnedWriteHalf)> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = client.read(&mut buffer).await.ok().filter(|&length| length > 0)?;
        let said = &buffer[..length];
        if said.windows(COMMIT.len()).any(|window| window == COMMIT) {
            let mut plan = plan.lock().expect("no panic");
            if let Some(what) = plan.next.take() {
                plan.away = what == AtCommit::GoAway;
                return Some((what, server));
            }
        }
        server.write_all(said).await.ok()?;
    }
}
