//! What a token does with EDEKs: calls about many are cut, calls about few go together.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use strongroom_proto::{Edek, Failure, KeyName, KeyVersion, Reason, ZoneId};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    Token, WireDek,
    gather::{Carried, Carrier, Lost, Opened, Passenger},
    handle::{Attempt, lost_worker},
    pb,
    wire::{item_from_wire, key_ref, malformed},
};

/// How long a batch may take in all, repeats and a worker's restart included: callers give a call up after 15 s.
const BATCH_TIMEOUT: Duration = Duration::from_secs(12);
/// Items in one call to the worker: larger batches are cut, so that one caller does not hold up the others for long and
/// a slow token still answers within [`CALL_TIMEOUT`].
const ITEMS_PER_CALL: usize = 200;
/// Calls about fewer EDEKs than this go to the worker together with others.
const ITEMS_ALONE_MIN: usize = 32;
/// EDEKs that go to the worker together: an answer that covers many comes late, and a token that answers seldom looks silent.
const ITEMS_TOGETHER_MAX: usize = 64;

impl Token {
    /// `count` EDEKs of fresh DEKs, handed out only once one that was minted with them has been opened again.
    ///
    /// # Errors
    /// `key-version-unusable`, `overloaded`, `token-unavailable`, `token-refused`, `pin-rejected`.
    pub async fn mint(
        &self,
        key: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<Bytes>, Failure> {
        in_time(count, self.mint_parts(key, version, zone, count)).await
    }

    async fn mint_parts(
        &self,
        key: &KeyName,
        version: KeyVersion,
        zone: &ZoneId,
        count: usize,
    ) -> Result<Vec<Bytes>, Failure> {
        let mut wrapped = Vec::with_capacity(count.min(ITEMS_PER_CALL));
        while wrapped.len() < count {
            let part = (count - wrapped.len()).min(ITEMS_PER_CALL);
            let request = pb::MintRequest {
                key: Some(key_ref(key, version, zone)),
                count: u32::try_from(part).unwrap_or(u32::MAX),
            };
            let response = self
                .call(|mut client| {
                    let request = request.clone();
                    async move { client.mint(request).await }
                })
                .await?;
            check_length(response.wrapped.len(), part)?;
            wrapped.extend(response.wrapped);
        }
        Ok(wrapped)
    }

    /// Re-wraps EDEKs of one key and zone under version `to`, inside the token. Results are in the order of `items`.
    ///
    /// # Errors
    /// As [`Token::mint`] for the whole call; per item `edek-invalid`, `key-version-unusable`.
    pub async fn rewrap(
        &self,
        key: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: Vec<(KeyVersion, Bytes)>,
    ) -> Result<Vec<Result<Bytes, Failure>>, Failure> {
        in_time(items.len(), self.rewrap_parts(key, to, zone, &items)).await
    }

    async fn rewrap_parts(
        &self,
        key: &KeyName,
        to: KeyVersion,
        zone: &ZoneId,
        items: &[(KeyVersion, Bytes)],
    ) -> Result<Vec<Result<Bytes, Failure>>, Failure> {
        let mut results = Vec::with_capacity(items.len());
        for part in items.chunks(ITEMS_PER_CALL) {
            let request = pb::RewrapRequest {
                to: Some(key_ref(key, to, zone)),
                items: part.iter().map(rewrap_item).collect(),
            };
            let response = self
                .call(|mut client| {
                    let request = request.clone();
                    async move { client.rewrap(request).await }
                })
                .await?;
            check_length(response.results.len(), part.len())?;
            results.extend(response.results.into_iter().map(|item| {
                let mut value = item_from_wire(item)?;
                Ok(Bytes::from(std::mem::take(&mut *value)))
            }));
        }
        Ok(results)
    }

    /// The DEKs of EDEKs, in their order.
    ///
    /// # Errors
    /// As [`Token::mint`] for the whole call; per item `edek-invalid`, `key-version-unusable`.
    pub async fn unwrap(&self, items: &[Edek]) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        in_time(items.len(), self.unwrap_parts(items)).await
    }

