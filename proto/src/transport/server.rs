use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;

use super::{
    TlsIdentity,
    connection::Connection,
    doors::{Doors, Room, Visit},
};
use crate::limits::CONNECT_TIMEOUT;

/// Connections of one port. One address may be that of a load balancer, for many.
const ROOM: Room = Room {
    connections_max: 8192,
    per_source_max: 2048,
};
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
pub async fn serve(listener: TcpListener, tls: &TlsIdentity, routes: Routes, stop: impl Future<Output = ()> + Send) {
    serve_to(Clients::Certified, listener, tls, routes, stop).await;
}

/// As [`serve`], over TLS 1.2 or 1.3 that proves the server alone. No request has a [`super::peer`]: `routes` have to
/// find out themselves who sent it.
pub async fn serve_without_certificates(
    listener: TcpListener,
    tls: &TlsIdentity,
    routes: Routes,
    stop: impl Future<Output = ()> + Send,
) {
    serve_to(Clients::Uncertified, listener, tls, routes, stop).await;
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
) {
    let (stopped, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(clients, listener, tls, &routes, &stopping, &mut connections) => {}
        () = tls.keep_fresh() => {}
        () = stop => {}
    }
    stopped.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    _ = timeout(DRAIN_TIMEOUT, drained).await;
}

/// Accepts connections and does their handshakes side by side, so that a slow peer holds up nobody.
async fn accept(
    clients: Clients,
    listener: TcpListener,
    tls: &TlsIdentity,
    routes: &Routes,
    stopping: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let doors = Doors::new(ROOM);
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
            tracing::debug!(%address, "connection closed: there are too many from its address");
            continue;
        };
        let newcomer = Newcomer {
            clients,
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
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsIdentity,
}

impl Newcomer {
    /// Lets the peer in and serves it until the connection ends.
    async fn attend(self, visit: Visit, routes: Routes, mut stopping: watch::Receiver<bool>) {
        let address = self.address;
        let admit = async {
            let _turn = visit.turn().await;
            timeout(CONNECT_TIMEOUT, self.admit()).await
        };
        let admitted = tokio::select! {
            admitted = admit => admitted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match admitted {
            Ok(Ok(connection)) => {
                let stop = async move { _ = stopping.wait_for(|stop| *stop).await };
                Box::pin(connection.serve(routes, stop)).await;
            }
            Ok(Err(error)) => tracing::warn!(%address, %error, "connection refused"),
            Err(_) => tracing::warn!(%address, "connection refused: the TLS handshake took over 5 s"),
        }
    }

    async fn admit(self) -> io::Result<Connection> {
        let material = self.tls.material();
        let tls = TlsAcceptor::from(match self.clients {
            Clients::Certified => Arc::clone(&material.server),
            Clients::Uncertified => Arc::clone(&material.open_server),
        });
        let certified = self.clients == Clients::Certified;
        let age_max = self.tls.connection_age_max();
        Connection::accept(self.stream, self.address, &tls, certified, age_max).await
    }
}
