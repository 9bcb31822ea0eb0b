//! Who may import whom: the table of `ARCHITECTURE.md`, held against `cargo metadata`.
//!
//! The table is a security boundary: a block node that cannot name a decrypting crate cannot decrypt, and a
//! metadata service without the unwrapping client cannot unwrap. Dev-dependencies obey the same table,
//! because a test that reaches across a boundary soon drags the code after it; what needs several roles at
//! once belongs into `tests`. Only what makes certificates is open to everybody's tests.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::{Findings, Summary};

/// What a package may import of the workspace.
enum Allowed {
    /// These and nothing else.
    Only(&'static [&'static str]),
    /// Everything that [`NOT_IMPORTABLE`] does not name.
    All,
}

/// The table. A package that is not in it fails, so that a new one is placed before it is built upon.
const TABLE: &[(&str, Allowed)] = &[
    ("strongroom-proto", Allowed::Only(&[])),
    ("strongroom-pki", Allowed::Only(&[])),
    ("strongroom-pkcs11-shim", Allowed::Only(&[])),
    ("strongroom-dataplane", Allowed::Only(&[])),
    ("strongroom-kv", Allowed::Only(&[])),
    ("strongroom-kms-mint", Allowed::Only(&["strongroom-proto"])),
    ("strongroom-kms-unwrap", Allowed::Only(&["strongroom-proto"])),
    ("strongroom-kms-admin", Allowed::Only(&["strongroom-proto"])),
    ("strongroom-kms", Allowed::Only(&["strongroom-proto", "strongroom-kv"])),
    ("strongroom-block", Allowed::Only(&["strongroom-proto"])),
    (
        "strongroom-metadata",
        Allowed::Only(&["strongroom-proto", "strongroom-kv", "strongroom-kms-mint"]),
    ),
    (
        "strongroom-fs",
        Allowed::Only(&["strongroom-proto", "strongroom-kms-unwrap", "strongroom-dataplane"]),
    ),
    ("strongroom", Allowed::All),
    ("strongroom-tests", Allowed::All),
    ("strongroom-sim", Allowed::All),
    ("strongroom-benches", Allowed::All),
    ("strongroom-checks", Allowed::Only(&[])),
];

/// Imported by nobody.
const NOT_IMPORTABLE: &[&str] = &[
    "strongroom",
    "strongroom-tests",
    "strongroom-sim",
    "strongroom-benches",
    "strongroom-checks",
];

/// Imported by anybody's tests, whatever the table says: it holds no secret of Strongroom and no role's code.
const FOR_TESTS: &[&str] = &["strongroom-pki", "strongroom-pkcs11-shim"];

/// Libraries that only these packages may name: the PKCS#11 binding belongs to the token worker alone, and
/// certificates are made in one place.
const CONFINED: &[(&str, &[&str])] = &[
    (
        "cryptoki",
        &["strongroom-kms", "strongroom-tests", "strongroom-benches"],
    ),
    ("cryptoki-sys", &[]),
    ("rcgen", &["strongroom-pki"]),
];

/// Libraries that a package must not reach, not even through another: the data plane is pure computation.
const UNREACHABLE: &[(&str, &[&str])] = &[("strongroom-dataplane", &["tokio", "tracing"])];

/// Reads the workspace and checks it.
pub(crate) fn run() -> Result<Summary, Findings> {
    let metadata = MetadataCommand::new()
        .exec()
        .map_err(|error| vec![format!("cargo metadata failed: {error}")])?;
    let graph = Graph::of(&metadata);
    let findings = graph.findings();
    if findings.is_empty() {
        Ok(graph.summary())
    } else {
        Err(findings)
    }
}

/// The part of `cargo metadata` that the rules speak of, by package name.
#[derive(Default)]
struct Graph {
    members: BTreeSet<String>,
    /// Every dependency that a member's manifest names.
    declared: BTreeMap<String, Vec<Edge>>,
    /// What cargo resolved for normal and build dependencies, third parties included.
    resolved: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Clone)]
struct Edge {
    to: String,
    dev: bool,
}

