//! What the tokens hold, one by one and together, and what of the expected they lack.

use std::time::Instant;

use jiff::Timestamp;
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion};

use super::{
    Fleet,
    inventory::{Expected, Inventory, Listed},
    member::{Health, Member, Status},
};
use crate::{
    hsm::Held,
    token::{Kcv, Listing, TokenKeyVersion},
};

impl Fleet {
    /// Takes in what the store expects of a key, and looks again at tokens that differ from it.
    pub(super) fn expect_versions(&self, key: &KeyName, versions: &[(KeyVersion, Kcv)]) {
        // What each token lacks changes together with what is expected.
        let mut expected = self
            .0
            .expected
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let lacked: Vec<_> = self
            .members()
            .iter()
            .map(|member| lacking_of(member, &expected, key))
            .collect();
        expected.set(key, versions);
        if self.members().len() == 1 {
            return;
        }
        for (member, before) in self.members().iter().zip(lacked) {
            let now = lacking_of(member, &expected, key);
            member.change(|status| status.lacking = (status.lacking + now).saturating_sub(before));
        }
        drop(expected);
        let differs = |status: &Status| {
            let held = versions
                .iter()
                .filter_map(|(version, kcv)| Some((status.held.get(key, *version)?, kcv)));
            held.into_iter().any(|(held, kcv)| held.kcv != *kcv)
        };
        if self.members().iter().any(|member| member.read(differs)) {
            self.request_check();
        }
    }

    /// Every version that some token holds as it should. A version of a token that is away for the moment counts: it is
    /// not missing, its token is.
    pub(super) async fn list(&self) -> Result<Vec<TokenKeyVersion>, Failure> {
        if let [single] = self.members() {
            let listed = self.listed(single).await?;
            let versions = listed.found().iter().cloned().collect();
            self.take_in(single, &listed);
            return Ok(in_order(versions));
        }
        if !self.members().iter().any(Member::serves) {
            return Err(self.none_serves());
        }
        let serving: Vec<_> = (0..self.members().len())
            .filter(|&place| self.members()[place].serves())
            .collect();
        futures::future::join_all(serving.into_iter().map(|place| self.compare_one(place))).await;
        let mut union = Inventory::default();
        for member in self.members() {
            member.read(|status| {
                let counts = !matches!(status.health, Health::Out(_));
                for held in status.held.iter().filter(|_| counts) {
                    if !union.has(&held.key, held.version) {
                        union.add(held.clone());
                    }
                }
            });
        }
        Ok(in_order(union.iter().cloned().collect()))
    }

    /// The same of certain places, which every token that serves looks for now. Of one that does not answer, what it held
    /// last counts, and it is named. They may be known to be of one suite.
    pub(super) async fn look_for(
        &self,
        places: &[(KeyName, KeyVersion)],
        suite: Option<EdekSuite>,
    ) -> Result<Held, Failure> {
        let (serving, away): (Vec<_>, Vec<_>) = self.members().iter().partition(|member| member.serves());
        let asked = Instant::now();
        let looks = serving.into_iter().map(|member| async move {
            let looked = match suite {
                Some(suite) => member.token.look_for_of(suite, places).await,
                None => member.token.look_for(places).await,
            };
            (member, looked)
        });
        let mut looked = Err(self.none_serves());
        let mut held = Held {
            unseen: away.into_iter().map(|member| member.label().to_owned()).collect(),
            ..Held::default()
        };
        for (member, outcome) in futures::future::join_all(looks).await {
            match outcome {
                Ok(listing) => {
                    held.unfit.extend(self.take_in_places(member, places, &listing, asked));
                    looked = Ok(());
                }
                Err(failure) => {
                    tracing::warn!(token = member.label(), "versions could not be looked for: {failure}");
                    held.unseen.push(member.label().to_owned());
                    looked = looked.map_err(|_| failure);
                }
            }
        }
        looked?;
        for (key, version) in places {
            let of = |member: &Member| {
                member.read(|status| match status.health {
                    Health::Out(_) => None,
                    _ => status.held.get(key, *version).cloned(),
                })
            };
            held.versions.extend(self.members().iter().find_map(of));
        }
        Ok(held)
    }

    /// Lists one token.
    pub(super) async fn listed(&self, member: &Member) -> Result<Listed, Failure> {
        let (begun, versions) = member.token.list_since().await?;
        Ok(Listed::new(begun, Inventory::of(versions)))
    }

    /// Takes in what a token was found to hold.
    pub(super) fn take_in(&self, member: &Member, listed: &Listed) {
        self.expected(|expected| {
            member.change(|status| {
                status.held.take_in(listed);
                status.lacking = expected.lacking(&status.held);
                status.checked = Some(Timestamp::now());
            });
        });
    }

    /// Takes in what a token held in certain places when it was `asked`, and answers what is unfit there, with the token's label.
    pub(super) fn take_in_places<'a>(
        &self,
        member: &'a Member,
        places: &[(KeyName, KeyVersion)],
        listing: &'a Listing,
        asked: Instant,
    ) -> impl Iterator<Item = (String, crate::token::UnfitVersion)> + 'a {
        let found = Inventory::of(listing.versions.clone());
        self.expected(|expected| {
            member.change(|status| {
                for (key, version) in places {
                    let found = found.get(key, *version).cloned();
                    status.held.learn((key.clone(), *version), found, asked);
                }
                status.lacking = expected.lacking(&status.held);
            });
        });
        let unfit = listing.unfit.iter().cloned();
        unfit.map(|unfit| (member.label().to_owned(), unfit))
    }
}

fn lacking_of(member: &Member, expected: &Expected, key: &KeyName) -> usize {
    member.read(|status| expected.lacking_of(key, &status.held))
}

fn in_order(mut versions: Vec<TokenKeyVersion>) -> Vec<TokenKeyVersion> {
    versions.sort_by(|a, b| (&a.key, a.version).cmp(&(&b.key, b.version)));
    versions
}
