//! `strongroom key …`: EZ keys and their versions.

mod document;
mod material;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use strongroom_kms_admin::{Alias, Key, KeyAdminClient, KeyChange, NewKey};
use strongroom_proto::{KeyName, KeyVersion, RequestId, proof::PROOF_BYTES_MAX};

use super::session::Session;
use crate::{
    cli::{AliasCommand, CreateArgs, DeleteArgs, KeyCommand, TargetArgs, UpdateArgs},
    error::Error,
    output::{Output, print, table},
};
use document::{AliasDocument, KeyDocument, VersionDocument, key_text, list_row, versions_text};

/// Entries asked for at a time.
const PAGE_ENTRIES: u32 = 1000;

/// `strongroom key …`
pub(super) async fn run(session: &Session, command: KeyCommand, output: Output) -> Result<(), Error> {
    let keys = session.keys()?;
    let key = match command {
        KeyCommand::List => return list(&keys, output).await,
        KeyCommand::Versions { name, from, through } => return versions(&keys, &name, from, through, output).await,
        KeyCommand::Alias(command) => return alias(&keys, command, output).await,
        KeyCommand::Create(args) => create(&keys, args).await?,
        KeyCommand::Import(args) => material::import(&keys, args).await?,
        KeyCommand::Show { name } => keys.describe(&name).await?,
        KeyCommand::Roll { name } => keys.roll(&name, RequestId::generate()).await?,
        KeyCommand::Confirm { name, version, kcv } => keys.confirm(&name, KeyVersion(version), kcv).await?,
        KeyCommand::Enable { name } => set_disabled(&keys, &name, false).await?,
        KeyCommand::Disable { name } => set_disabled(&keys, &name, true).await?,
        KeyCommand::Update(args) => update(&keys, args).await?,
        KeyCommand::Delete(args) => delete(&keys, args).await?,
        KeyCommand::CancelDelete(target) => keys.cancel_delete(&target.name, version(&target)).await?,
        KeyCommand::Approve(target) => keys.approve_delete(&target.name, version(&target)).await?,
    };
    show(&key, output)
}

async fn create(keys: &KeyAdminClient, args: CreateArgs) -> Result<Key, Error> {
    let new = NewKey {
        suite: args.suite,
        key_bits: args.key_bits,
        description: args.labels.description,
        tags: args.labels.tags.into_iter().collect(),
        sealed_required: args.labels.sealed_required,
        outside_zones: args.labels.outside_zones,
        rotation_period_ms: args.labels.rotate_every,
    };
    Ok(keys.create(&args.name, &new, RequestId::generate()).await?)
}

async fn set_disabled(keys: &KeyAdminClient, name: &KeyName, disabled: bool) -> Result<Key, Error> {
    let change = KeyChange {
        disabled: Some(disabled),
        ..KeyChange::default()
    };
    Ok(keys.update(name, &change).await?)
}

async fn update(keys: &KeyAdminClient, args: UpdateArgs) -> Result<Key, Error> {
    let change = KeyChange {
        disabled: None,
        description: args.description,
        set_tags: args.tags.into_iter().collect(),
        remove_tags: args.remove_tags,
        sealed_required: args.sealed_required,
        outside_zones: args.outside_zones,
        rotation_period_ms: if args.no_rotation { Some(0) } else { args.rotate_every },
    };
    Ok(keys.update(&args.name, &change).await?)
}

async fn delete(keys: &KeyAdminClient, args: DeleteArgs) -> Result<Key, Error> {
    let proofs = args.proofs.iter().map(|path| read_proof(path));
    let proofs = proofs.collect::<Result<Vec<_>, _>>()?;
    let (name, version) = (&args.target.name, version(&args.target));
    Ok(keys.delete(name, version, args.after_days, proofs).await?)
}

fn version(target: &TargetArgs) -> Option<KeyVersion> {
    target.version.map(KeyVersion)
}

fn read_proof(path: &Path) -> Result<Bytes, Error> {
    let local = |source| Error::Local {
        action: "cannot read the proof",
        path: PathBuf::from(path),
        source,
    };
    let length = std::fs::metadata(path).map_err(local)?.len();
    if length > PROOF_BYTES_MAX as u64 {
        let message = format!("{} is too large to be a zone proof", path.display());
        return Err(Error::Usage { message });
    }
    Ok(std::fs::read(path).map_err(local)?.into())
}

fn show(key: &Key, output: Output) -> Result<(), Error> {
    let document = KeyDocument::from(key);
    output.result(&document, || key_text(&document))
}

async fn list(keys: &KeyAdminClient, output: Output) -> Result<(), Error> {
    let mut after: Option<KeyName> = None;
    let mut documents = Vec::new();
    loop {
        let page = keys.list(after.as_ref(), PAGE_ENTRIES).await?;
        documents.extend(page.keys.iter().map(KeyDocument::from));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if output.is_json() {
        return documents.iter().try_for_each(|key| output.result(key, String::new));
    }
    let rows: Vec<_> = documents.iter().map(list_row).collect();
    print(&table(
        ["NAME", "SUITE", "STATE", "CURRENT", "VERSIONS", "ROTATES", "CREATED"],
        &rows,
    ))
}

/// Prints page by page: a key may have more versions than fit into memory.
async fn versions(
    keys: &KeyAdminClient,
    name: &KeyName,
    from: u32,
    through: Option<u32>,
    output: Output,
) -> Result<(), Error> {
    let through = KeyVersion(through.unwrap_or(u32::MAX));
    let mut after = from.checked_sub(1).map(KeyVersion);
    loop {
        let (mut page, more) = keys.list_versions(name, after, PAGE_ENTRIES).await?;
        after = page.last().map(|last| last.version);
        let more = more && after.is_some_and(|last| last < through);
        page.retain(|version| version.version <= through);
        let page: Vec<_> = page.iter().map(VersionDocument::from).collect();
        if output.is_json() {
            page.iter()
                .try_for_each(|version| output.result(version, String::new))?;
        } else {
            print(&versions_text(&page))?;
        }
        if !more {
            return Ok(());
        }
    }
}

async fn alias(keys: &KeyAdminClient, command: AliasCommand, output: Output) -> Result<(), Error> {
    match command {
        AliasCommand::Set { alias, key, moving } => {
            let set = keys.set_alias(&Alias { alias, key }, moving).await?;
            let document = AliasDocument::from(&set);
            output.result(&document, || {
                format!("{} is an alias of key {}", document.alias, document.key)
            })
        }
        AliasCommand::Delete { alias } => {
            keys.delete_alias(&alias).await?;
            let document = serde_json::json!({"removed": alias.as_str()});
            output.result(&document, || format!("removed alias {alias}"))
        }
        AliasCommand::List => aliases(keys, output).await,
    }
}

async fn aliases(keys: &KeyAdminClient, output: Output) -> Result<(), Error> {
    let mut after: Option<KeyName> = None;
    let mut documents = Vec::new();
    loop {
        let page = keys.list_aliases(after.as_ref(), PAGE_ENTRIES).await?;
        documents.extend(page.aliases.iter().map(AliasDocument::from));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if output.is_json() {
        return documents.iter().try_for_each(|alias| output.result(alias, String::new));
    }
    let row = |alias: &AliasDocument| [alias.alias.clone(), alias.key.clone()];
    let rows: Vec<_> = documents.iter().map(row).collect();
    print(&table(["ALIAS", "KEY"], &rows))
}
