//! Answers that are kept for a while. A client whose call was not answered makes it again, with the same id and perhaps
//! to another instance; if the first one was carried out after all, it gets that one's answer.
//!
//! An answer is written in the transaction of its operation, so that neither is there without the other. A failure is not
//! kept: nothing was done, and the repeat may succeed.

use aws_lc_rs::digest::{Context, SHA256};
use prost::Message;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{RequestId, transport::UserName};

use crate::{
    error::MetadataError,
    schema::{access, access::transact, keys, records},
};

/// How long an answer is kept: clients repeat for less than a minute.
const KEPT_MS: u64 = 600_000;
/// Answers forgotten in one transaction.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// A call that may come again.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// With a digest of who asks for what. None if the caller gave no id: then a repeat is another request.
    id: Option<(RequestId, [u8; 32])>,
    now_ms: u64,
}

impl Call {
    /// The call of `what` by `user` with `message`, which has the `id`, 16 bytes or none.
    pub(crate) fn of(
        what: &'static str,
        user: &UserName,
        id: &[u8],
        message: &impl Message,
        now_ms: u64,
    ) -> Result<Self, MetadataError> {
        let id = match id {
            [] => None,
            id => Some((RequestId::try_from(id)?, digest(what, user, message))),
        };
        Ok(Self { id, now_ms })
    }

    /// When it came.
    pub(crate) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// What it was answered, if it was carried out before.
    pub(crate) async fn answer<M: Message + Default>(&self, txn: &mut impl Txn) -> Result<Option<M>, MetadataError> {
        let Some((id, digest)) = self.id else { return Ok(None) };
        let Some(kept) = access::record::<records::Answer>(txn, &keys::answer(id), "answer").await? else {
            return Ok(None);
        };
        if kept.digest.as_ref() != digest {
            return Err(MetadataError::Field {
                field: "request_id",
                rule: "each request needs an id of its own; this one was used for another".to_owned(),
            });
        }
        access::decode(kept.answer, "answer").map(Some)
    }

    /// Keeps the answer with what the transaction does.
    pub(crate) fn keep(&self, txn: &mut impl Txn, answer: &impl Message) {
        let Some((id, _)) = self.id else { return };
        self.keep_instead(txn, answer);
        txn.put(&keys::answer_time(self.now_ms, id), bytes::Bytes::new());
    }

    /// Keeps another answer in the place of one that was kept.
    pub(crate) fn keep_instead(&self, txn: &mut impl Txn, answer: &impl Message) {
        let Some((id, digest)) = self.id else { return };
        let kept = records::Answer {
            digest: digest.to_vec().into(),
            answer: answer.encode_to_vec().into(),
        };
        access::put(txn, &keys::answer(id), &kept);
    }
}

fn digest(what: &'static str, user: &UserName, message: &impl Message) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [what.as_bytes(), user.as_str().as_bytes()] {
        context.update(part);
        context.update(&[0]);
    }
    context.update(&message.encode_to_vec());
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Forgets answers that nobody asks for again.
pub(crate) async fn forget(store: &impl Store, now_ms: u64) -> Result<(), MetadataError> {
    let before_ms = now_ms.saturating_sub(KEPT_MS);
    while transact!(store, [], |txn| forget_some(txn, before_ms)).await? == FORGOTTEN_AT_ONCE {}
    Ok(())
}

async fn forget_some(txn: &mut impl Txn, before_ms: u64) -> Result<usize, MetadataError> {
    let found = access::page(txn, &keys::answers_before(before_ms), FORGOTTEN_AT_ONCE).await?;
    for (key, _) in &found {
        let id = keys::answer_of(key).ok_or(MetadataError::Corrupt { what: "answer" })?;
        txn.delete(&keys::answer(id));
        txn.delete(key);
    }
    Ok(found.len())
}
