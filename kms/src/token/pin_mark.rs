//! The mark of a rejected PIN: which state of which PIN file the token refused.
//!
//! Tokens lock after a few wrong PINs, so a refused file is not tried again, neither by a restarted worker nor by a
//! restarted key service, until it changes. What is kept is the file's identity and times, never its content.
//!
//! A key service or worker that dies during a login leaves open how it ended. So each login is noted before it is made
//! and the note removed once it is answered. One that was never answered is repeated once, since a crash at that
//! moment is most likely just a crash; after two the PIN counts as rejected. Thus no series of crashes, at whatever
//! moment, can lock a token that allows three tries, and no single one keeps a sound service from starting.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};

const FILE_NAME: &str = "pin-rejected";
const LOGIN_FILE_NAME: &str = "login-under-way";
const LOCK_FILE_NAME: &str = "login-lock";

/// Logins without an answer after which a PIN is not tried any more.
pub(super) const UNANSWERED_MAX: usize = 2;

/// The mark cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the mark of a rejected PIN in {}; make the directory writable for the key service", path.display())]
pub struct MarkError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Where the mark is, and which token and PIN file it is about.
#[derive(Debug)]
pub(super) struct PinMark {
    directory: PathBuf,
    label: String,
    pin_file: PathBuf,
}

/// What became of a login that was guarded by the marks.
#[derive(Debug)]
pub(super) enum Login<E> {
    /// The token answered it.
    Answered(Result<(), E>),
    /// It was not made: the token has refused this state of the PIN file, or left too many logins unanswered.
    Withheld,
}

/// A state of the PIN file, or [`None`] inside while the file cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Option<String>);

/// Where the marks of the token with that label are, below the directory of the key service's state.
pub fn marks_directory(state_dir: &Path, label: &str) -> PathBuf {
    state_dir.join("tokens").join(directory_name(label))
}

/// Where the marks of its security officer's PIN are, which is another one and locks on its own.
pub(super) fn officers_marks(marks: &Path) -> PathBuf {
    marks.join("so")
}

/// A file name for a label, which may have any characters: what is harmless of it, and a digest that tells it from others.
fn directory_name(label: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let readable: String = label.chars().map(|c| if harmless(c) { c } else { '_' }).collect();
    let digest = digest(&SHA256, label.as_bytes());
    format!("{readable}-{}", hex::encode(&digest.as_ref()[..4]))
}

impl PinMark {
    /// Makes `directory` if it is missing.
    ///
    /// # Errors
    /// [`MarkError`] if it cannot be made.
    pub(super) fn open(directory: &Path, label: &str, pin_file: &Path) -> Result<Self, MarkError> {
        let mark = Self {
            directory: directory.to_owned(),
            label: label.to_owned(),
            pin_file: pin_file.to_owned(),
        };
        fs::create_dir_all(directory).map_err(|source| mark.error(source))?;
        Ok(mark)
    }

