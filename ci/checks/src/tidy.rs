//! Habits turned into a check: what must not stay in the tree.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Findings, Summary};

/// A file that has outgrown this has outgrown its subject.
const LINES_MAX: usize = 700;

/// Folders that hold no source.
const SKIPPED: &[&str] = &["target", ".git"];

/// Text that must not stay, and why. Spelled in halves, so that this file does not find itself.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it or write an issue"),
    (concat!("FIX", "ME"), "fix it or write an issue"),
    (concat!("XX", "X:"), "fix it or write an issue"),
    (concat!("to", "do!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (
        concat!("#[ig", "nore"),
        "a test runs or goes; a slow one gets a stage of ci/test",
    ),
];

/// A test that another test runs as its child process is ignored by rights, and says so in these words.
const CHILD_TEST: &str = "= \"only a part of ";

/// Folders of one machine, which mean nothing on another.
const MACHINE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/ho", "me/"),
];

/// Walks the workspace and checks every text file of it.
pub(crate) fn run() -> Result<Summary, Findings> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."));
    let mut files = Vec::new();
    collect(root, &mut files).map_err(|error| vec![format!("cannot read {}: {error}", root.display())])?;
    let mut findings = Findings::new();
    for path in &files {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        findings.extend(check(&name, &text));
    }
    if findings.is_empty() {
        Ok(format!("tidy: {} files are in order", files.len()))
    } else {
        Err(findings)
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // In another work tree of a clone, .git is a file.
        if SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(())
}

fn check(name: &str, text: &str) -> Findings {
    let mut findings = Findings::new();
    // Lock files and licence texts are others' words.
    if name.ends_with(".lock") || name == "LICENSE" {
        return findings;
    }
    if name.ends_with(".rs") && text.lines().count() > LINES_MAX {
        findings.push(format!("{name} has over {LINES_MAX} lines; split it by subject"));
    }
    // A package with a workspace of its own has nothing to inherit from.
    let is_member = text.contains("[package]") && !text.contains("\n[workspace]\n");
    if name.ends_with("Cargo.toml") && is_member && !inherits_lints(text) {
        findings.push(format!(
            "{name} does not inherit the workspace's lints; add [lints] workspace = true"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        findings.extend(
            BANNED
                .iter()
                .filter(|(banned, _)| line.contains(banned) && !line.contains(CHILD_TEST))
                .map(|(banned, way_out)| format!("{place} says {banned}; {way_out}")),
        );
        findings.extend(
            MACHINE
                .iter()
                .filter(|folder| names_folder(line, folder))
                .map(|folder| format!("{place} names {folder}…, a folder of one machine")),
        );
    }
    findings
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.any(|line| line == "lints.workspace = true")
        || manifest
            .split("[lints]")
            .nth(1)
            .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"))
}

/// Whether `folder` starts a path in `line`, as opposed to standing in the middle of one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '}' | '-' | '_')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_stay_is_found_with_its_line() {
        for (banned, _) in BANNED {
            let findings = check("a.rs", &format!("fine\n// {banned}\n"));
            assert_eq!(findings.len(), 1, "{banned}: {findings:?}");
            assert!(findings[0].starts_with("a.rs:2 "), "{findings:?}");
        }
        let child = format!("{}{CHILD_TEST}kills\"]", concat!("#[ig", "nore "));
        assert_eq!(check("a.rs", &child), Findings::new());
        for folder in MACHINE {
            assert_eq!(check("a.sh", &format!("cd {folder}x")).len(), 1, "{folder}");
            assert_eq!(
                check("a.sh", &format!("cd target{folder}x")),
                Findings::new(),
                "{folder}"
            );
        }
    }

    #[test]
    fn long_files_and_lax_manifests_are_found() {
        assert_eq!(check("a.rs", &"\n".repeat(LINES_MAX)), Findings::new());
        assert_eq!(check("a.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(check("a/Cargo.toml", "[package]\nname = \"a\"\n").len(), 1);
        assert_eq!(
            check("a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"),
            Findings::new()
        );
    }
}
