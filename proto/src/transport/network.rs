//! The network beneath TLS, as an argument, so that the same transport runs over a simulated one in tests. What stands
//! here carries the bytes of TLS connections and no others: there is none without TLS above it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// Makes connections to services.
#[tonic::async_trait]
pub trait Network: Send + Sync + 'static {
    /// Connects to a port of a host, which is a name or an address.
    ///
    /// # Errors
    /// What keeps it, `ConnectionRefused` if nobody listens.
    async fn connect(&self, host: &str, port: u16) -> io::Result<Wire>;
}

/// Takes connections of clients.
pub trait Listen: Send + Sync {
    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// What keeps it for the moment.
    fn accept(&self) -> impl Future<Output = io::Result<(Wire, SocketAddr)>> + Send;
}

/// The system's TCP.
pub(super) struct Tcp;

#[tonic::async_trait]
impl Network for Tcp {
    async fn connect(&self, host: &str, port: u16) -> io::Result<Wire> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Wire::new(stream))
    }
}

impl Listen for TcpListener {
    async fn accept(&self) -> io::Result<(Wire, SocketAddr)> {
        let (stream, address) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Wire::new(stream), address))
    }
}

/// A connection on which nothing was said yet.
pub struct Wire(Box<dyn Duplex>);

impl Wire {
    /// A connection of some network.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(stream))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
