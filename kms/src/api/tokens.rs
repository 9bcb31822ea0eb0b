//! `TokenAdmin`: operators look at the tokens and fill them up.
//!
//! Policies are asked about all tokens together as if they were the key [`ALL_TOKENS`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use strongroom_proto::{
    Failure, KeyName, KeyVersion,
    kms::v1::{
        ListTokensRequest, ListTokensResponse, ResyncTokenRequest, ResyncTokenResponse, Token, TokenAlarm, TokenHealth,
        TokenVersion, token_admin_server::TokenAdmin,
    },
};
use tokio::{sync::watch, time::sleep};
use tonic::{Request, Response, Status, async_trait};

use super::{Desk, caller, to_its_end};
use crate::{
    audit::{Caller, Entry},
    fleet::{Alarm, Health, Resynced, TokenReport},
    hsm::Hsm,
    policy::{Action, Context},
};

/// What policies take the tokens for.
const ALL_TOKENS: &str = "tokens";
/// Versions that an answer names.
const VERSIONS_MAX: usize = 1000;
/// Pause before an alarm that could not be recorded is tried again.
const ALARM_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct TokenFace<H>(pub(super) Arc<Desk<H>>);

#[async_trait]
impl<H: Hsm> TokenAdmin for TokenFace<H> {
    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        let entry = self.0.authorize_tokens(&caller, Action::View, "token-list").await?;
        let answer = ListTokensResponse {
            tokens: self.0.keys.tokens().iter().map(wire_token).collect(),
            alarms: self.0.keys.alarms().borrow().iter().map(wire_alarm).collect(),
        };
        let entry = entry.count(answer.tokens.len());
        Ok(Response::new(self.0.recorded(entry, Ok(answer)).await?))
    }

    async fn resync_token(
        &self,
        request: Request<ResyncTokenRequest>,
    ) -> Result<Response<ResyncTokenResponse>, Status> {
        let caller = caller(&request)?;
        let ResyncTokenRequest { label, after } = request.into_inner();
        let after = after.as_ref().map(place).transpose()?;
        let desk = Arc::clone(&self.0);
        let done = to_its_end(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.authorize_tokens(&caller, Action::Manage, "token-resync").await?;
            let entry = entry.noted(format!("token {label:?}"));
            desk.record(vec![entry.clone().started()]).await?;
            let done = desk.keys.resync(&label, after).await;
            let entry = match &done {
                Ok(done) => entry.count(done.cloned.len()).noted(format!(
                    "token {label:?}: {} versions cloned, {} not to be cloned{}",
                    done.cloned.len(),
                    done.left.len(),
                    if done.next.is_some() { ", more to do" } else { "" }
                )),
                Err(_) => entry,
            };
            desk.recorded(entry, done).await
        })
        .await?;
        Ok(Response::new(wire_resynced(done)))
    }
}

impl<H: Hsm> Desk<H> {
    async fn authorize_tokens(&self, caller: &Caller, right: Action, operation: &str) -> Result<Entry, Failure> {
        let tokens: KeyName = ALL_TOKENS.parse()?;
        let (entry, context) = (Entry::new(caller, operation), Context::of(operation));
        self.authorize(caller, right, &self.keys.facts(&tokens), &context, entry)
            .await
    }

    /// Records the tokens' alarms for as long as there are tokens.
    pub(crate) async fn record_alarms(&self) {
        keep_alarms(self.keys.alarms(), |entries| self.record(entries)).await;
    }
}

/// Has each alarm recorded once. What cannot be recorded is tried again, whether or not another one comes.
async fn keep_alarms<F>(mut alarms: watch::Receiver<Vec<Alarm>>, mut record: impl FnMut(Vec<Entry>) -> F)
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut recorded = 0;
    loop {
        let mut unrecorded = false;
        let new: Vec<_> = alarms
            .borrow_and_update()
            .iter()
            .filter(|alarm| alarm.number > recorded)
            .cloned()
            .collect();
        if let Some(last) = new.last() {
            match record(new.iter().map(alarm_entry).collect()).await {
                Ok(()) => recorded = last.number,
                Err(failure) => {
                    tracing::error!("an alarm is not in the audit log, and is tried again: {failure}");
                    unrecorded = true;
                }
            }
        }
        if unrecorded {
            sleep(ALARM_PAUSE).await;
        } else if alarms.changed().await.is_err() {
            return;
        }
    }
}

fn alarm_entry(alarm: &Alarm) -> Entry {
    let failure = Failure::new(strongroom_proto::Reason::TokenRefused, alarm.what.clone());
    Entry::of_service("service kms", "token-alarm").failed(&failure)
}

fn wire_token(report: &TokenReport) -> Token {
    let health = match report.health {
        Health::Away(_) => TokenHealth::Away,
        Health::Checking => TokenHealth::Checking,
        Health::Serving => TokenHealth::Serving,
        Health::Out(_) => TokenHealth::Out,
    };
    Token {
        label: report.label.clone(),
        health: health.into(),
        why: report.health.why().to_owned(),
        calls: report.calls as u64,
        edeks: report.items as u64,
        held: report.held as u64,
        lacking: report.lacking as u64,
        checked_ms: report.checked.map(unix_ms),
    }
}

fn wire_alarm(alarm: &Alarm) -> TokenAlarm {
    TokenAlarm {
        time_ms: unix_ms(alarm.time),
        token: alarm.token.clone(),
        what: alarm.what.clone(),
    }
}

fn place(version: &TokenVersion) -> Result<(KeyName, KeyVersion), Failure> {
    Ok((version.key.parse()?, KeyVersion(version.version)))
}

fn wire_resynced(done: Resynced) -> ResyncTokenResponse {
    let (cloned_count, left_count) = (done.cloned.len() as u64, done.left.len() as u64);
    let cloned = done
        .cloned
        .into_iter()
        .map(|(key, version)| (key, version, String::new()));
    let wire = |(key, version, why): (KeyName, KeyVersion, String)| TokenVersion {
        key: key.to_string(),
        version: version.0,
        why,
    };
    ResyncTokenResponse {
        cloned: cloned.take(VERSIONS_MAX).map(wire).collect(),
        left: done.left.into_iter().take(VERSIONS_MAX).map(wire).collect(),
        next: done.next.map(|(key, version)| wire((key, version, String::new()))),
        cloned_count,
        left_count,
    }
}

fn unix_ms(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_cannot_be_recorded_is_tried_again_by_itself_and_recorded_once() {
        let alarm = |number| Alarm {
            number,
            time: jiff::Timestamp::UNIX_EPOCH,
            token: "a".to_owned(),
            what: format!("alarm {number}"),
        };
        let (sender, alarms) = watch::channel(vec![alarm(1)]);
        let tries = Rc::new(RefCell::new(Vec::new()));
        let record = |entries: Vec<Entry>| {
            let tries = Rc::clone(&tries);
            async move {
                tries.borrow_mut().push(entries.len());
                match tries.borrow().len() {
                    1..=3 => Err(Failure::new(strongroom_proto::Reason::StoreFailed, "the disk is full")),
                    _ => Ok(()),
                }
            }
        };
        let other = async {
            sleep(Duration::from_secs(60)).await;
            assert_eq!(
                *tries.borrow(),
                [1, 1, 1, 1],
                "until it is in the log, and then no more"
            );
            sender.send_replace(vec![alarm(1), alarm(2)]);
            sleep(Duration::from_secs(60)).await;
            drop(sender);
        };
        tokio::join!(keep_alarms(alarms, record), other);
        assert_eq!(*tries.borrow(), [1, 1, 1, 1, 1]);
    }
}
