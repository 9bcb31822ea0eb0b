//! What people are told of the tokens.

use jiff::Timestamp;
use strongroom_proto::{KeyName, KeyVersion};

use super::{Fleet, Health};

/// Alarms that are kept.
const ALARMS_MAX: usize = 100;

/// A token as `strongroom token list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenReport {
    /// Its label.
    pub label: String,
    /// Whether it is used, and if not, why.
    pub health: Health,
    /// Calls that wait for it or are under way.
    pub calls: usize,
    /// EDEKs in them.
    pub items: usize,
    /// Key versions that it holds.
    pub held: usize,
    /// Versions that the store expects and this token does not hold as expected.
    pub lacking: usize,
    /// When it was compared last.
    pub checked: Option<Timestamp>,
}

/// Something that an operator must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Counts the alarms since the start, from 1.
    pub number: u64,
    /// When it was raised.
    pub time: Timestamp,
    /// The token that it is about.
    pub token: String,
    /// What was found.
    pub what: String,
}

/// What filling up a token came to, as far as one call got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resynced {
    /// Versions that it got.
    pub cloned: Vec<(KeyName, KeyVersion)>,
    /// Versions that it still lacks, and why.
    pub left: Vec<(KeyName, KeyVersion, String)>,
    /// The last version that it came to, if there are more behind it.
    pub next: Option<(KeyName, KeyVersion)>,
}

impl Fleet {
    /// Every token as it is now, in the configuration's order.
    pub(super) fn report(&self) -> Vec<TokenReport> {
        let report = |member: &super::Member| {
            member.read(|status| TokenReport {
                label: member.label().to_owned(),
                health: status.health.clone(),
                calls: member.load.calls(),
                items: member.load.items(),
                held: status.held.len(),
                lacking: status.lacking,
                checked: status.checked,
            })
        };
        self.members().iter().map(report).collect()
    }

    /// Raises an alarm: in the log, and for whoever follows them.
    pub(super) fn raise(&self, token: &str, what: String) {
        tracing::error!(token, "ALARM: {what}");
        self.0.alarms.send_modify(|alarms| {
            let alarm = Alarm {
                number: alarms.last().map_or(0, |last| last.number) + 1,
                time: Timestamp::now(),
                token: token.to_owned(),
                what,
            };
            if alarms.len() >= ALARMS_MAX {
                alarms.remove(0);
            }
            alarms.push(alarm);
        });
    }
}
