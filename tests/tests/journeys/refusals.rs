//! Who is refused what, and what the refusal says.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use strongroom_proto::{
    Reason,
    metadata::v1::{GetClusterStatusRequest, cluster_client::ClusterClient},
    transport::{Role, TlsFiles, TlsIdentity, connect},
};
use strongroom_tests::{Ca, Dev, SoftHsm, Validity, create_key, strongroom, unwrap};

fn put(dev: &Dev, path: &str, content: &str) {
    let file = dev.scratch("put").join("file");
    fs::write(&file, content).expect("own directory");
    dev.cli()
        .run(["fs", "put", "--force", file.to_str().expect("UTF-8"), path])
        .ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duties_are_apart() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let file = format!("{zone}/jan.csv");
    put(&dev, &file, "alice,1000\n");
    let edek = dev
        .open(&file)
        .await
        .expect("readable")
        .edek
        .expect("a file has an EDEK");

    let alice = dev.tls_files("alice");
    assert!(dev.unwrap(&alice, vec![edek.clone()]).await.expect("granted")[0].is_ok());
    for (files, who) in [
        (dev.tls_files("guest"), "guest"),
        (dev.tls_files("keyadmin"), "keyadmin"),
        (dev.tls_files("fsadmin"), "fsadmin"),
        (dev.service_tls_files("metadata"), "metadata"),
        (dev.service_tls_files("block-1"), "block"),
    ] {
        let (reason, message) = match dev.unwrap(&files, vec![edek.clone()]).await {
            Ok(results) => match &results[0] {
                Ok(()) => panic!("{who} was given a DEK"),
                Err(failure) => (failure.reason.clone(), failure.message.clone()),
            },
            Err(failure) => (failure.reason.to_string(), failure.message),
        };
        assert_eq!(reason, "permission-denied", "{who}: {message}");
        for word in [who, "unwrap", "payroll"] {
            assert!(message.contains(word), "{who}: {message:?} does not say {word}");
        }
    }

    for (files, who) in [
        (alice.clone(), "alice"),
        (dev.tls_files("keyadmin"), "keyadmin"),
        (dev.tls_files("fsadmin"), "fsadmin"),
    ] {
        let failure = dev
            .mint(&files, "payroll")
            .await
            .expect_err("only the metadata service mints");
        assert_eq!(failure.reason, Reason::PermissionDenied, "{who}: {failure}");
        assert!(
            failure.message.contains(who) && failure.message.contains("mint"),
            "{failure}"
        );
    }
    dev.mint(&dev.service_tls_files("metadata"), "payroll")
        .await
        .expect("the metadata service mints");

    for files in [alice, dev.tls_files("fsadmin"), dev.service_tls_files("metadata")] {
        let outcome = create_key(dev.channel_with(&files, Role::Kms), "mine").await;
        let failure = outcome.expect_err("not a key administrator");
        assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
        assert!(
            failure.message.contains("manage") && failure.message.contains("mine"),
            "{failure}"
        );
    }
}

#[test]
fn a_guest_is_told_what_was_refused_and_it_is_audited() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    put(&dev, &format!("{zone}/jan.csv"), "alice,1000\n");
    let outcome = dev
        .cli()
        .as_user("guest")
        .run(["fs", "cat", &format!("{zone}/jan.csv")]);
    assert_eq!(outcome.stdout, b"", "nothing was read");
    outcome.fails(4, &["guest", "unwrap", "payroll"]);
    let audited = walkdir::WalkDir::new(dev.data("state/kms"))
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.path().to_string_lossy().contains("audit") && entry.file_type().is_file())
        .any(|entry| {
            let text = fs::read(entry.path()).expect("readable");
            let text = String::from_utf8_lossy(&text);
            text.lines()
                .any(|line| line.contains("guest") && line.contains("payroll") && line.contains("unwrap"))
        });
    assert!(audited, "the audit log does not name the refused guest");

    dev.cli()
        .as_user("alice")
        .line("key create mine")
        .fails(4, &["alice", "manage", "mine"]);
    dev.cli()
        .as_user("alice")
        .line("key roll payroll")
        .fails(4, &["alice", "manage", "payroll"]);
    dev.cli()
        .as_user("alice")
        .line(&format!("zone reencrypt {zone}"))
        .fails(4, &["alice"]);
}

#[test]
fn zones_are_made_of_empty_directories_and_known_keys_only() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let cli = dev.cli();
    cli.line("zone create /none --key payroll").fails(3, &["/none"]);
    let admin = cli.as_user("fsadmin");
    admin.line("fs mkdir -p /full/inner").ok();
    cli.line("zone create /full --key payroll")
        .fails(8, &["/full", "non-empty directory", "make a new, empty directory"]);
    admin.line("fs mkdir --mode 777 /other").ok();
    cli.line("zone create /other --key absent")
        .fails(3, &["key absent does not exist"]);
    cli.line(&format!("zone create {zone} --key payroll"))
        .fails(8, &[&zone, "zone"]);
    cli.as_user("alice")
        .line("zone create /other --key payroll")
        .fails(4, &["alice", "make encryption zones"]);
    let file = dev.scratch("in").join("a");
    fs::write(&file, "a").expect("own directory");
    cli.run(["fs", "put", file.to_str().expect("UTF-8"), "/other/a"])
        .fails(8, &["/other/a", "zone create"]);
    cli.line("key show absent").fails(3, &["key absent does not exist"]);
    cli.line("key create payroll").fails(8, &["payroll", "exists"]);
    cli.line("key create bad/name").fails(2, &["key name", "bad/name"]);
}

