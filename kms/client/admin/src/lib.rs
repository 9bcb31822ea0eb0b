//! Client of the key service for key administrators. None of its calls can read data or a DEK.

mod audit;
mod import;
mod instances;
mod key;
mod tokens;

use std::collections::BTreeMap;

use bytes::Bytes;
use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, RequestId,
    kms::v1::{self as pb, key_admin_client::KeyAdminClient as Grpc},
    limits::MESSAGE_BYTES_MAX,
    transport::{BearerIdentity, CallerChannel, Remote, Remotes, Repeat, Role, TlsIdentity, identified, retry},
};
use tonic::{Response, Status};

pub use audit::{Answered, AuditClient, AuditKey};
pub use import::KeyMaterial;
pub use instances::{Instance, Instances};
pub use key::{Alias, AliasPage, Deletion, Key, KeyChange, KeyPage, KeyVersionInfo, NewKey, VersionState};
pub use tokens::{ResyncedToken, TokenAdminClient, TokenAlarm, TokenInfo, Tokens};

/// A connection to the key service's `KeyAdmin`. Clones share it. Failures that pass by themselves are retried for
/// at most 20 s, which changes nothing twice. A key may be named by an alias; answers have its own name.
#[derive(Debug, Clone)]
pub struct KeyAdminClient {
    grpc: Grpc<CallerChannel>,
}

impl KeyAdminClient {
    /// A client that connects at its first call, in the runtime that it is made in.
    #[must_use]
    pub fn connect(remotes: &Remotes, tls: &TlsIdentity) -> Self {
        Self::over(CallerChannel::certified(remotes, tls, Role::Kms))
    }

    /// As [`Self::connect`], with a bearer token, to the key service's port for them.
    #[must_use]
    pub fn connect_bearer(remote: &Remote, bearer: &BearerIdentity) -> Self {
        Self::over(CallerChannel::bearer(remote, bearer, Role::Kms))
    }

    fn over(channel: CallerChannel) -> Self {
        let grpc = Grpc::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { grpc }
    }

