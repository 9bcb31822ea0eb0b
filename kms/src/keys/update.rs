//! What administrators change of a key besides its versions: enabled, attributes, rotation; and aliases.

use std::collections::BTreeMap;

use strongroom_proto::{Failure, KeyName, Reason, kms::v1 as pb};

use super::{Keys, attributes, key::Key, rotation::Rotation};
use crate::hsm::Hsm;

/// What is to change; what is absent stays.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) disabled: Option<bool>,
    pub(crate) description: Option<String>,
    pub(crate) set_tags: BTreeMap<String, String>,
    pub(crate) remove_tags: Vec<String>,
    pub(crate) sealed_required: Option<bool>,
    pub(crate) outside_zones: Option<bool>,
    /// From one roll to the next; `Some(None)` stops the rotation.
    pub(crate) rotation_period_ms: Option<Option<u64>>,
}

/// Which keys a change of an alias is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MovedAlias {
    pub(crate) alias: KeyName,
    pub(crate) key: KeyName,
    /// What the alias named when its caller was found to have a right to take it from there.
    pub(crate) before: Option<KeyName>,
}

impl<H: Hsm> Keys<H> {
    /// Changes what `change` names.
    pub(crate) async fn update(&self, name: &KeyName, change: Change) -> Result<pb::Key, Failure> {
        let _intents = self.changing_store().await?;
        let now_ms = self.clock.now_ms();
        self.change(name, |key| {
            let before = key.clone();
            apply(key, change, now_ms)?;
            Ok(*key != before)
        })
        .await
    }

    /// The key that an alias names.
    pub(crate) fn alias(&self, alias: &KeyName) -> Result<KeyName, Failure> {
        let target = self.registry.aliases.read().get(alias).cloned();
        target.ok_or_else(|| {
            Failure::new(
                Reason::KeyNotFound,
                format!("there is no alias {alias}; list aliases with: strongroom key alias list"),
            )
        })
    }

    /// Makes an alias, or lets one that exists name another key if `moving` says so.
    pub(crate) async fn set_alias(&self, set: &MovedAlias, moving: bool) -> Result<(), Failure> {
        let _intents = self.changing_store().await?;
        let MovedAlias { alias, key, .. } = set;
        let target = self.known(key)?;
        if target.is_destroyed() {
            return Err(Failure::new(
                Reason::KeyVersionUnusable,
                format!("key {key} was destroyed; let the alias name another key"),
            ));
        }
        let before = self.alias(alias).ok();
        if before != set.before {
            return Err(moved_meanwhile(alias));
        }
        match &before {
            Some(before) if before == key => return Ok(()),
            Some(_) if moving => {}
            _ => self.name_is_free(alias)?,
        }
        self.ledger.save_alias(alias, before.as_ref(), Some(&target)).await?;
        self.registry.aliases.write().insert(alias.clone(), key.clone());
        Ok(())
    }

    /// Removes an alias of the key `before`.
    pub(crate) async fn delete_alias(&self, alias: &KeyName, before: &KeyName) -> Result<(), Failure> {
        let _intents = self.changing_store().await?;
        if self.alias(alias)? != *before {
            return Err(moved_meanwhile(alias));
        }
        self.ledger.save_alias(alias, Some(before), None).await?;
        self.registry.aliases.write().remove(alias);
        Ok(())
    }
}

/// A right to one key is none to another that the alias names by now.
fn moved_meanwhile(alias: &KeyName) -> Failure {
    Failure::new(
        Reason::Unavailable,
        format!("alias {alias} was changed meanwhile; look at it and try again"),
    )
}

fn apply(key: &mut Key, change: Change, now_ms: u64) -> Result<(), Failure> {
    if key.is_destroyed() {
        key.rolling()?;
    }
    if change.outside_zones == Some(true) && !key.attributes.outside_zones {
        return Err(Failure::new(
            Reason::InvalidArgument,
            format!(
                "that key {} is used outside zones can only be said when it is created: from then on its deletion asks for \
                 approvals, not for the proofs of zones",
                key.name
            ),
        ));
    }
    let kept = key.attributes.tags.clone().into_iter();
    let kept = kept.filter(|(name, _)| !change.remove_tags.contains(name) && !change.set_tags.contains_key(name));
    key.attributes.tags = attributes::tags(kept.chain(change.set_tags.clone()))?;
    if let Some(text) = change.description {
        key.attributes.description = attributes::description(text)?;
    }
    key.disabled = change.disabled.unwrap_or(key.disabled);
    key.attributes.sealed_required = change.sealed_required.unwrap_or(key.attributes.sealed_required);
    key.attributes.outside_zones = change.outside_zones.unwrap_or(key.attributes.outside_zones);
    if let Some(period_ms) = change.rotation_period_ms {
        key.rotation = period_ms.map(|period_ms| Rotation::starting(period_ms, now_ms));
    }
    Ok(())
}
