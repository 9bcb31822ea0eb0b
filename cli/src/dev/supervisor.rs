//! Keeps the roles running as child processes and stops them in order.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{
    DevError,
    files::{self, Audience},
    layout::{Layout, Role},
};
use crate::{error::chain, output::note};

/// The first pause before a child that died is started again; doubled at every further death.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A child that ran this long starts over with the shortest pause when it dies.
const STEADY_AFTER: Duration = Duration::from_secs(30);
/// How long a child may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// A log larger than this is put aside when its role starts.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// All children, each watched by a task of its own.
pub(super) struct Supervisor {
    /// In the order they are stopped.
    groups: Vec<Group>,
    pids: Arc<Pids>,
}

/// Children that are stopped together.
struct Group {
    stop: watch::Sender<bool>,
    keepers: Vec<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts every role.
    pub(super) fn start(layout: &Layout) -> Result<Self, DevError> {
        // Resolved once: the link changes when the executable is replaced while we run.
        let executable = std::env::current_exe().map_err(|source| DevError::Spawn {
            what: "this executable again".to_owned(),
            source,
        })?;
        let pids = Arc::new(Pids::new(layout.pids()));
        // Writers before what they write through: block nodes, then metadata, then keys.
        let order: [&[Role]; 3] = [
            &[Role::Block(1), Role::Block(2), Role::Block(3)],
            &[Role::Metadata],
            &[Role::Kms],
        ];
        let start_group = |roles: &[Role]| {
            let (stop, stopped) = watch::channel(false);
            let keep = |&role: &Role| {
                let keeper = Keeper {
                    role,
                    layout: layout.clone(),
                    executable: executable.clone(),
                    pids: Arc::clone(&pids),
                };
                tokio::spawn(keeper.keep(stopped.clone()))
            };
            Group {
                keepers: roles.iter().map(keep).collect(),
                stop,
            }
        };
        Ok(Self {
            groups: order.map(start_group).into(),
            pids,
        })
    }

    /// Stops every child in order and returns when all have ended.
    pub(super) async fn stop(self) {
        for group in self.groups {
            group.stop.send_replace(true);
            for keeper in group.keepers {
                if let Err(error) = keeper.await {
                    note(&format!("strongroom dev: a supervisor task failed: {error}"));
                }
            }
        }
        self.pids.remove_file();
    }
}

/// Keeps one role running.
struct Keeper {
    role: Role,
    layout: Layout,
    executable: PathBuf,
    pids: Arc<Pids>,
}

impl Keeper {
    async fn keep(self, mut stopped: watch::Receiver<bool>) {
        let mut pause = None;
        loop {
            let started = Instant::now();
            let Some(how) = self.run_once(&mut stopped).await else {
                return;
            };
            let wait = next_pause(pause, started.elapsed());
            pause = Some(wait);
            self.report(&how, wait);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    /// Runs the role until it ends by itself, and says how; `None` if it was stopped because that was asked for.
    async fn run_once(&self, stopped: &mut watch::Receiver<bool>) -> Option<String> {
        let (mut child, stdin) = match self.spawn() {
            Ok(spawned) => spawned,
            Err(error) => return Some(chain(&error)),
        };
        let name = self.role.name();
        self.pids.set(&name, child.id());
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            _ = stopped.wait_for(|stopped| *stopped) => None,
        };
        if ended.is_none() {
            self.stop(child, stdin).await;
        }
        self.pids.set(&name, None);
        ended.map(|status| status.map_or_else(|error| error.to_string(), describe))
    }

    fn spawn(&self) -> Result<(Child, ChildStdin), DevError> {
        let log = self.layout.log(self.role);
        let (out, err) = open_log(&log).map_err(DevError::file("cannot open the log", &log))?;
        let mut command = Command::new(&self.executable);
        command
            .arg(self.role.subcommand())
            .arg("--stop-on-stdin-eof")
            .arg("--config")
            .arg(self.layout.config(self.role))
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // Ctrl-C reaches the whole foreground group; only the supervisor decides in which order roles stop.
            .process_group(0)
            .kill_on_drop(true);
        let failed = |source| DevError::Spawn {
            what: self.role.name(),
            source,
        };
        let mut child = command.spawn().map_err(failed)?;
        // Held apart from the child, whose `wait` would close it: its end tells the role that we are gone.
        let stdin = child
            .stdin
            .take()
            .ok_or_else(|| failed(std::io::Error::other("it has no standard input")))?;
        Ok((child, stdin))
    }

    async fn stop(&self, mut child: Child, stdin: ChildStdin) {
        if let Some(pid) = child.id().and_then(pid_of) {
            // It may have ended in this moment; then there is nobody to signal.
            _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
            note(&format!(
                "strongroom dev: {} did not stop within {} s and is killed",
                self.role.name(),
                STOP_TIMEOUT.as_secs()
            ));
            _ = child.kill().await;
        }
        drop(stdin);
    }

    fn report(&self, how: &str, pause: Duration) {
        note(&format!(
            "strongroom dev: {} stopped ({how}); restarting in {} ms; its log is {}; it said: {}",
            self.role.name(),
            pause.as_millis(),
            self.layout.log(self.role).display(),
            last_words(&self.layout, self.role)
        ));
    }
}

/// The pause before a restart: twice the last one up to the longest, or the shortest after a steady run.
fn next_pause(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < STEADY_AFTER => (last * 2).min(PAUSE_MAX),
        _ => PAUSE_MIN,
    }
}

