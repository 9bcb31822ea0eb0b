//! `strongroom key …`: EZ keys and their versions.

use serde::Serialize;
use strongroom_kms_admin::{Key, KeyAdminClient, KeyVersionInfo};
use strongroom_proto::{KeyName, RequestId};

use super::session::Session;
use crate::{
    cli::KeyCommand,
    error::Error,
    output::{Output, print, table, time_text},
};

/// Keys asked for at a time.
const PAGE_KEYS: u32 = 1000;

/// `strongroom key …`
pub(super) async fn run(session: &Session, command: KeyCommand, output: Output) -> Result<(), Error> {
    let keys = session.keys()?;
    match command {
        KeyCommand::Create { name, suite } => show(&keys.create(&name, suite, RequestId::generate()).await?, output),
        KeyCommand::List => list(&keys, output).await,
        KeyCommand::Show { name } => show(&keys.describe(&name).await?, output),
        KeyCommand::Roll { name } => show(&keys.roll(&name, RequestId::generate()).await?, output),
        KeyCommand::Confirm { name } => show(&keys.confirm(&name).await?, output),
    }
}

/// A key in `--json`.
#[derive(Serialize)]
struct KeyDocument {
    name: String,
    suite: String,
    current_version: Option<u32>,
    created_ms: u64,
    versions: Vec<VersionDocument>,
}

/// A version of a key in `--json`.
#[derive(Serialize)]
struct VersionDocument {
    version: u32,
    state: &'static str,
    created_ms: u64,
    kcv: String,
    token_id: String,
}

impl From<&Key> for KeyDocument {
    fn from(key: &Key) -> Self {
        Self {
            name: key.name.to_string(),
            suite: key.suite.to_string(),
            current_version: key.current.map(|version| version.0),
            created_ms: key.created_ms,
            versions: key.versions.iter().map(VersionDocument::from).collect(),
        }
    }
}

impl From<&KeyVersionInfo> for VersionDocument {
    fn from(version: &KeyVersionInfo) -> Self {
        Self {
            version: version.version.0,
            state: version.state.as_str(),
            created_ms: version.created_ms,
            kcv: hex::encode(version.kcv),
            token_id: hex::encode(version.token_id),
        }
    }
}

fn show(key: &Key, output: Output) -> Result<(), Error> {
    let document = KeyDocument::from(key);
    output.result(&document, || key_text(&document))
}

fn key_text(key: &KeyDocument) -> String {
    let rows: Vec<_> = key.versions.iter().map(version_row).collect();
    format!(
        "key      {}\nsuite    {}\ncurrent  {}\ncreated  {}\n\n{}",
        key.name,
        key.suite,
        current_text(key),
        time_text(key.created_ms),
        table(["VERSION", "STATE", "KCV", "TOKEN ID", "CREATED"], &rows)
    )
}

fn version_row(version: &VersionDocument) -> [String; 5] {
    [
        version.version.to_string(),
        version.state.to_owned(),
        version.kcv.clone(),
        version.token_id.clone(),
        time_text(version.created_ms),
    ]
}

/// The version that wraps; a key without one was rebuilt from the token and waits for its administrator.
fn current_text(key: &KeyDocument) -> String {
    key.current_version
        .map_or_else(|| "none; run key confirm".to_owned(), |version| version.to_string())
}

async fn list(keys: &KeyAdminClient, output: Output) -> Result<(), Error> {
    let mut after: Option<KeyName> = None;
    let mut documents = Vec::new();
    loop {
        let page = keys.list(after.as_ref(), PAGE_KEYS).await?;
        after = page.keys.last().map(|key| key.name.clone());
        documents.extend(page.keys.iter().map(KeyDocument::from));
        if !page.more || after.is_none() {
            break;
        }
    }
    if output.is_json() {
        return documents.iter().try_for_each(|key| output.result(key, String::new));
    }
    let rows: Vec<_> = documents.iter().map(list_row).collect();
    print(&table(["NAME", "SUITE", "CURRENT", "VERSIONS", "CREATED"], &rows))
}

fn list_row(key: &KeyDocument) -> [String; 5] {
    [
        key.name.clone(),
        key.suite.clone(),
        current_text(key),
        key.versions.len().to_string(),
        time_text(key.created_ms),
    ]
}
