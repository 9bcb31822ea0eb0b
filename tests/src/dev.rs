use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use strongroom_proto::transport::{Remote, Role, TlsFiles, TlsIdentity, connect};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{
    cli::{Cli, environment},
    poll::until,
    strongroom,
};

/// The block nodes of a development deployment.
pub const BLOCK_NODES: [&str; 3] = ["block-1", "block-2", "block-3"];

/// How long a start may take on a busy machine; `dev` itself gives up earlier and says why.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long a stop may take: `dev` gives each of three groups 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// How long a role may take to come back: the supervisor pauses 5 s at most.
const RETURN_LIMIT: Duration = Duration::from_secs(40);

/// A running `strongroom dev` with a home of its own. Dropping it ends every process of it.
pub struct Dev {
    home: TempDir,
    builder: DevBuilder,
    process: Option<Process>,
}

/// What a [`Dev`] is started with.
#[derive(Debug, Clone, Default)]
pub struct DevBuilder {
    arguments: Vec<OsString>,
    mounts: Vec<(&'static str, u64)>,
}

/// A `strongroom dev` that did not come up.
#[derive(Debug)]
pub struct Refused {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it said on standard error.
    pub stderr: String,
}

struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
}

#[derive(Deserialize)]
struct Profile {
    kms: Remote,
    metadata: Remote,
    identities: BTreeMap<String, TlsFiles>,
}

impl DevBuilder {
    /// With one more argument for `strongroom dev`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a role's state on a file system of `bytes` of its own, so that it can run full.
    #[must_use]
    pub fn small_disk(mut self, role: &'static str, bytes: u64) -> Self {
        self.mounts.push((role, bytes));
        self
    }

    /// Starts it in a fresh home and waits until it is ready.
    pub fn start(self) -> Dev {
        let mut dev = self.prepare();
        dev.start_again();
        dev
    }

    /// The home without a process, for tests that put something into it first.
    pub fn prepare(self) -> Dev {
        let home = tempfile::tempdir().expect("a temporary directory");
        for folder in ["config", "data", "run"] {
            fs::create_dir(home.path().join(folder)).expect("own directory");
        }
        let dev = Dev {
            home,
            builder: self,
            process: None,
        };
        for (role, bytes) in &dev.builder.mounts {
            // Elsewhere than in the data directory, which `dev` wants to make itself.
            mount(&dev.disk(role), *bytes);
        }
        dev
    }
}

impl Dev {
    /// A default deployment, ready.
    pub fn start() -> Self {
        DevBuilder::default().start()
    }

    /// A deployment that is started with something of its own.
    pub fn builder() -> DevBuilder {
        DevBuilder::default()
    }

    /// One more argument from the next start on.
    pub fn add_argument(&mut self, argument: impl Into<OsString>) {
        self.builder.arguments.push(argument.into());
    }

    /// No argument of its own from the next start on.
    pub fn drop_arguments(&mut self) {
        self.builder.arguments.clear();
    }

    /// Starts the processes, which must not run, and waits until they are ready.
    pub fn start_again(&mut self) {
        if let Err(refused) = self.try_start() {
            panic!(
                "strongroom dev did not start (exit code {:?}): {}",
                refused.code, refused.stderr
            );
        }
    }

    /// Starts the processes and waits until they are ready or `dev` gives up.
    ///
    /// # Errors
    /// What it said when it gave up.
    pub fn try_start(&mut self) -> Result<(), Refused> {
        assert!(self.process.is_none(), "it runs already");
        self.link_disks();
        let mut command = Command::new(strongroom());
        environment(&mut command, self.home.path());
        command
            .args(["--json", "dev"])
            .args(&self.builder.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().expect("the executable starts");
        let stderr = keep(child.stderr.take().expect("piped"));
        let ready = ready_line(child.stdout.take().expect("piped"));
        let outcome = ready.recv_timeout(START_LIMIT);
        self.process = Some(Process { child, stderr });
        match outcome {
            Ok(()) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("strongroom dev is not ready: {}", self.stderr()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.refusal()),
        }
    }

    /// The home of its user, with the profile in its default place.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A path in its data directory.
    pub fn data(&self, path: &str) -> PathBuf {
        self.home.path().join("data/strongroom-dev").join(path)
    }

    /// A scratch directory of the test.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.home.path().join("scratch").join(name);
        fs::create_dir_all(&path).expect("own directory");
        path
    }

