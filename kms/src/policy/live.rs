//! The set of policies and groups that is in force, and how another takes its place: whole, once it was validated, or
//! not at all. A file that is broken leaves the set that was in force and raises an alarm.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Action, Context, Decision, KeyFacts, PolicyError, PolicyFiles, Principal, Rules, rules::Texts};

/// What is in force, for health, metrics and people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// When the set that is in force was read.
    pub loaded_at: Timestamp,
    /// SHA-256 over its files, in hex.
    pub fingerprint: String,
    /// Why the files, as they are now, are not in force; the set before them is.
    pub broken: Option<String>,
}

/// What looking at the files brought.
#[derive(Debug)]
pub(crate) enum Change {
    /// They are as they were when they were last looked at.
    None,
    /// A valid set that differs from the one in force, to be put in force with [`Policy::install`].
    Valid(Box<Rules>),
    /// They are what is in force again, after they were broken.
    Mended,
    /// They cannot be used. Reported once for each way in which they are broken.
    Broken(String),
}

/// The set that is in force. Cheap to ask from many tasks at once; each decision is made by one set alone.
pub struct Policy {
    files: PolicyFiles,
    rules: RwLock<Arc<Rules>>,
    status: watch::Sender<PolicyStatus>,
    seen: Mutex<Seen>,
}

/// What the last looks at the files found.
struct Seen {
    /// What was last read, or is to be read at the next look if it is still so then.
    stamps: Stamps,
    /// Whether `stamps` was read.
    read: bool,
}

/// By what a changed file shows, without reading it: device, inode, size, and the nanoseconds of its last changes.
type Stamp = Result<(u64, u64, u64, i128, i128), io::ErrorKind>;

/// The stamps of the policy and the groups file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps(Stamp, Option<Stamp>);

impl Policy {
    /// Reads and validates the files.
    ///
    /// # Errors
    /// Names the file, the line and the reason.
    pub fn load(files: PolicyFiles) -> Result<Self, PolicyError> {
        let stamps = Stamps::of(&files);
        let rules = Rules::load(&files)?;
        let status = PolicyStatus {
            loaded_at: Timestamp::now(),
            fingerprint: rules.fingerprint().to_owned(),
            broken: None,
        };
        Ok(Self {
            files,
            rules: RwLock::new(Arc::new(rules)),
            status: watch::Sender::new(status),
            seen: Mutex::new(Seen { stamps, read: true }),
        })
    }

    /// The set that is in force now.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        // Sets are swapped whole, so that a panic elsewhere leaves nothing half done.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Decides whether `who` may do `action` with `key`.
    #[must_use]
    pub fn decide(&self, who: &Principal<'_>, action: Action, key: &KeyFacts, context: &Context<'_>) -> Decision {
        self.rules().decide(who, action, key, context)
    }

