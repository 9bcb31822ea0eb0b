//! Keys as they are printed: JSON documents, and text for people.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use strongroom_kms_admin::{Alias, Deletion, Key, KeyVersionInfo};

use crate::output::{one_line, table, time_text};

/// A key in `--json`.
#[derive(Serialize)]
pub(super) struct KeyDocument {
    name: String,
    suite: String,
    current_version: Option<u32>,
    created_ms: u64,
    disabled: bool,
    unconfirmed: bool,
    description: String,
    tags: BTreeMap<String, String>,
    sealed_required: bool,
    outside_zones: bool,
    rotation_period_ms: Option<u64>,
    next_rotation_ms: Option<u64>,
    aliases: Vec<String>,
    deletion: Option<DeletionDocument>,
    version_count: u32,
    versions: Vec<VersionDocument>,
}

/// A version of a key in `--json`.
#[derive(Serialize)]
pub(super) struct VersionDocument {
    version: u32,
    state: &'static str,
    origin: String,
    created_ms: u64,
    kcv: String,
    token_id: String,
    last_used_ms: Option<u64>,
    destroyed_ms: Option<u64>,
    detail: Option<String>,
    deletion: Option<DeletionDocument>,
}

/// A deletion in `--json`.
#[derive(Serialize)]
struct DeletionDocument {
    requested_by: String,
    retired_ms: u64,
    due_ms: Option<u64>,
    begun: bool,
    approved_by: Vec<String>,
    approvals_missing: u32,
    zones_without_proof: Vec<String>,
    zones_without_proof_count: u32,
}

/// An alias in `--json`.
#[derive(Serialize)]
pub(super) struct AliasDocument {
    pub(super) alias: String,
    pub(super) key: String,
}

impl From<&Key> for KeyDocument {
    fn from(key: &Key) -> Self {
        Self {
            name: key.name.to_string(),
            suite: key.suite.to_string(),
            current_version: key.current.map(|version| version.0),
            created_ms: key.created_ms,
            disabled: key.disabled,
            unconfirmed: key.unconfirmed,
            description: key.description.clone(),
            tags: key.tags.clone(),
            sealed_required: key.sealed_required,
            outside_zones: key.outside_zones,
            rotation_period_ms: key.rotation_period_ms,
            next_rotation_ms: key.next_rotation_ms,
            aliases: key.aliases.iter().map(ToString::to_string).collect(),
            deletion: key.deletion.as_ref().map(DeletionDocument::from),
            version_count: key.version_count,
            versions: key.versions.iter().map(VersionDocument::from).collect(),
        }
    }
}

impl From<&KeyVersionInfo> for VersionDocument {
    fn from(version: &KeyVersionInfo) -> Self {
        Self {
            version: version.version.0,
            state: version.state.as_str(),
            origin: version.origin.clone(),
            created_ms: version.created_ms,
            kcv: hex::encode(version.kcv),
            token_id: hex::encode(version.token_id),
            last_used_ms: version.last_used_ms,
            destroyed_ms: version.destroyed_ms,
            detail: Some(version.detail.clone()).filter(|detail| !detail.is_empty()),
            deletion: version.deletion.as_ref().map(DeletionDocument::from),
        }
    }
}

impl From<&Deletion> for DeletionDocument {
    fn from(deletion: &Deletion) -> Self {
        Self {
            requested_by: deletion.requested_by.clone(),
            retired_ms: deletion.retired_ms,
            due_ms: deletion.due_ms,
            begun: deletion.begun,
            approved_by: deletion.approved_by.clone(),
            approvals_missing: deletion.approvals_missing,
            zones_without_proof: deletion.zones_without_proof.iter().map(ToString::to_string).collect(),
            zones_without_proof_count: deletion.zones_without_proof_count,
        }
    }
}

impl From<&Alias> for AliasDocument {
    fn from(alias: &Alias) -> Self {
        Self {
            alias: alias.alias.to_string(),
            key: alias.key.to_string(),
        }
    }
}