impl Graph {
    fn of(metadata: &Metadata) -> Self {
        let mut graph = Self::default();
        for package in metadata.workspace_packages() {
            graph.members.insert(package.name.to_string());
            graph.declared.insert(package.name.to_string(), declared(package));
        }
        for node in metadata.resolve.iter().flat_map(|resolve| &resolve.nodes) {
            let built = node
                .deps
                .iter()
                .filter(|dep| {
                    dep.dep_kinds
                        .iter()
                        .any(|info| info.kind != DependencyKind::Development)
                })
                .map(|dep| metadata[&dep.pkg].name.to_string());
            graph
                .resolved
                .entry(metadata[&node.id].name.to_string())
                .or_default()
                .extend(built);
        }
        graph
    }

    fn findings(&self) -> Findings {
        let mut findings = self.unplaced();
        for (from, edges) in &self.declared {
            findings.extend(edges.iter().filter_map(|edge| self.refuse(from, edge)));
        }
        for (from, banned) in UNREACHABLE {
            findings.extend(banned.iter().filter_map(|to| self.refuse_path(from, to)));
        }
        findings
    }

    /// Members without a row, and rows without a member.
    fn unplaced(&self) -> Findings {
        let unknown = self.members.iter().filter(|name| allowed(name).is_none()).map(|name| {
            format!("package {name} is not in the import table; give it a row in ARCHITECTURE.md and ci/checks/src/imports.rs")
        });
        let gone = TABLE
            .iter()
            .filter(|(name, _)| !self.members.contains(*name))
            .map(|(name, _)| format!("the import table speaks of {name}, which is no package of the workspace"));
        unknown.chain(gone).collect()
    }

    fn refuse(&self, from: &str, edge: &Edge) -> Option<String> {
        let to = edge.to.as_str();
        let kind = if edge.dev { " (in its tests)" } else { "" };
        if let Some((_, holders)) = CONFINED.iter().find(|(library, _)| *library == to) {
            let confined = !holders.contains(&from);
            return confined.then(|| format!("{from} must not import {to}{kind}; only {holders:?} may"));
        }
        let open = edge.dev && FOR_TESTS.contains(&to);
        if open || !self.members.contains(to) || may_import(from, to) {
            return None;
        }
        Some(format!("{from} must not import {to}{kind}; {}", rule_of(from, to)))
    }

    /// The shortest way from one package to a library that it must not reach.
    fn refuse_path(&self, from: &str, to: &str) -> Option<String> {
        let mut ways = vec![vec![from.to_owned()]];
        let mut seen = BTreeSet::from([from.to_owned()]);
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                for next in way.last().and_then(|end| self.resolved.get(end)).into_iter().flatten() {
                    let path = [way.as_slice(), std::slice::from_ref(next)].concat();
                    if next == to {
                        return Some(format!("{from} must not reach {to}: {}", path.join(" → ")));
                    }
                    if seen.insert(next.clone()) {
                        longer.push(path);
                    }
                }
            }
            ways = longer;
        }
        None
    }

    fn summary(&self) -> Summary {
        let mut lines = Vec::new();
        for (from, edges) in &self.declared {
            let names = |dev| {
                let found = edges.iter().filter(|e| e.dev == dev && self.members.contains(&e.to));
                found.map(|e| e.to.as_str()).collect::<Vec<_>>().join(" ")
            };
            let tests = match names(true) {
                names if names.is_empty() => names,
                names => format!(" (tests: {names})"),
            };
            lines.push(format!("{from:<24} imports {}{tests}", names(false)));
        }
        lines.push(format!("imports: {} packages keep to the table", self.members.len()));
        lines.join("\n")
    }
}

fn declared(package: &Package) -> Vec<Edge> {
    let edge = |dependency: &cargo_metadata::Dependency| Edge {
        to: dependency.name.clone(),
        dev: dependency.kind == DependencyKind::Development,
    };
    package.dependencies.iter().map(edge).collect()
}

fn allowed(name: &str) -> Option<&'static Allowed> {
    TABLE.iter().find(|(row, _)| *row == name).map(|(_, allowed)| allowed)
}

