//! `KeyAdmin`: keys are made, rolled, confirmed and looked at.
//!
//! A change is recorded twice, before it is made and when it has ended, and runs to its end even if its caller
//! goes away meanwhile.

use std::sync::Arc;

use strongroom_proto::{
    EdekSuite, Failure, KeyName, Reason, RequestId,
    kms::v1::{
        ConfirmKeyRequest, CreateKeyRequest, DescribeKeyRequest, Key, ListKeysRequest, ListKeysResponse,
        RollKeyRequest, key_admin_server::KeyAdmin,
    },
    limits::PAGE_ENTRIES_MAX,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Desk, caller, to_its_end};
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    policy::{Action, Context, KeyFacts},
};

/// Keys in a page if the caller does not say.
const PAGE_DEFAULT: usize = 100;

pub(super) struct AdminFace<H>(pub(super) Arc<Desk<H>>);

#[async_trait]
impl<H: Hsm> KeyAdmin for AdminFace<H> {
    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name: KeyName = wire.name.parse().map_err(Failure::from)?;
        let suite = suite(&wire.suite)?;
        let id = request_id(&wire.request_id)?;
        let desk = Arc::clone(&self.0);
        answer(&self.0, async move {
            let facts = KeyFacts {
                suite: Some(suite),
                ..desk.keys.facts(&name)
            };
            let entry = desk.start_on(&caller, "create", &facts).await?;
            let outcome = desk.keys.create(&name, suite, id).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn roll_key(&self, request: Request<RollKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name: KeyName = wire.name.parse().map_err(Failure::from)?;
        let id = request_id(&wire.request_id)?;
        let desk = Arc::clone(&self.0);
        answer(&self.0, async move {
            let entry = desk.start(&caller, "roll", &name).await?;
            let outcome = desk.keys.roll(&name, id).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn confirm_key(&self, request: Request<ConfirmKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let name: KeyName = request.into_inner().name.parse().map_err(Failure::from)?;
        let desk = Arc::clone(&self.0);
        answer(&self.0, async move {
            let entry = desk.start(&caller, "confirm", &name).await?;
            let outcome = desk.keys.confirm(&name).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn describe_key(&self, request: Request<DescribeKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let name: KeyName = request.into_inner().name.parse().map_err(Failure::from)?;
        let entry = Entry::new(&caller, "describe");
        let facts = self.0.keys.facts(&name);
        let context = Context::of("describe");
        let entry = self.0.authorize(&caller, Action::View, &facts, &context, entry).await?;
        let key = self.0.recorded(entry, self.0.keys.describe(&name)).await?;
        Ok(Response::new(key))
    }

    async fn list_keys(&self, request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let after = Some(wire.after).filter(|after| !after.is_empty());
        let after = after.map(|after| after.parse()).transpose().map_err(Failure::from)?;
        let limit = page_limit(wire.limit)?;
        let page = self.0.page(&caller, after.as_ref(), limit);
        let entry = Entry::new(&caller, "list");
        let page = match page {
            Ok(page) => self.0.recorded(entry.count(page.keys.len()), Ok(page)).await?,
            Err(failure) => {
                self.0.record(vec![entry.denied(&failure)]).await?;
                return Err(failure.into());
            }
        };
        Ok(Response::new(page))
    }
}

impl<H: Hsm> Desk<H> {
    /// Authorizes a change and records that it is about to be made.
    async fn start(&self, caller: &Caller, action: &str, name: &KeyName) -> Result<Entry, Failure> {
        self.start_on(caller, action, &self.keys.facts(name)).await
    }

    /// As [`Self::start`], for a key that need not exist yet.
    async fn start_on(&self, caller: &Caller, action: &str, facts: &KeyFacts) -> Result<Entry, Failure> {
        let (entry, context) = (Entry::new(caller, action), Context::of(action));
        let entry = self.authorize(caller, Action::Manage, facts, &context, entry).await?;
        self.record(vec![entry.clone().started()]).await?;
        Ok(entry)
    }

    /// Records how a change ended, once every instance works with it.
    async fn changed(&self, entry: Entry, outcome: Result<Key, Failure>) -> Result<Key, Failure> {
        let outcome = match outcome {
            Ok(key) => self.keys.seen_everywhere().await.map(|()| key),
            Err(failure) => Err(failure),
        };
        let version = outcome.as_ref().ok().and_then(|key| key.current_version);
        let entry = entry.version(version.map(strongroom_proto::KeyVersion));
        self.recorded(entry, outcome).await
    }

    /// The keys after `after` that the caller may view. Refused if there are keys and none of them may be seen.
    fn page(&self, caller: &Caller, after: Option<&KeyName>, limit: usize) -> Result<ListKeysResponse, Failure> {
        let context = Context::of("list");
        let may_view = |name: &KeyName| self.decide(caller, Action::View, name, &context).0.allowed;
        let mut seen = self.keys.names(after).into_iter().filter(may_view);
        let names: Vec<_> = seen.by_ref().take(limit).collect();
        let more = seen.next().is_some();
        if names.is_empty() {
            let all = self.keys.names(None);
            if !all.is_empty() && !all.iter().any(may_view) {
                return Err(Failure::new(
                    Reason::PermissionDenied,
                    format!(
                        "{} may not view any key (no policy permits it)",
                        caller.identity.short()
                    ),
                ));
            }
        }
        let keys = names.iter().map(|name| self.keys.describe(name));
        Ok(ListKeysResponse {
            keys: keys.collect::<Result<_, _>>()?,
            more,
        })
    }
}

async fn answer<H: Hsm>(
    desk: &Desk<H>,
    change: impl Future<Output = Result<Key, Failure>> + Send + 'static,
) -> Result<Response<Key>, Status> {
    Ok(Response::new(to_its_end(desk, change).await?))
}

fn suite(wire: &str) -> Result<EdekSuite, Failure> {
    if wire.is_empty() {
        Ok(EdekSuite::default())
    } else {
        Ok(wire.parse()?)
    }
}

fn request_id(wire: &[u8]) -> Result<RequestId, Failure> {
    Ok(wire.try_into()?)
}

fn page_limit(wire: u32) -> Result<usize, Failure> {
    match wire as usize {
        0 => Ok(PAGE_DEFAULT),
        limit if limit <= PAGE_ENTRIES_MAX => Ok(limit),
        limit => Err(Failure::new(
            Reason::InvalidArgument,
            format!("a page has 1 to {PAGE_ENTRIES_MAX} keys, not {limit}"),
        )),
    }
}
