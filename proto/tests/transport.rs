//! The transport refuses everybody that it should, and says why: over real sockets and real certificates.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use strongroom_pki::{Authority, PrivateKey, Validity};
use strongroom_proto::{
    Failure, Reason,
    block::v1::{
        CheckBlocksRequest, CheckBlocksResponse, GetBlockRequest, GetBlockResponse, PutBlockRequest, PutBlockResponse,
        blocks_client::BlocksClient,
        blocks_server::{Blocks, BlocksServer},
    },
    transport::{self, PeerIdentity, Repeat, Role, TlsError, TlsFiles, TlsIdentity},
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, service::Routes};

/// Answers a read with the identity that the transport established.
struct WhoAmI;

#[tonic::async_trait]
impl Blocks for WhoAmI {
    /// Takes a second over a block with data.
    async fn put_block(&self, request: Request<PutBlockRequest>) -> Result<Response<PutBlockResponse>, Status> {
        if !request.into_inner().data.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(Failure::new(Reason::NoSpace, "full").into())
    }

    async fn get_block(&self, request: Request<GetBlockRequest>) -> Result<Response<GetBlockResponse>, Status> {
        let (identity, _) = transport::peer(&request)?;
        Ok(Response::new(GetBlockResponse {
            data: identity.to_string().into(),
            block_length: 0,
        }))
    }

    async fn check_blocks(&self, _: Request<CheckBlocksRequest>) -> Result<Response<CheckBlocksResponse>, Status> {
        Err(Failure::new(Reason::NotFound, "no block is here").into())
    }
}

/// A certificate authority and the directory of what it issued.
struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = PrivateKey::generate().expect("random numbers");
        let authority = Authority::new("test CA", key, days(-1, 1)).expect("signs itself");
        authority
            .write_certificate(&dir.path().join("ca.pem"))
            .expect("written");
        Self { dir, authority }
    }

    /// Files of a leaf certificate for `uri`, valid for the given days around now.
    fn issue(&self, name: &str, uri: Option<&str>, from_days: i64, to_days: i64) -> TlsFiles {
        let files = TlsFiles {
            ca: self.path("ca.pem"),
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        let request = strongroom_pki::Request {
            common_name: name,
            uri,
            names: &["localhost", "127.0.0.1"],
            validity: days(from_days, to_days),
        };
        self.write(&request, &files);
        files
    }

    /// The same for alice, valid for so many seconds more.
    fn issue_for_seconds(&self, seconds: u64) -> TlsFiles {
        let files = self.issue("alice", Some(ALICE), -1, 1);
        let request = strongroom_pki::Request {
            common_name: "alice",
            uri: Some(ALICE),
            names: &["localhost"],
            validity: Validity {
                not_before: SystemTime::now() - Duration::from_secs(3600),
                not_after: SystemTime::now() + Duration::from_secs(seconds),
            },
        };
        self.write(&request, &files);
        files
    }

    fn write(&self, request: &strongroom_pki::Request<'_>, files: &TlsFiles) {
        let leaf = self.authority.issue(request).expect("valid names");
        leaf.write(&files.certificate, &files.key).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// From so many days after now until so many days after now.
fn days(from: i64, to: i64) -> Validity {
    let now = SystemTime::now();
    let after = |days: i64| {
        let distance = Duration::from_secs(days.unsigned_abs() * 24 * 3600);
        if days < 0 { now - distance } else { now + distance }
    };
    Validity {
        not_before: after(from),
        not_after: after(to),
    }
}

fn load(files: &TlsFiles) -> TlsIdentity {
    TlsIdentity::load(files, SystemTime::now()).expect("usable TLS files")
}

/// A server of [`WhoAmI`] until it is dropped.
struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn start(tls: TlsIdentity) -> Server {
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let routes = Routes::new(BlocksServer::new(WhoAmI));
        transport::serve(listener, &tls, routes, async { _ = stopped.await }).await;
    });
    Server { address, _stop: stop }
}