/// A key with its versions, for people.
pub(super) fn key_text(key: &KeyDocument) -> String {
    let mut text = format!(
        "key      {}\nsuite    {}\nstate    {}\n",
        key.name,
        key.suite,
        state(key)
    );
    text.push_str(&format!(
        "current  {}\ncreated  {}\n",
        current(key),
        time_text(key.created_ms)
    ));
    if !key.description.is_empty() {
        line(&mut text, "about", &one_line(&key.description));
    }
    if !key.tags.is_empty() {
        let tags: Vec<String> = key.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line(&mut text, "tags", &one_line(&tags.join(", ")));
    }
    if !key.aliases.is_empty() {
        line(&mut text, "aliases", &key.aliases.join(", "));
    }
    if key.sealed_required {
        line(&mut text, "demands", "sealed delivery");
    }
    if key.outside_zones {
        line(&mut text, "used", "outside zones: deleted on approvals");
    }
    if let (Some(period_ms), Some(next_ms)) = (key.rotation_period_ms, key.next_rotation_ms) {
        let rotates = format!("every {}, next {}", period_text(period_ms), time_text(next_ms));
        line(&mut text, "rotates", &rotates);
    }
    if let Some(deletion) = &key.deletion {
        line(&mut text, "deletion", &deletion_text(deletion));
    }
    text.push('\n');
    text.push_str(&versions_text(&key.versions));
    let hidden = key.version_count as usize - key.versions.len().min(key.version_count as usize);
    if hidden > 0 {
        _ = write!(
            text,
            "\n({hidden} older versions are not shown; list them with: strongroom key versions {})",
            key.name
        );
    }
    text
}

/// Versions in a table, for people.
pub(super) fn versions_text(versions: &[VersionDocument]) -> String {
    let rows: Vec<_> = versions.iter().map(version_row).collect();
    table(
        [
            "VERSION",
            "STATE",
            "ORIGIN",
            "KCV",
            "TOKEN ID",
            "CREATED",
            "LAST USED",
            "NOTE",
        ],
        &rows,
    )
}

/// A key in the table of all.
pub(super) fn list_row(key: &KeyDocument) -> [String; 7] {
    [
        key.name.clone(),
        key.suite.clone(),
        state(key),
        current(key),
        key.version_count.to_string(),
        key.rotation_period_ms.map_or_else(|| "-".to_owned(), period_text),
        time_text(key.created_ms),
    ]
}

fn line(text: &mut String, heading: &str, value: &str) {
    _ = writeln!(text, "{heading:<8} {value}");
}

fn version_row(version: &VersionDocument) -> [String; 8] {
    let deletion = version.deletion.as_ref().map(deletion_text);
    let destroyed = version
        .destroyed_ms
        .map(|at_ms| format!("destroyed {}", time_text(at_ms)));
    let detail = version.detail.as_deref().map(|detail| one_line(detail).into_owned());
    let notes = [detail, destroyed, deletion];
    [
        version.version.to_string(),
        version.state.to_owned(),
        version.origin.clone(),
        version.kcv.clone(),
        version.token_id.clone(),
        time_text(version.created_ms),
        version.last_used_ms.map_or_else(|| "-".to_owned(), time_text),
        notes.into_iter().flatten().collect::<Vec<_>>().join("; "),
    ]
}

fn state(key: &KeyDocument) -> String {
    let words = [
        (key.disabled, "disabled"),
        (key.unconfirmed, "unconfirmed"),
        (key.deletion.is_some(), "being deleted"),
    ];
    let words: Vec<&str> = words
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, word)| *word)
        .collect();
    if words.is_empty() {
        "enabled".to_owned()
    } else {
        words.join(", ")
    }
}

/// The version that wraps; why there is none is told by the state, or by `key show`.
fn current(key: &KeyDocument) -> String {
    match key.current_version {
        Some(version) => version.to_string(),
        None if key.unconfirmed => "none; run key confirm".to_owned(),
        None => "none".to_owned(),
    }
}

fn deletion_text(deletion: &DeletionDocument) -> String {
    let mut text = match (deletion.begun, deletion.due_ms) {
        (true, _) => "being destroyed".to_owned(),
        (false, Some(due_ms)) => format!("to be destroyed {}", time_text(due_ms)),
        (false, None) => format!(
            "waits for the proofs of {} zones made after {}",
            deletion.zones_without_proof_count,
            time_text(deletion.retired_ms)
        ),
    };
    if deletion.approvals_missing > 0 {
        _ = write!(text, ", {} approvals missing", deletion.approvals_missing);
    }
    text
}

/// A period in its largest whole unit.
fn period_text(period_ms: u64) -> String {
    let seconds = period_ms / 1000;
    match seconds {
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s => format!("{s}s"),
    }
}