    /// Commands of its user.
    pub fn cli(&self) -> Cli {
        Cli::new(self.home.path())
    }

    /// Makes a key and a zone under it at `/NAME`, NAME being the key's name.
    pub fn zone(&self, name: &str) -> String {
        let path = format!("/{name}");
        self.cli().line(&format!("key create {name}")).ok();
        self.cli().as_user("fsadmin").line(&format!("fs mkdir {path}")).ok();
        self.cli()
            .line(&format!("zone create {path} --key {name} --owner alice"))
            .ok();
        path
    }

    /// A channel to a service as one of the profile's users.
    pub fn channel(&self, user: &str, role: Role) -> Channel {
        self.channel_with(&self.tls_files(user), role)
    }

    /// A channel to a service with any certificate that loads.
    pub fn channel_with(&self, files: &TlsFiles, role: Role) -> Channel {
        let tls = TlsIdentity::load(files, SystemTime::now()).expect("a usable certificate");
        connect(&self.remote(role), &tls, role)
    }

    /// The certificate of a user of the profile.
    pub fn tls_files(&self, user: &str) -> TlsFiles {
        self.profile().identities.remove(user).expect("a user of the profile")
    }

    /// The certificate of a service: `kms`, `metadata`, `block-1` …
    pub fn service_tls_files(&self, name: &str) -> TlsFiles {
        TlsFiles {
            ca: self.data("pki/ca.pem"),
            certificate: self.data(&format!("pki/{name}.pem")),
            key: self.data(&format!("pki/{name}.key")),
        }
    }

    /// Where a service is reached.
    pub fn remote(&self, role: Role) -> Remote {
        let profile = self.profile();
        match role {
            Role::Kms => profile.kms,
            Role::Metadata => profile.metadata,
            Role::Block => panic!("there are three block nodes"),
        }
    }

    fn profile(&self) -> Profile {
        let path = self.data("client.toml");
        let text = fs::read_to_string(path).expect("dev wrote its profile");
        toml::from_str(&text).expect("the profile parses")
    }

