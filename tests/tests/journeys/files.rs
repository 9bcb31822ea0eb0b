//! Files and directories as their user sees them.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use filetime::FileTime;
use strongroom_fs::ZoneFs;
use strongroom_proto::{
    Reason, ZonePath,
    metadata::v1::{MakeDirectoryRequest, namespace_client::NamespaceClient},
    transport::{Role, TlsIdentity},
};
use strongroom_tests::{Bytes, Dev, seed};

/// Lengths around the borders of frames (64 KiB) and blocks (4 MiB).
const LENGTHS: [usize; 12] = [
    0, 1, 63, 65_535, 65_536, 65_537, 131_072, 4_194_303, 4_194_304, 4_194_305, 8_388_608, 9_000_001,
];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Every file's bytes, mode and time and every directory's mode and time, by relative path.
pub(crate) fn describe(root: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name();
    let line = |entry: walkdir::DirEntry| {
        let metadata = entry.metadata().expect("readable");
        let bytes = if metadata.is_file() {
            fs::read(entry.path()).expect("readable")
        } else {
            Vec::new()
        };
        let time = FileTime::from_last_modification_time(&metadata);
        let name = entry.path().strip_prefix(root).expect("below").display().to_string();
        let digest = bytes.iter().fold(bytes.len() as u64, |sum, byte| {
            sum.wrapping_mul(1_099_511_628_211) ^ u64::from(*byte)
        });
        let ms = time.unix_seconds() * 1000 + i64::from(time.nanoseconds() / 1_000_000);
        format!(
            "{name} {:o} {ms} {} {digest:x}",
            metadata.permissions().mode(),
            bytes.len()
        )
    };
    entries
        .into_iter()
        .map(|entry| line(entry.expect("readable")))
        .collect()
}

#[test]
fn a_tree_comes_back_as_it_went_in() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let tree = dev.scratch("tree");
    let mut bytes = Bytes::new(seed());
    for folder in ["empty", "deep/er/still", "größe"] {
        fs::create_dir_all(tree.join(folder)).expect("own directory");
    }
    for (n, length) in LENGTHS.into_iter().enumerate() {
        let folder = ["", "deep", "deep/er/still", "größe"][n % 4];
        let path = tree.join(folder).join(format!("{length} b€tes"));
        fs::write(&path, bytes.take(length)).expect("own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode([0o600, 0o644, 0o755, 0o440][n % 4])).expect("own file");
        let time = FileTime::from_unix_time(1_000_000_000 + 86_400 * i64::try_from(n).expect("small"), 123_000_000);
        filetime::set_file_mtime(&path, time).expect("own file");
    }
    fs::set_permissions(tree.join("empty"), fs::Permissions::from_mode(0o750)).expect("own directory");
    for folder in ["empty", "deep/er/still", "deep/er", "deep", "größe"] {
        filetime::set_file_mtime(tree.join(folder), FileTime::from_unix_time(1_111_111_111, 500_000_000)).expect("own");
    }

    let sent = dev
        .cli()
        .run(["--json", "fs", "put", "-r", text(&tree), &format!("{zone}/tree")])
        .json();
    assert_eq!(sent["files"], LENGTHS.len(), "{sent}");
    let back = dev.scratch("back").join("tree");
    dev.cli()
        .run(["fs", "get", "-r", &format!("{zone}/tree"), text(&back)])
        .ok();
    assert_eq!(describe(&back), describe(&tree));

    // Once more: refused without --force, replaced with it.
    let again = dev.cli().run(["fs", "put", "-r", text(&tree), &format!("{zone}/")]);
    assert_eq!(again.code, Some(7), "{}", again.stderr);
    assert!(again.stderr.contains("exists"), "{}", again.stderr);
    dev.cli()
        .run(["fs", "put", "-r", "--force", text(&tree), &format!("{zone}/")])
        .ok();

    let file = format!("{zone}/tree/{} b€tes", LENGTHS[0]);
    dev.cli()
        .run(["fs", "put", "-r", "--force", text(&tree), &file])
        .fails(8, &[&file, "take the place of a file", "strongroom fs rm"]);
}

