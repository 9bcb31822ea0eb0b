//! Files that move from one zone to another with real keys: which rights that takes, and a directory that moves while somebody
//! writes to it, after which the key that it was under is needed no more.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::Value;
use strongroom_tests::{Cli, Dev, until};

const LIMIT: Duration = Duration::from_secs(60);
const FILES: usize = 300;

fn put(cli: &Cli, local: &Path, path: &str) -> bool {
    cli.run(["fs", "put", local.to_str().expect("UTF-8"), path]).code == Some(0)
}

/// Puts more into the policy of `dev` that stays in force until another one does.
pub(crate) fn set_policy(dev: &Dev, sample: &str, more: &str) {
    let path = dev.data("policy.cedar");
    let fresh = path.with_extension("new");
    let policy = sample.replace("// strongroom: end", &format!("{more}\n// strongroom: end"));
    fs::write(&fresh, policy).expect("own directory");
    fs::rename(&fresh, &path).expect("own directory");
}

fn forbid(action: &str, key: &str) -> String {
    format!(
        "@id(\"no-{action}\") forbid (principal == User::\"alice\", action == Action::\"{action}\", resource == Key::\"{key}\");"
    )
}

fn may_read(cli: &Cli, path: &str) -> bool {
    cli.line(&format!("fs cat {path}")).code == Some(0)
}

#[test]
fn a_move_to_another_zone_takes_rights_on_both_keys() {
    let dev = Dev::start();
    let (cli, from, to) = (dev.cli(), dev.zone("payroll"), dev.zone("archive"));
    let local = dev.scratch("local").join("f");
    fs::write(&local, "salaries").expect("written");
    cli.line(&format!("fs mkdir {from}/d")).ok();
    assert!(put(&cli, &local, &format!("{from}/f")) && put(&cli, &local, &format!("{from}/d/f")));
    let way_out = format!("strongroom fs mv --transfer {from}/f {to}/f");
    cli.line(&format!("fs mv {from}/f {to}/f"))
        .fails(8, &["encryption zone", &way_out]);

    let sample = fs::read_to_string(dev.data("policy.cedar")).expect("dev wrote it");
    let both = "takes the right to unwrap with key payroll and to mint with key archive";
    let file = format!("fs mv --transfer {from}/f {to}/f");
    let directory = format!("fs mv --transfer {from}/d {to}/d");
    let (no_unwrap, no_mint) = (forbid("unwrap", "payroll"), forbid("mint", "archive"));
    for (more, reads, said) in [
        (
            format!("{no_unwrap}\n{no_mint}"),
            false,
            "user alice may not unwrap with key payroll",
        ),
        (no_mint, true, "user alice may not mint with key archive"),
        (no_unwrap, false, "user alice may not unwrap with key payroll"),
    ] {
        set_policy(&dev, &sample, &more);
        let path = format!("{from}/f");
        until("the policy is in force", LIMIT, || {
            (may_read(&cli, &path) == reads).then_some(())
        });
        cli.line(&file).fails(4, &[said, both]);
        cli.line(&directory).fails(4, &[said, both, "strongroom job cancel"]);
    }
    set_policy(&dev, &sample, "");
    until("the policy is in force", LIMIT, || {
        may_read(&cli, &format!("{from}/f")).then_some(())
    });
    // The directory's job is gone on with.
    for line in [file, directory] {
        cli.line(&line).ok();
    }
    for path in ["f", "d/f"] {
        assert_eq!(cli.line(&format!("fs cat {to}/{path}")).text(), "salaries");
    }
    assert_eq!(
        cli.line(&format!("--json fs stat {to}/f")).json()["key_name"],
        "archive"
    );
}

/// Stores file after file until it is told to stop. Says which were stored.
fn keep_writing(cli: &Cli, local: &Path, directory: &str, stop: &AtomicBool) -> Vec<String> {
    let mut stored = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("live-{number}");
        if put(cli, local, &format!("{directory}/{name}")) {
            stored.push(name);
        }
    }
    stored
}

fn prove(dev: &Dev, zone: &str, proof: &str) -> bool {
    _ = fs::remove_file(proof);
    let line = format!("zone proof {zone} --through-version 0 -o {proof}");
    dev.cli().line(&line).code == Some(0)
}

#[test]
fn a_directory_that_is_written_to_moves_and_its_old_key_is_needed_no_more() {
    let dev = Dev::start();
    let (cli, from, to) = (dev.cli(), dev.zone("payroll"), dev.zone("archive"));
    let local = dev.scratch("local").join("d");
    fs::create_dir_all(local.join("below")).expect("own directory");
    for number in 0..FILES {
        let name = format!("{}f{number}", if number % 3 == 0 { "below/" } else { "" });
        fs::write(local.join(name), format!("salary {number}")).expect("written");
    }
    cli.run(["fs", "put", "-r", local.to_str().expect("UTF-8"), &from]).ok();
    let (source, target) = (format!("{from}/d"), format!("{to}/d"));

    let (stop, live) = (AtomicBool::new(false), local.join("f1"));
    let stored = std::thread::scope(|scope| {
        let writer = scope.spawn(|| keep_writing(&cli, &live, &source, &stop));
        until("a file came", LIMIT, || {
            may_read(&cli, &format!("{source}/live-0")).then_some(())
        });
        dev.crash("metadata");
        let moved: Value = cli.line(&format!("--json fs mv --transfer {source} {to}/")).json();
        assert_eq!(moved["path"], target.as_str());
        stop.store(true, Ordering::SeqCst);
        writer.join().expect("no panic")
    });
    cli.line(&format!("fs stat {source}")).fails(3, &[&source]);

    let back = dev.scratch("back");
    cli.run(["fs", "get", "-r", &target, back.to_str().expect("UTF-8")])
        .ok();
    let same = |name: &str, as_in: &str| {
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text(&back.join("d").join(name)), text(&local.join(as_in)), "{name}");
    };
    for number in 0..FILES {
        let name = format!("{}f{number}", if number % 3 == 0 { "below/" } else { "" });
        same(&name, &name);
    }
    for name in &stored {
        same(name, "f1");
    }

    // What the move prepared is tidied up, and the key of the zone that was left goes.
    cli.line("key roll payroll").ok();
    let proof = dev.scratch("proofs").join("payroll.proof");
    let proof = proof.to_str().expect("UTF-8");
    let delete = "key delete payroll --version 0 --after-days 7";
    cli.line(delete).fails(8, &["1 zone minted", "zone proof"]);
    until("a proof", LIMIT, || prove(&dev, &from, proof).then_some(()));
    cli.line(&format!("{delete} --proof {proof}")).ok();
    assert_eq!(cli.line(&format!("fs cat {target}/below/f0")).text(), "salary 0");
    let jobs = cli.as_user("fsadmin").line("job list --all").text();
    assert!(jobs.contains("transfer") && jobs.contains("completed"), "{jobs}");
}
