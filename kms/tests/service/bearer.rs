//! Bearer tokens over real TLS, with keys and signatures made here: who gets in, and who does not and why.

mod issuer;

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use issuer::{Issuer, KeySetServer, Kind, token};
use serde_json::{Value, json};
use strongroom_kms::BearerConfig;
use strongroom_proto::{
    Failure, Reason,
    kms::v1::{self as pb, key_admin_client::KeyAdminClient},
    transport::{self, BearerFiles, BearerIdentity, Role},
};

use crate::support::{self, MemoryHsm, Site};

const POLICY: &str = r#"
    @id("hr") permit (principal in Group::"hr", action, resource);
    @id("carol") permit (principal == User::"carol", action, resource) when { context.authentication == "bearer" };
"#;

/// A site whose service takes tokens of the issuer with the keys at `jwks`.
fn site(jwks: &str, ca: Option<PathBuf>) -> Site {
    let mut site = Site::with_policy(POLICY);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    site.config.bearer = Some(BearerConfig {
        listen: free.local_addr().expect("an address"),
        issuer: "https://idp.example.org".to_owned(),
        audience: "strongroom".to_owned(),
        jwks: jwks.to_owned(),
        ca,
        user_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
        require_groups: true,
        clock_skew_s: 5,
    });
    site
}

/// A site with a file of keys of `issuer`.
fn site_of(issuer: &Issuer) -> (Site, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory").keep();
    let file = dir.join("jwks.json");
    std::fs::write(&file, issuer.set()).expect("written");
    (site(file.to_str().expect("UTF-8"), None), file)
}

fn claims(user: &str) -> Value {
    json!({
        "iss": "https://idp.example.org", "aud": ["other", "strongroom"], "sub": user,
        "exp": issuer::now_s() + 300, "groups": ["hr"],
    })
}

/// As issuers make tokens of users with more groups than they put into one.
fn without_groups(claims: &Value) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().expect("an object").remove("groups");
    claims
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

/// Makes a key with what is in the token file, or without a token.
async fn create(site: &Site, token: Option<&str>, key: &str) -> Result<pb::Key, Failure> {
    let address = bearer_address(site);
    let file = site.pki.path("token");
    std::fs::write(&file, token.unwrap_or("none")).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("own file");
    let files = BearerFiles {
        ca: site.config.tls.ca.clone(),
        bearer_token_file: file,
    };
    let bearer = BearerIdentity::load(&files).expect("usable");
    let channel = transport::connect_bearer(&address.to_string().parse().expect("an address"), &bearer, Role::Kms);
    let request = pb::CreateKeyRequest {
        name: key.to_owned(),
        request_id: strongroom_proto::RequestId::generate().into(),
        ..pb::CreateKeyRequest::default()
    };
    let answer = match token {
        Some(_) => {
            KeyAdminClient::with_interceptor(channel, bearer.authorization())
                .create_key(request)
                .await
        }
        None => KeyAdminClient::new(channel).create_key(request).await,
    };
    Ok(answer?.into_inner())
}

fn bearer_address(site: &Site) -> SocketAddr {
    site.config.bearer.as_ref().expect("configured").listen
}

#[tokio::test]
async fn a_token_of_any_kind_of_key_says_who_and_in_which_groups() {
    let (issuer, hsm) = (
        Issuer::new(&[("e", Kind::Ecdsa), ("r", Kind::Rsa), ("d", Kind::Ed25519)]),
        MemoryHsm::new(),
    );
    let (site, _) = site_of(&issuer);
    let kms = site.start(&hsm).await;
    for kid in ["e", "r", "d"] {
        let token = issuer.sign(kid, &claims("bob"));
        create(&site, Some(&token), &format!("of-{kid}"))
            .await
            .expect("bob is in hr");
        let record = site.audit().pop().expect("a record").entry;
        assert_eq!(record.who, "user bob (bearer)");
        assert_eq!(record.policies, ["hr"]);
    }
    let nobody = issuer.sign("e", &with(claims("mallory"), "groups", json!(["it"])));
    let failure = create(&site, Some(&nobody), "k")
        .await
        .expect_err("in no group that may");
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
    let by_name = issuer.sign("e", &with(claims("carol"), "groups", json!([])));
    create(&site, Some(&by_name), "carols")
        .await
        .expect("permitted by name, for tokens");
    let failure = kms
        .as_user("user/carol")
        .create("k")
        .await
        .expect_err("not by certificate");
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
    kms.stop().await;
}

