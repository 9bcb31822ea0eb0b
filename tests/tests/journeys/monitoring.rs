//! What a key service's process tells of itself: spans to a collector, and its state to the service manager.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::{net::UnixDatagram, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{Router, body::to_bytes, extract::Request, response::Response, routing::post};
use rustix::process::{Pid, Signal, kill_process};
use strongroom_proto::{
    kms::v1::{ListInstancesRequest, ListKeysRequest, key_admin_client::KeyAdminClient},
    transport::{self, Role, TlsFiles, TlsIdentity, connect},
};
use strongroom_tests::{Ca, SoftHsm, Validity, strongroom, until, until_async};
use tempfile::TempDir;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the largest export that the collector takes.
const EXPORT_BYTES_MAX: usize = 4 << 20;

/// The `traceparent` of a caller that has decided to be traced.
const TRACE_ID: [u8; 16] = *b"strongroom-trace";
const CALLER_SPAN: &str = "0102030405060708";

/// A key service process without a usable token, which is all that these journeys need.
struct Kms {
    child: Child,
    address: SocketAddr,
}

impl Kms {
    fn start(place: &Place, more: &str, environment: &[(&str, PathBuf)]) -> Self {
        let address = free_address();
        let config = place.path("kms.toml");
        let text = place.configuration(address) + more;
        fs::write(&config, text).expect("own directory");
        let mut command = Command::new(strongroom());
        command.args(["kms", "--config"]).arg(&config);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).process_group(0);
        let child = command.spawn().expect("the executable is built");
        Self { child, address }
    }

    fn stop(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
        until("the key service ends", LIMIT, || {
            self.child.try_wait().expect("our child")
        });
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A directory with a CA.
struct Place {
    folder: TempDir,
    ca: Ca,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary directory"),
            ca: Ca::new("test CA"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, name: &str, identity: &str) -> TlsFiles {
        self.ca.issue(self.folder.path(), name, identity, Validity::Now)
    }

    fn identity(&self, name: &str, identity: &str) -> TlsIdentity {
        TlsIdentity::load(&self.issue(name, identity), SystemTime::now()).expect("fresh certificates")
    }

    fn configuration(&self, address: SocketAddr) -> String {
        let tls = self.issue("kms", "service/kms");
        let show = |path: &Path| path.display().to_string();
        fs::write(self.path("policy.cedar"), "permit (principal, action, resource);").expect("own directory");
        let pin = self.path("pin");
        fs::write(&pin, "1234").expect("own directory");
        fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
        format!(
            "listen = '{address}'\npolicy = 'policy.cedar'\ndata_dir = 'data'\n\
             [tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n\
             [[tokens]]\nmodule = '{}'\nlabel = 'no such token'\npin_file = 'pin'\n",
            show(&tls.ca),
            show(&tls.certificate),
            show(&tls.key),
            show(&SoftHsm::module()),
        )
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// A stand-in for an OpenTelemetry collector: it keeps the bytes of what it is sent and answers as OTLP wants.
async fn collector(place: &Place) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&received);
    let export = move |request: Request| {
        let keep = Arc::clone(&keep);
        async move {
            let bytes = to_bytes(request.into_body(), EXPORT_BYTES_MAX)
                .await
                .expect("an export");
            keep.lock().expect("no panic").extend_from_slice(&bytes);
            // gRPC's shortest answer: no message, status 0.
            Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "0")
                .body(axum::body::Body::empty())
                .expect("a response")
        }
    };
    let routes = Router::new().route(
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        post(export),
    );
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tls = place.identity("collector", "user/collector");
    tokio::spawn(async move { transport::serve(listener, &tls, routes.into(), std::future::pending()).await });
    (address, received)
}

