//! Who may come in: bounds on connections and on handshakes under way, in all and from each address, so that nobody who is
//! not known yet keeps the others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// TLS handshakes under way at once, in all and from one address; further connections wait.
const HANDSHAKES_MAX: usize = 512;
const HANDSHAKES_PER_SOURCE_MAX: usize = 32;

/// How many connections a listener has at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Of peers who are not known yet, those that wait for their handshake included. They take no place of the others.
    pub(super) newcomers: Bound,
    /// Of peers who are known; further ones are closed.
    pub(super) known: Bound,
}

/// So many, in all and from one address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// In all; further newcomers wait in the kernel's backlog.
    pub(super) max: usize,
    /// From one address; further ones are closed.
    pub(super) per_source_max: usize,
}

/// The bounds of one listener.
pub(super) struct Doors {
    newcomers: Arc<Semaphore>,
    newcomers_per_source_max: usize,
    inside: Arc<Inside>,
}

/// What the connections share.
struct Inside {
    known: Arc<Semaphore>,
    known_per_source_max: usize,
    handshakes: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

/// Connections from one address.
struct Source {
    newcomers: usize,
    known: usize,
    handshakes: Arc<Semaphore>,
}

/// A connection that is counted until this is dropped: as a newcomer's, until it is settled.
pub(super) struct Visit {
    place: OwnedSemaphorePermit,
    is_known: bool,
    network: IpAddr,
    own_handshakes: Arc<Semaphore>,
    inside: Arc<Inside>,
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
        let inside = Inside {
            known: Arc::new(Semaphore::new(room.known.max)),
            known_per_source_max: room.known.per_source_max,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            sources: Mutex::default(),
        };
        Self {
            newcomers: Arc::new(Semaphore::new(room.newcomers.max)),
            newcomers_per_source_max: room.newcomers.per_source_max,
            inside: Arc::new(inside),
        }
    }

    /// Waits for room for one more newcomer.
    pub(super) async fn open(&self) -> OwnedSemaphorePermit {
        let room = Arc::clone(&self.newcomers).acquire_owned().await;
        room.expect("nobody closes the semaphore")
    }

    /// Lets a newcomer in, unless there are too many from his address.
    pub(super) fn enter(&self, place: OwnedSemaphorePermit, address: IpAddr) -> Option<Visit> {
        let network = network(address);
        let mut sources = self.inside.sources();
        let source = sources.entry(network).or_insert_with(|| Source {
            newcomers: 0,
            known: 0,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_PER_SOURCE_MAX)),
        });
        if source.newcomers >= self.newcomers_per_source_max {
            return None;
        }
        source.newcomers += 1;
        Some(Visit {
            place,
            is_known: false,
            network,
            own_handshakes: Arc::clone(&source.handshakes),
            inside: Arc::clone(&self.inside),
        })
    }
}

impl Inside {
    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        // Counts are whole at any time, so that a panic elsewhere leaves nothing half done.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// Waits for its turn to do the handshake, first among those from its address.
    pub(super) async fn turn(&self) -> [OwnedSemaphorePermit; 2] {
        let own = Arc::clone(&self.own_handshakes).acquire_owned().await;
        let all = Arc::clone(&self.inside.handshakes).acquire_owned().await;
        [own, all].map(|turn| turn.expect("nobody closes the semaphores"))
    }

    /// From now on it is known who the peer is. False if there are too many of such connections, in all or from his address.
    pub(super) fn settle(&mut self) -> bool {
        let mut sources = self.inside.sources();
        let source = sources.get_mut(&self.network);
        let Some(source) = source.filter(|source| source.known < self.inside.known_per_source_max) else {
            return false;
        };
        let Ok(place) = Arc::clone(&self.inside.known).try_acquire_owned() else {
            return false;
        };
        source.newcomers -= 1;
        source.known += 1;
        self.place = place;
        self.is_known = true;
        true
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut sources = self.inside.sources();
        if let Some(source) = sources.get_mut(&self.network) {
            let count = if self.is_known {
                &mut source.known
            } else {
                &mut source.newcomers
            };
            *count -= 1;
            if source.newcomers + source.known == 0 {
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
            newcomers: Bound {
                max: 10,
                per_source_max: 3,
            },
            known: Bound {
                max: 5,
                per_source_max: 4,
            },
        });
        let (mallory, alice) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let enter = async |address| doors.enter(doors.open().await, address);
        let mut newcomers = Vec::new();
        for _ in 0..5 {
            newcomers.extend(enter(mallory).await);
        }
        assert_eq!(newcomers.len(), 3);
        assert_eq!(
            doors.newcomers.available_permits(),
            7,
            "who is turned away takes no room"
        );
        // Who is known makes room for a newcomer, up to his address' share, and to that of all.
        let mut known = Vec::new();
        for (address, expected) in [(mallory, 4), (alice, 5)] {
            for _ in 0..6 {
                let visit = match newcomers.pop() {
                    Some(visit) => Some(visit),
                    None => enter(address).await,
                };
                known.extend(visit.and_then(|mut visit| visit.settle().then_some(visit)));
            }
            assert_eq!(known.len(), expected);
        }
        assert_eq!(doors.newcomers.available_permits(), 10);
        drop(known);
        assert!(doors.inside.sources().is_empty());
        assert_eq!(doors.inside.known.available_permits(), 5);
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_its_ipv4_address() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::5"));
        assert_ne!(of("2001:db8:1:2:3::4"), of("2001:db8:1:3:3::4"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
