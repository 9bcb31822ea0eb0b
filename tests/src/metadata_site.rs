use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::SystemTime,
};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_fs::ZoneFs;
use strongroom_proto::transport::{Remotes, TlsFiles, TlsIdentity};
use tempfile::TempDir;

use crate::{KmsProcess, KmsSite, kms_process::free_address, strongroom};

/// Block nodes of a site.
const NODES: [&str; 3] = ["b1", "b2", "b3"];

/// Several metadata services over one database, and block nodes that report to all of them.
pub struct MetadataSite<'a> {
    folder: TempDir,
    site: &'a KmsSite,
    kms: SocketAddr,
    url_file: PathBuf,
    addresses: Vec<SocketAddr>,
}

impl<'a> MetadataSite<'a> {
    /// A site of `count` metadata services, none of which runs yet, whose namespace is in the PostgreSQL database that
    /// `url_file` names.
    pub fn new(site: &'a KmsSite, kms: &KmsProcess<'_>, url_file: PathBuf, count: usize) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary directory"),
            site,
            kms: kms.address(),
            url_file,
            addresses: (0..count).map(|_| free_address()).collect(),
        }
    }

    /// Starts, or starts again, the metadata service of that number.
    pub fn start(&self, number: usize) -> RoleProcess {
        let name = format!("metadata-{number}");
        let tls = self.issue(&name, "service/metadata");
        let text = format!(
            "listen = '{}'\ndata_dir = '{name}'\nkms = '{}'\nsuperusers = ['fsadmin']\n{}\
             [store]\nengine = 'postgres'\nurl_file = '{}'\n",
            self.addresses[number],
            self.kms,
            table(&tls),
            self.url_file.display()
        );
        self.launch("metadata", &name, &text)
    }

    /// Starts the block nodes.
    pub fn start_nodes(&self) -> Vec<RoleProcess> {
        let start = |name: &&str| {
            let (tls, address) = (self.issue(name, &format!("service/block/{name}")), free_address());
            let text = format!(
                "node_id = '{name}'\nlisten = '{address}'\nadvertise = '{address}'\nmetadata = '{}'\n\
                 data_dir = '{name}'\nreserve_bytes = 0\n{}",
                self.remotes(0),
                table(&tls)
            );
            self.launch("block", name, &text)
        };
        NODES.iter().map(start).collect()
    }

    /// The client library as `user`, with every metadata service's address, beginning with that of the number `first`.
    pub fn fs(&self, user: &str, first: usize) -> ZoneFs {
        let files = self.issue(&format!("{user}-{first}"), &format!("user/{user}"));
        let tls = TlsIdentity::load(&files, SystemTime::now()).expect("fresh certificates");
        let kms: Remotes = self.kms.to_string().parse().expect("an address");
        ZoneFs::connect(&kms, &self.remotes(first), Arc::new(tls))
    }

    fn remotes(&self, first: usize) -> Remotes {
        let (before, from) = self.addresses.split_at(first);
        let all: Vec<String> = from.iter().chain(before).map(SocketAddr::to_string).collect();
        all.join(",").parse().expect("addresses")
    }

    fn issue(&self, name: &str, identity: &str) -> TlsFiles {
        self.site.issue(self.folder.path(), name, identity)
    }

    fn launch(&self, role: &str, name: &str, configuration: &str) -> RoleProcess {
        let config = self.folder.path().join(format!("{name}.toml"));
        fs::write(&config, configuration).expect("own directory");
        let log = self.folder.path().join(format!("{name}.log"));
        let stderr = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("own directory");
        let mut command = Command::new(strongroom());
        command.args([role, "--config"]).arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let child = command.stderr(stderr).spawn().expect("the executable is built");
        RoleProcess { child, log }
    }
}

fn table(tls: &TlsFiles) -> String {
    format!(
        "[tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
        tls.ca.display(),
        tls.certificate.display(),
        tls.key.display()
    )
}

/// A role in a process of its own. It is killed when this is dropped.
pub struct RoleProcess {
    child: Child,
    log: PathBuf,
}

impl RoleProcess {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
