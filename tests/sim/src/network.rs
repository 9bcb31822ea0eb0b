//! turmoil's network beneath the services' TLS.

use std::{io, net::SocketAddr};

use strongroom_proto::transport::{Listen, Network, Wire};
use turmoil::net::{TcpListener, TcpStream};

/// Connects over the simulated network.
pub(crate) struct SimNetwork;

#[tonic::async_trait]
impl Network for SimNetwork {
    async fn connect(&self, host: &str, port: u16) -> io::Result<Wire> {
        Ok(Wire::new(TcpStream::connect((host, port)).await?))
    }
}

/// A port of a simulated host.
pub(crate) struct SimListener(TcpListener);

impl SimListener {
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", port)).await?))
    }
}

impl Listen for SimListener {
    async fn accept(&self) -> io::Result<(Wire, SocketAddr)> {
        let (stream, address) = self.0.accept().await?;
        Ok((Wire::new(stream), address))
    }
}
