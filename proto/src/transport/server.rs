use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;

use super::{
    Listen, TlsIdentity, Wire,
    connection::Connection,
    doors::{Bound, Doors, Room, Visit},
};
use crate::limits::CONNECT_TIMEOUT;

/// Connections of one port. One address may be that of a load balancer, for many.
const ROOM: Room = Room {
    newcomers: Bound {
        max: 2048,
        per_source_max: 128,
    },
    known: Bound {
        max: 8192,
        per_source_max: 2048,
    },
};
/// How long a caller without a certificate may take to prove who he is. His handshake does not count.
const STRANGER_MAX: Duration = Duration::from_secs(30);
/// How long connections may take to finish their calls at a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken or the address is not this machine's.
    #[error("cannot listen on {address}; stop the process that has the port, or choose another in the configuration")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Takes the port, so that a service knows its address before it serves.
///
/// # Errors
/// [`ServeError::Bind`] with the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind { address, source })
}

/// Serves `routes` over mutual TLS 1.3, with the certificates that the files hold at the time, until `stop` resolves, then lets calls in flight finish for at most 5 s.
/// A client without a certificate of the CA, or without one Strongroom identity in it, is turned away in the handshake. A connection
/// ends when a certificate of its client expires, and at [`TlsIdentity::with_connection_age_max`].
pub async fn serve(listener: impl Listen, tls: &TlsIdentity, routes: Routes, stop: impl Future<Output = ()> + Send) {
    serve_to(Port::new(Clients::Certified), listener, tls, routes, stop).await;
}

/// As [`serve`], over TLS 1.2 or 1.3 that proves the server alone. No request has a [`super::peer`]: `routes` have to
/// find out themselves who sent it, and say so by [`super::authenticated`]; a connection without such a request ends after 30 s.
pub async fn serve_without_certificates(
    listener: impl Listen,
    tls: &TlsIdentity,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) {
    let strangers = Clients::Uncertified {
        stranger_max: STRANGER_MAX,
    };
    serve_to(Port::new(strangers), listener, tls, routes, stop).await;
}

/// Whether a listener's clients prove themselves in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clients {
    Certified,
    /// They prove themselves later, within that time.
    Uncertified {
        stranger_max: Duration,
    },
}

/// What a listener lets in.
#[derive(Debug, Clone, Copy)]
struct Port {
    clients: Clients,
    room: Room,
}

impl Port {
    const fn new(clients: Clients) -> Self {
        Self { clients, room: ROOM }
    }
}

async fn serve_to(
    port: Port,
    listener: impl Listen,
    tls: &TlsIdentity,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) {
    let (stopped, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(port, listener, tls, &routes, &stopping, &mut connections) => {}
        () = tls.keep_fresh() => {}
        () = stop => {}
    }
    stopped.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    _ = timeout(DRAIN_TIMEOUT, drained).await;
}

/// Accepts connections and does their handshakes side by side, so that a slow peer holds up nobody.
async fn accept(
    port: Port,
    listener: impl Listen,
    tls: &TlsIdentity,
    routes: &Routes,
    stopping: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let doors = Doors::new(port.room);
    loop {
        let room = doors.open().await;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: others may be closing, so wait instead of spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Some(visit) = doors.enter(room, address.ip()) else {
            tracing::debug!(%address, "connection closed: too many from its address are not through their handshakes");
            continue;
        };
        let newcomer = Newcomer {
            clients: port.clients,
            stream,
            address,
            tls: tls.clone(),
        };
        connections.spawn(newcomer.attend(visit, routes.clone(), stopping.clone()));
    }
}

/// A connection before its handshake.
struct Newcomer {
    clients: Clients,
    stream: Wire,
    address: SocketAddr,
    tls: TlsIdentity,
}

impl Newcomer {
    /// Lets the peer in and serves it until the connection ends.
    async fn attend(self, mut visit: Visit, routes: Routes, mut stopping: watch::Receiver<bool>) {
        let (address, clients) = (self.address, self.clients);
        let admit = async {
            let late = |_| {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its TLS handshake took over 5 s, or its turn did not come",
                )
            };
            let _turn = timeout(CONNECT_TIMEOUT, visit.turn()).await.map_err(late)?;
            timeout(CONNECT_TIMEOUT, self.admit()).await.map_err(late)?
        };
        let admitted = tokio::select! {
            admitted = admit => admitted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let connection = match admitted {
            Ok(connection) => connection,
            Err(error) => return tracing::warn!(%address, %error, "connection refused"),
        };
        if clients == Clients::Certified && !visit.settle() {
            return too_many(address);
        }
        let known = connection.known();
        let stop = async {
            let stop = stopping.wait_for(|stop| *stop);
            match clients {
                Clients::Certified => _ = stop.await,
                Clients::Uncertified { stranger_max } => tokio::select! {
                    () = receive(known, stranger_max, &mut visit, address) => {}
                    _ = stop => {}
                },
            }
        };
        Box::pin(connection.serve(routes, stop)).await;
    }

