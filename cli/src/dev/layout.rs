//! The data directory: what lies where, which version it has, and who holds it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use strongroom_proto::transport::TlsFiles;

use super::{
    DevError,
    files::{self, Audience, make_private_dir},
    token::DevToken,
};

/// The format of the data directory that this version writes and reads.
const FORMAT: u32 = 1;

/// A role that `dev` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Kms,
    Metadata,
    /// A block node, 1 to 3.
    Block(u8),
}

impl Role {
    /// Every role, in the order they are started.
    pub(super) const ALL: [Self; 5] = [
        Self::Kms,
        Self::Metadata,
        Self::Block(1),
        Self::Block(2),
        Self::Block(3),
    ];

    /// The role's name in files, logs and messages.
    pub(super) fn name(self) -> String {
        match self {
            Self::Kms => "kms".to_owned(),
            Self::Metadata => "metadata".to_owned(),
            Self::Block(node) => format!("block-{node}"),
        }
    }

    /// The subcommand of `strongroom` that is this role.
    pub(super) const fn subcommand(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::Metadata => "metadata",
            Self::Block(_) => "block",
        }
    }
}

/// The data directory's paths. All are absolute and UTF-8.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

/// Holds the data directory for one `strongroom dev`, until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Layout {
    /// Opens or makes the data directory and takes its lock.
    pub(super) fn open(chosen: Option<&Path>) -> Result<(Self, Lock), DevError> {
        let path = match chosen {
            Some(path) => path.to_owned(),
            None => default_root(|name| std::env::var_os(name).map(PathBuf::from))?,
        };
        refuse_foreign(&path)?;
        make_private_dir(&path)?;
        let root = fs::canonicalize(&path).map_err(DevError::file("cannot open", &path))?;
        if root.to_str().is_none() {
            return Err(DevError::file("cannot use", &root)(std::io::Error::other(
                "its name is not UTF-8",
            )));
        }
        let layout = Self { root };
        let lock = layout.lock()?;
        layout.check_format()?;
        for directory in ["pki", "config", "logs"] {
            make_private_dir(&layout.root.join(directory))?;
        }
        Ok((layout, lock))
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The CA's certificate.
    pub(super) fn ca_certificate(&self) -> PathBuf {
        self.root.join("pki/ca.pem")
    }

    /// The CA's private key.
    pub(super) fn ca_key(&self) -> PathBuf {
        self.root.join("pki/ca.key")
    }

    /// The files of one leaf certificate.
    pub(super) fn tls(&self, name: &str) -> TlsFiles {
        TlsFiles {
            ca: self.ca_certificate(),
            certificate: self.root.join(format!("pki/{name}.pem")),
            key: self.root.join(format!("pki/{name}.key")),
        }
    }

    /// A token's objects and PINs.
    pub(super) fn token(&self, token: DevToken) -> PathBuf {
        self.root.join(format!("token{}", token.suffix()))
    }

    /// What SOFTHSM2_CONF names for a token.
    pub(super) fn softhsm_config(&self, token: DevToken) -> PathBuf {
        self.root.join(format!("softhsm2{}.conf", token.suffix()))
    }

    /// The PIN of a token's user.
    pub(super) fn user_pin(&self, token: DevToken) -> PathBuf {
        self.token(token).join("user.pin")
    }

    /// The PIN of a token's security officer.
    pub(super) fn so_pin(&self, token: DevToken) -> PathBuf {
        self.token(token).join("so.pin")
    }

    /// There once two tokens have been linked: which version of linking that was.
    pub(super) fn linked(&self) -> PathBuf {
        self.root.join("tokens-linked")
    }

    /// The Cedar policy, which the user may edit.
    pub(super) fn policy(&self) -> PathBuf {
        self.root.join("policy.cedar")
    }

    /// A role's configuration.
    pub(super) fn config(&self, role: Role) -> PathBuf {
        self.root.join(format!("config/{}.toml", role.name()))
    }

    /// A role's own durable state.
    pub(super) fn state(&self, role: Role) -> PathBuf {
        self.root.join("state").join(role.name())
    }

    /// A role's log.
    pub(super) fn log(&self, role: Role) -> PathBuf {
        self.logs().join(format!("{}.log", role.name()))
    }

    /// All logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The ports, kept so that they survive a restart.
    pub(super) fn ports(&self) -> PathBuf {
        self.root.join("ports.toml")
    }

    /// Role → process id, while `dev` runs.
    pub(super) fn pids(&self) -> PathBuf {
        self.root.join("pids.json")
    }

    /// The client profile.
    pub(super) fn profile(&self) -> PathBuf {
        self.root.join("client.toml")
    }

    fn lock(&self) -> Result<Lock, DevError> {
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(DevError::file("cannot open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DevError::Locked {
                    path: self.root.clone(),
                    holder: lock_holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(DevError::file("cannot lock", &path)(error)),
        }
        write_holder(&mut file).map_err(DevError::file("cannot write", &path))?;
        Ok(Lock { _file: file })
    }

    fn check_format(&self) -> Result<(), DevError> {
        let path = self.root.join("VERSION");
        let Some(text) = files::read(&path)? else {
            return files::write(&path, &format!("{FORMAT}\n"), Audience::Everyone);
        };
        match text.trim().parse() {
            Ok(FORMAT) => Ok(()),
            Ok(found) if found > FORMAT => Err(DevError::NewerFormat {
                path: self.root.clone(),
                found,
                known: FORMAT,
            }),
            _ => Err(DevError::BadVersion { path }),
        }
    }
}

/// `$XDG_DATA_HOME/strongroom-dev`, else `~/.local/share/strongroom-dev`.
fn default_root(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, DevError> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .ok_or(DevError::NoHome)?;
    Ok(data.join("strongroom-dev"))
}

/// Refuses a directory that somebody uses for something else. `VERSION` is the first file after `lock`.
fn refuse_foreign(path: &Path) -> Result<(), DevError> {
    if path.join("VERSION").exists() {
        return Ok(());
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DevError::file("cannot open", path)(error)),
    };
    let ours = |name: &std::ffi::OsStr| name == "lock" || name == "VERSION.new";
    if entries.flatten().all(|entry| ours(&entry.file_name())) {
        Ok(())
    } else {
        Err(DevError::ForeignDirectory { path: path.to_owned() })
    }
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn lock_holder(file: &mut File) -> String {
    let mut pid = String::new();
    match file.take(16).read_to_string(&mut pid) {
        Ok(1..) => format!(" (pid {})", pid.trim()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_start_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("data");
        let first = Layout::open(Some(&root)).expect("opens");
        let error = Layout::open(Some(&root)).expect_err("is held").to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(first);
        Layout::open(Some(&root)).expect("opens again");
    }

    #[test]
    fn versions_and_foreign_files_are_checked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = |name: &str, file: &str, content: &str| {
            let root = dir.path().join(name);
            fs::create_dir(&root).expect("makes a directory");
            fs::write(root.join(file), content).expect("writes");
            Layout::open(Some(&root)).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(open("same", "VERSION", "1\n"), Ok(()));
        assert_eq!(open("interrupted", "VERSION.new", ""), Ok(()));
        for (name, file, content, expected) in [
            (
                "newer",
                "VERSION",
                "2\n",
                "newer version of strongroom (format 2, this one knows 1)",
            ),
            ("damaged", "VERSION", "x", "not a format version"),
            ("foreign", "thesis.tex", "x", "holds other files"),
        ] {
            let error = open(name, file, content).expect_err("must be refused");
            assert!(error.contains(expected) && error.contains("--data-dir"), "{error}");
        }
    }

    #[test]
    fn the_default_follows_xdg() {
        let root = default_root(|name| (name == "HOME").then(|| "/h".into())).expect("HOME is enough");
        assert_eq!(root, Path::new("/h/.local/share/strongroom-dev"));
        let root = default_root(|_| Some("/x".into())).expect("both are set");
        assert_eq!(root, Path::new("/x/strongroom-dev"));
    }
}
