//! The id of one call, which its records, its answer and its log lines share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use strongroom_proto::RequestId;

use super::record::Caller;

/// Characters of an id that a client chose.
const ID_CHARS_MAX: usize = 64;

/// A call's id and whether a record speaks of it yet. Clones are the same call.
#[derive(Debug, Clone)]
pub struct CallTag {
    id: Arc<str>,
    recorded: Arc<AtomicBool>,
    who: Arc<OnceLock<String>>,
}

impl CallTag {
    /// The call that its client calls `id`, if that is 1 to 64 characters of `A-Z a-z 0-9 . _ -`; else one of a drawn id.
    #[must_use]
    pub fn of(id: Option<&str>) -> Self {
        match id.filter(|id| is_id(id)) {
            Some(id) => Self::named(id),
            None => Self::drawn(),
        }
    }

    /// A call of an id that no other has.
    #[must_use]
    pub fn drawn() -> Self {
        Self::named(&RequestId::generate().to_string())
    }

    fn named(id: &str) -> Self {
        Self {
            id: id.into(),
            recorded: Arc::default(),
            who: Arc::default(),
        }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Notes who makes the call, where a certificate does not say it.
    pub(crate) fn is_of(&self, caller: &Caller) {
        self.who.get_or_init(|| caller.who());
    }

    /// Who makes the call, if that was noted.
    pub(crate) fn who(&self) -> Option<&str> {
        self.who.get().map(String::as_str)
    }

    /// Notes that a record of this call is made.
    pub(super) fn mark(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// Whether a record of this call was made.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }
}

fn is_id(text: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_taken_over() {
        assert_eq!(CallTag::of(Some("job-7.a_B")).id(), "job-7.a_B");
        for bad in ["", "a b", "a\n", "ä", &"x".repeat(65)] {
            let drawn = CallTag::of(Some(bad));
            assert_eq!(drawn.id().len(), 32, "{bad:?}");
        }
        assert_ne!(CallTag::of(None).id(), CallTag::of(None).id());
    }
}
