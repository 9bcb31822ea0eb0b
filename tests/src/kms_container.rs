use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use strongroom_proto::transport::{Remote, Role, TlsFiles, TlsIdentity, connect};
use tempfile::TempDir;
use testcontainers::{
    ContainerAsync, ContainerRequest, CopyTargetOptions, GenericImage, ImageExt as _,
    core::{IntoContainerPort as _, WaitFor},
    runners::AsyncRunner as _,
};
use tonic::transport::Channel;

use crate::pki::{Ca, Validity};

const PORT: u16 = 7600;
const START_LIMIT: Duration = Duration::from_secs(60);
const POLICY: &str = include_str!("../../kms/policy/sample.cedar");
const CONFIG: &str = r#"listen = "0.0.0.0:7600"
policy = "policy.cedar"
data_dir = "/var/lib/strongroom/kms"

[tls]
ca = "ca.pem"
certificate = "kms.pem"
key = "kms.key"

[[tokens]]
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "strongroom"
pin_file = "pin"
"#;

/// The key service with its SoftHSM2 token in a container, reached over its real port. The token is in the
/// container: it survives a kill and a new start, and goes when this is dropped.
pub struct KmsContainer {
    folder: TempDir,
    ca: Ca,
    // Fixed, because an engine gives a container another free port at each start.
    port: u16,
    container: ContainerAsync<GenericImage>,
}

impl KmsContainer {
    /// Starts a container of the image that `ci/images` builds and waits until the service serves.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let ca = Ca::new("container CA");
        let tls = ca.issue(folder.path(), "kms", "service/kms", Validity::Now);
        let port = free_port();
        let container = request(&tls, port).start().await.unwrap_or_else(|error| {
            panic!("no container: {error}; run ci/images, which also starts a Docker engine if none answers")
        });
        let this = Self {
            folder,
            ca,
            port,
            container,
        };
        this.serving().await;
        this
    }

    /// Where the service is reached from this machine.
    pub fn remote(&self) -> Remote {
        format!("127.0.0.1:{}", self.port).parse().expect("valid")
    }

    /// A certificate of the CA that the service trusts.
    pub fn tls(&self, identity: &str) -> TlsIdentity {
        let files = self
            .ca
            .issue(self.folder.path(), &identity.replace('/', "-"), identity, Validity::Now);
        TlsIdentity::load(&files, std::time::SystemTime::now()).expect("just issued")
    }

    /// A channel to the service as `user/alice`, `service/metadata` …
    pub fn channel(&self, identity: &str) -> Channel {
        connect(&self.remote(), &self.tls(identity), Role::Kms)
    }

    /// Freezes every process in the container: connections stay, nothing answers.
    pub async fn pause(&self) {
        self.container.pause().await.expect("the container runs");
    }

    /// Lets them go on.
    pub async fn unpause(&self) {
        self.container.unpause().await.expect("the container is paused");
    }

    /// `kill -9` of everything in the container.
    pub fn kill(&self) {
        let output = Command::new("docker")
            .args(["kill", "--signal", "KILL", self.container.id()])
            .output();
        let output = output.expect("the docker client is installed: ci/images used it");
        assert!(
            output.status.success(),
            "docker kill failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Starts a killed container again and waits until the service serves.
    pub async fn start_again(&self) {
        self.container.start().await.expect("the container was killed");
        self.serving().await;
    }

    /// What the service logged.
    pub async fn log(&self) -> String {
        let log = self.container.stderr_to_vec().await.unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits until the key service, with its token, answers an administrator.
    async fn serving(&self) {
        let mut client =
            strongroom_proto::kms::v1::key_admin_client::KeyAdminClient::new(self.channel("user/keyadmin"));
        let mut last = String::new();
        for _ in 0..START_LIMIT.as_secs() * 5 {
            match client
                .list_keys(strongroom_proto::kms::v1::ListKeysRequest::default())
                .await
            {
                Ok(_) => return,
                Err(status) => last = strongroom_proto::Failure::from(status).to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!(
            "the key service in the container does not serve: {last}\n{}",
            self.log().await
        );
    }
}

fn request(tls: &TlsFiles, port: u16) -> ContainerRequest<GenericImage> {
    let private = |name: &str| CopyTargetOptions::new(format!("/etc/strongroom/{name}")).with_mode(0o600);
    let read = |path: &Path| fs::read(path).expect("just issued");
    GenericImage::new("strongroom/kms", "test")
        .with_wait_for(WaitFor::message_on_stderr("serving"))
        .with_startup_timeout(START_LIMIT)
        .with_mapped_port(port, PORT.tcp())
        .with_copy_to(private("kms.toml"), CONFIG.as_bytes().to_vec())
        .with_copy_to(private("policy.cedar"), POLICY.as_bytes().to_vec())
        .with_copy_to(private("ca.pem"), read(&tls.ca))
        .with_copy_to(private("kms.pem"), read(&tls.certificate))
        .with_copy_to(private("kms.key"), read(&tls.key))
        .with_copy_to(private("pin"), b"86420864".to_vec())
        .with_copy_to(private("so-pin"), b"13571357".to_vec())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
