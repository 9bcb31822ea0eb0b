//! The one connection of a worker.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream as StdUnixStream},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::oneshot,
};
use tokio_stream::StreamExt;
use tonic::transport::{Server, server::Connected};

use super::service::Service;
use crate::token::pb::token_worker_server::TokenWorkerServer;

/// Calls in flight on the connection.
const STREAMS_MAX: u32 = 256;
/// How long calls in flight may take at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The socket, and what tells that it is closed.
pub(super) struct Connection {
    stream: UnixStream,
    _open: oneshot::Sender<()>,
}

/// The socket that the worker was given as standard input. The receiver ends when the connection is dropped.
pub(super) fn from_stdin() -> io::Result<(Connection, oneshot::Receiver<()>)> {
    let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.local_addr()?;
    stream.set_nonblocking(true)?;
    let (open, closed) = oneshot::channel();
    let connection = Connection {
        stream: UnixStream::from_std(stream)?,
        _open: open,
    };
    Ok((connection, closed))
}

/// Serves the connection until it closes or `stop` resolves.
pub(super) async fn serve(
    connection: Connection,
    service: TokenWorkerServer<Service>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (draining, mut drained) = oneshot::channel::<()>();
    // The listener must stay open after its one connection, or the server would end at once.
    let incoming = tokio_stream::once(Ok::<_, io::Error>(connection)).chain(tokio_stream::pending());
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(16 << 20))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            stop.await;
            drop(draining);
        });
    tokio::select! {
        outcome = server => outcome,
        () = async { _ = (&mut drained).await; tokio::time::sleep(DRAIN_TIMEOUT).await } => Ok(()),
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
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
}
