//! Moving a namespace: what is refused, with which code, and that nothing is left of it.

use crate::support::Home;

const CONFIG: &str = "listen = '127.0.0.1:1'\ndata_dir = 'data'\nkms = 'localhost:1'\nsuperusers = ['fsadmin']\n\
    [tls]\nca = 'ca.pem'\ncertificate = 'metadata.pem'\nkey = 'metadata.key'\n";

#[test]
fn what_cannot_be_moved_is_refused_and_leaves_nothing() {
    let home = Home::new();
    home.write("metadata.toml", CONFIG);
    home.write("garbage", "no export at all, though long enough to be one");
    let export = [
        "metadata",
        "export",
        "--config",
        "{home}/metadata.toml",
        "-o",
        "{home}/new",
    ];
    let import = ["metadata", "import", "--config", "{home}/metadata.toml"];
    for (arguments, code, words) in [
        (export.to_vec(), 3, "there is no namespace"),
        ([&import[..], &["{home}/garbage"]].concat(), 6, "is not a whole export"),
        ([&import[..], &["{home}/none"]].concat(), 3, "cannot read"),
        (
            [&import[..], &["{home}/garbage", "--sha256", "12"]].concat(),
            2,
            "64 hexadecimal digits",
        ),
        (
            vec!["metadata", "--config", "{home}/metadata.toml", "export"],
            2,
            "cannot be used with",
        ),
    ] {
        let outcome = home.run(&arguments);
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(words), "{arguments:?}: {}", outcome.stderr);
    }
    assert!(!home.path("data").exists() && !home.path("new").exists());
}
