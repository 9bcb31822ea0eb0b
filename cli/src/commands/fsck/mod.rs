//! `strongroom fsck`: namespace, blocks and EDEKs are checked, and repaired where they can be.

mod ciphertext;
mod looks;

use std::collections::BTreeMap;

use strongroom_fs::{FsckFinding, FsckKind, FsckOptions, FsckSummary, ZoneFs};
use strongroom_kms_admin::{KeyAdminClient, VersionState};
use strongroom_proto::{KeyName, KeyVersion, Reason, ZonePath};

use super::session::Session;
use crate::{
    cli::FsckArgs,
    error::Error,
    output::{Output, human_bytes, note, one_line, print},
};

/// Versions of a key asked for at once.
const VERSIONS_PER_PAGE: u32 = 1000;

/// `strongroom fsck …`
pub(super) async fn run(session: &Session, args: FsckArgs, output: Output) -> Result<(), Error> {
    let fs = session.zones()?;
    if !args.ciphertext.is_empty() {
        return ciphertext::run(&fs, &args.ciphertext, output).await;
    }
    let options = FsckOptions {
        path: args.path.map(|path| ZonePath::parse(path.as_bytes())).transpose()?,
        repair: args.repair,
        deep: args.deep,
        delete_strays: args.delete_strays,
    };
    let is_all = options.path.is_none();
    let mut told = Ok(());
    let mut summary = fs
        .fsck(options, |finding| {
            if told.is_ok() {
                told = tell(finding, output);
            }
        })
        .await?;
    told?;
    if is_all {
        keys(&fs, &session.keys()?, &mut summary, output).await?;
    }
    output.result(&summary, || text(&summary))?;
    let left = summary.found() - summary.repaired;
    match left {
        0 => Ok(()),
        _ => Err(Error::Fsck {
            left,
            losses: summary.losses,
        }),
    }
}

fn tell(finding: &FsckFinding, output: Output) -> Result<(), Error> {
    if output.is_json() {
        return output.result(finding, String::new);
    }
    let path = finding.path.as_deref().unwrap_or("-");
    let end = if finding.repaired { " (repaired)" } else { "" };
    print(&format!("{}: {}{end}", one_line(path), one_line(&finding.what)))
}

/// Holds the key versions that EDEKs are of against what the key service knows of them.
async fn keys(fs: &ZoneFs, keys: &KeyAdminClient, summary: &mut FsckSummary, output: Output) -> Result<(), Error> {
    let mut known: BTreeMap<String, Option<BTreeMap<KeyVersion, VersionState>>> = BTreeMap::new();
    for zone in fs.zones().await? {
        let name = zone.key_name.to_string();
        if !known.contains_key(&name) {
            let versions = versions(keys, &zone.key_name, output).await?;
            known.insert(name.clone(), versions);
        }
        let Some(Some(versions)) = known.get(&name) else {
            continue;
        };
        for count in zone.files.iter().filter(|count| count.files > 0) {
            let state = versions.get(&count.key_version);
            let Some(what) = problem(&name, count.key_version, count.files, state) else {
                continue;
            };
            let finding = FsckFinding {
                kind: FsckKind::Edek,
                path: Some(zone.path.to_string()),
                what,
                repaired: false,
            };
            summary.count(&finding);
            tell(&finding, output)?;
        }
    }
    Ok(())
}

fn problem(key: &str, version: KeyVersion, files: u64, state: Option<&VersionState>) -> Option<String> {
    let state = match state {
        Some(VersionState::Active | VersionState::DecryptOnly) => return None,
        Some(state) => state.as_str(),
        None => "unknown to the key service",
    };
    Some(format!(
        "{files} files have EDEKs of {key}@{version}, which is {state}: they cannot be read"
    ))
}

/// A key's versions; none if this identity may not see them, which is said.
async fn versions(
    keys: &KeyAdminClient,
    name: &KeyName,
    output: Output,
) -> Result<Option<BTreeMap<KeyVersion, VersionState>>, Error> {
    let (mut versions, mut after) = (BTreeMap::new(), None);
    loop {
        let page = match keys.list_versions(name, after, VERSIONS_PER_PAGE).await {
            Ok(page) => page,
            Err(failure) if failure.reason == Reason::KeyNotFound => return Ok(Some(versions)),
            Err(failure) => {
                if !output.is_json() {
                    note(&format!(
                        "strongroom: the versions of key {name} are not looked at: {failure}"
                    ));
                }
                return Ok(None);
            }
        };
        let (found, more) = page;
        after = found.last().map(|version| version.version);
        versions.extend(found.into_iter().map(|version| (version.version, version.state)));
        if !more || after.is_none() {
            return Ok(Some(versions));
        }
    }
}

fn text(summary: &FsckSummary) -> String {
    let found = summary.found();
    let mut lines = vec![
        format!("records   {}", summary.records),
        format!("files     {}, {}", summary.files, human_bytes(summary.bytes)),
        format!("blocks    {}", summary.blocks),
        format!(
            "replicas  {}, {} bad, {} not known to be good",
            summary.replicas, summary.bad_replicas, summary.unknown_replicas
        ),
        format!("found     {found}, {} of them repaired", summary.repaired),
    ];
    let silent: Vec<&str> = summary.silent_nodes.iter().map(String::as_str).collect();
    if !silent.is_empty() {
        lines.push(format!("silent    {}", silent.join(", ")));
    }
    let verdict = match (found - summary.repaired, summary.losses, silent.is_empty()) {
        (0, _, true) => "healthy",
        (0, _, false) => "healthy, as far as nodes answer",
        (_, 0, _) => "inconsistent; strongroom fsck --repair mends what can be mended",
        (_, _, _) => "corrupt",
    };
    lines.push(format!("verdict   {verdict}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_does_not_open_edeks_is_named() {
        for (state, words) in [
            (Some(VersionState::Active), None),
            (Some(VersionState::DecryptOnly), None),
            (Some(VersionState::Missing), Some("missing")),
            (Some(VersionState::Destroyed), Some("destroyed")),
            (None, Some("unknown to the key service")),
        ] {
            let problem = problem("payroll", KeyVersion(3), 7, state.as_ref());
            let expected =
                words.map(|words| format!("7 files have EDEKs of payroll@3, which is {words}: they cannot be read"));
            assert_eq!(problem, expected);
        }
    }
}
