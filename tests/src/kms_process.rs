use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_proto::transport::{Role, TlsFiles, TlsIdentity, connect};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{Ca, SoftHsm, Validity, poll::until, strongroom};

const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What several key services share: a CA, a token, and the database that a file names.
pub struct KmsSite {
    folder: TempDir,
    ca: Ca,
    token: SoftHsm,
    url_file: PathBuf,
}

impl KmsSite {
    /// A site whose key services keep their keys in the PostgreSQL database that `url_file` names.
    pub fn new(url_file: PathBuf) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary directory"),
            ca: Ca::new("test CA"),
            token: SoftHsm::new(),
            url_file,
        }
    }

    /// Starts a key service with a directory and a port of its own. Whoever has a certificate may do everything.
    pub fn start(&self, name: &str) -> KmsProcess<'_> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).expect("own directory");
        let address = free_address();
        fs::write(config_in(&folder), self.configuration(&folder, address)).expect("own directory");
        KmsProcess {
            site: self,
            child: self.launch(&folder),
            folder,
            address,
        }
    }

    /// Starts the executable as the configuration in a key service's directory says.
    fn launch(&self, folder: &Path) -> Child {
        let mut command = Command::new(strongroom());
        command.args(["kms", "--config"]).arg(config_in(folder));
        command.envs([self.token.environment()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"));
        let stderr = log.expect("own directory");
        command.stderr(stderr).spawn().expect("the executable is built")
    }

    fn configuration(&self, folder: &Path, address: SocketAddr) -> String {
        let tls = self.issue(folder, "kms", "service/kms");
        fs::write(folder.join("policy.cedar"), "permit (principal, action, resource);").expect("own directory");
        format!(
            "listen = '{address}'\npolicy = 'policy.cedar'\ndata_dir = 'data'\n\
             [tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n\
             [[tokens]]\nmodule = '{}'\nlabel = '{}'\npin_file = '{}'\n\
             [store]\nengine = 'postgres'\nurl_file = '{}'\n",
            tls.ca.display(),
            tls.certificate.display(),
            tls.key.display(),
            SoftHsm::module().display(),
            SoftHsm::LABEL,
            self.token.pin_file().display(),
            self.url_file.display(),
        )
    }

    pub(crate) fn issue(&self, folder: &Path, name: &str, identity: &str) -> TlsFiles {
        self.ca.issue(folder, name, identity, Validity::Now)
    }
}

/// A key service in a process of its own. It is killed when this is dropped.
pub struct KmsProcess<'a> {
    site: &'a KmsSite,
    folder: PathBuf,
    child: Child,
    address: SocketAddr,
}

impl KmsProcess<'_> {
    /// A connection as `identity`: `user/alice`, `service/metadata`.
    pub fn channel(&self, identity: &str) -> Channel {
        let files = self.site.issue(&self.folder, &identity.replace('/', "-"), identity);
        let tls = TlsIdentity::load(&files, SystemTime::now()).expect("fresh certificates");
        let remote = self.address.to_string().parse().expect("an address");
        connect(&remote, &tls, Role::Kms)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends the service a signal. Its token worker does not get it.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Kills it and starts it again where it was.
    pub fn crash(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("our child");
        self.child = self.site.launch(&self.folder);
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Stops it and waits for its end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        until("the key service ends", STOP_LIMIT, || {
            self.child.try_wait().expect("our child")
        });
    }
}

impl Drop for KmsProcess<'_> {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn config_in(folder: &Path) -> PathBuf {
    folder.join("kms.toml")
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}