    /// Where the marks are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The PIN file's state now.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let text = fs::metadata(&self.pin_file).ok().map(|file| {
            format!(
                "token {:?}\npin-file {:?}\ndevice {} inode {} size {} mtime {}.{:09} ctime {}.{:09}\n",
                self.label,
                self.pin_file,
                file.dev(),
                file.ino(),
                file.size(),
                file.mtime(),
                file.mtime_nsec(),
                file.ctime(),
                file.ctime_nsec(),
            )
        });
        Fingerprint(text)
    }

    /// The state of the PIN file that was rejected, if one was.
    ///
    /// # Errors
    /// [`MarkError`] if there is a mark that cannot be read: it must not be taken for none.
    pub(super) fn rejected(&self) -> Result<Option<Fingerprint>, MarkError> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(Fingerprint(Some(text)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error(source)),
        }
    }

    /// Records, durably, that the token refused this state of the file.
    ///
    /// # Errors
    /// [`MarkError`] if it cannot be written.
    pub(super) fn record(&self, fingerprint: &Fingerprint) -> Result<(), MarkError> {
        let text = fingerprint.0.as_deref().unwrap_or_default();
        self.write(FILE_NAME, text).map_err(|source| self.error(source))
    }

    /// Notes, durably, that this state of the file is about to be tried.
    ///
    /// # Errors
    /// [`MarkError`] if it cannot be written; then it must not be tried.
    fn begin_login(&self, fingerprint: &Fingerprint) -> Result<(), MarkError> {
        let text = fingerprint.0.as_deref().unwrap_or_default();
        let text = text.repeat(self.unanswered(fingerprint)? + 1);
        self.write(LOGIN_FILE_NAME, &text).map_err(|source| self.error(source))
    }

    /// How many logins with this state of the file were never answered.
    ///
    /// # Errors
    /// [`MarkError`] if there is a note that cannot be read.
    pub(super) fn unanswered(&self, fingerprint: &Fingerprint) -> Result<usize, MarkError> {
        let tried = fingerprint.0.as_deref().unwrap_or_default();
        match fs::read_to_string(self.directory.join(LOGIN_FILE_NAME)) {
            Ok(text) if !tried.is_empty() => Ok(text.matches(tried).count()),
            Ok(_) => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(self.error(source)),
        }
    }

    /// Makes a login unless the PIN, as the file is now, was refused before, and keeps the marks. `refuses` says which
    /// answers mean that the PIN must not be tried again. Of all processes with the same marks one at a time does so: all
    /// others hear of a refusal before they try. `login` reads the PIN file itself: one that changes meanwhile can cost one
    /// more try, and is never overlooked.
    ///
    /// # Errors
    /// [`MarkError`] if the marks cannot be kept; then it was not made.
    pub(super) fn guard<E>(
        &self,
        login: impl FnOnce() -> Result<(), E>,
        refuses: impl FnOnce(&E) -> bool,
    ) -> Result<Login<E>, MarkError> {
        let _turn = self.turn()?;
        let tried = self.fingerprint();
        if self.rejected()?.is_some_and(|rejected| rejected == tried) {
            return Ok(Login::Withheld);
        }
        if self.unanswered(&tried)? >= UNANSWERED_MAX {
            self.record(&tried)?;
            self.end_login();
            return Ok(Login::Withheld);
        }
        self.begin_login(&tried)?;
        let answer = login();
        match &answer {
            Ok(()) => self.clear(),
            // Before the note of the login goes: in between the PIN must not look untried.
            Err(error) if refuses(error) => {
                if let Err(unkept) = self.record(&tried) {
                    tracing::error!(%unkept, "a restart of the key service would try the rejected PIN again");
                    // The note of the login stays in the mark's place.
                    return Ok(Login::Answered(answer));
                }
            }
            Err(_) => {}
        }
        self.end_login();
        Ok(Login::Answered(answer))
    }

    /// The right to log in, which ends with the file or the process.
    fn turn(&self) -> Result<File, MarkError> {
        let lock = File::create(self.directory.join(LOCK_FILE_NAME)).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|source| self.error(source))
    }

    /// Notes that the login was answered, whatever the answer.
    pub(super) fn end_login(&self) {
        self.remove(LOGIN_FILE_NAME);
    }

    /// Forgets a mark: the PIN was accepted.
    fn clear(&self) {
        // An old mark holds nothing up: it is about a state of the file that is no more.
        self.remove(FILE_NAME);
    }

    fn remove(&self, name: &str) {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove an old mark"),
        }
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.directory.join(format!("{name}.new"));
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(name))?;
        File::open(&self.directory)?.sync_all()
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }

    fn error(&self, source: io::Error) -> MarkError {
        MarkError {
            path: self.directory.clone(),
            source,
        }
    }
}

impl Fingerprint {
    /// Whether the PIN file is there to be read.
    pub(super) const fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_until_the_file_changes_and_says_nothing_of_its_content() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let pin_file = directory.path().join("pin");
        let mark = PinMark::open(&directory.path().join("state"), "t", &pin_file).expect("writable");
        assert!(!mark.fingerprint().is_known());
        assert_eq!(mark.rejected().expect("readable"), None);

        fs::write(&pin_file, "4711-secret").expect("writable");
        let tried = mark.fingerprint();
        mark.record(&tried).expect("writable");
        assert_eq!(mark.rejected().expect("readable"), Some(mark.fingerprint()));
        let text = fs::read_to_string(mark.path()).expect("readable");
        assert!(!text.contains("4711"), "{text}");

        fs::write(&pin_file, "0815-secrets").expect("writable");
        assert_ne!(mark.rejected().expect("readable"), Some(mark.fingerprint()));
        for unanswered in 0..3 {
            assert_eq!(mark.unanswered(&mark.fingerprint()).expect("readable"), unanswered);
            assert_eq!(
                mark.unanswered(&tried).expect("readable"),
                0,
                "another state of the file"
            );
            mark.begin_login(&mark.fingerprint()).expect("writable");
        }
        mark.end_login();
        assert_eq!(mark.unanswered(&mark.fingerprint()).expect("readable"), 0);
        mark.clear();
        assert_eq!(mark.rejected().expect("readable"), None);
    }

    #[test]
    fn a_guarded_login_is_made_until_it_is_refused_or_never_answered() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let pin_file = directory.path().join("pin");
        let mark = PinMark::open(&directory.path().join("state"), "t", &pin_file).expect("writable");
        let attempt = |answer: Result<(), &'static str>| {
            let login = mark
                .guard(|| answer, |error| *error == "wrong")
                .expect("marks are kept");
            matches!(login, Login::Answered(_))
        };
        fs::write(&pin_file, "4711").expect("writable");
        assert!(attempt(Err("no session")) && attempt(Ok(())) && attempt(Err("wrong")));
        assert!(!attempt(Ok(())), "refused before");

        fs::write(&pin_file, "0815-other").expect("writable");
        for _ in 0..UNANSWERED_MAX {
            mark.begin_login(&mark.fingerprint()).expect("writable");
        }
        assert!(!attempt(Ok(())), "never answered");
        assert!(!attempt(Ok(())), "and it stays so");
    }

    #[test]
    fn labels_tell_directories_of_marks_apart() {
        let (slash, blank) = (directory_name("a/../b"), directory_name("a ... b"));
        assert_ne!(slash, blank);
        for name in [slash, blank] {
            assert!(!name.contains(['/', '.']), "{name}");
        }
    }
}
