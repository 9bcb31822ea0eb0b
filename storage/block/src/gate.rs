//! A bound on the messages that a node has in memory, whoever sends them.
//!
//! A message is taken in as a whole before its call begins, and a connection may have hundreds under way. The gate
//! stands before that: a call gets its place before its first byte is read.

use std::sync::Arc;

use strongroom_proto::{Failure, NodeId, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status, service::Interceptor};

/// Calls at once; with full blocks about 1 GiB.
const PLACES: usize = 256;

/// Lets in as many calls as there are places, and turns the others away.
#[derive(Clone)]
pub(crate) struct Gate {
    node: NodeId,
    places: Arc<Semaphore>,
}

/// A call's place, free again when it is dropped.
#[derive(Clone)]
pub(crate) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Gate {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }
}

impl Interceptor for Gate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!("node {} has {PLACES} calls already; try again later", self.node);
            Failure::new(Reason::Overloaded, message)
        })?;
        let _permit = Arc::new(permit);
        request.extensions_mut().insert(Place { _permit });
        Ok(request)
    }
}

/// Takes the place out of a request, to be held as long as the call has its message.
pub(crate) fn place<T>(request: &mut Request<T>) -> Option<Place> {
    request.extensions_mut().remove()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_place_is_turned_away_until_another_ends() {
        let mut gate = Gate::new("node-1".parse().expect("valid"));
        let mut enter = || gate.call(Request::new(()));
        let mut inside: Vec<_> = (0..PLACES).map(|_| enter().expect("a place")).collect();
        let failure = Failure::from(enter().expect_err("full"));
        assert_eq!(failure.reason, Reason::Overloaded);
        assert!(failure.message.contains("node-1"), "{failure}");
        let held = place(&mut inside[0]).expect("its place");
        inside.remove(0);
        assert!(enter().is_err(), "the call holds its place");
        drop(held);
        enter().expect("a place is free");
    }
}
