//! `KeyAdmin`: keys are made, changed, looked at and destroyed.
//!
//! A change is recorded twice, before it is made and when it has ended, and runs to its end even if its caller
//! goes away meanwhile. A key may be named by an alias; records and answers have its own name.

mod instances;
mod list;
mod parse;

use std::sync::Arc;

use strongroom_proto::{
    Failure, KeyName, Reason,
    kms::v1::{
        Alias, ApproveDeleteRequest, CancelDeleteRequest, ConfirmKeyRequest, CreateKeyRequest, DeleteAliasRequest,
        DeleteAliasResponse, DeleteKeyRequest, DescribeKeyRequest, GetImportKeyRequest, GetImportKeyResponse,
        ImportKeyRequest, Key, ListAliasesRequest, ListAliasesResponse, ListInstancesRequest, ListInstancesResponse,
        ListKeysRequest, ListKeysResponse, ListVersionsRequest, ListVersionsResponse, RollKeyRequest, SetAliasRequest,
        UpdateKeyRequest, key_admin_server::KeyAdmin,
    },
    transport::PeerIdentity,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Desk, caller, places::Place, to_its_end};
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    keys::{MovedAlias, pending_ms, target},
    policy::{Action, Context, KeyFacts},
};

pub(super) struct AdminFace<H>(pub(super) Arc<Desk<H>>);

#[async_trait]
impl<H: Hsm> KeyAdmin for AdminFace<H> {
    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let id = parse::request_id(&wire.request_id)?;
        let new = parse::new_key(wire, self.0.keys.config())?;
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            // Who may not create keys is told that, and not what there is to say of the token.
            let chosen = desk.keys.choose_suite(new.suite).await;
            let facts = KeyFacts {
                suite: chosen.as_ref().ok().copied(),
                sealed_required: new.attributes.sealed_required,
                tags: new.attributes.tags.clone(),
                ..KeyFacts::unknown(new.name.clone())
            };
            let entry = desk.start_on(&caller, "create", Action::Manage, &facts).await?;
            let outcome = match chosen {
                Ok(suite) => desk.keys.create(new, suite, id).await,
                Err(failure) => Err(failure),
            };
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn roll_key(&self, request: Request<RollKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let id = parse::request_id(&wire.request_id)?;
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start(&caller, "roll", &name).await?;
            let outcome = desk.keys.roll(&name, id).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn get_import_key(
        &self,
        request: Request<GetImportKeyRequest>,
    ) -> Result<Response<GetImportKeyResponse>, Status> {
        let caller = caller(&request)?;
        let name = request.into_inner().name.parse().map_err(Failure::from)?;
        let facts = KeyFacts::unknown(name);
        let desk = Arc::clone(&self.0);
        let import_key = to_its_end(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start_on(&caller, "import", Action::Manage, &facts).await?;
            let outcome = desk.keys.import_key().await;
            desk.recorded(entry, outcome).await
        })
        .await?;
        Ok(Response::new(GetImportKeyResponse {
            spki: import_key.spki.into(),
            id: import_key.id.into(),
            hash: import_key.hash.as_str().to_owned(),
        }))
    }