    /// The process of a role (`dev` for the supervisor itself) if it runs now.
    pub fn pid(&self, role: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.data("pids.json")).ok()?;
        let pids: BTreeMap<String, i32> = serde_json::from_str(&text).ok()?;
        Pid::from_raw(*pids.get(role)?)
    }

    /// Sends a signal to a role that runs; tells its process.
    pub fn signal(&self, role: &str, signal: Signal) -> Pid {
        let pid = self.pid(role).unwrap_or_else(|| panic!("{role} does not run"));
        kill_process(pid, signal).expect("own process");
        pid
    }

    /// The key service's child that holds the token.
    pub fn token_worker(&self) -> Pid {
        let kms = self.pid("kms").expect("the key service runs").as_raw_nonzero();
        // A child is listed under the thread that started it, which may be any of the service's.
        let threads = fs::read_dir(format!("/proc/{kms}/task")).expect("Linux tells threads");
        let children: String = threads
            .filter_map(Result::ok)
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .collect();
        let child = children
            .split_whitespace()
            .next()
            .expect("the key service has a worker");
        Pid::from_raw(child.parse().expect("a number")).expect("not 0")
    }

    /// `kill -9` of a role; waits until its supervisor has started another process of it.
    pub fn crash(&self, role: &str) {
        let old = self.signal(role, Signal::KILL);
        self.replaced(role, old);
    }

    /// Waits until the supervisor has started another process of a role whose process `old` was ended.
    pub fn replaced(&self, role: &str, old: Pid) {
        until(&format!("another process of {role}"), RETURN_LIMIT, || {
            self.pid(role).filter(|pid| *pid != old)
        });
    }

    /// `kill -9` of a role that then stays away: its supervisor finds no configuration for it.
    pub fn take_down(&self, role: &str) {
        let config = self.data(&format!("config/{role}.toml"));
        fs::rename(&config, config.with_extension("held")).expect("dev wrote the configuration");
        let old = self.signal(role, Signal::KILL);
        until(&format!("the end of {role}"), RETURN_LIMIT, || {
            (self.pid(role) != Some(old)).then_some(())
        });
    }

    /// Lets a role come back that [`Dev::take_down`] took away. It serves a little later.
    pub fn bring_back(&self, role: &str) {
        let config = self.data(&format!("config/{role}.toml"));
        fs::rename(config.with_extension("held"), &config).expect("the role was taken down");
    }

    /// Puts a line before a role's configuration and starts the role anew. Lasts until `dev` itself starts again.
    pub fn configure(&self, role: &str, line: &str) {
        let config = self.data(&format!("config/{role}.toml"));
        let text = fs::read_to_string(&config).expect("dev wrote the configuration");
        fs::write(&config, format!("{line}\n{text}")).expect("own file");
        self.crash(role);
    }

    /// Stops all processes with SIGTERM and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.stop_with(Signal::TERM)
    }

    /// Stops all processes with a signal to the supervisor and waits for the end.
    pub fn stop_with(&mut self, signal: Signal) -> ExitStatus {
        let process = self.process.as_mut().expect("it runs");
        kill_process(Pid::from_child(&process.child), signal).expect("own process");
        let status = until("the end of strongroom dev", STOP_LIMIT, || {
            process.child.try_wait().expect("own child")
        });
        self.process = None;
        status
    }

    /// What `dev` said on standard error so far.
    pub fn stderr(&self) -> String {
        let process = self.process.as_ref().expect("it runs");
        process.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A role's log so far.
    pub fn log(&self, role: &str) -> String {
        fs::read(self.data(&format!("logs/{role}.log")))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// The files in which a block node keeps blocks.
    pub fn block_files(&self, node: &str) -> Vec<PathBuf> {
        let state = fs::canonicalize(self.data(&format!("state/{node}"))).expect("the node has its directory");
        let files = walkdir::WalkDir::new(state).into_iter().filter_map(Result::ok);
        let blocks = files.filter(|entry| entry.file_type().is_file() && is_block(entry.path()));
        blocks.map(walkdir::DirEntry::into_path).collect()
    }

    fn refusal(&mut self) -> Refused {
        let process = self.process.as_mut().expect("it was started");
        let status = until("the end of strongroom dev", STOP_LIMIT, || {
            process.child.try_wait().expect("own child")
        });
        // The reader ends with the process, a moment later.
        std::thread::sleep(Duration::from_millis(100));
        let stderr = self.stderr();
        self.process = None;
        Refused {
            code: status.code(),
            stderr,
        }
    }

    fn disk(&self, role: &str) -> PathBuf {
        self.home.path().join("disks").join(role)
    }

    /// Puts the small disks where the roles will look for their state.
    fn link_disks(&self) {
        if self.builder.mounts.is_empty() || self.data("VERSION").exists() {
            return;
        }
        fs::create_dir_all(self.data("state")).expect("own directory");
        fs::write(self.data("VERSION"), "1\n").expect("own directory");
        for (role, _) in &self.builder.mounts {
            std::os::unix::fs::symlink(self.disk(role), self.data(&format!("state/{role}"))).expect("own directory");
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Its roles stop when the supervisor, which holds their standard input, is gone; those that hang do not.
            let roles: Vec<Pid> = ["kms", "metadata"]
                .iter()
                .chain(&BLOCK_NODES)
                .filter_map(|role| self.pid(role))
                .collect();
            _ = process.child.kill();
            _ = process.child.wait();
            for pid in roles {
                _ = kill_process(pid, Signal::KILL);
            }
        }
        for (role, _) in &self.builder.mounts {
            _ = Command::new("umount").arg("--lazy").arg(self.disk(role)).status();
        }
    }
}

/// Whether a file of a block node's directory holds a block: all but its own bookkeeping does.
fn is_block(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "blk")
}

fn mount(folder: &Path, bytes: u64) {
    fs::create_dir_all(folder).expect("own directory");
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=700"), "tmpfs"])
        .arg(folder)
        .status()
        .expect("mount is part of every Debian");
    assert!(
        status.success(),
        "a small disk needs a tmpfs mount; run the tests as root"
    );
}

/// Reads a stream to its end in the background, so that its writer never waits.
fn keep(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = kept.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

/// Tells when the line `{"event":"ready"…}` comes; the sender is dropped if the stream ends without it.
fn ready_line(stream: impl Read + Send + 'static) -> mpsc::Receiver<()> {
    let (ready, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let event: Option<Value> = serde_json::from_str(&line).ok();
            if event.is_some_and(|event| event["event"] == "ready") {
                _ = ready.send(());
            }
        }
    });
    seen
}