async fn who_am_i(server: &Server, tls: &TlsIdentity, expected: Role) -> Result<String, Failure> {
    let remote = server.address.to_string().parse().expect("an address");
    let mut client = BlocksClient::new(transport::connect(&remote, tls, expected));
    let call = client.get_block(GetBlockRequest::default());
    let answer = tokio::time::timeout(Duration::from_secs(10), call)
        .await
        .expect("no call hangs")?;
    Ok(String::from_utf8(answer.into_inner().data.to_vec()).expect("an identity"))
}

const BLOCK_1: &str = "spiffe://strongroom/service/block/node-1";
const ALICE: &str = "spiffe://strongroom/user/alice";

#[test]
fn certificates_are_taken_up_when_their_files_change_and_only_if_they_are_ours() {
    let pki = Pki::new();
    let kms = Some("spiffe://strongroom/service/kms");
    let tls = load(&pki.issue("kms", kms, -1, 1));
    let renew = || tls.renew(SystemTime::now());
    assert!(!renew().expect("usable"), "nothing changed");

    pki.issue("kms", kms, -1, 2);
    assert!(renew().expect("usable"));
    assert!(!renew().expect("usable"));

    for (uri, from, to, word) in [
        (Some("spiffe://strongroom/user/mallory"), -1, 1, "user mallory"),
        (kms, -3, -1, "expired"),
    ] {
        pki.issue("kms", uri, from, to);
        let text = renew().expect_err("not taken up").to_string();
        assert!(text.contains(word), "{text}");
    }
    pki.issue("kms", kms, -1, 3);
    assert!(renew().expect("usable"), "and it recovers");
}

/// Of three instances the first is down, the second accepts connections and says nothing, the third works.
#[tokio::test]
async fn a_client_goes_on_with_an_instance_that_answers() {
    let pki = Pki::new();
    let alice = load(&pki.issue("alice", Some(ALICE), -1, 1));
    let server = start(load(&pki.issue("block", Some(BLOCK_1), -1, 1))).await;
    let down = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let down = down.local_addr().expect("an address");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("an address");
    let remotes = format!("{down},{silent},{}", server.address)
        .parse()
        .expect("addresses");
    let mut client = BlocksClient::new(transport::connect_any(&remotes, &alice, Role::Block));
    client
        .get_block(GetBlockRequest::default())
        .await
        .expect("the third answers");
}