    /// Makes a key with version 0 in the token. A repeat with the same id is answered as the first call was.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn create(&self, name: &KeyName, new: &NewKey, id: RequestId) -> Result<Key, Failure> {
        self.key(new.to_wire(name, id), |mut grpc, request| async move {
            grpc.create_key(identified(request)).await
        })
        .await
    }

    /// The key as it is.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn describe(&self, name: &KeyName) -> Result<Key, Failure> {
        let name = name.to_string();
        let request = pb::DescribeKeyRequest { name };
        self.key(request, |mut grpc, request| async move {
            grpc.describe_key(identified(request)).await
        })
        .await
    }

    /// At most `limit` keys (1 to 1000; 0 means 100) after `after`, of those that the caller may view. A page may be
    /// short, or empty, and have a next one.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn list(&self, after: Option<&KeyName>, limit: u32) -> Result<KeyPage, Failure> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        let request = pb::ListKeysRequest { after, limit };
        let page = self
            .call(request, |mut grpc, request| async move {
                grpc.list_keys(identified(request)).await
            })
            .await?;
        Ok(KeyPage {
            keys: page.keys.iter().map(Key::try_from).collect::<Result<_, _>>()?,
            next: next(page.more, &page.next)?,
        })
    }

    /// At most `limit` versions of a key (1 to 1000; 0 means 100) after `after`, and whether there are more.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn list_versions(
        &self,
        name: &KeyName,
        after: Option<KeyVersion>,
        limit: u32,
    ) -> Result<(Vec<KeyVersionInfo>, bool), Failure> {
        let request = pb::ListVersionsRequest {
            name: name.to_string(),
            after: after.map(|version| version.0),
            limit,
        };
        let page = self
            .call(request, |mut grpc, request| async move {
                grpc.list_versions(identified(request)).await
            })
            .await?;
        let versions = page.versions.iter().map(KeyVersionInfo::try_from);
        Ok((versions.collect::<Result<_, _>>()?, page.more))
    }

    /// Makes a new version, which mints from then on. A repeat with the same id is answered as the first call was.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn roll(&self, name: &KeyName, id: RequestId) -> Result<Key, Failure> {
        let request = pb::RollKeyRequest {
            name: name.to_string(),
            request_id: id.into(),
        };
        self.key(request, |mut grpc, request| async move {
            grpc.roll_key(identified(request)).await
        })
        .await
    }

    /// Lets a key that was rebuilt from the token mint again, under the version that the caller looked at and names with
    /// its check value.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn confirm(&self, name: &KeyName, version: KeyVersion, kcv: [u8; 3]) -> Result<Key, Failure> {
        let request = pb::ConfirmKeyRequest {
            name: name.to_string(),
            version: Some(version.0),
            kcv: Bytes::copy_from_slice(&kcv),
        };
        self.key(request, |mut grpc, request| async move {
            grpc.confirm_key(identified(request)).await
        })
        .await
    }

    /// Changes what `change` names.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn update(&self, name: &KeyName, change: &KeyChange) -> Result<Key, Failure> {
        let request = pb::UpdateKeyRequest {
            name: name.to_string(),
            disabled: change.disabled,
            description: change.description.clone(),
            set_tags: tags(&change.set_tags),
            remove_tags: change.remove_tags.clone(),
            sealed_required: change.sealed_required,
            outside_zones: change.outside_zones,
            rotation_period_ms: change.rotation_period_ms,
        };
        self.key(request, |mut grpc, request| async move {
            grpc.update_key(identified(request)).await
        })
        .await
    }

    /// Makes an alias, or lets one that exists name another key if `moving` says so.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn set_alias(&self, set: &Alias, moving: bool) -> Result<Alias, Failure> {
        let request = pb::SetAliasRequest {
            alias: set.alias.to_string(),
            key_name: set.key.to_string(),
            r#move: moving,
        };
        let alias = self
            .call(request, |mut grpc, request| async move {
                grpc.set_alias(identified(request)).await
            })
            .await?;
        Alias::try_from(&alias)
    }

    /// Removes an alias.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn delete_alias(&self, alias: &KeyName) -> Result<(), Failure> {
        let alias = alias.to_string();
        let request = pb::DeleteAliasRequest { alias };
        self.call(request, |mut grpc, request| async move {
            grpc.delete_alias(identified(request)).await
        })
        .await
        .map(drop)
    }

    /// At most `limit` aliases (1 to 1000; 0 means 100) after `after`, of keys that the caller may view.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn list_aliases(&self, after: Option<&KeyName>, limit: u32) -> Result<AliasPage, Failure> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        let request = pb::ListAliasesRequest { after, limit };
        let page = self
            .call(request, |mut grpc, request| async move {
                grpc.list_aliases(identified(request)).await
            })
            .await?;
        Ok(AliasPage {
            aliases: page.aliases.iter().map(Alias::try_from).collect::<Result<_, _>>()?,
            next: next(page.more, &page.next)?,
        })
    }

    /// Retires a key, or one of its versions that does not mint, hands in zone proofs, and starts the deletion if
    /// nothing but approvals is missing. It is then pending for `after_days` (7 to 30).
    ///
    /// # Errors
    /// `deletion-blocked` while proofs are missing; what the key service says, or why it cannot be reached.
    pub async fn delete(
        &self,
        name: &KeyName,
        version: Option<KeyVersion>,
        after_days: u32,
        proofs: Vec<Bytes>,
    ) -> Result<Key, Failure> {
        let request = pb::DeleteKeyRequest {
            name: name.to_string(),
            version: version.map(|version| version.0),
            after_days,
            proofs,
        };
        self.key(request, |mut grpc, request| async move {
            grpc.delete_key(identified(request)).await
        })
        .await
    }

    /// Takes a deletion back.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn cancel_delete(&self, name: &KeyName, version: Option<KeyVersion>) -> Result<Key, Failure> {
        let request = pb::CancelDeleteRequest {
            name: name.to_string(),
            version: version.map(|version| version.0),
        };
        self.key(request, |mut grpc, request| async move {
            grpc.cancel_delete(identified(request)).await
        })
        .await
    }

    /// Agrees to a deletion that another user asked for.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn approve_delete(&self, name: &KeyName, version: Option<KeyVersion>) -> Result<Key, Failure> {
        let request = pb::ApproveDeleteRequest {
            name: name.to_string(),
            version: version.map(|version| version.0),
        };
        self.key(request, |mut grpc, request| async move {
            grpc.approve_delete(request).await
        })
        .await
    }

    /// Makes a call that is answered with a key.
    async fn key<Q, F>(&self, request: Q, call: impl Fn(Grpc<CallerChannel>, Q) -> F) -> Result<Key, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<pb::Key>, Status>>,
    {
        Key::try_from(&self.call(request, call).await?)
    }

    async fn call<Q, A, F>(&self, request: Q, call: impl Fn(Grpc<CallerChannel>, Q) -> F) -> Result<A, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        retry(Repeat::Harmless, || call(self.grpc.clone(), request.clone())).await
    }
}

impl NewKey {
    fn to_wire(&self, name: &KeyName, id: RequestId) -> pb::CreateKeyRequest {
        pb::CreateKeyRequest {
            name: name.to_string(),
            suite: self.suite.map(EdekSuite::as_str).unwrap_or_default().to_owned(),
            request_id: id.into(),
            key_bits: self.key_bits.unwrap_or_default(),
            description: self.description.clone(),
            tags: tags(&self.tags),
            sealed_required: self.sealed_required,
            outside_zones: self.outside_zones,
            rotation_period_ms: self.rotation_period_ms.unwrap_or_default(),
        }
    }
}

fn tags(tags: &BTreeMap<String, String>) -> Vec<pb::Tag> {
    let tag = |(name, value): (&String, &String)| pb::Tag {
        name: name.clone(),
        value: value.clone(),
    };
    tags.iter().map(tag).collect()
}

fn next(more: bool, next: &str) -> Result<Option<KeyName>, Failure> {
    Ok(more.then(|| next.parse()).transpose()?)
}
