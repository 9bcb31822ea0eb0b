//! The mark of a rejected PIN: which PIN which token refused, and in which state of which file it was.
//!
//! Tokens lock after a few wrong PINs, so a refused PIN is not tried again, neither by a restarted worker nor by a
//! restarted key service, nor from a file that was made anew, as a service manager does with a credential at each start.
//! What is kept is the file's identity and times, by which a look without the PIN tells whether anything changed, and the
//! token with a print of the PIN (`pin_print`), which decide. Only who logs in reads the PIN, so only a worker can tell.
//!
//! A key service or worker that dies during a login leaves open how it ended. So each login is noted before it is made
//! and the note removed once it is answered. One that was never answered is repeated once, since a crash at that
//! moment is most likely just a crash; after two the PIN counts as rejected. Thus no series of crashes, at whatever
//! moment, can lock a token that allows three tries, and no single one keeps a sound service from starting.
//!
//! A PIN that is right after all, because it was unlocked or set anew in the token, is tried again when the mark is removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};

use super::{pin::Pin, pin_print::PinPrint};

const FILE_NAME: &str = "pin-rejected";
const LOGIN_FILE_NAME: &str = "login-under-way";
const LOCK_FILE_NAME: &str = "login-lock";

/// Logins without an answer after which a PIN is not tried any more.
const UNANSWERED_MAX: usize = 2;

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
    module: PathBuf,
    label: String,
    pin_file: PathBuf,
}

/// What became of a login that was guarded by the marks.
#[derive(Debug)]
pub(super) enum Login<E> {
    /// The token answered it.
    Answered(Result<(), E>),
    /// It was not made: the token has refused this PIN before.
    Withheld,
    /// It was not made: so many logins with this PIN were never answered.
    Unanswered(usize),
}

/// A state of the PIN file, or [`None`] inside while the file cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Option<String>);

/// A PIN as the marks know it: one line of a mark or a note.
#[derive(Debug)]
struct Tried {
    /// Of the file that it was in.
    state: String,
    /// The token that it is for, and its print.
    pin: String,
}

/// Where the marks of the token with that label are, below the directory of the key service's state.
pub fn marks_directory(state_dir: &Path, label: &str) -> PathBuf {
    state_dir.join("tokens").join(directory_name(label))
}

/// Where the marks of its security officer's PIN are, which is another one and locks on its own.
pub(super) fn officers_marks(marks: &Path) -> PathBuf {
    marks.join("so")
}