/// A server that never restarts, whose certificate and CA are replaced, serves those whom the new CA vouches for.
#[tokio::test]
async fn a_running_server_takes_up_another_ca() {
    let (old, new) = (Pki::new(), Pki::new());
    let files = old.issue("block", Some(BLOCK_1), -1, 1);
    let server = start(load(&files)).await;
    let veteran = load(&old.issue("alice", Some(ALICE), -1, 1));
    assert_eq!(who_am_i(&server, &veteran, Role::Block).await, Ok(ALICE.to_owned()));

    let fresh = new.issue("block", Some(BLOCK_1), -1, 1);
    for (from, to) in [
        (&fresh.ca, &files.ca),
        (&fresh.key, &files.key),
        (&fresh.certificate, &files.certificate),
    ] {
        std::fs::copy(from, to).expect("own files");
    }
    let newcomer = load(&new.issue("alice", Some(ALICE), -1, 1));
    let deadline = Instant::now() + Duration::from_secs(20);
    while who_am_i(&server, &newcomer, Role::Block).await.is_err() {
        assert!(Instant::now() < deadline, "the new CA is not taken up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    who_am_i(&server, &veteran, Role::Block)
        .await
        .expect_err("the old CA is not trusted any more");
}

/// One connection, over which calls are made all the time, one of them when the client's certificate expires.
#[tokio::test]
async fn a_connection_ends_with_its_certificate_and_calls_under_way_finish() {
    const LIFE_S: u64 = 4;
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let began = Instant::now();
    let alice = load(&pki.issue_for_seconds(LIFE_S));
    let remote = server.address.to_string().parse().expect("an address");
    let mut client = BlocksClient::new(transport::connect(&remote, &alice, Role::Block));
    let slow = PutBlockRequest {
        data: "slow".into(),
        ..PutBlockRequest::default()
    };
    let failure = loop {
        let failure = Failure::from(client.put_block(slow.clone()).await.expect_err("full"));
        if failure.reason != Reason::NoSpace {
            break failure;
        }
        assert!(
            began.elapsed() < Duration::from_secs(LIFE_S + 4),
            "its certificate has expired"
        );
    };
    assert_eq!(failure.reason, Reason::UntrustedPeer, "{failure}");
    assert!(failure.message.contains("CertificateExpired"), "{failure}");
    assert!(
        began.elapsed() >= Duration::from_secs(LIFE_S - 1),
        "while it was good, its calls were answered"
    );
}

/// Its CA is replaced: who is connected has an answer until the connection is old, and none from then on.
#[tokio::test]
async fn a_connection_that_is_old_ends_and_the_ca_of_the_day_decides() {
    let (old, new) = (Pki::new(), Pki::new());
    let files = old.issue("block", Some(BLOCK_1), -1, 1);
    let tls = load(&files).with_connection_age_max(Duration::from_secs(2));
    let server = start(tls.clone()).await;
    let veteran = load(&old.issue("alice", Some(ALICE), -1, 1));
    let remote = server.address.to_string().parse().expect("an address");
    let channel = transport::connect(&remote, &veteran, Role::Block);
    let call = || async {
        BlocksClient::new(channel.clone())
            .get_block(GetBlockRequest::default())
            .await
    };
    let began = Instant::now();
    let mut answered = 0;
    while began.elapsed() < Duration::from_secs(7) {
        let answer = transport::retry(Repeat::Unsent, call).await;
        answer.unwrap_or_else(|failure| panic!("call {answered}, over connections that end every 2 s: {failure:?}"));
        answered += 1;
    }
    std::fs::copy(new.path("ca.pem"), &files.ca).expect("own file");
    assert!(tls.renew(SystemTime::now()).expect("usable"));
    let taken_up = Instant::now();
    let failure = loop {
        match call().await {
            Ok(_) => assert!(taken_up.elapsed() < Duration::from_secs(4), "the connection lives on"),
            // A call that its connection did not get to send, while it ended.
            Err(error) if error.code() == tonic::Code::Cancelled => {}
            Err(error) => break Failure::from(error),
        }
    };
    assert_eq!(failure.reason, Reason::UntrustedPeer, "{failure}");
}

/// From one address so many connections that say nothing that each handshake of the server waits for one of them, if it waits for
/// all alike.
#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_else_out() {
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.2:0".parse().expect("an address"))
            .expect("loopback");
        silent.push(socket.connect(server.address).await.expect("the backlog has room"));
    }
    let alice = load(&pki.issue("alice", Some(ALICE), -1, 1));
    let began = Instant::now();
    assert_eq!(who_am_i(&server, &alice, Role::Block).await, Ok(ALICE.to_owned()));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_peer_is_who_its_certificate_says() {
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let alice = load(&pki.issue("alice", Some(ALICE), -1, 1));
    assert_eq!(who_am_i(&server, &alice, Role::Block).await, Ok(ALICE.to_owned()));
}

#[tokio::test]
async fn one_service_cannot_stand_in_for_another() {
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let alice = load(&pki.issue("alice", Some(ALICE), -1, 1));
    let failure = who_am_i(&server, &alice, Role::Kms).await.expect_err("must be refused");
    assert_eq!(failure.reason, Reason::UntrustedPeer);
    assert!(failure.message.contains("expected the kms service"), "{failure}");
    assert!(failure.message.contains("service block/node-1"), "{failure}");
}

#[tokio::test]
async fn foreign_and_nameless_certificates_are_refused() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;

    // The client trusts the server, but another CA issued its own certificate.
    let mut files = foreign.issue("mallory", Some(ALICE), -1, 1);
    files.ca = pki.path("ca.pem");
    let failure = who_am_i(&server, &load(&files), Role::Block)
        .await
        .expect_err("foreign client");
    assert_eq!(failure.reason, Reason::UntrustedPeer, "{failure}");

    // The server's CA is not the client's.
    let files = foreign.issue("alice", Some(ALICE), -1, 1);
    let failure = who_am_i(&server, &load(&files), Role::Block)
        .await
        .expect_err("foreign server");
    assert_eq!(failure.reason, Reason::UntrustedPeer, "{failure}");

    let nameless = pki.issue("nameless", None, -1, 1);
    let error = TlsIdentity::load(&nameless, SystemTime::now()).expect_err("no identity");
    assert!(matches!(error, TlsError::Identity(_)), "{error:?}");
}