#[test]
fn expired_and_foreign_certificates_are_refused() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    put(&dev, &format!("{zone}/a"), "a");
    let own = Ca::load(&dev.data("pki"));
    let foreign = Ca::new("somebody else's CA");
    let folder = dev.scratch("issued");
    let trusted = dev.data("pki/ca.pem");
    let with = |name: &str, ca: &Path, files: &TlsFiles| {
        let profile = fs::read_to_string(dev.data("client.toml")).expect("a profile");
        let path = folder.join(format!("{name}.toml"));
        let identity = format!(
            "\n[identities.{name}]\nca = {ca:?}\ncertificate = {:?}\nkey = {:?}\n",
            files.certificate, files.key
        );
        fs::write(&path, profile + &identity).expect("own directory");
        let file = format!("{zone}/a");
        dev.cli()
            .as_user(name)
            .run(["--profile", path.to_str().expect("UTF-8"), "fs", "cat", &file])
    };
    let issue = |ca: &Ca, name: &str, validity| ca.issue(&folder, name, "user/alice", validity);

    let good = issue(&own, "good", Validity::Now);
    with("good", &trusted, &good).ok();
    let expired = issue(&own, "expired", Validity::Expired);
    with("expired", &trusted, &expired).fails(4, &["expired.pem", "is expired"]);
    let early = issue(&own, "early", Validity::NotYet);
    with("early", &trusted, &early).fails(4, &["early.pem", "not valid yet"]);
    let stranger = issue(&foreign, "stranger", Validity::Now);
    with("stranger", &trusted, &stranger).fails(4, &["refused this client's certificate (UnknownCA)"]);
    // The other way round: services whose certificates this client's CA did not issue.
    with("careful", &stranger.ca, &good).fails(4, &["UnknownIssuer"]);
    let nobody = own.issue(&folder, "nobody", "user/nobody", Validity::Now);
    with("nobody", &trusted, &nobody).fails(4, &["nobody", "unwrap"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_check_certificates_themselves() {
    let dev = Dev::start();
    let own = Ca::load(&dev.data("pki"));
    let folder = dev.scratch("issued");
    // A client whose clock is two days late sends a certificate that has expired.
    let expired = own.issue(&folder, "expired", "user/alice", Validity::Expired);
    let then = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    let late = TlsIdentity::load(&expired, then).expect("not expired then");
    for role in [Role::Kms, Role::Metadata] {
        let channel = connect(&dev.remote(role), &late, role);
        let failure = match role {
            Role::Kms => unwrap(channel, Vec::new()).await.expect_err("expired"),
            _ => {
                let status = ClusterClient::new(channel)
                    .get_cluster_status(GetClusterStatusRequest {})
                    .await;
                status.expect_err("expired").into()
            }
        };
        assert_eq!(failure.reason, Reason::UntrustedPeer, "{role}: {failure}");
        let words = "refused this client's certificate (CertificateExpired)";
        assert!(failure.message.contains(words), "{role}: {failure}");
    }

    // A service does not start on an expired certificate either.
    let config = fs::read_to_string(dev.data("config/block-1.toml")).expect("dev wrote it");
    let expired = own.issue(&folder, "node", "service/block/block-1", Validity::Expired);
    let (tables, _) = config.split_once("[tls]").expect("has a table for TLS");
    let path = folder.join("block.toml");
    let tls = format!(
        "[tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
        expired.ca, expired.certificate, expired.key
    );
    fs::write(&path, format!("{tables}{tls}")).expect("own directory");
    let outcome = dev.cli().run(["block", "--config", path.to_str().expect("UTF-8")]);
    outcome.fails(1, &["the block service stopped", "node.pem is expired"]);
}

#[test]
fn a_token_whose_label_is_taken_is_left_alone() {
    let token = SoftHsm::new();
    let (name, value) = token.environment();
    let init = |label: &str| {
        let output = Command::new(strongroom())
            .args(["token", "init", "--label", label, "--module"])
            .arg(SoftHsm::module())
            .arg("--so-pin-file")
            .arg(token.pin_file())
            .arg("--pin-file")
            .arg(token.pin_file())
            .env(name, &value)
            .output()
            .expect("the executable starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, stderr) = init(SoftHsm::LABEL);
    assert_eq!(code, Some(8), "{stderr}");
    assert!(
        stderr.contains(SoftHsm::LABEL) && stderr.contains("choose another label"),
        "{stderr}"
    );
    let (code, stderr) = init("another");
    assert_eq!(code, Some(0), "{stderr}");
}