    async fn import_key(&self, request: Request<ImportKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let material = parse::material(&wire)?;
        let wire = wire.key.unwrap_or_default();
        let id = parse::request_id(&wire.request_id)?;
        parse::is_named(&wire)?;
        let new = parse::new_key(wire, self.0.keys.config())?;
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let facts = KeyFacts {
                suite: new.suite,
                sealed_required: new.attributes.sealed_required,
                tags: new.attributes.tags.clone(),
                ..KeyFacts::unknown(new.name.clone())
            };
            let entry = desk.start_on(&caller, "import", Action::Manage, &facts).await?;
            let outcome = desk.keys.import(new, material, id).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn confirm_key(&self, request: Request<ConfirmKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let (version, kcv) = parse::confirmed(&name, &wire)?;
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start(&caller, "confirm", &name).await?;
            let outcome = desk.keys.confirm(&name, version, kcv).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn update_key(&self, request: Request<UpdateKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let word = parse::update_word(&wire);
        let change = parse::change(wire, self.0.keys.config())?;
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start(&caller, word, &name).await?;
            let outcome = desk.keys.update(&name, change).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn describe_key(&self, request: Request<DescribeKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        let name = self.key(&request.into_inner().name).await?;
        let entry = self.0.look(&caller, "describe", &name).await?;
        self.0.keys.learn_uses(&name).await;
        let key = self.0.recorded(entry, self.0.keys.describe(&name)).await?;
        Ok(Response::new(key))
    }

    async fn list_keys(&self, request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        let wire = request.into_inner();
        let after = parse::after(wire.after)?;
        let limit = parse::page_limit(wire.limit)?;
        Ok(Response::new(self.0.list(&caller, after.as_ref(), limit).await?))
    }

    async fn list_versions(
        &self,
        request: Request<ListVersionsRequest>,
    ) -> Result<Response<ListVersionsResponse>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let limit = parse::page_limit(wire.limit)?;
        let entry = self.0.look(&caller, "describe", &name).await?;
        let after = wire.after.map(strongroom_proto::KeyVersion);
        self.0.keys.learn_uses(&name).await;
        let page = self.0.keys.versions(&name, after, limit);
        Ok(Response::new(self.0.recorded(entry, page).await?))
    }

    async fn set_alias(&self, request: Request<SetAliasRequest>) -> Result<Response<Alias>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let alias: KeyName = wire.alias.parse().map_err(Failure::from)?;
        self.0.keys.try_lease().await;
        let set = MovedAlias {
            key: wire.key_name.parse().map_err(Failure::from)?,
            before: self.0.keys.alias(&alias).ok(),
            alias,
        };
        let desk = Arc::clone(&self.0);
        let answer = Alias {
            alias: set.alias.to_string(),
            key_name: set.key.to_string(),
        };
        to_its_end(self.0.places.take(&caller.identity)?, async move {
            // Who moves an alias takes it from the key that it named.
            if let Some(before) = set.before.as_ref().filter(|before| **before != set.key) {
                let entry = desk.start(&caller, "move-alias", before).await?;
                desk.recorded(entry, Ok(())).await?;
            }
            if set.before.as_ref() != Some(&set.key) {
                desk.may_name(&caller, &set.alias, &set.key).await?;
            }
            let entry = desk.start(&caller, "set-alias", &set.key).await?;
            let outcome = desk.keys.set_alias(&set, wire.r#move).await;
            desk.told(entry, outcome).await
        })
        .await?;
        Ok(Response::new(answer))
    }

    async fn delete_alias(
        &self,
        request: Request<DeleteAliasRequest>,
    ) -> Result<Response<DeleteAliasResponse>, Status> {
        let caller = caller(&request)?;
        let alias: KeyName = request.into_inner().alias.parse().map_err(Failure::from)?;
        self.0.keys.try_lease().await;
        let key = self.0.keys.alias(&alias)?;
        let desk = Arc::clone(&self.0);
        to_its_end(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start(&caller, "delete-alias", &key).await?;
            let outcome = desk.keys.delete_alias(&alias, &key).await;
            desk.told(entry, outcome).await
        })
        .await?;
        Ok(Response::new(DeleteAliasResponse {}))
    }

    async fn list_aliases(
        &self,
        request: Request<ListAliasesRequest>,
    ) -> Result<Response<ListAliasesResponse>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        let wire = request.into_inner();
        let after = parse::after(wire.after)?;
        let limit = parse::page_limit(wire.limit)?;
        Ok(Response::new(
            self.0.list_aliases(&caller, after.as_ref(), limit).await?,
        ))
    }

