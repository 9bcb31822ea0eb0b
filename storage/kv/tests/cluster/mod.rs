//! A PostgreSQL of the test's own: a fresh cluster in a temporary directory, on a free port of this machine. It ends
//! with the test's process, however that ends.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "test binaries share it, each uses a part of it"
)]

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Cluster {
    programs: PathBuf,
    directory: tempfile::TempDir,
    owner: Option<(u32, u32)>,
    port: u16,
    /// Settings beyond the usual, `ssl=on`.
    settings: Vec<String>,
    server: Child,
    /// Stops the server when this process is gone.
    _keeper: Child,
    next: AtomicU32,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts a server with the settings that `prepare` says, after it has put files into the cluster's directory.
    pub fn start_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let programs = programs();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let owner = owner();
        give(directory.path(), owner);
        let data = directory.path().join("data");
        let made = as_owner(&programs.join("initdb"), owner)
            .args([
                "--username=strongroom",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = prepare(directory.path());
        for entry in fs::read_dir(directory.path()).expect("there").flatten() {
            give(&entry.path(), owner);
        }
        let port = free_port();
        let server = launch(&programs, directory.path(), owner, port, &settings);
        let keeper = keeper(directory.path());
        let cluster = Self {
            programs,
            directory,
            owner,
            port,
            settings,
            server,
            _keeper: keeper,
            next: AtomicU32::new(0),
        };
        cluster.wait_ready();
        cluster
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file with the URL of an empty database, reached at `host:port` with the given query.
    pub fn fresh_url_at(&self, host: &str, port: u16, query: &str) -> PathBuf {
        let name = format!("db{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.run_sql(&format!("CREATE DATABASE {name}"));
        let url = format!("postgres://strongroom@{host}:{port}/{name}?{query}");
        let path = self.directory.path().join(format!("{name}.{port}.url"));
        write_secret(&path, &url);
        path
    }

    /// A file with the URL of an empty database.
    pub fn fresh_url(&self) -> PathBuf {
        self.fresh_url_at("127.0.0.1", self.port, "sslmode=disable")
    }

    /// Runs statements as the superuser, and gives what they answer.
    pub fn run_sql(&self, statements: &str) -> String {
        self.run_sql_in("postgres", statements)
    }

    pub fn run_sql_in(&self, database: &str, statements: &str) -> String {
        let done = self.psql(database, statements);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }

    /// Kills every process of the server at once, as a power failure would.
    pub fn kill(&mut self) {
        let postmaster = self.server.id();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        self.server.kill().expect("SIGKILL");
        _ = Command::new("kill")
            .arg("-9")
            .args(children.unwrap_or_default().split_whitespace())
            .output();
        self.server.wait().expect("it ends");
    }

    /// Starts the server again on the same port.
    pub fn restart(&mut self) {
        let started = Instant::now();
        loop {
            self.server = launch(
                &self.programs,
                self.directory.path(),
                self.owner,
                self.port,
                &self.settings,
            );
            while started.elapsed() < PATIENCE {
                if self.answers() {
                    return;
                }
                // It does not start while a process of its predecessor is ending.
                if self.server.try_wait().expect("a child").is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(started.elapsed() < PATIENCE, "{}", self.log());
        }
    }

    fn wait_ready(&self) {
        let started = Instant::now();
        while !self.answers() {
            assert!(started.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        self.psql("postgres", "SELECT 1").status.success()
    }

    fn psql(&self, database: &str, statements: &str) -> std::process::Output {
        let command = self.psql_command(database);
        let mut psql = Command::new(&command[0]);
        psql.args(&command[1..])
            .args(["-c", statements])
            .output()
            .expect("psql runs")
    }

    /// A client of the database as the superuser: program and arguments.
    pub fn psql_command(&self, database: &str) -> Vec<String> {
        let mut command = vec![self.programs.join("psql").display().to_string()];
        command.extend(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "strongroom"].map(str::to_owned));
        command.extend(["-d".to_owned(), database.to_owned(), "-h".to_owned()]);
        command.push(self.directory.path().display().to_string());
        command.extend(["-p".to_owned(), self.port.to_string()]);
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where Debian puts the newest server's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let with_server = versions
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("postgres").exists());
    with_server
        .max_by_key(|programs| {
            let version = programs.parent().and_then(Path::file_name);
            version.and_then(|v| v.to_str()?.parse::<u32>().ok())
        })
        .expect("these tests need PostgreSQL's server; run: apt-get install postgresql (ci/test does)")
}

/// PostgreSQL does not run as root: then it runs as the user that Debian makes for it.
fn owner() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line
        .expect("Debian's postgresql makes the user postgres")
        .split(':')
        .collect();
    Some((
        fields[2].parse().expect("a number"),
        fields[3].parse().expect("a number"),
    ))
}

fn give(path: &Path, owner: Option<(u32, u32)>) {
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group)).expect("root may");
    }
}

fn as_owner(program: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env_remove("LANGUAGE").env("LC_ALL", "C");
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}

fn launch(programs: &Path, directory: &Path, owner: Option<(u32, u32)>, port: u16, settings: &[String]) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(directory.join("log"))
        .expect("a log");
    let mut command = as_owner(&programs.join("postgres"), owner);
    command.arg("-D").arg(directory.join("data"));
    command.args([
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "shared_buffers=16MB",
        "-c",
        "log_statement=none",
    ]);
    command.args(["-c", &format!("port={port}"), "-c", "max_connections=60"]);
    command.args(["-c", &format!("unix_socket_directories={}", directory.display())]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("postgres starts")
}

/// A shell that waits for this process to end and then ends the server, which a killed test could not do itself.
fn keeper(directory: &Path) -> Child {
    let script = "read -r _; [ ! -e \"$1/data/postmaster.pid\" ] || kill -QUIT \"$(head -n 1 \"$1/data/postmaster.pid\")\" \
                  2>/dev/null; sleep 1; rm -rf \"$1\"";
    Command::new("sh")
        .args(["-c", script, "keeper"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its owner's");
}