#[tokio::test]
async fn certificates_out_of_date_are_refused_at_both_ends() {
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let expired = pki.issue("expired", Some(ALICE), -3, -2);
    let error = TlsIdentity::load(&expired, SystemTime::now())
        .expect_err("expired")
        .to_string();
    assert!(error.contains("expired") && error.contains("replace it"), "{error}");
    let early = pki.issue("early", Some(ALICE), 2, 3);
    let error = TlsIdentity::load(&early, SystemTime::now())
        .expect_err("not valid yet")
        .to_string();
    assert!(error.contains("not valid yet") && error.contains("clock"), "{error}");

    // A client whose clock is wrong does not notice; the server does.
    let when_valid = SystemTime::now() - Duration::from_secs(60 * 60 * 60);
    let sleepy = TlsIdentity::load(&expired, when_valid).expect("valid then");
    let failure = who_am_i(&server, &sleepy, Role::Block)
        .await
        .expect_err("expired client");
    assert_eq!(failure.reason, Reason::UntrustedPeer, "{failure}");
    assert!(
        failure
            .message
            .contains("refused this client's certificate (CertificateExpired)"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_plaintext_client_gets_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.expect("connected");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.expect("the server hangs up").ok();
    // At most a TLS alert (record type 21), never an HTTP/2 frame.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
}

#[tokio::test]
async fn an_open_key_file_and_a_taken_port_are_refused() {
    let pki = Pki::new();
    let files = pki.issue("alice", Some(ALICE), -1, 1);
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o640)).expect("mode");
    let error = TlsIdentity::load(&files, SystemTime::now())
        .expect_err("readable key")
        .to_string();
    assert!(error.contains("chmod 600"), "{error}");

    let taken = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let error = transport::bind(address).await.expect_err("taken").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_reason_crosses_the_wire_and_an_absent_service_is_named() {
    let pki = Pki::new();
    let server = start(load(&pki.issue("node", Some(BLOCK_1), -1, 1))).await;
    let alice = Arc::new(load(&pki.issue("alice", Some(ALICE), -1, 1)));
    assert_eq!(*alice.identity(), ALICE.parse::<PeerIdentity>().expect("valid"));
    let remote = server.address.to_string().parse().expect("an address");
    let mut client = BlocksClient::new(transport::connect(&remote, &alice, Role::Block));
    let failure = Failure::from(client.put_block(PutBlockRequest::default()).await.expect_err("full"));
    assert_eq!(failure, Failure::new(Reason::NoSpace, "full"));

    let nobody = "127.0.0.1:1".parse().expect("an address");
    let mut client = BlocksClient::new(transport::connect(&nobody, &alice, Role::Block));
    let failure = Failure::from(
        client
            .get_block(GetBlockRequest::default())
            .await
            .expect_err("nobody there"),
    );
    assert_eq!(failure.reason, Reason::Unavailable);
    assert!(failure.message.contains("block service at 127.0.0.1:1"), "{failure}");
}
