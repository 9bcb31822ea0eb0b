//! What is measured: tokens, certificates, configuration, and the key service's process.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use strongroom_kms_admin::{KeyAdminClient, NewKey};
use strongroom_pki::{Authority, PrivateKey, Request, Validity};
use strongroom_proto::{
    KeyName, RequestId,
    transport::{Remote, Role, TlsFiles, TlsIdentity, connect},
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::kms::parts::{RAW, Raw};

/// Where distributions put SoftHSM2.
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];
const PIN: &str = "86420864";
const SO_PIN: &str = "13571357";
/// How long the service may take to come up.
const START_MAX: Duration = Duration::from_secs(120);

/// Everybody who takes part may do what the benchmark has them do.
const POLICY: &str = r#"@id("bench") permit (principal, action, resource);"#;

/// Tokens, certificates and a place for the service's files.
pub(crate) struct Site {
    folder: TempDir,
    authority: Authority,
    tokens: Vec<String>,
}

impl Site {
    /// A site with `tokens` fresh SoftHSM2 tokens, in the temporary directory that the system names.
    pub(crate) fn new(tokens: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let key = PrivateKey::generate().expect("random numbers");
        let authority = Authority::new("Strongroom bench", key, today()).expect("an authority");
        let site = Self {
            folder,
            authority,
            tokens: (0..tokens).map(|n| format!("bench-{n}")).collect(),
        };
        site.prepare();
        site
    }

    fn prepare(&self) {
        fs::create_dir(self.path("objects")).expect("own directory");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            self.path("objects").display()
        );
        fs::write(self.path("softhsm2.conf"), conf).expect("own directory");
        self.secret("pin", PIN);
        self.secret("so-pin", SO_PIN);
        fs::write(self.path("policy.cedar"), POLICY).expect("own directory");
        for label in &self.tokens {
            let mut init = self.strongroom();
            init.args(["token", "init", "--module", &module(), "--label", label])
                .arg("--so-pin-file")
                .arg(self.path("so-pin"))
                .arg("--pin-file")
                .arg(self.path("pin"));
            succeeds(init);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("own directory");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("own file");
    }

    /// The executable, on this site's tokens.
    pub(crate) fn strongroom(&self) -> Command {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program.with_file_name("strongroom"));
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        // The binding of PKCS#11 reports every mechanism of a token that it has no name for as an error.
        command
            .env("RUST_LOG", "error,cryptoki::mechanism=off")
            .stdout(Stdio::null());
        command
    }

    /// Has the tokens trust each other's clone keys.
    fn link(&self, config: &Path) {
        let mut link = self.strongroom();
        link.args(["token", "link", "--config"]).arg(config);
        for label in &self.tokens {
            link.arg("--so-pin-file");
            link.arg(format!("{label}={}", self.path("so-pin").display()));
        }
        succeeds(link);
    }

    /// The bare loop on the first token.
    pub(crate) fn raw(&self) -> Raw {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command
            .args([RAW, &module(), &self.tokens[0], PIN])
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        Raw::start(command)
    }

    pub(crate) fn issue(&self, file: &str, identity: &str) -> TlsFiles {
        let files = TlsFiles {
            ca: self.path("ca.pem"),
            certificate: self.path(&format!("{file}.pem")),
            key: self.path(&format!("{file}.key")),
        };
        let request = Request {
            common_name: file,
            uri: Some(&format!("spiffe://strongroom/{identity}")),
            names: &["localhost", "127.0.0.1"],
            validity: today(),
        };
        let leaf = self.authority.issue(&request).expect("valid names");
        self.authority.write_certificate(&files.ca).expect("own directory");
        leaf.write(&files.certificate, &files.key).expect("own directory");
        files
    }
}

impl Site {
    /// A user's certificate.
    pub(crate) fn identity(&self, user: &str) -> TlsIdentity {
        let files = self.issue(user, &format!("user/{user}"));
        TlsIdentity::load(&files, SystemTime::now()).expect("fresh certificates")
    }
}

fn today() -> Validity {
    Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600))
}

/// A key service that runs.
pub(crate) struct Service<'a> {
    site: &'a Site,
    child: Child,
    remote: Remote,
}

impl<'a> Service<'a> {
    /// Starts the service with its store and audit log in `data_dir`, and waits until it serves.
    pub(crate) async fn start(site: &'a Site, data_dir: &Path) -> Self {
        let address = free_address();
        let config = site.path("kms.toml");
        let tls = site.issue("kms", "service/kms");
        fs::write(&config, configuration(site, data_dir, address, &tls)).expect("own directory");
        if site.tokens.len() > 1 {
            site.link(&config);
        }
        let child = site
            .strongroom()
            .args(["kms", "--stop-on-stdin-eof", "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the executable is built beside this program");
        let remote = address.to_string().parse().expect("an address");
        let service = Self { site, child, remote };
        service.wait().await;
        service
    }

    async fn wait(&self) {
        let started = Instant::now();
        let admin = self.admin();
        while let Err(failure) = admin.list(None, 1).await {
            assert!(
                started.elapsed() < START_MAX,
                "the key service does not come up: {failure}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn admin(&self) -> KeyAdminClient {
        KeyAdminClient::connect(&(&self.remote).into(), &self.site.identity("keyadmin"))
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(crate) fn identity(&self, user: &str) -> TlsIdentity {
        self.site.identity(user)
    }

    pub(crate) fn channel(&self) -> Channel {
        connect(&self.remote, &self.site.identity("alice"), Role::Kms)
    }

    /// A key with versions 0 and 1.
    pub(crate) async fn key(&self, suite: &str) -> KeyName {
        let name: KeyName = format!("bench-{suite}").parse().expect("a key name");
        let new = NewKey {
            suite: Some(suite.parse().expect("a suite")),
            ..NewKey::default()
        };
        self.admin()
            .create(&name, &new, RequestId::generate())
            .await
            .expect("a key");
        name
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        _ = self.child.wait();
    }
}

fn configuration(site: &Site, data_dir: &Path, address: SocketAddr, tls: &TlsFiles) -> String {
    let mut text = format!(
        "listen = '{address}'\npolicy = '{}'\ndata_dir = '{}'\n[tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
        site.path("policy.cedar").display(),
        data_dir.display(),
        tls.ca.display(),
        tls.certificate.display(),
        tls.key.display(),
    );
    let worker = site.issue("token-worker", "service/token-worker");
    text.push_str(&format!(
        "[sealed]\ncertificate = '{}'\nkey = '{}'\n",
        worker.certificate.display(),
        worker.key.display()
    ));
    for label in &site.tokens {
        let pin_file = site.path("pin");
        text.push_str(&format!(
            "[[tokens]]\nmodule = '{}'\nlabel = '{label}'\npin_file = '{}'\n",
            module(),
            pin_file.display()
        ));
    }
    text
}

fn module() -> String {
    let found = MODULES.iter().find(|path| Path::new(path).is_file());
    (*found.expect("libsofthsm2.so is not installed; run: apt-get install softhsm2")).to_owned()
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

fn succeeds(mut command: Command) {
    let status = command.status().expect("the executable is built beside this program");
    assert!(status.success(), "{command:?} failed: {status}");
}
