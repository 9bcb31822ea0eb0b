//! Files that are appended to, cut short, shown while they are written, and taken from a writer who was killed.

use std::{
    fs,
    io::Write as _,
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use strongroom_fs::ZoneFs;
use strongroom_proto::{
    ZonePath,
    transport::{Role, TlsIdentity},
};
use strongroom_tests::{Bytes, Cli, Dev, seed, until};

/// More than a block, and not a whole number of frames.
const PART: usize = (4 << 20) + 70_001;

/// Gives `strongroom fs append -` something to append and leaves its input open.
fn appender(cli: &Cli, path: &str, bytes: &[u8]) -> Child {
    let mut command = cli.command();
    command.args(["fs", "append", "-", path]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("started");
    child.stdin.as_mut().expect("a pipe").write_all(bytes).expect("taken");
    child
}

#[test]
fn a_file_grows_shrinks_and_outlives_a_writer_that_is_killed() {
    let dev = Dev::start();
    let (cli, zone) = (dev.cli(), dev.zone("payroll"));
    let (mut random, local) = (Bytes::new(seed()), dev.scratch("local").join("part"));
    let path = format!("{zone}/log");
    let mut model = random.take(PART);
    fs::write(&local, &model).expect("written");
    cli.run(["fs", "put", local.to_str().expect("UTF-8"), &path]).ok();

    let more = random.take(PART);
    fs::write(&local, &more).expect("written");
    cli.run(["fs", "append", local.to_str().expect("UTF-8"), &path]).ok();
    model.extend_from_slice(&more);
    assert!(cli.line(&format!("fs cat {path}")).ok().stdout == model);

    cli.line(&format!("fs truncate --length {} {path}", PART + 5)).ok();
    model.truncate(PART + 5);
    assert!(cli.line(&format!("fs cat {path}")).ok().stdout == model);
    cli.line(&format!("fs truncate --length {} {path}", PART + 6))
        .fails(2, &["append"]);

    let mut killed = appender(&cli, &path, &random.take(2 * PART));
    until("the file is open", Duration::from_secs(30), || {
        let status = cli.line("--json status").json();
        (status["files_open"] == 1).then_some(())
    });
    cli.line(&format!("fs truncate --length 1 {path}"))
        .fails(8, &["user alice", "strongroom fs recover"]);
    killed.kill().expect("running");
    killed.wait().expect("ended");
    assert!(
        cli.line(&format!("fs cat {path}")).ok().stdout == model,
        "as it was published"
    );
    cli.line(&format!("fs append {} {path}", local.display()))
        .fails(8, &["strongroom fs recover"]);
    cli.line(&format!("fs recover {path}")).ok();
    cli.line(&format!("fs append {} {path}", local.display())).ok();
    model.extend_from_slice(&more);
    assert!(cli.line(&format!("fs cat {path}")).ok().stdout == model);
}

#[test]
fn what_a_program_flushes_is_seen_by_others_and_survives_a_crash_of_everything() {
    let dev = Dev::start();
    let path = ZonePath::parse(format!("{}/log", dev.zone("payroll")).as_bytes()).expect("a path");
    let connect = |user| {
        let tls = TlsIdentity::load(&dev.tls_files(user), SystemTime::now()).expect("a certificate");
        let (kms, metadata) = (dev.remote(Role::Kms), dev.remote(Role::Metadata));
        ZoneFs::connect(&(&kms).into(), &(&metadata).into(), Arc::new(tls))
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (writer, reader) = (connect("alice"), connect("alice"));
        let options = strongroom_fs::CreateOptions {
            mode: 0o644,
            overwrite: false,
        };
        let mut file = writer.create(&path, options).await.expect("created");
        let mut random = Bytes::new(seed());
        let mut model = Vec::new();
        for round in 0..6 {
            let more = random.take(PART / 3);
            file.write(&more).await.expect("written");
            model.extend_from_slice(&more);
            file.flush(round).await.expect("flushed");
            if round == 2 {
                for role in ["metadata", "kms", "block-1"] {
                    tokio::task::block_in_place(|| dev.crash(role));
                }
            }
            let opened = reader.open(&path).await.expect("opened");
            let mut read = vec![0; model.len() + 1];
            assert_eq!(opened.read_at(0, &mut read).await.expect("read"), model.len());
            assert!(read[..model.len()] == model, "round {round}");
        }
        let stat = file.finish(9).await.expect("finished");
        assert_eq!(stat.length, model.len() as u64);
    });
}