    /// What is in force, and every change of it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PolicyStatus> {
        self.status.subscribe()
    }

    /// Looks whether the files have changed. A change is taken up when two looks in a row find the same, so that a
    /// file that is being written is not read in the middle.
    pub(crate) fn look(&self) -> Change {
        let now = Stamps::of(&self.files);
        let mut seen = self.seen();
        if seen.stamps != now {
            *seen = Seen {
                stamps: now,
                read: false,
            };
            return Change::None;
        }
        if seen.read {
            Change::None
        } else {
            self.examine(&mut seen)
        }
    }

    /// Reads the files now, changed or not.
    pub(crate) fn look_now(&self) -> Change {
        let mut seen = self.seen();
        seen.stamps = Stamps::of(&self.files);
        self.examine(&mut seen)
    }

    /// The next look reads the files again, whatever the last one found.
    pub(crate) fn forget_look(&self) {
        self.seen().read = false;
    }

    /// Puts `rules` in force.
    pub(crate) fn install(&self, rules: Rules) {
        let status = PolicyStatus {
            loaded_at: Timestamp::now(),
            fingerprint: rules.fingerprint().to_owned(),
            broken: None,
        };
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.status.send_replace(status);
    }

    fn examine(&self, seen: &mut Seen) -> Change {
        let read = self.read();
        // If they changed while they were read, the next look finds it.
        seen.read = Stamps::of(&self.files) == seen.stamps;
        match read {
            Ok(Some(rules)) => Change::Valid(Box::new(rules)),
            Ok(None) if self.set_broken(None) => Change::Mended,
            Ok(None) => Change::None,
            Err(error) => {
                let why = chain(&error);
                if self.set_broken(Some(why.clone())) {
                    Change::Broken(why)
                } else {
                    Change::None
                }
            }
        }
    }

    /// The set that the files make, unless it is the one in force.
    fn read(&self) -> Result<Option<Rules>, PolicyError> {
        let texts = Texts::read(&self.files)?;
        if texts.fingerprint() == self.rules().fingerprint() {
            return Ok(None);
        }
        Rules::of(&self.files, &texts).map(Some)
    }

    /// Answers whether that is news.
    fn set_broken(&self, why: Option<String>) -> bool {
        self.status.send_if_modified(|status| {
            let news = status.broken != why;
            status.broken = why;
            news
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamps {
    fn of(files: &PolicyFiles) -> Self {
        Self(stamp(&files.policy), files.groups.as_deref().map(stamp))
    }
}

fn stamp(path: &Path) -> Stamp {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let file = fs::metadata(path).map_err(|error| error.kind())?;
    Ok((
        file.dev(),
        file.ino(),
        file.size(),
        nanoseconds(file.mtime(), file.mtime_nsec()),
        nanoseconds(file.ctime(), file.ctime_nsec()),
    ))
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    const NOBODY: &str = "forbid (principal, action, resource);";
    const HR: &str = r#"permit (principal in Group::"hr", action, resource);"#;

    struct Files {
        dir: TempDir,
        policy: Policy,
    }

    impl Files {
        fn new(policy: &str, groups: &str) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let files = PolicyFiles {
                policy: dir.path().join("policy.cedar"),
                groups: Some(dir.path().join("groups.toml")),
            };
            fs::write(&files.policy, policy).expect("written");
            fs::write(dir.path().join("groups.toml"), groups).expect("written");
            let policy = Policy::load(files).expect("valid");
            Self { dir, policy }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).expect("written");
        }

        fn alice_may_view(&self) -> bool {
            let alice = "spiffe://strongroom/user/alice".parse().expect("an identity");
            let key = KeyFacts::unknown("a".parse().expect("a key name"));
            let who = Principal::certified(&alice);
            self.policy
                .decide(&who, Action::View, &key, &Context::of("describe"))
                .allowed
        }

        fn install(&self) {
            assert!(matches!(self.policy.look(), Change::None), "a change settles first");
            match self.policy.look() {
                Change::Valid(rules) => self.policy.install(*rules),
                other => panic!("no valid set: {other:?}"),
            }
        }
    }

    #[test]
    fn a_changed_file_takes_effect_whole_and_once() {
        let files = Files::new(NOBODY, "");
        assert!(matches!(files.policy.look(), Change::None));
        files.write("policy.cedar", HR);
        files.install();
        assert!(!files.alice_may_view());
        files.write("groups.toml", "hr = ['alice']");
        files.install();
        assert!(
            files.alice_may_view(),
            "the decision before was remembered beyond its set"
        );
        assert!(matches!(files.policy.look(), Change::None));
        files.write("groups.toml", "hr = ['alice']");
        for _ in 0..3 {
            assert!(matches!(files.policy.look(), Change::None), "the content is the same");
        }
        assert!(matches!(files.policy.look_now(), Change::None));
    }

    #[test]
    fn a_broken_file_keeps_the_old_set_and_is_reported_once() {
        let files = Files::new(HR, "hr = ['alice']");
        let before = files.policy.status().borrow().clone();
        for (name, text, word) in [
            ("policy.cedar", "permit (principal, action);", "policy.cedar:1: "),
            ("policy.cedar", HR, ""),
            ("groups.toml", "hr = 'alice'", "groups.toml:1: "),
        ] {
            files.write(name, text);
            assert!(matches!(files.policy.look(), Change::None));
            match files.policy.look() {
                Change::Broken(why) => assert!(!word.is_empty() && why.contains(word), "{why}"),
                Change::Mended => assert_eq!(word, ""),
                other => panic!("{other:?}"),
            }
            assert!(matches!(files.policy.look(), Change::None), "reported once");
            assert!(matches!(files.policy.look_now(), Change::None), "reported once");
            assert!(files.alice_may_view(), "the old set stays in force");
            let status = files.policy.status().borrow().clone();
            assert_eq!(status.broken.is_some(), !word.is_empty());
            assert_eq!(
                (status.loaded_at, status.fingerprint),
                (before.loaded_at, before.fingerprint.clone())
            );
        }
        fs::remove_file(files.path("groups.toml")).expect("was there");
        assert!(matches!(files.policy.look(), Change::None));
        assert!(matches!(files.policy.look(), Change::Broken(why) if why.contains("groups.toml: No such file")));
        assert!(files.alice_may_view());
    }

    #[test]
    fn a_file_that_is_replaced_or_written_in_place_is_found() {
        let files = Files::new(HR, "hr = ['alice']");
        files.write("new", "hr = ['bobby']");
        fs::rename(files.path("new"), files.path("groups.toml")).expect("renamed");
        files.install();
        assert!(!files.alice_may_view());
        files.write("groups.toml", "hr = ['alice']");
        files.install();
        assert!(files.alice_may_view());
    }
}
