//! One connection: its handshake, whom it is with, and when it has to end.
//!
//! A connection ends when a certificate of its peer expires, and at a greatest age, so that whoever is still there proves himself
//! anew to the CA that is trusted by then. It ends in good order: HTTP/2's GOAWAY, after which calls under way finish and new
//! ones find another connection. What is still open a while later is cut.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::{oneshot, watch},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::StreamExt as _;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

use super::{
    Wire,
    identity::{ConnectionInfo, of_certificate},
};
use crate::limits::CALL_TIMEOUT;

/// Requests in flight on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// How long a peer that was turned away may take to close its end.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer than a call may take a connection stays open after its end. A stream without an end is cut then.
const CUT_AFTER: Duration = Duration::from_secs(35);
const _: () = assert!(CUT_AFTER.as_secs() > CALL_TIMEOUT.as_secs(), "calls under way finish");

/// A TLS connection that knows its peer.
pub(super) struct Connection {
    stream: TlsStream<Wire>,
    info: ConnectionInfo,
    /// From when on it takes no more calls.
    end: Instant,
    cut: Pin<Box<Sleep>>,
    /// When it is cut if its peer is not known by then.
    stranger_cut: Option<Pin<Box<Sleep>>>,
    known: watch::Receiver<bool>,
    _open: oneshot::Sender<()>,
    closed: Option<oneshot::Receiver<()>>,
}

impl Connection {
    /// Does the handshake with a peer who has to have a certificate, unless he has `stranger_max` to prove who he is. The connection will
    /// end when it is `age_max` old, or before, when a certificate expires.
    ///
    /// # Errors
    /// If the peer is turned away; he was told why.
    pub(super) async fn accept(
        stream: Wire,
        address: SocketAddr,
        tls: &TlsAcceptor,
        stranger_max: Option<Duration>,
        age_max: Duration,
    ) -> io::Result<Self> {
        let stream = match tls.accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                hang_up(stream).await;
                return Err(error);
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = match chain.first() {
            Some(certificate) => Some(of_certificate(certificate).map_err(io::Error::other)?),
            None if stranger_max.is_none() => return Err(io::Error::other("the client sent no certificate")),
            None => None,
        };
        let life = lifetime(chain.iter().map(AsRef::as_ref), SystemTime::now()).min(spread(age_max, address));
        let end = Instant::now() + life;
        let (open, closed) = oneshot::channel();
        let (sender, known) = watch::channel(identity.is_some());
        // None of a stranger's calls is under way for long.
        let stranger_cut = stranger_max.map(|time| Box::pin(sleep(time + time / 3)));
        Ok(Self {
            stream,
            info: ConnectionInfo {
                identity,
                address,
                known: sender,
            },
            end,
            cut: Box::pin(sleep_until(end + CUT_AFTER)),
            stranger_cut,
            known,
            _open: open,
            closed: Some(closed),
        })
    }

    /// Whether it is known who the peer is, and when that becomes so.
    pub(super) fn known(&self) -> watch::Receiver<bool> {
        self.known.clone()
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(cut) = &mut self.stranger_cut
            && cut.as_mut().poll(cx).is_ready()
        {
            if !*self.known.borrow() {
                return true;
            }
            self.stranger_cut = None;
        }
        self.cut.as_mut().poll(cx).is_ready()
    }

    /// Serves `routes` to the peer until it leaves, or until the connection has to end or `stop` resolves; then calls under way finish.
    pub(super) async fn serve(mut self, routes: Routes, stop: impl Future<Output = ()>) {
        let (address, end, closed) = (self.info.address, self.end, self.closed.take());
        // What a peer may send unread. A stranger's calls are small.
        let (stream_bytes, connection_bytes) = match self.info.identity {
            Some(_) => (4 << 20, 16 << 20),
            None => (256 << 10, 1 << 20),
        };
        let over = async move {
            tokio::select! {
                () = stop => {}
                () = sleep_until(end) => tracing::debug!(%address, "the connection is old or its certificate expired: it ends"),
                () = async { if let Some(closed) = closed { _ = closed.await } } => {}
            }
        };
        // Behind its one connection the listener stays open, or the server would end at once.
        let incoming = tokio_stream::once(Ok::<_, io::Error>(self)).chain(tokio_stream::pending());
        let served = Server::builder()
            .timeout(CALL_TIMEOUT)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .initial_stream_window_size(Some(stream_bytes))
            .initial_connection_window_size(Some(connection_bytes))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, over)
            .await;
        if let Err(error) = served {
            tracing::warn!(%address, %error, "a connection failed");
        }
    }
}

/// How long all certificates of a chain are still within their dates. Those that cannot be read were refused in the handshake.
fn lifetime<'c>(chain: impl Iterator<Item = &'c [u8]>, now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let expiry = chain.filter_map(|der| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        // The second that it names is the last of its life.
        u64::try_from(certificate.validity().not_after.timestamp() + 1).ok()
    });
    let left = |expiry| Duration::from_secs(expiry).saturating_sub(now);
    expiry.min().map_or(Duration::MAX, left)
}

/// Up to a tenth less, so that connections that began together do not end together.
fn spread(age_max: Duration, peer: SocketAddr) -> Duration {
    age_max - age_max * u32::from(peer.port() % 100) / 1000
}

/// Closes a connection that was refused, so that the peer reads the alert that says why: closing while bytes of the
/// peer are unread would reset the connection, and the alert would be lost on the way.
async fn hang_up(mut stream: Wire) {
    let mut unread = [0; 4096];
    _ = stream.shutdown().await;
    let drain = async { while matches!(stream.read(&mut unread).await, Ok(1..)) {} };
    _ = timeout(HANG_UP_TIMEOUT, drain).await;
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_age_end_at_different_times_and_none_later() {
        let age_max = Duration::from_secs(3600);
        let ages: Vec<_> = (0..100)
            .map(|port| spread(age_max, ([127, 0, 0, 1], port).into()))
            .collect();
        assert!(
            ages.iter()
                .all(|age| (Duration::from_secs(3240)..=age_max).contains(age))
        );
        assert!(ages.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(lifetime(std::iter::empty(), SystemTime::now()), Duration::MAX);
    }
}
