//! Fields of administrators' requests, parsed.

use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, RequestId,
    kms::v1::{ConfirmKeyRequest, CreateKeyRequest, ImportKeyRequest, Tag, UpdateKeyRequest},
    limits::PAGE_ENTRIES_MAX,
};

use crate::{
    config::KeysConfig,
    keys::{Attributes, Change, IMPORTS_MAX, Material, NewKey, description, period, tags},
    token::{Kcv, TokenObjectId},
};

/// Entries of a page if the caller does not say.
const PAGE_DEFAULT: usize = 100;

pub(super) fn new_key(wire: CreateKeyRequest, config: &KeysConfig) -> Result<NewKey, Failure> {
    Ok(NewKey {
        name: wire.name.parse()?,
        suite: suite(&wire.suite)?,
        key_bits: Some(wire.key_bits).filter(|&bits| bits > 0),
        attributes: Attributes {
            description: description(wire.description)?,
            tags: tags(wire.tags.into_iter().map(pair))?,
            sealed_required: wire.sealed_required,
            outside_zones: wire.outside_zones,
        },
        rotation_period_ms: period(wire.rotation_period_ms, config.rotation_min_ms())?,
    })
}

/// What is to be imported.
pub(super) fn material(wire: &ImportKeyRequest) -> Result<Material, Failure> {
    let refused = |message: String| Failure::new(Reason::InvalidArgument, message);
    let versions = wire.wrapped.len();
    if !(1..=IMPORTS_MAX).contains(&versions) {
        return Err(refused(format!(
            "a key is imported with 1 to {IMPORTS_MAX} versions, not {versions}"
        )));
    }
    let id = wire.import_key.as_ref().try_into();
    Ok(Material {
        import_key: id.map(TokenObjectId::from_bytes).map_err(|_| {
            refused("an import names the import key that its versions are wrapped to, 16 bytes".to_owned())
        })?,
        wrapped: wire.wrapped.clone(),
    })
}

/// Whether suite and size are named, which nobody can guess of a key that comes from elsewhere.
pub(super) fn is_named(wire: &CreateKeyRequest) -> Result<(), Failure> {
    if wire.suite.is_empty() || wire.key_bits == 0 {
        return Err(Failure::new(
            Reason::InvalidArgument,
            format!(
                "the import of key {} names its suite and the size of its versions",
                wire.name
            ),
        ));
    }
    Ok(())
}

pub(super) fn change(wire: UpdateKeyRequest, config: &KeysConfig) -> Result<Change, Failure> {
    if wire.disabled.is_some() && changes_more(&wire) {
        return Err(Failure::new(
            Reason::InvalidArgument,
            "a key is enabled or disabled by a call of its own, since policies permit that by its own word; change the rest in \
             another call",
        ));
    }
    let checked = |period_ms| period(period_ms, config.rotation_min_ms());
    Ok(Change {
        disabled: wire.disabled,
        description: wire.description,
        set_tags: tags(wire.set_tags.into_iter().map(pair))?,
        remove_tags: wire.remove_tags,
        sealed_required: wire.sealed_required,
        outside_zones: wire.outside_zones,
        rotation_period_ms: wire.rotation_period_ms.map(checked).transpose()?,
    })
}

fn changes_more(wire: &UpdateKeyRequest) -> bool {
    wire.description.is_some()
        || !wire.set_tags.is_empty()
        || !wire.remove_tags.is_empty()
        || wire.sealed_required.is_some()
        || wire.outside_zones.is_some()
        || wire.rotation_period_ms.is_some()
}

/// The word by which policies and the audit log know a change.
pub(super) fn update_word(wire: &UpdateKeyRequest) -> &'static str {
    match wire.disabled {
        Some(true) => "disable",
        Some(false) => "enable",
        None => "update",
    }
}

/// The version that is to be confirmed, as the administrator knows it.
pub(super) fn confirmed(name: &KeyName, wire: &ConfirmKeyRequest) -> Result<(KeyVersion, Kcv), Failure> {
    let kcv = wire.kcv.as_ref().try_into().map(Kcv::from_bytes);
    wire.version.map(KeyVersion).zip(kcv.ok()).ok_or_else(|| {
        Failure::new(
            Reason::InvalidArgument,
            format!(
                "a confirmation names the version and its key check value, 3 bytes: strongroom key confirm {name} --version \
                 N --kcv HEX"
            ),
        )
    })
}

pub(super) fn request_id(wire: &[u8]) -> Result<RequestId, Failure> {
    Ok(wire.try_into()?)
}

pub(super) fn after(wire: String) -> Result<Option<KeyName>, Failure> {
    let after = Some(wire).filter(|after| !after.is_empty());
    Ok(after.map(|after| after.parse()).transpose()?)
}

pub(super) fn page_limit(wire: u32) -> Result<usize, Failure> {
    match wire as usize {
        0 => Ok(PAGE_DEFAULT),
        limit if limit <= PAGE_ENTRIES_MAX => Ok(limit),
        limit => Err(Failure::new(
            Reason::InvalidArgument,
            format!("a page has 1 to {PAGE_ENTRIES_MAX} entries, not {limit}"),
        )),
    }
}

/// The suite asked for, if any is.
fn suite(wire: &str) -> Result<Option<EdekSuite>, Failure> {
    let named = Some(wire).filter(|wire| !wire.is_empty());
    Ok(named.map(str::parse).transpose()?)
}

fn pair(tag: Tag) -> (String, String) {
    (tag.name, tag.value)
}