    async fn admit(self) -> io::Result<Connection> {
        let material = self.tls.material();
        let (tls, stranger_max) = match self.clients {
            Clients::Certified => (&material.server, None),
            Clients::Uncertified { stranger_max } => (&material.open_server, Some(stranger_max)),
        };
        let tls = TlsAcceptor::from(Arc::clone(tls));
        let age_max = self.tls.connection_age_max();
        Connection::accept(self.stream, self.address, &tls, stranger_max, age_max).await
    }
}

/// Has the visit of a stranger count among those who are known once he is. Returns if the connection has to end, since he is not
/// in time, or there are too many.
async fn receive(mut known: watch::Receiver<bool>, stranger_max: Duration, visit: &mut Visit, address: SocketAddr) {
    let proven = timeout(stranger_max, known.wait_for(|known| *known)).await;
    if !proven.is_ok_and(|proven| proven.is_ok()) {
        tracing::debug!(%address, "connection ended: its peer has not proven who he is");
    } else if visit.settle() {
        std::future::pending::<()>().await;
    } else {
        too_many(address);
    }
}

fn too_many(address: SocketAddr) {
    tracing::warn!(%address, "connection ended: there are too many, in all or from its address");
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use rustls::pki_types::ServerName;
    use strongroom_pki::{Authority, PrivateKey, Request as Leaf, Validity};
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpSocket, TcpStream},
    };
    use tokio_rustls::TlsConnector;
    use tonic::{Request, Response, Status, service::interceptor::InterceptedService, transport::Channel};

    use super::*;
    use crate::{
        Failure, Reason,
        block::v1::{
            CheckBlocksRequest, CheckBlocksResponse, GetBlockRequest, GetBlockResponse, PutBlockRequest,
            PutBlockResponse,
            blocks_client::BlocksClient,
            blocks_server::{Blocks, BlocksServer},
        },
        transport::{
            BearerFiles, BearerIdentity, Remote, Repeat, Role, TlsFiles, address, authenticated, connect,
            connect_bearer, retry,
        },
    };

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Answers who has a certificate or says that he has a token with the address that he comes from.
    struct Gate;

    #[tonic::async_trait]
    impl Blocks for Gate {
        async fn put_block(&self, _: Request<PutBlockRequest>) -> Result<Response<PutBlockResponse>, Status> {
            Err(Failure::new(Reason::NoSpace, "full").into())
        }

        async fn get_block(&self, request: Request<GetBlockRequest>) -> Result<Response<GetBlockResponse>, Status> {
            if request.metadata().contains_key("authorization") {
                authenticated(request.extensions());
            } else {
                crate::transport::peer(&request)?;
            }
            let from = address(request.extensions()).map_or_else(String::new, |from| from.to_string());
            Ok(Response::new(GetBlockResponse {
                data: from.into(),
                block_length: 0,
            }))
        }

        async fn check_blocks(&self, _: Request<CheckBlocksRequest>) -> Result<Response<CheckBlocksResponse>, Status> {
            Err(Failure::new(Reason::NotFound, "no block is here").into())
        }
    }

    struct Pki {
        dir: TempDir,
        authority: Authority,
    }

    impl Pki {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let key = PrivateKey::generate().expect("random numbers");
            let authority = Authority::new("test CA", key, today()).expect("signs itself");
            authority
                .write_certificate(&dir.path().join("ca.pem"))
                .expect("written");
            Self { dir, authority }
        }

        fn identity(&self, name: &str, uri: &str) -> TlsIdentity {
            let files = TlsFiles {
                ca: self.dir.path().join("ca.pem"),
                certificate: self.dir.path().join(format!("{name}.pem")),
                key: self.dir.path().join(format!("{name}.key")),
            };
            let request = Leaf {
                common_name: name,
                uri: Some(uri),
                names: &["127.0.0.1"],
                validity: today(),
            };
            let leaf = self.authority.issue(&request).expect("valid names");
            leaf.write(&files.certificate, &files.key).expect("written");
            TlsIdentity::load(&files, SystemTime::now()).expect("usable")
        }

        fn bearer(&self) -> BearerIdentity {
            use std::os::unix::fs::PermissionsExt as _;
            let bearer_token_file = self.dir.path().join("token");
            std::fs::write(&bearer_token_file, "a.b.c").expect("written");
            std::fs::set_permissions(&bearer_token_file, std::fs::Permissions::from_mode(0o600)).expect("own file");
            let files = BearerFiles {
                ca: self.dir.path().join("ca.pem"),
                bearer_token_file,
            };
            BearerIdentity::load(&files).expect("usable")
        }

        async fn serve(&self, port: Port) -> SocketAddr {
            let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let tls = self.identity("block", "spiffe://strongroom/service/block/node-1");
            tokio::spawn(async move {
                let routes = Routes::new(BlocksServer::new(Gate));
                serve_to(port, listener, &tls, routes, std::future::pending()).await;
            });
            address
        }
    }

    fn today() -> Validity {
        Validity::starting(SystemTime::now(), DAY)
    }

    fn remote(address: SocketAddr) -> Remote {
        address.to_string().parse().expect("an address")
    }

    /// The client's address as the server sees it, which tells connections apart.
    async fn call(channel: &Channel) -> Result<Vec<u8>, Failure> {
        let answer = BlocksClient::new(channel.clone())
            .get_block(GetBlockRequest::default())
            .await;
        Ok(answer?.into_inner().data.to_vec())
    }

    /// Waits until the server closes a connection on which nothing is said.
    async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
        let mut unread = Vec::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut unread)).await;
        _ = read.expect("the server hangs up");
    }

    #[tokio::test]
    async fn who_does_not_say_who_he_is_is_put_out_and_who_does_stays() {
        const STRANGER_MAX: Duration = Duration::from_millis(600);
        let pki = Pki::new();
        let strangers = Clients::Uncertified {
            stranger_max: STRANGER_MAX,
        };
        let address = pki.serve(Port::new(strangers)).await;
        let bearer = pki.bearer();
        let channel = connect_bearer(&remote(address), &bearer, Role::Block);
        let friend = async || {
            let mut client = BlocksClient::new(InterceptedService::new(channel.clone(), bearer.authorization()));
            client
                .get_block(GetBlockRequest::default())
                .await
                .map(|answer| answer.into_inner().data)
        };
        let first = friend().await.expect("he has a token");

        // One calls in vain all the time, one opens HTTP/2 and says no more, not even that he lives, one says nothing.
        let began = Instant::now();
        let vain = connect_bearer(&remote(address), &bearer, Role::Block);
        let in_vain = async {
            while began.elapsed() < 2 * STRANGER_MAX {
                let failure = call(&vain).await.expect_err("no token");
                assert!(
                    matches!(failure.reason, Reason::Unauthenticated | Reason::Unavailable),
                    "{failure}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let silent = async |words: &[u8]| {
            let stream = TcpStream::connect(address).await.expect("connected");
            let name = ServerName::try_from("127.0.0.1").expect("an address");
            let connector = TlsConnector::from(bearer.client_config());
            let mut stream = connector.connect(name, stream).await.expect("let in");
            stream.write_all(words).await.expect("sent");
            closed(stream).await;
            let lived = began.elapsed();
            assert!(
                lived >= STRANGER_MAX && lived < STRANGER_MAX * 3,
                "{lived:?} after {} bytes",
                words.len()
            );
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tokio::join!(in_vain, silent(preface), silent(b""));
        assert_eq!(friend().await.expect("as before"), first, "over the same connection");
    }

    #[tokio::test]
    async fn newcomers_take_no_place_of_those_who_are_in() {
        let pki = Pki::new();
        let room = Room {
            newcomers: Bound {
                max: 8,
                per_source_max: 4,
            },
            known: Bound {
                max: 3,
                per_source_max: 2,
            },
        };
        let clients = Clients::Certified;
        let address = pki.serve(Port { clients, room }).await;
        let user = |name: &str| {
            let tls = pki.identity(name, &format!("spiffe://strongroom/user/{name}"));
            connect(&remote(address), &tls, Role::Block)
        };
        let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
        let first = call(&alice).await.expect("let in");

        let mut silent = Vec::new();
        for source in [2, 3] {
            for _ in 0..6 {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.bind(([127, 0, 0, source], 0).into()).expect("loopback");
                silent.push(socket.connect(address).await.expect("the backlog has room"));
            }
        }
        // Of one address more come than it may send.
        let turned_away = silent.remove(5);
        closed(turned_away).await;
        // Two addresses have all places of newcomers now.
        let began = Instant::now();
        assert_eq!(
            call(&alice).await.expect("as before"),
            first,
            "over the same connection"
        );
        let patient = retry(Repeat::Harmless, || {
            let mut bob = BlocksClient::new(bob.clone());
            async move { bob.get_block(GetBlockRequest::default()).await }
        });
        patient.await.expect("when those who say nothing are gone");
        assert!(began.elapsed() < 3 * CONNECT_TIMEOUT, "{:?}", began.elapsed());
        drop(silent);
        let failure = call(&carol).await.expect_err("two of her address are in");
        assert_eq!(failure.reason, Reason::Unavailable, "{failure}");
        assert_eq!(
            call(&alice).await.expect("as before"),
            first,
            "over the same connection"
        );
    }
}
