//! Looking at keys: one, or pages of them, at a cost that follows the page and not the number of keys.

use std::ops::Bound::{Excluded, Unbounded};

use prost::Message as _;
use strongroom_proto::{Failure, KeyName, KeyVersion, kms::v1 as pb};

use super::{Keys, deletion::Zones, facts_of, key::Key, wire::Around};
use crate::{hsm::Hsm, policy::KeyFacts};

/// Keys that one page looks at, shown or not, and the bytes that it shows.
const LOOKS_MAX: usize = 2000;
const PAGE_BYTES_MAX: usize = 2 << 20;
/// Keys that are copied at once, so that policies are asked without the table being held.
const CHUNK: usize = 128;

/// A page of keys.
#[derive(Debug, Default)]
pub(crate) struct KeyPage {
    pub(crate) keys: Vec<pb::Key>,
    /// Where the next page goes on, if there is one.
    pub(crate) next: Option<KeyName>,
    /// Keys that were looked at.
    pub(crate) looked: usize,
}

impl<H: Hsm> Keys<H> {
    /// The key with its newest versions.
    pub(crate) fn describe(&self, name: &KeyName) -> Result<pb::Key, Failure> {
        Ok(self.wire(&self.known(name)?))
    }

    /// At most `limit` keys after `after` that `shown` lets through, in order of their names.
    pub(crate) fn page(&self, after: Option<&KeyName>, limit: usize, shown: impl Fn(&KeyFacts) -> bool) -> KeyPage {
        let mut page = KeyPage::default();
        let mut bytes = 0;
        let mut last = after.cloned();
        loop {
            let chunk = self.keys_after(last.as_ref(), CHUNK);
            let ended = chunk.len() < CHUNK;
            for key in chunk {
                if page.keys.len() == limit || page.looked == LOOKS_MAX || bytes >= PAGE_BYTES_MAX {
                    page.next = last;
                    return page;
                }
                page.looked += 1;
                if shown(&facts_of(&key)) {
                    let wire = key.summary_to_wire(&self.around_summary(&key));
                    bytes += wire.encoded_len();
                    page.keys.push(wire);
                }
                last = Some(key.name);
            }
            if ended {
                return page;
            }
        }
    }

    /// At most `limit` versions after `after`, oldest first, and whether there are more.
    pub(crate) fn versions(
        &self,
        name: &KeyName,
        after: Option<KeyVersion>,
        limit: usize,
    ) -> Result<pb::ListVersionsResponse, Failure> {
        let key = self.known(name)?;
        let around = self.around(&key);
        let start = after.map_or(Unbounded, Excluded);
        let mut numbers = key.versions.range((start, Unbounded)).map(|(&number, _)| number);
        let shown = numbers.by_ref().take(limit);
        Ok(pb::ListVersionsResponse {
            versions: shown
                .filter_map(|number| key.version_to_wire(number, &around))
                .collect(),
            more: numbers.next().is_some(),
        })
    }

    /// At most `limit` aliases after `after` whose keys `shown` lets through, and where to go on.
    pub(crate) fn aliases(
        &self,
        after: Option<&KeyName>,
        limit: usize,
        shown: impl Fn(&KeyFacts) -> bool,
    ) -> pb::ListAliasesResponse {
        let start = after.map_or(Unbounded, Excluded);
        let aliases = self.registry.aliases.read();
        let mut page = pb::ListAliasesResponse::default();
        for (looked, (alias, key)) in aliases.range::<KeyName, _>((start, Unbounded)).enumerate() {
            if page.aliases.len() == limit || looked == LOOKS_MAX {
                page.more = true;
                break;
            }
            page.next = alias.to_string();
            if shown(&self.facts(key)) {
                page.aliases.push(pb::Alias {
                    alias: alias.to_string(),
                    key_name: key.to_string(),
                });
            }
        }
        page
    }

    /// The key as clients see it.
    pub(super) fn wire(&self, key: &Key) -> pb::Key {
        key.to_wire(&self.around(key))
    }

    fn around(&self, key: &Key) -> Around {
        Around {
            aliases: self.registry.aliases_of(&key.name),
            uses: self.registry.uses_of(&key.name),
            zones: self.registry.zones_of(&key.name),
            quorum: self.config.quorum(),
        }
    }

    fn around_summary(&self, key: &Key) -> Around {
        let deleting = !key.deletions.is_empty();
        Around {
            zones: if deleting {
                self.registry.zones_of(&key.name)
            } else {
                Zones::new()
            },
            quorum: self.config.quorum(),
            ..Around::default()
        }
    }

    fn keys_after(&self, after: Option<&KeyName>, limit: usize) -> Vec<Key> {
        let start = after.map_or(Unbounded, Excluded);
        let table = self.table();
        let keys = table
            .range::<KeyName, _>((start, Unbounded))
            .map(|(_, key)| key.clone());
        keys.take(limit).collect()
    }
}
