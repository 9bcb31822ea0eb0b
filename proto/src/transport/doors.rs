//! Who may come in: bounds on connections and on handshakes under way, in all and from each address, so that nobody who is
//! not known yet keeps the others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// TLS handshakes under way at once, in all and from one address; further connections wait.
const HANDSHAKES_MAX: usize = 512;
const HANDSHAKES_PER_SOURCE_MAX: usize = 32;

/// How many connections a listener has at once; further ones wait in the kernel's backlog.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// In all.
    pub(super) connections_max: usize,
    /// From one address, handshakes included; further ones are closed.
    pub(super) per_source_max: usize,
}

/// The bounds of one listener.
pub(super) struct Doors {
    room: Room,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    sources: Arc<Mutex<Sources>>,
}

type Sources = HashMap<IpAddr, Source>;

/// Connections from one address.
struct Source {
    present: usize,
    handshakes: Arc<Semaphore>,
}

/// A connection that is counted until this is dropped.
pub(super) struct Visit {
    _connection: OwnedSemaphorePermit,
    network: IpAddr,
    own_handshakes: Arc<Semaphore>,
    all_handshakes: Arc<Semaphore>,
    sources: Arc<Mutex<Sources>>,
}

/// The address that connections are counted by: an IPv4 address, or the first half of an IPv6 one, since the other half is
/// its holder's to choose.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Doors {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            connections: Arc::new(Semaphore::new(room.connections_max)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            sources: Arc::default(),
        }
    }

    /// Waits for room for one more connection.
    pub(super) async fn open(&self) -> OwnedSemaphorePermit {
        let room = Arc::clone(&self.connections).acquire_owned().await;
        room.expect("nobody closes the semaphore")
    }

    /// Lets a connection in, unless there are too many from its address.
    pub(super) fn enter(&self, connection: OwnedSemaphorePermit, address: IpAddr) -> Option<Visit> {
        let network = network(address);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = sources.entry(network).or_insert_with(|| Source {
            present: 0,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_PER_SOURCE_MAX)),
        });
        if source.present >= self.room.per_source_max {
            return None;
        }
        source.present += 1;
        Some(Visit {
            _connection: connection,
            network,
            own_handshakes: Arc::clone(&source.handshakes),
            all_handshakes: Arc::clone(&self.handshakes),
            sources: Arc::clone(&self.sources),
        })
    }
}

impl Visit {
    /// Waits for its turn to do the handshake, first among those from its address.
    pub(super) async fn turn(&self) -> [OwnedSemaphorePermit; 2] {
        let own = Arc::clone(&self.own_handshakes).acquire_owned().await;
        let all = Arc::clone(&self.all_handshakes).acquire_owned().await;
        [own, all].map(|turn| turn.expect("nobody closes the semaphores"))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get_mut(&self.network) {
            source.present -= 1;
            if source.present == 0 {
                sources.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_its_share_and_leaves_nothing_behind() {
        let doors = Doors::new(Room {
            connections_max: 10,
            per_source_max: 3,
        });
        let (mallory, alice) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut visits = Vec::new();
        for _ in 0..5 {
            visits.extend(doors.enter(doors.open().await, mallory));
        }
        assert_eq!(visits.len(), 3);
        assert_eq!(
            doors.connections.available_permits(),
            7,
            "who is turned away takes no room"
        );
        visits.extend(doors.enter(doors.open().await, alice));
        assert_eq!(visits.len(), 4);
        drop(visits);
        assert!(doors.sources.lock().expect("no panic").is_empty());
        assert_eq!(doors.connections.available_permits(), 10);
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_its_ipv4_address() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::5"));
        assert_ne!(of("2001:db8:1:2:3::4"), of("2001:db8:1:3:3::4"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