fn may_import(from: &str, to: &str) -> bool {
    !NOT_IMPORTABLE.contains(&to)
        && match allowed(from) {
            Some(Allowed::Only(names)) => names.contains(&to),
            Some(Allowed::All) => true,
            // Said once, by `unplaced`.
            None => true,
        }
}

fn rule_of(from: &str, to: &str) -> String {
    if NOT_IMPORTABLE.contains(&to) {
        return format!("nobody imports {to}");
    }
    match allowed(from) {
        Some(Allowed::Only([])) => "it may import no package of the workspace".to_owned(),
        Some(Allowed::Only(names)) => format!("it may import {}", names.join(", ")),
        Some(Allowed::All) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The workspace as the table wants it, without any edge.
    fn bare() -> Graph {
        let mut graph = Graph::default();
        for (name, _) in TABLE {
            graph.members.insert((*name).to_owned());
        }
        graph
    }

    fn with(from: &str, to: &str, dev: bool) -> Findings {
        let mut graph = bare();
        let edge = Edge { to: to.to_owned(), dev };
        graph.declared.insert(from.to_owned(), vec![edge]);
        graph.findings()
    }

    #[test]
    fn allowed_edges_pass() {
        for (from, to) in [
            ("strongroom-metadata", "strongroom-kms-mint"),
            ("strongroom-fs", "strongroom-kms-unwrap"),
            ("strongroom-kms", "cryptoki"),
            ("strongroom", "strongroom-kms"),
            ("strongroom", "strongroom-pki"),
            ("strongroom-pki", "rcgen"),
            ("strongroom-tests", "cryptoki"),
            ("strongroom-kv", "redb"),
        ] {
            assert_eq!(with(from, to, false), Findings::new(), "{from} → {to}");
        }
    }

    #[test]
    fn certificates_are_for_everybodys_tests_and_for_no_service() {
        for from in [
            "strongroom-proto",
            "strongroom-kms",
            "strongroom-block",
            "strongroom-fs",
        ] {
            assert_eq!(with(from, "strongroom-pki", true), Findings::new(), "{from}");
            assert_eq!(with(from, "strongroom-pki", false).len(), 1, "{from}");
        }
    }

    #[test]
    fn a_wrong_edge_is_named() {
        for (from, to) in [
            ("strongroom-metadata", "strongroom-kms-unwrap"),
            ("strongroom-metadata", "strongroom-dataplane"),
            ("strongroom-block", "strongroom-dataplane"),
            ("strongroom-kms", "strongroom-kms-unwrap"),
            ("strongroom-proto", "strongroom-kv"),
            ("strongroom-pki", "strongroom-proto"),
            ("strongroom-kms", "rcgen"),
            ("strongroom-fs", "strongroom-metadata"),
            ("strongroom-fs", "cryptoki"),
            ("strongroom", "cryptoki"),
            ("strongroom", "strongroom-tests"),
            ("strongroom-benches", "strongroom-tests"),
        ] {
            for dev in [false, true] {
                let findings = with(from, to, dev);
                assert_eq!(findings.len(), 1, "{from} → {to}: {findings:?}");
                assert!(
                    findings[0].starts_with(&format!("{from} must not import {to}")),
                    "{findings:?}"
                );
            }
        }
    }

    #[test]
    fn a_package_without_a_row_and_a_row_without_a_package_are_named() {
        let mut graph = bare();
        graph.members.insert("strongroom-attic".to_owned());
        graph.members.remove("strongroom-kv");
        let findings = graph.findings();
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].contains("strongroom-attic is not in the import table"));
        assert!(findings[1].contains("strongroom-kv, which is no package"));
    }

    #[test]
    fn the_data_plane_is_kept_from_the_runtime_through_others_too() {
        let mut graph = bare();
        for (from, to) in [
            ("strongroom-dataplane", "zeroize"),
            ("zeroize", "helper"),
            ("helper", "tokio"),
        ] {
            graph.resolved.insert(from.to_owned(), BTreeSet::from([to.to_owned()]));
        }
        assert_eq!(
            graph.findings(),
            ["strongroom-dataplane must not reach tokio: strongroom-dataplane → zeroize → helper → tokio"]
        );
    }
}