#[test]
fn what_is_no_plain_file_is_named_and_left_out() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let tree = dev.scratch("tree");
    fs::write(tree.join("plain"), "x").expect("own directory");
    std::os::unix::fs::symlink("plain", tree.join("link")).expect("own directory");
    let outcome = dev.cli().run(["fs", "put", "-r", text(&tree), &format!("{zone}/a")]);
    outcome.fails(7, &["link"]);
    assert_eq!(
        dev.cli().line(&format!("fs cat {zone}/a/plain")).text(),
        "x",
        "the others were stored"
    );
    dev.cli()
        .run(["fs", "put", "-r", "--skip-special", text(&tree), &format!("{zone}/b")])
        .ok();

    let bad = OsStr::from_bytes(b"caf\xe9");
    fs::write(tree.join(bad), "x").expect("own directory");
    let outcome = dev
        .cli()
        .run(["fs", "put", "-r", "--skip-special", text(&tree), &format!("{zone}/c")]);
    outcome.fails(7, &["not UTF-8"]);

    // A file is where a directory is to be: what the directory holds is left out with it.
    fs::remove_file(tree.join(bad)).expect("own file");
    fs::create_dir_all(tree.join("in/the/way")).expect("own directory");
    fs::write(tree.join("in/the/way/file"), "x").expect("own directory");
    let (cli, plain, what) = (dev.cli(), tree.join("plain"), tree.join("."));
    cli.line(&format!("fs mkdir {zone}/d")).ok();
    cli.run(["fs", "put", text(&plain), &format!("{zone}/d/in")]).ok();
    let put = [
        "--json",
        "fs",
        "put",
        "-r",
        "--skip-special",
        text(&what),
        &format!("{zone}/d"),
    ];
    let outcome = cli.run(put);
    assert_eq!(outcome.code, Some(7), "{}", outcome.stderr);
    let done: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    assert_eq!((&done["failed"], &done["files"]), (&1.into(), &1.into()), "{done}");
    let failure = &done["failures"][0];
    assert_eq!(failure["path"], tree.join("./in").display().to_string());
    let why = failure["message"].as_str().expect("text");
    assert!(why.contains("cannot take the place of a file"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_break_their_rule_are_refused_with_it() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let long = "n".repeat(256);
    for (name, rule) in [
        ("..", "must not be . or .."),
        ("a/../b", "must not be . or .."),
        (long.as_str(), "at most 255 bytes"),
    ] {
        dev.cli()
            .run(["fs", "mkdir", &format!("{zone}/{name}")])
            .fails(2, &[rule]);
        dev.cli()
            .run(["fs", "put", "/etc/hostname", &format!("{zone}/{name}")])
            .fails(2, &[rule]);
    }
    dev.cli().run(["fs", "mkdir", "relative"]).fails(2, &["start with /"]);
    let outcome = dev.cli().run([
        OsStr::new("fs"),
        OsStr::new("mkdir"),
        OsStr::from_bytes(b"/payroll/caf\xe9"),
    ]);
    outcome.fails(2, &["UTF-8"]);

    // The service does not rely on clients: the same on the wire, and what no command line can carry.
    let mut client = NamespaceClient::new(dev.channel("alice", Role::Metadata));
    let long = format!("/payroll/{long}");
    for (path, rule) in [
        (&b"/payroll/.."[..], "must not be . or .."),
        (b"/payroll/a\0b", "must not contain NUL"),
        (b"/payroll/caf\xe9", "must be UTF-8"),
        (long.as_bytes(), "at most 255 bytes"),
    ] {
        let request = MakeDirectoryRequest {
            path: path.to_vec().into(),
            mode: 0o755,
            parents: true,
            ..MakeDirectoryRequest::default()
        };
        let failure =
            strongroom_proto::Failure::from(client.make_directory(request).await.expect_err("must be refused"));
        assert_eq!(failure.reason, Reason::InvalidArgument);
        assert!(failure.message.contains(rule), "{failure}");
    }
    let longest = "n".repeat(255);
    dev.cli().run(["fs", "mkdir", &format!("{zone}/{longest}")]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_agree_with_the_bytes_written() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let mut random = Bytes::new(seed());
    let content = random.take(9_500_003);
    let file = dev.scratch("in").join("file");
    fs::write(&file, &content).expect("own directory");
    dev.cli().run(["fs", "put", text(&file), &format!("{zone}/file")]).ok();
    let length = content.len() as u64;
    let expected = |offset: u64, count: u64| {
        let (from, to) = (offset.min(length), offset.saturating_add(count).min(length));
        &content[usize::try_from(from).expect("small")..usize::try_from(to).expect("small")]
    };

    for (offset, count) in [
        (0, 0),
        (0, 1),
        (length - 1, 5),
        (length, 1),
        (length + 7, 1),
        (65_535, 2),
        (4_194_303, 2),
    ] {
        let outcome = dev.cli().run([
            "fs",
            "cat",
            "--offset",
            &offset.to_string(),
            "--length",
            &count.to_string(),
            &format!("{zone}/file"),
        ]);
        assert!(
            outcome.ok().stdout == expected(offset, count),
            "{count} bytes at {offset}"
        );
    }

    let fs = zone_fs(&dev, "alice");
    let path = ZonePath::parse(format!("{zone}/file").as_bytes()).expect("valid");
    let reader = fs.open(&path).await.expect("readable");
    for _ in 0..300 {
        let offset = random.below(length + 1000);
        let longest = [100, 70_000, 5_000_000][usize::try_from(random.below(3)).expect("small")];
        let count = random.below(longest);
        let mut found = vec![0; usize::try_from(count).expect("small")];
        let read = reader.read_at(offset, &mut found).await.expect("readable");
        assert!(found[..read] == *expected(offset, count), "{count} bytes at {offset}");
    }
}

/// The client library as a user of the profile.
pub(crate) fn zone_fs(dev: &Dev, user: &str) -> ZoneFs {
    let tls = TlsIdentity::load(&dev.tls_files(user), SystemTime::now()).expect("a usable certificate");
    ZoneFs::connect(
        &(&dev.remote(Role::Kms)).into(),
        &(&dev.remote(Role::Metadata)).into(),
        Arc::new(tls),
    )
}

#[test]
fn files_are_renamed_removed_and_counted() {
    let dev = Dev::start();
    let (zone, other) = (dev.zone("payroll"), dev.zone("other"));
    let file = dev.scratch("in").join("file");
    fs::write(&file, "0123456789").expect("own directory");
    let cli = dev.cli();
    cli.line(&format!("fs mkdir -p {zone}/a/b")).ok();
    for name in ["a/one", "a/b/two", "three"] {
        cli.run(["fs", "put", text(&file), &format!("{zone}/{name}")]).ok();
    }
    let used = cli.line(&format!("--json fs du {zone}")).json();
    assert_eq!(
        (used["files"].as_u64(), used["bytes"].as_u64()),
        (Some(3), Some(30)),
        "{used}"
    );

    cli.line(&format!("fs mv {zone}/a {zone}/z")).ok();
    assert_eq!(cli.line(&format!("fs cat {zone}/z/b/two")).text(), "0123456789");
    cli.line(&format!("fs stat {zone}/a")).fails(3, &[&format!("{zone}/a")]);
    cli.line(&format!("fs mv {zone}/three {zone}/z/one"))
        .fails(8, &["exists"]);
    cli.line(&format!("fs mv --force {zone}/three {zone}/z/one")).ok();
    cli.line(&format!("fs mv {zone}/z/one {other}/one")).fails(8, &["zone"]);
    cli.line(&format!("fs mv {zone}/z {zone}/z/b/c"))
        .fails(8, &["below itself"]);

    cli.line(&format!("fs rm {zone}/z")).fails(8, &["-r"]);
    cli.line(&format!("fs rm {zone}/absent")).fails(3, &["absent"]);
    cli.line(&format!("fs rm -r --skip-trash {zone}/z")).ok();
    assert_eq!(cli.line(&format!("--json fs du {zone}")).json()["files"], 0);
    let blocks = || {
        strongroom_tests::BLOCK_NODES
            .iter()
            .map(|node| dev.block_files(node).len())
            .sum::<usize>()
    };
    strongroom_tests::until(
        "the blocks of removed files going away",
        std::time::Duration::from_secs(60),
        || (blocks() == 0).then_some(()),
    );
}