/// `exit code 1` or `killed by signal 9`.
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn pid_of(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// Opens a role's log for appending, twice; a large one is put aside first and replaces the one before.
fn open_log(path: &Path) -> std::io::Result<(File, File)> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    Ok((log.try_clone()?, log))
}

/// `pids.json`: role → process id, of those that run now, so that tools can find one.
struct Pids {
    path: PathBuf,
    running: Mutex<BTreeMap<String, u32>>,
}

impl Pids {
    fn new(path: PathBuf) -> Self {
        let running = BTreeMap::from([("dev".to_owned(), std::process::id())]);
        Self {
            path,
            running: Mutex::new(running),
        }
    }

    fn set(&self, role: &str, pid: Option<u32>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match pid {
            Some(pid) => running.insert(role.to_owned(), pid),
            None => running.remove(role),
        };
        // Written under the lock, so that the file never goes back to an older state.
        let text = serde_json::json!(&*running).to_string();
        if let Err(error) = files::write(&self.path, &text, Audience::Owner) {
            note(&format!("strongroom dev: {}", chain(&error)));
        }
    }

    fn remove_file(&self) {
        _ = fs::remove_file(&self.path);
    }
}

/// The last lines of a role's log, for a message.
pub(super) fn log_tail(layout: &Layout, role: Role, lines: usize) -> String {
    let text = log_end(layout, role);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The last trouble that a role logged, or the last that it said at all.
pub(super) fn last_words(layout: &Layout, role: Role) -> String {
    let text = log_end(layout, role);
    let trouble = |line: &&str| line.contains(" ERROR ") || line.contains(" WARN ");
    let line = text.lines().rev().find(trouble).or_else(|| text.lines().last());
    line.unwrap_or("(nothing)").to_owned()
}

fn log_end(layout: &Layout, role: Role) -> String {
    let text = fs::read(layout.log(role)).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_a_role_ran_steadily() {
        let mut pause = None;
        let mut waited_ms = Vec::new();
        for ran in [Duration::ZERO; 7] {
            pause = Some(next_pause(pause, ran));
            waited_ms.extend(pause.map(|pause| pause.as_millis()));
        }
        assert_eq!(waited_ms, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(next_pause(pause, STEADY_AFTER), PAUSE_MIN);
    }

    #[test]
    fn a_large_log_is_put_aside() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("kms.log");
        File::create(&path)
            .and_then(|log| log.set_len(LOG_BYTES_MAX + 1))
            .expect("makes a log");
        open_log(&path).expect("opens");
        assert_eq!(fs::metadata(&path).expect("is new").len(), 0);
        assert_eq!(
            fs::metadata(dir.path().join("kms.log.1")).expect("is kept").len(),
            LOG_BYTES_MAX + 1
        );
    }

    #[test]
    fn pids_name_those_that_run() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("pids.json");
        let pids = Pids::new(path.clone());
        pids.set("kms", Some(7));
        pids.set("metadata", Some(8));
        pids.set("kms", None);
        let read: BTreeMap<String, u32> =
            serde_json::from_str(&fs::read_to_string(&path).expect("is written")).expect("is JSON");
        assert_eq!(
            read,
            BTreeMap::from([("dev".to_owned(), std::process::id()), ("metadata".to_owned(), 8)])
        );
    }
}