    async fn unwrap_parts(&self, items: &[Edek]) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        if items.len() < ITEMS_ALONE_MIN {
            return self.unwrap_together(items).await;
        }
        let mut results = Vec::with_capacity(items.len());
        for part in items.chunks(ITEMS_PER_CALL) {
            let request = unwrap_request(part);
            let response = self
                .call(|mut client| {
                    let request = request.clone();
                    async move { client.unwrap(request).await }
                })
                .await?;
            check_length(response.results.len(), part.len())?;
            results.extend(response.results.into_iter().map(opened));
        }
        Ok(results)
    }

    /// As [`Token::unwrap`], in one call to the worker with others that wait. Only the first attempt is shared: what broke
    /// it may be among the others' items.
    async fn unwrap_together(&self, items: &[Edek]) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        drop(self.link(self.seat(None)).await?);
        let (outcome, carrier) = self.gather().join(unwrap_request(items).items);
        if let Some(carrier) = carrier {
            tokio::spawn(self.impatient().carry(carrier));
        }
        let lost = match outcome.await {
            Ok(Carried::Answered(results)) => return Ok(results?.into_iter().map(wire_dek).collect()),
            Ok(Carried::Lost(lost)) if self.is_patient() => lost,
            Ok(Carried::Lost(lost)) => return Err(lost.failure),
            Err(_) => return Err(lost_worker("the call was cut off")),
        };
        let request = unwrap_request(items);
        let repeat = self.again(lost.seat, lost.generation, |mut client| {
            let request = request.clone();
            async move { client.unwrap(request).await }
        });
        let results = repeat.await?.results;
        check_length(results.len(), items.len())?;
        Ok(results.into_iter().map(opened).collect())
    }

    /// Carries calls to the worker until none waits.
    async fn carry(self, mut carrier: Carrier) {
        while let Some(aboard) = carrier.board(ITEMS_TOGETHER_MAX) {
            match self.drive(&aboard).await {
                Ok(outcome) => deliver(aboard, outcome),
                Err(lost) => {
                    for passenger in aboard {
                        passenger.arrive(Carried::Lost(lost.clone()));
                    }
                }
            }
        }
    }

    /// One attempt with all that are aboard.
    async fn drive(&self, aboard: &[Passenger]) -> Result<Result<Opened, Failure>, Lost> {
        let seat = self.seat(None);
        let lost = |generation, failure| Lost {
            seat,
            generation,
            failure,
        };
        let Some(link) = self.link_now(seat) else {
            return Err(lost(0, self.away()));
        };
        let items: Vec<_> = aboard.iter().flat_map(|passenger| passenger.items.clone()).collect();
        let count = items.len();
        let mut client = link.client();
        let attempt = self.attempt(seat, &link, Box::pin(client.unwrap(pb::UnwrapRequest { items })));
        match attempt.await {
            Attempt::Broken(failure) => Err(lost(link.generation(), failure)),
            // One key that fails may have failed the others' calls; the worker is there, so each is made again on its own.
            Attempt::Answered(Err(failure)) if aboard.len() > 1 && failure.reason == Reason::TokenUnavailable => {
                Err(lost(0, failure))
            }
            Attempt::Answered(Err(failure)) => Ok(Err(failure)),
            Attempt::Answered(Ok(response)) => {
                let results: Opened = response.results.into_iter().map(item_from_wire).collect();
                Ok(check_length(results.len(), count).map(|()| results))
            }
        }
    }
}

/// Bounds a batch, however many calls it is cut into.
async fn in_time<T>(items: usize, batch: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(BATCH_TIMEOUT, batch).await.unwrap_or_else(|_| {
        let limit_s = BATCH_TIMEOUT.as_secs();
        let text =
            format!("the token was not done with {items} EDEKs after {limit_s} s; try again, or with fewer at once");
        Err(Failure::new(Reason::TokenUnavailable, text))
    })
}

fn rewrap_item((from, wrapped): &(KeyVersion, Bytes)) -> pb::RewrapItem {
    pb::RewrapItem {
        from_version: from.0,
        wrapped: wrapped.clone(),
    }
}

/// Gives each call aboard its part of the answer.
fn deliver(aboard: Vec<Passenger>, outcome: Result<Opened, Failure>) {
    let mut results = outcome.map(Vec::into_iter);
    for passenger in aboard {
        let own = match &mut results {
            Ok(results) => Ok(results.by_ref().take(passenger.items.len()).collect()),
            Err(failure) => Err(failure.clone()),
        };
        passenger.arrive(Carried::Answered(own));
    }
}

fn opened(item: pb::ItemResult) -> Result<WireDek, Failure> {
    wire_dek(item_from_wire(item))
}

fn wire_dek(value: Result<Zeroizing<Vec<u8>>, Failure>) -> Result<WireDek, Failure> {
    value.map(WireDek::new)
}

fn unwrap_request(edeks: &[Edek]) -> pb::UnwrapRequest {
    pb::UnwrapRequest {
        items: edeks.iter().map(unwrap_item).collect(),
    }
}

fn unwrap_item(edek: &Edek) -> pb::UnwrapItem {
    pb::UnwrapItem {
        key: Some(key_ref(&edek.key, edek.version, &edek.zone)),
        wrapped: edek.wrapped.clone(),
    }
}

fn check_length(found: usize, expected: usize) -> Result<(), Failure> {
    if found == expected {
        Ok(())
    } else {
        Err(malformed("another number of items than asked for"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::limit::CALL_TIMEOUT, *};

    /// Five calls of a batch that each take almost as long as a call may, on a worker that is restarted in between.
    #[tokio::test(start_paused = true)]
    async fn a_batch_is_bounded_as_a_whole() {
        let start = tokio::time::Instant::now();
        let batch = async {
            for _ in 0..5 {
                tokio::time::sleep(CALL_TIMEOUT - Duration::from_secs(1)).await;
            }
            Ok(())
        };
        let failure = in_time(1000, batch).await.expect_err("too slow");
        assert_eq!(failure.reason, Reason::TokenUnavailable);
        assert!(failure.message.contains("1000 EDEKs after 12 s"), "{failure}");
        assert!(start.elapsed() < strongroom_proto::limits::CALL_TIMEOUT / 2);
    }
}