/// A call that is part of the caller's trace.
async fn traced_list(place: &Place, kms: &Kms) {
    let remote = kms.address.to_string().parse().expect("an address");
    let channel = connect(&remote, &place.identity("keyadmin", "user/keyadmin"), Role::Kms);
    until_async("the key service answers", LIMIT, || {
        let mut client = KeyAdminClient::new(channel.clone());
        async move {
            let mut request = tonic::Request::new(ListKeysRequest::default());
            let trace: String = TRACE_ID.iter().map(|byte| format!("{byte:02x}")).collect();
            let parent = format!("00-{trace}-{CALLER_SPAN}-01");
            request
                .metadata_mut()
                .insert("traceparent", parent.parse().expect("text"));
            client.list_keys(request).await.ok()
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_becomes_part_of_its_callers_trace() {
    let place = Place::new();
    let (address, received) = collector(&place).await;
    let traces = format!("[traces]\ncollector = '{address}'\nsample_ratio = 0.0\n");
    let kms = Kms::start(&place, &traces, &[]);
    traced_list(&place, &kms).await;
    kms.stop();
    let received = received.lock().expect("no panic");
    let holds = |what: &[u8]| received.windows(what.len()).any(|window| window == what);
    assert!(holds(b"KeyAdmin/ListKeys"), "the span's name");
    assert!(holds(&TRACE_ID), "the caller's trace");
    assert!(holds(&[1, 2, 3, 4, 5, 6, 7, 8]), "the caller's span");
    assert!(holds(b"strongroom-kms"), "the service's name");
}

/// The files are looked at every second, and a change counts when they have rested for one. On a hangup they are read again
/// however they look.
#[tokio::test(flavor = "multi_thread")]
async fn changed_policies_are_in_force_after_a_hangup() {
    let place = Place::new();
    let kms = Kms::start(&place, "", &[]);
    let remote = kms.address.to_string().parse().expect("an address");
    let channel = connect(&remote, &place.identity("keyadmin", "user/keyadmin"), Role::Kms);
    let allowed = || {
        let mut client = KeyAdminClient::new(channel.clone());
        async move {
            client
                .list_instances(ListInstancesRequest {})
                .await
                .map(drop)
                .map_err(|status| status.code())
        }
    };
    until_async("the key service answers", LIMIT, || async { allowed().await.ok() }).await;
    for (policy, expected) in [
        ("forbid (principal, action, resource);", Err(Code::PermissionDenied)),
        ("permit (principal, action, resource);", Ok(())),
    ] {
        let new = place.path("policy.new");
        fs::write(&new, policy).expect("own directory");
        fs::rename(&new, place.path("policy.cedar")).expect("own directory");
        kill_process(Pid::from_child(&kms.child), Signal::HUP).expect("it runs");
        let taken_up = || async { (allowed().await == expected).then_some(()) };
        until_async(&format!("{policy} is in force"), Duration::from_secs(6), taken_up).await;
    }
    // A set that cannot be read changes nothing, and the service lives on.
    fs::write(place.path("policy.cedar"), "permit (principal, action);").expect("own directory");
    kill_process(Pid::from_child(&kms.child), Signal::HUP).expect("it runs");
    let broken = || recorded(&place, "policy-broken").then_some(());
    until("the audit log tells of it", LIMIT, broken);
    assert_eq!(allowed().await, Ok(()));
    assert!(recorded(&place, "policy-reloaded"));
    kms.stop();
}

fn recorded(place: &Place, action: &str) -> bool {
    let log = fs::read_to_string(place.path("data/audit/000001.log")).expect("an audit log");
    log.contains(&format!("\"action\":\"{action}\""))
}

/// systemd is told when calls are served and when the service stops (`sd_notify(3)`).
#[test]
fn the_service_manager_is_told() {
    let place = Place::new();
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let next = || {
        let mut message = [0; 256];
        let length = match socket.recv(&mut message) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the manager was told nothing"),
            received => received.expect("a message"),
        };
        String::from_utf8(message[..length].to_vec()).expect("text")
    };
    let kms = Kms::start(&place, "", &[("NOTIFY_SOCKET", path.clone())]);
    assert_eq!(next().trim(), "READY=1");
    kms.stop();
    assert_eq!(next().trim(), "STOPPING=1");
}