#[tokio::test]
async fn what_is_not_a_good_token_is_refused_with_its_reason() {
    let (issuer, stranger) = (Issuer::new(&[("e", Kind::Ecdsa)]), Issuer::new(&[("e", Kind::Ecdsa)]));
    let (site, _) = site_of(&issuer);
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    let good = claims("bob");
    let now = issuer::now_s();
    let mut flipped = issuer.sign("e", &good).into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        issuer.sign("e", &claims)
    };
    let crit = json!({"alg": "ES256", "kid": "e", "crit": ["b64"]});
    for (case, token, word) in [
        (
            "expired",
            issuer.sign("e", &with(good.clone(), "exp", json!(now - 60))),
            "expired",
        ),
        (
            "early",
            issuer.sign("e", &with(good.clone(), "nbf", json!(now + 60))),
            "not valid yet",
        ),
        (
            "issuer",
            issuer.sign("e", &with(good.clone(), "iss", json!("https://evil.example.org"))),
            "issuer",
        ),
        (
            "audience",
            issuer.sign("e", &with(good.clone(), "aud", json!("other"))),
            "audience",
        ),
        ("no exp", without("exp"), "exp"),
        ("no iss", without("iss"), "iss"),
        ("no aud", without("aud"), "aud"),
        ("no user", without("sub"), "sub"),
        (
            "user",
            issuer.sign("e", &with(good.clone(), "sub", json!("a/b"))),
            "names no user",
        ),
        (
            "groups",
            issuer.sign("e", &with(good.clone(), "groups", json!("hr"))),
            "no list",
        ),
        (
            "groups elsewhere",
            issuer.sign(
                "e",
                &with(without_groups(&good), "_claim_names", json!({"groups": "src1"})),
            ),
            "_claim_names",
        ),
        ("no groups", without("groups"), "no claim groups"),
        (
            "null groups",
            issuer.sign("e", &with(good.clone(), "groups", Value::Null)),
            "no claim groups",
        ),
        ("none", token(&json!({"alg": "none"}), &good, |_| Vec::new()), "no JWT"),
        ("no alg", token(&json!({"kid": "e"}), &good, |_| Vec::new()), "no JWT"),
        ("hmac", issuer.hmac_with_public_key("e", &good), "not accepted"),
        ("crit", issuer.sign_header("e", &crit, &good), "extensions"),
        ("stranger", stranger.sign("e", &good), "signature is wrong"),
        ("flipped", String::from_utf8(flipped).expect("ASCII"), "bearer token"),
        ("rubbish", "rubbish".to_owned(), "no JWT"),
        ("long", "x".repeat(13 << 10), "12 KiB"),
    ] {
        let failure = create(&site, Some(&token), "k").await.expect_err(case);
        assert_eq!(failure.reason, Reason::Unauthenticated, "{case}: {failure}");
        assert!(failure.message.contains(word), "{case}: {failure}");
    }
    let failure = create(&site, None, "k").await.expect_err("no token");
    assert_eq!(failure.reason, Reason::Unauthenticated);
    assert!(failure.message.contains("wants a bearer token"), "{failure}");
    assert_eq!(hsm.calls(), 0);
    kms.stop().await;
}

/// Garbage without end leaves room in the log for others who are refused, and says how much of it there was no more than it must.
#[tokio::test]
async fn a_flood_of_garbage_hides_nobody_else() {
    let issuer = Issuer::new(&[("e", Kind::Ecdsa)]);
    let (site, _) = site_of(&issuer);
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    for _ in 0..80 {
        create(&site, Some("rubbish"), "k").await.expect_err("rubbish");
    }
    let unknown = |site: &Site| site.audit().iter().filter(|r| r.entry.who == "unknown").count();
    let recorded = unknown(&site);
    assert!((50..80).contains(&recorded), "{recorded} of 80 are recorded");
    let bob = issuer.sign("e", &claims("bob"));
    create(&site, Some(&bob), "no key name").await.expect_err("blanks");
    let last = site.audit().pop().expect("a record").entry;
    assert_eq!(
        (last.who.as_str(), last.reason.as_deref()),
        ("user bob (bearer)", Some("invalid-argument"))
    );
    kms.as_user("user/guest")
        .describe("no key name")
        .await
        .expect_err("blanks");
    assert_eq!(site.audit().pop().expect("a record").entry.who, "user guest");
    kms.stop().await;
}

#[tokio::test]
async fn where_groups_are_not_required_a_token_without_them_is_in_none() {
    let issuer = Issuer::new(&[("e", Kind::Ecdsa)]);
    let (mut site, _) = site_of(&issuer);
    site.config.bearer.as_mut().expect("configured").require_groups = false;
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    let bob = issuer.sign("e", &without_groups(&claims("bob")));
    let failure = create(&site, Some(&bob), "k").await.expect_err("bob is not in hr");
    assert_eq!(failure.reason, Reason::PermissionDenied);
    kms.stop().await;
}

