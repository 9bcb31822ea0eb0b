//! Help, version and completions.

use crate::support::Home;

#[test]
fn help_explains_exit_codes_and_hides_what_is_internal() {
    let home = Home::new();
    let help = home.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for word in [
        "Exit codes:",
        "5  unavailable",
        "8  conflict",
        "strongroom dev",
        "--profile",
        "--as <NAME>",
        "--json",
    ] {
        assert!(help.stdout.contains(word), "--help does not say {word:?}");
    }
    assert!(!help.stdout.contains("token-worker"));
    assert!(!home.run(&["kms", "--help"]).stdout.contains("stop-on-stdin-eof"));
}

#[test]
fn the_manual_has_every_command_and_exit_code() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).expect("is there");
    for command in [
        "dev",
        "kms",
        "metadata",
        "metadata export",
        "metadata import",
        "block",
        "token init",
        "key create",
        "key list",
        "key show",
        "key versions",
        "key roll",
        "key confirm",
        "key enable",
        "key disable",
        "key update",
        "key alias set",
        "key alias list",
        "key alias delete",
        "key delete",
        "key cancel-delete",
        "key approve",
        "policy test",
        "policy check",
        "policy import-hadoop",
        "zone create",
        "zone list",
        "zone info",
        "zone reencrypt",
        "zone proof",
        "zone status",
        "job list",
        "job show",
        "job pause",
        "job resume",
        "job cancel",
        "audit verify",
        "audit tail",
        "audit export",
        "audit key",
        "audit rotate",
        "fs mkdir",
        "fs ls",
        "fs put",
        "fs append",
        "fs truncate",
        "fs recover",
        "fs get",
        "fs cat",
        "fs stat",
        "fs mv",
        "fs rm",
        "fs expunge",
        "zone provision-trash",
        "fs du",
        "status",
        "completions",
    ] {
        assert!(
            manual.contains(&format!("`strongroom {command}")),
            "docs/cli.md lacks strongroom {command}"
        );
    }
    let help = Home::new().run(&["--help"]).stdout;
    let codes = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let codes: Vec<&str> = codes.take_while(|line| !line.is_empty()).map(str::trim).collect();
    assert_eq!(codes.len(), 10);
    for code in codes {
        let (number, meaning) = code.split_once("  ").expect("number and meaning");
        let row = format!("| {number} | {} |", meaning.trim());
        assert!(manual.contains(&row), "docs/cli.md lacks {row}");
    }
}

#[test]
fn completions_come_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let outcome = home.run(&["completions", shell]);
        assert_eq!(outcome.code, Some(0), "{shell}");
        for word in ["reencrypt", "skip-special"] {
            assert!(outcome.stdout.contains(word), "completions for {shell} lack {word}");
        }
    }
    assert_eq!(home.run(&["completions", "csh"]).code, Some(2));
}

#[test]
fn the_version_is_said() {
    let outcome = Home::new().run(&["--version"]);
    assert_eq!(outcome.stdout.trim(), concat!("strongroom ", env!("CARGO_PKG_VERSION")));
}
