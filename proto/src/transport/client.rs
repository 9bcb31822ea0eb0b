use std::{
    fmt, io,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{
    BearerIdentity, Network, Remotes, TlsError, TlsIdentity, Wire,
    identity::{Role, of_certificate},
    network::Tcp,
};
use crate::{
    ParseError,
    limits::{CALL_TIMEOUT, CONNECT_TIMEOUT},
};

/// Where a service is: `host:port`, the host being a name or address in its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remote {
    host: String,
    port: u16,
}

impl Remote {
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for Remote {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("address", s, "host:port, for example kms.example.org:7600");
        let (host, port) = s.rsplit_once(':').ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(bare.to_owned()).map_err(|_| bad())?;
        Ok(Self {
            host: bare.to_owned(),
            port: port.parse().map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Remote {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Remote {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A channel to the `expected` service at `remote`. It connects at the first call and again after a loss; every
/// call has a deadline of [`CALL_TIMEOUT`] unless the caller sets less.
#[must_use]
pub fn connect(remote: &Remote, tls: &TlsIdentity, expected: Role) -> Channel {
    connect_any(&remote.into(), tls, expected)
}

/// As [`connect`], to any of several instances of the service: after a loss to the next one that answers.
#[must_use]
pub fn connect_any(remotes: &Remotes, tls: &TlsIdentity, expected: Role) -> Channel {
    let (current, network) = (tls.current().clone(), Arc::clone(tls.network()));
    let remotes = remotes.clone();
    // All instances are one service to HTTP/2; each connection goes to one of them.
    let endpoint = remotes
        .round_from(0)
        .next()
        .map(endpoint)
        .expect("there is at least one");
    let turn = AtomicUsize::new(0);
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&current.material().client));
        let (remotes, first) = (remotes.clone(), turn.fetch_add(1, Ordering::Relaxed));
        let way = Way {
            network: Arc::clone(&network),
            connector,
        };
        async move { way.dial_any(&remotes, first, expected).await.map(TokioIo::new) }
    }))
}

/// As [`connect`], for a caller with a bearer token, which [`super::Authorization`] puts into the calls.
#[must_use]
pub fn connect_bearer(remote: &Remote, bearer: &BearerIdentity, expected: Role) -> Channel {
    let way = Way {
        network: Arc::new(Tcp),
        connector: TlsConnector::from(bearer.client_config()),
    };
    let to = Arc::new(remote.clone());
    endpoint(remote).connect_with_connector_lazy(service_fn(move |_: Uri| {
        let (way, to) = (way.clone(), Arc::clone(&to));
        async move { way.dial(&to, expected).await.map(TokioIo::new) }
    }))
}

/// A channel to a server that is none of Strongroom's, such as a collector of traces. Its certificate has to name the
/// host and come from the CA that `tls` trusts; deadlines are those of [`connect`].
#[must_use]
pub fn connect_outside(remote: &Remote, tls: &TlsIdentity) -> Channel {
    let (current, network) = (tls.current().clone(), Arc::clone(tls.network()));
    let to = Arc::new(remote.clone());
    endpoint(remote).connect_with_connector_lazy(service_fn(move |_: Uri| {
        let way = Way {
            network: Arc::clone(&network),
            connector: TlsConnector::from(Arc::clone(&current.material().client)),
        };
        let to = Arc::clone(&to);
        async move { way.handshake(&to, "server").await.map(TokioIo::new) }
    }))
}

fn endpoint(remote: &Remote) -> Endpoint {
    // The scheme only satisfies the HTTP/2 layer: the connectors above know nothing but TLS.
    Endpoint::try_from(format!("http://{remote}"))
        .expect("a parsed remote is a valid authority")
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(std::time::Duration::from_secs(20))
        .keep_alive_timeout(std::time::Duration::from_secs(10))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
}

/// How connections are made.
#[derive(Clone)]
struct Way {
    network: Arc<dyn Network>,
    connector: TlsConnector,
}

impl Way {
    async fn handshake(&self, remote: &Remote, what: &str) -> io::Result<TlsStream<Wire>> {
        let connected = self.network.connect(&remote.host, remote.port).await;
        let stream = connected
            .map_err(|error| io::Error::new(error.kind(), format!("cannot reach the {what} at {remote}: {error}")))?;
        let name = ServerName::try_from(remote.host.clone()).map_err(io::Error::other)?;
        self.connector.connect(name, stream).await
    }

    /// Connects to the first that answers, beginning with the one at `first`. Each has its share of the time.
    async fn dial_any(&self, remotes: &Remotes, first: usize, expected: Role) -> io::Result<Greeted> {
        let mut refusal = None;
        for remote in remotes.round_from(first) {
            let share = CONNECT_TIMEOUT / remotes.count();
            match tokio::time::timeout(share, self.dial(remote, expected)).await {
                Ok(Ok(greeted)) => return Ok(greeted),
                Ok(Err(error)) => refusal = Some(error),
                Err(_) => {
                    let silent = format!("the {expected} service at {remote} does not answer");
                    refusal = Some(io::Error::new(io::ErrorKind::TimedOut, silent));
                }
            }
        }
        Err(refusal.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    async fn dial(&self, remote: &Remote, expected: Role) -> io::Result<Greeted> {
        let stream = self.handshake(remote, &format!("{expected} service")).await?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or_else(|| io::Error::other("the server sent no certificate"))?;
        let found = of_certificate(certificate).map_err(|error| io::Error::other(TlsError::from(error)))?;
        if found.role() == Some(expected) {
            Greeted::wait(stream).await
        } else {
            Err(io::Error::other(TlsError::WrongRole {
                expected,
                found: found.short(),
            }))
        }
    }
}

/// A connection on which the server has spoken, with what it said first.
///
/// In TLS 1.3 a client is through its handshake before the server has looked at its certificate. A server that
/// refuses it says so in an alert; HTTP/2 would report that as a closed connection without a cause. A server that
/// accepts it sends its HTTP/2 settings unasked, so the first words are waited for here.
struct Greeted {
    stream: TlsStream<Wire>,
    greeting: Bytes,
}

impl Greeted {
    async fn wait(mut stream: TlsStream<Wire>) -> io::Result<Self> {
        let mut greeting = BytesMut::with_capacity(1024);
        if stream.read_buf(&mut greeting).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self {
            stream,
            greeting: greeting.freeze(),
        })
    }
}

impl AsyncRead for Greeted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.greeting.len().min(buf.remaining());
        buf.put_slice(&self.greeting.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
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