#[tokio::test]
async fn a_token_is_nothing_on_the_port_of_certificates_and_a_certificate_nothing_on_that_of_tokens() {
    let (issuer, hsm) = (Issuer::new(&[("e", Kind::Ecdsa)]), MemoryHsm::new());
    let (site, _) = site_of(&issuer);
    let kms = site.start(&hsm).await;
    let mut request = tonic::Request::new(pb::CreateKeyRequest {
        name: "k".to_owned(),
        request_id: strongroom_proto::RequestId::generate().into(),
        ..pb::CreateKeyRequest::default()
    });
    let header = format!("Bearer {}", issuer.sign("e", &claims("bob")));
    request
        .metadata_mut()
        .insert("authorization", header.parse().expect("a header"));
    let failure = kms
        .as_user("user/guest")
        .admin
        .create_key(request)
        .await
        .expect_err("guest may nothing");
    let failure = Failure::from(failure);
    assert_eq!(failure.reason, Reason::PermissionDenied);
    assert!(failure.message.starts_with("user guest may not manage"), "{failure}");

    let files = site.pki.issue("bob", "user/bob");
    let tls = transport::TlsIdentity::load(&files, std::time::SystemTime::now()).expect("usable");
    let remote = bearer_address(&site).to_string().parse().expect("an address");
    let mut client = KeyAdminClient::new(transport::connect(&remote, &tls, Role::Kms));
    let failure = client
        .list_keys(pb::ListKeysRequest::default())
        .await
        .expect_err("no token");
    assert_eq!(Failure::from(failure).reason, Reason::Unauthenticated);
    kms.stop().await;
}

#[tokio::test]
async fn new_keys_are_taken_from_the_file_and_a_broken_file_keeps_the_old_ones() {
    let (old, new) = (Issuer::new(&[("1", Kind::Ecdsa)]), Issuer::new(&[("2", Kind::Rsa)]));
    let (site, file) = site_of(&old);
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    std::fs::write(&file, "not a key set").expect("written");
    create(&site, Some(&old.sign("1", &claims("bob"))), "a")
        .await
        .expect("the old key");
    let by_new = new.sign("2", &claims("bob"));
    create(&site, Some(&by_new), "b").await.expect_err("not published yet");
    std::fs::write(&file, new.set()).expect("written");
    let mut outcome = create(&site, Some(&by_new), "b").await;
    for _ in 0..500 {
        if outcome.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        outcome = create(&site, Some(&by_new), "b").await;
    }
    outcome.expect("the new key");
    create(&site, Some(&old.sign("1", &claims("bob"))), "c")
        .await
        .expect_err("the old key is gone");
    kms.stop().await;
}

#[tokio::test]
async fn keys_come_from_a_url_that_may_go_away() {
    let (old, new) = (Issuer::new(&[("1", Kind::Ecdsa)]), Issuer::new(&[("2", Kind::Ecdsa)]));
    let pki = support::Pki::new();
    let server = KeySetServer::start(&pki.issue("idp", "service/kms"), old.set()).await;
    let site = site(&server.url(), Some(pki.path("ca.pem")));
    let hsm = MemoryHsm::new();
    let kms = site.start(&hsm).await;
    create(&site, Some(&old.sign("1", &claims("bob"))), "a")
        .await
        .expect("fetched");
    let asked = server.asked();
    for _ in 0..20 {
        create(&site, Some(&new.sign("2", &claims("bob"))), "b")
            .await
            .expect_err("not published yet");
    }
    assert!(
        server.asked() <= asked + 2,
        "tokens of strangers make the service flood the issuer"
    );
    server.set_status("503 Service Unavailable");
    create(&site, Some(&old.sign("1", &claims("bob"))), "c")
        .await
        .expect("the keys are kept");
    server.set_status("200 OK");
    server.set_body(new.set());
    let by_new = new.sign("2", &claims("bob"));
    let mut outcome = create(&site, Some(&by_new), "d").await;
    for _ in 0..200 {
        if outcome.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        outcome = create(&site, Some(&by_new), "d").await;
    }
    outcome.expect("the new key is fetched when its token comes");
    kms.stop().await;
}

#[test]
fn keys_are_fetched_from_nobody_that_is_not_vouched_for() {
    for (jwks, ca, word) in [
        ("http://idp.example.org/keys", Some("ca.pem"), "https"),
        ("https://idp.example.org/keys", None, "bearer.ca"),
        (
            "/nonexistent/jwks.json",
            None,
            "cannot read the issuer's keys at /nonexistent/jwks.json",
        ),
    ] {
        let site = site(jwks, None);
        let mut config = site.config.clone();
        config.bearer.as_mut().expect("configured").ca = ca.map(|ca| site.pki.path(ca));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let error = runtime.block_on(async {
            let listener = transport::bind(config.listen).await.expect("a port");
            let serving = strongroom_kms::serve(&config, MemoryHsm::new(), listener, std::future::pending());
            serving.await.expect_err("must not start")
        });
        let source = std::error::Error::source(&error).expect("a source");
        assert!(
            source.to_string().contains(word) || error.to_string().contains(word),
            "{source}"
        );
    }
}
