use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server, transport::server::Connected};

use super::{
    PeerIdentity, TlsIdentity,
    identity::{ConnectionInfo, of_certificate},
    renewal::Current,
};
use crate::limits::{CALL_TIMEOUT, CONNECT_TIMEOUT};

/// TLS handshakes under way at once; further connections wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 64;
/// Requests in flight on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// How long a peer that was turned away may take to close its end.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);
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
    /// The server failed while it ran.
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
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
/// A client without a certificate of the CA, or without one Strongroom identity in it, is turned away in the handshake.
///
/// # Errors
/// [`ServeError::Serve`] if the server fails.
pub async fn serve(
    listener: TcpListener,
    tls: &TlsIdentity,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    serve_to(Clients::Certified, listener, tls, routes, stop).await
}

/// As [`serve`], over TLS 1.2 or 1.3 that proves the server alone. No request has a [`super::peer`]: `routes` have to
/// find out themselves who sent it.
///
/// # Errors
/// As [`serve`].
pub async fn serve_without_certificates(
    listener: TcpListener,
    tls: &TlsIdentity,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    serve_to(Clients::Uncertified, listener, tls, routes, stop).await
}

/// Whether a listener's clients prove themselves in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clients {
    Certified,
    Uncertified,
}

async fn serve_to(
    clients: Clients,
    listener: TcpListener,
    tls: &TlsIdentity,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (connections, incoming) = mpsc::channel(1);
    let acceptor = tokio::spawn(accept(clients, listener, tls.current().clone(), connections));
    let (stopped, mut draining) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(16 << 20))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
            stop.await;
            drop(stopped);
        });
    let outcome = tokio::select! {
        outcome = server => outcome.map_err(ServeError::from),
        () = async { _ = (&mut draining).await; tokio::time::sleep(DRAIN_TIMEOUT).await } => Ok(()),
        () = tls.keep_fresh() => Ok(()),
    };
    acceptor.abort();
    outcome
}

/// Accepts connections and does their handshakes side by side, so that a slow peer holds up nobody.
async fn accept(
    clients: Clients,
    listener: TcpListener,
    tls: Current,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: others may be closing, so wait instead of spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let material = tls.material();
        let tls = TlsAcceptor::from(match clients {
            Clients::Certified => Arc::clone(&material.server),
            Clients::Uncertified => Arc::clone(&material.open_server),
        });
        let connections = connections.clone();
        tokio::spawn(async move {
            match timeout(CONNECT_TIMEOUT, handshake(clients, &tls, stream, address)).await {
                Ok(Ok(connection)) => _ = connections.send(Ok(connection)).await,
                Ok(Err(error)) => tracing::warn!(%address, %error, "connection refused"),
                Err(_) => tracing::warn!(%address, "connection refused: the TLS handshake took over 5 s"),
            }
            drop(permit);
        });
    }
}

async fn handshake(
    clients: Clients,
    tls: &TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = match tls.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            hang_up(stream).await;
            return Err(error);
        }
    };
    let identity = match clients {
        Clients::Certified => Some(certified(&stream)?),
        Clients::Uncertified => None,
    };
    Ok(Connection {
        stream,
        info: ConnectionInfo { identity, address },
    })
}

/// Who the peer's certificate says that it is.
fn certified(stream: &TlsStream<TcpStream>) -> io::Result<PeerIdentity> {
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates
        .and_then(<[_]>::first)
        .ok_or_else(|| io::Error::other("the client sent no certificate"))?;
    of_certificate(certificate).map_err(io::Error::other)
}

/// Closes a connection that was refused, so that the peer reads the alert that says why: closing while bytes of the
/// peer are unread would reset the connection, and the alert would be lost on the way.
async fn hang_up(mut stream: TcpStream) {
    let mut unread = [0; 4096];
    _ = stream.shutdown().await;
    let drain = async { while matches!(stream.read(&mut unread).await, Ok(1..)) {} };
    _ = timeout(HANG_UP_TIMEOUT, drain).await;
}

/// A TLS connection that knows its peer.
struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