    async fn delete_key(&self, request: Request<DeleteKeyRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let pending_ms = pending_ms(wire.after_days)?;
        let target = target(wire.version);
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start(&caller, "delete", &name).await?;
            let who = caller.identity.short();
            let outcome = match desk.check_proofs(&wire.proofs) {
                Ok(proofs) => {
                    let asked = desk.keys.schedule_deletion(&name, target, &who, pending_ms, &proofs);
                    asked.await
                }
                Err(failure) => Err(failure),
            };
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn cancel_delete(&self, request: Request<CancelDeleteRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let target = target(wire.version);
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.start(&caller, "cancel-delete", &name).await?;
            let outcome = desk.keys.cancel_deletion(&name, target).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn approve_delete(&self, request: Request<ApproveDeleteRequest>) -> Result<Response<Key>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner();
        let name = self.key(&wire.name).await?;
        let target = target(wire.version);
        if !matches!(caller.identity, PeerIdentity::User(_)) {
            let message = format!(
                "{} is no user; deletions are approved by people",
                caller.identity.short()
            );
            return Err(Failure::new(Reason::PermissionDenied, message).into());
        }
        let desk = Arc::clone(&self.0);
        answer(self.0.places.take(&caller.identity)?, async move {
            let facts = desk.keys.facts(&name);
            let entry = desk
                .start_on(&caller, "approve-delete", Action::Approve, &facts)
                .await?;
            let who = caller.identity.short();
            let outcome = desk.keys.approve_deletion(&name, target, &who).await;
            desk.changed(entry, outcome).await
        })
        .await
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        Ok(Response::new(self.0.list_instances(&caller).await?))
    }
}

impl<H: Hsm> AdminFace<H> {
    /// The key that a request names, by its name or an alias.
    async fn key(&self, wire: &str) -> Result<KeyName, Failure> {
        self.0.keys.try_lease().await;
        Ok(self.0.keys.resolve(wire.parse()?))
    }
}

impl<H: Hsm> Desk<H> {
    /// Authorizes a change and records that it is about to be made.
    async fn start(&self, caller: &Caller, action: &str, name: &KeyName) -> Result<Entry, Failure> {
        self.start_on(caller, action, Action::Manage, &self.keys.facts(name))
            .await
    }

    /// As [`Self::start`], for a key that need not exist yet, or another right than to manage it.
    async fn start_on(&self, caller: &Caller, action: &str, right: Action, facts: &KeyFacts) -> Result<Entry, Failure> {
        let (entry, context) = (Entry::new(caller, action), Context::of(action));
        let entry = self.authorize(caller, right, facts, &context, entry).await?;
        self.record(vec![entry.clone().started()]).await?;
        Ok(entry)
    }

    /// Lets an alias have its name, which is judged as that of a new key: as a key of that name with what else policies know of
    /// the key that it is to name. Whoever waits for a key of that name, or may use keys by their names, would take it for one.
    async fn may_name(&self, caller: &Caller, alias: &KeyName, key: &KeyName) -> Result<(), Failure> {
        let facts = KeyFacts {
            name: alias.clone(),
            ..self.keys.facts(key)
        };
        let (context, entry) = (Context::of("set-alias"), Entry::new(caller, "set-alias"));
        self.authorize(caller, Action::Manage, &facts, &context, entry)
            .await
            .map(drop)
    }

    /// Authorizes a look at a key.
    async fn look(&self, caller: &Caller, action: &str, name: &KeyName) -> Result<Entry, Failure> {
        let (facts, context) = (self.keys.facts(name), Context::of(action));
        self.authorize(caller, Action::View, &facts, &context, Entry::new(caller, action))
            .await
    }

    /// Records how a change of a key ended, once every instance works with it.
    async fn changed(&self, entry: Entry, outcome: Result<Key, Failure>) -> Result<Key, Failure> {
        let version = outcome.as_ref().ok().and_then(|key| key.current_version);
        let entry = entry.version(version.map(strongroom_proto::KeyVersion));
        self.told(entry, outcome).await
    }

    /// Records how a change ended, once every instance works with it.
    async fn told<T>(&self, entry: Entry, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let outcome = match outcome {
            Ok(made) => self.keys.seen_everywhere().await.map(|()| made),
            Err(failure) => Err(failure),
        };
        self.recorded(entry, outcome).await
    }
}

async fn answer(
    place: Place,
    change: impl Future<Output = Result<Key, Failure>> + Send + 'static,
) -> Result<Response<Key>, Status> {
    Ok(Response::new(to_its_end(place, change).await?))
}