/// The mark of a rejected PIN among those in `directory`. Removing it has the PIN tried again.
pub(super) fn rejected_file(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
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
    pub(super) fn open(directory: &Path, module: &Path, label: &str, pin_file: &Path) -> Result<Self, MarkError> {
        let mark = Self {
            directory: directory.to_owned(),
            module: module.to_owned(),
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
                "token {:?} pin-file {:?} device {} inode {} size {} mtime {}.{:09} ctime {}.{:09}",
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

    /// In which state the PIN file was when its PIN was rejected, or found to be one that was, if there is a mark.
    ///
    /// # Errors
    /// [`MarkError`] if there is a mark that cannot be read: it must not be taken for none.
    pub(super) fn rejected(&self) -> Result<Option<Fingerprint>, MarkError> {
        let mark = self.read(FILE_NAME)?;
        Ok(mark.map(|mark| Fingerprint(mark.into_iter().last().map(|tried| tried.state))))
    }

    /// Makes a login on the token with that serial number unless its PIN was refused before, and keeps the marks. `refuses`
    /// says which answers mean that the PIN must not be tried again. Of all processes with the same marks one at a time does
    /// so: all others hear of a refusal before they try.
    ///
    /// # Errors
    /// [`MarkError`] if the marks cannot be kept; then it was not made.
    pub(super) fn guard<E>(
        &self,
        serial: &str,
        read: impl FnOnce() -> Result<Pin, E>,
        login: impl FnOnce(&Pin) -> Result<(), E>,
        refuses: impl FnOnce(&E) -> bool,
    ) -> Result<Login<E>, MarkError> {
        let _turn = self.turn()?;
        // Before the PIN: a file that changes in between is looked at once more, and never overlooked.
        let state = self.fingerprint();
        let pin = match read() {
            Ok(pin) => pin,
            Err(error) => return Ok(Login::Answered(Err(error))),
        };
        let tried = self.tried(state, serial, &pin);
        if self.count(FILE_NAME, &tried)? > 0 {
            self.mark(&tried)?;
            return Ok(Login::Withheld);
        }
        let unanswered = self.count(LOGIN_FILE_NAME, &tried)?;
        if unanswered >= UNANSWERED_MAX {
            self.mark(&tried)?;
            self.remove(LOGIN_FILE_NAME);
            return Ok(Login::Unanswered(unanswered));
        }
        self.note(&tried, unanswered + 1)?;
        let answer = login(&pin);
        self.keep(&tried, answer.as_ref().err().map(refuses));
        Ok(Login::Answered(answer))
    }

    /// What is left of a login: `refused` is [`None`] if it was taken.
    fn keep(&self, tried: &Tried, refused: Option<bool>) {
        match refused {
            // An old mark is about another PIN.
            None => self.remove(FILE_NAME),
            // Before the note of the login goes: in between the PIN must not look untried.
            Some(true) => {
                if let Err(unkept) = self.mark(tried) {
                    tracing::error!(%unkept, "a restart of the key service would try the rejected PIN again");
                    // The note of the login stays in the mark's place.
                    return;
                }
            }
            Some(false) => {}
        }
        self.remove(LOGIN_FILE_NAME);
    }

    fn tried(&self, state: Fingerprint, serial: &str, pin: &Pin) -> Tried {
        let (serial, module, print) = (serial.trim_end(), &self.module, PinPrint::of(pin));
        Tried {
            state: state.0.unwrap_or_default(),
            pin: format!("serial {serial:?} module {module:?} pin {print}"),
        }
    }

    /// Records, durably, that this PIN is not to be tried.
    fn mark(&self, tried: &Tried) -> Result<(), MarkError> {
        self.write(FILE_NAME, &tried.line())
    }

    /// Notes, durably, that this PIN is about to be tried, the `count`th time without an answer.
    fn note(&self, tried: &Tried, count: usize) -> Result<(), MarkError> {
        self.write(LOGIN_FILE_NAME, &tried.line().repeat(count))
    }

    /// How many lines of a mark or a note are about this PIN.
    fn count(&self, name: &str, tried: &Tried) -> Result<usize, MarkError> {
        let lines = self.read(name)?.unwrap_or_default();
        Ok(lines.iter().filter(|line| line.pin == tried.pin).count())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<Tried>>, MarkError> {
        match fs::read_to_string(self.directory.join(name)) {
            Ok(text) => Ok(Some(text.lines().filter_map(Tried::parse).collect())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error(source)),
        }
    }

    /// The right to log in, which ends with the file or the process.
    fn turn(&self) -> Result<File, MarkError> {
        let lock = File::create(self.directory.join(LOCK_FILE_NAME)).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|source| self.error(source))
    }

    fn remove(&self, name: &str) {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove an old mark"),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), MarkError> {
        let written = replace(&self.directory, name, text);
        written.map_err(|source| self.error(source))
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

impl Tried {
    /// The tab is the only one: names are quoted, and tabs in them escaped.
    fn line(&self) -> String {
        format!("{}\t{}\n", self.state, self.pin)
    }

    fn parse(line: &str) -> Option<Self> {
        let (state, pin) = line.split_once('\t')?;
        Some(Self {
            state: state.to_owned(),
            pin: pin.to_owned(),
        })
    }
}

/// Puts `text` durably in the place of a file that only its owner reads.
fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;

    struct Guarded {
        directory: tempfile::TempDir,
        pin_file: PathBuf,
    }

    impl Guarded {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("temporary directory");
            let pin_file = directory.path().join("pin");
            Self { directory, pin_file }
        }

        fn mark(&self) -> PinMark {
            self.mark_of("/m.so")
        }

        fn mark_of(&self, module: &str) -> PinMark {
            let marks = self.directory.path().join("state");
            PinMark::open(&marks, Path::new(module), "t", &self.pin_file).expect("writable")
        }

        /// The PIN in a file that is another one each time.
        fn has_pin(&self, pin: &str) {
            _ = fs::remove_file(&self.pin_file);
            replace(self.directory.path(), "pin", pin).expect("writable");
        }

        /// Whether a login was made on the token with that serial number.
        fn attempt_on(&self, mark: &PinMark, serial: &str, answer: Result<(), &'static str>) -> bool {
            let read = || Pin::read(&self.pin_file).map_err(|_| "no PIN");
            let login = mark.guard(serial, read, |_| answer, |error| *error == "wrong");
            matches!(login.expect("marks are kept"), Login::Answered(_))
        }

        fn attempt(&self, answer: Result<(), &'static str>) -> bool {
            self.attempt_on(&self.mark(), "0001", answer)
        }
    }

    #[test]
    fn a_refused_pin_is_known_again_in_whatever_file() {
        let guarded = Guarded::new();
        guarded.has_pin("4711");
        assert!(guarded.attempt(Err("no session")) && guarded.attempt(Ok(())) && guarded.attempt(Err("wrong")));
        for _ in 0..3 {
            guarded.has_pin("4711");
            assert!(!guarded.attempt(Ok(())), "refused before");
            let (seen, now) = (
                guarded.mark().rejected().expect("readable"),
                guarded.mark().fingerprint(),
            );
            assert_eq!(seen, Some(now), "the file need not be looked at again");
        }
        guarded.has_pin("0815");
        assert!(guarded.attempt(Err("wrong")), "another PIN");
        assert!(!guarded.attempt(Ok(())));
        fs::remove_file(rejected_file(guarded.mark().directory())).expect("there is a mark");
        assert!(guarded.attempt(Ok(())), "the mark was removed");
    }

    #[test]
    fn a_mark_is_about_one_token_of_one_module() {
        let guarded = Guarded::new();
        guarded.has_pin("4711");
        let (mark, other_module) = (guarded.mark(), guarded.mark_of("/other.so"));
        for (mark, serial, made) in [
            (&mark, "0001", true),
            (&mark, "0001  ", false),
            (&mark, "0002", true),
            (&other_module, "0002", true),
            (&other_module, "0002", false),
        ] {
            assert_eq!(
                guarded.attempt_on(mark, serial, Err("wrong")),
                made,
                "{mark:?} {serial:?}"
            );
        }
    }

    /// As instances do that share the directory of marks, each with a PIN file of its own.
    #[test]
    fn a_refused_pin_is_known_again_by_whoever_keeps_marks_in_the_same_place() {
        let guarded = Guarded::new();
        let file = guarded.directory.path().join("pin of another");
        replace(guarded.directory.path(), "pin of another", "4711").expect("writable");
        let other = PinMark::open(guarded.mark().directory(), Path::new("/m.so"), "t", &file).expect("writable");
        guarded.has_pin("4711");
        assert!(guarded.attempt(Err("wrong")));
        let read = || Pin::read(&file).map_err(drop);
        let login = other.guard("0001", read, |_| Ok(()), |()| true);
        assert!(matches!(login, Ok(Login::Withheld)), "{login:?}");
        assert!(!guarded.attempt(Ok(())), "nor by the first again");
    }

    #[test]
    fn logins_that_are_never_answered_count_in_whatever_file() {
        let guarded = Guarded::new();
        for _ in 0..UNANSWERED_MAX {
            guarded.has_pin("4711");
            let died = catch_unwind(AssertUnwindSafe(|| {
                let read = || Pin::read(&guarded.pin_file).map_err(drop);
                guarded
                    .mark()
                    .guard("0001", read, |_| panic!("the worker dies"), |()| true)
            }));
            assert!(died.is_err());
        }
        guarded.has_pin("4711");
        assert!(!guarded.attempt(Ok(())), "never answered");
        assert!(!guarded.attempt(Ok(())), "and it stays so");
        guarded.has_pin("0815");
        assert!(guarded.attempt(Ok(())));
    }

    #[test]
    fn what_is_kept_is_private_and_shows_twelve_bits_of_the_pin_on_whatever_token() {
        let guarded = Guarded::new();
        let mark = guarded.mark();
        assert!(!mark.fingerprint().is_known());
        assert_eq!(mark.rejected().expect("readable"), None);
        guarded.has_pin("4711-secret");
        for serial in ["0001", "0002"] {
            assert!(guarded.attempt_on(&mark, serial, Err("wrong")));
            let path = rejected_file(mark.directory());
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
            let text = fs::read_to_string(&path).expect("readable");
            assert!(!text.contains("4711"), "{text}");
            assert!(text.ends_with(" pin 868\n"), "{text}");
        }
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
