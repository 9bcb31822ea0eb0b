//! The set of policies and groups that is in force, and how another takes its place: whole, once it was validated, or
//! not at all. A file that is broken leaves the set that was in force and raises an alarm.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Action, Context, Decision, KeyFacts, PolicyError, PolicyFiles, Principal, Rules, rules::Texts};

/// How long files have to stay as they are before they are taken up.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

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
    stamps: Stamps,
    /// SHA-256 over what they held when they were found to be so; none if they could not be read.
    content: Option<String>,
    since: Instant,
    /// Whether that was taken up, or found to be broken.
    taken_up: bool,
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
        let mut seen = Seen::now(&files, Instant::now());
        let rules = Rules::load(&files)?;
        seen.taken_up = seen.content.as_deref() == Some(rules.fingerprint());
        let status = PolicyStatus {
            loaded_at: Timestamp::now(),
            fingerprint: rules.fingerprint().to_owned(),
            broken: None,
        };
        Ok(Self {
            files,
            rules: RwLock::new(Arc::new(rules)),
            status: watch::Sender::new(status),
            seen: Mutex::new(seen),
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

    /// Looks whether the files have changed, at the time `now`. A change is taken up once the files have been the same, in stamps
    /// and content, for a second: a file that is being written may be valid, and forbid less, long before it is whole.
    pub(crate) fn look(&self, now: Instant) -> Change {
        let mut seen = self.seen();
        if seen.stamps != Stamps::of(&self.files) {
            *seen = Seen::now(&self.files, now);
            return Change::None;
        }
        if seen.taken_up || now.saturating_duration_since(seen.since) < SETTLED_AFTER {
            return Change::None;
        }
        self.examine(&mut seen, now)
    }

    /// Has the files read again, whatever the looks before found.
    pub(crate) fn forget_look(&self, now: Instant) {
        *self.seen() = Seen::now(&self.files, now);
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

    fn examine(&self, seen: &mut Seen, now: Instant) -> Change {
        let texts = Texts::read(&self.files);
        let found = Seen::of(&self.files, &texts, now);
        if (&found.stamps, &found.content) != (&seen.stamps, &seen.content) {
            *seen = found;
            return Change::None;
        }
        seen.taken_up = true;
        let read = texts.and_then(|texts| self.understand(&texts));
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

    /// The set that the texts make, unless it is the one in force.
    fn understand(&self, texts: &Texts) -> Result<Option<Rules>, PolicyError> {
        let rules = self.rules();
        if texts.fingerprint() == rules.fingerprint() {
            return Ok(None);
        }
        rules.check_ends(&self.files, texts)?;
        Rules::of(&self.files, texts).map(Some)
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

impl Seen {
    fn now(files: &PolicyFiles, now: Instant) -> Self {
        Self::of(files, &Texts::read(files), now)
    }

    fn of(files: &PolicyFiles, texts: &Result<Texts, PolicyError>, now: Instant) -> Self {
        Self {
            stamps: Stamps::of(files),
            content: texts.as_ref().ok().map(Texts::fingerprint),
            since: now,
            taken_up: false,
        }
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
    use std::{cell::Cell, path::PathBuf};

    use tempfile::TempDir;

    use super::*;

    const NOBODY: &str = "forbid (principal, action, resource);";
    const HR: &str = r#"permit (principal in Group::"hr", action, resource);"#;

    struct Files {
        dir: TempDir,
        policy: Policy,
        now: Cell<Instant>,
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
            let now = Cell::new(Instant::now());
            Self { dir, policy, now }
        }

        /// A look a second after the one before.
        fn look(&self) -> Change {
            self.now.set(self.now.get() + SETTLED_AFTER);
            self.policy.look(self.now.get())
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
            assert!(matches!(self.look(), Change::None), "a change settles first");
            match self.look() {
                Change::Valid(rules) => self.policy.install(*rules),
                other => panic!("no valid set: {other:?}"),
            }
        }
    }

    #[test]
    fn a_changed_file_takes_effect_whole_and_once() {
        let files = Files::new(NOBODY, "");
        assert!(matches!(files.look(), Change::None));
        files.write("policy.cedar", HR);
        files.install();
        assert!(!files.alice_may_view());
        files.write("groups.toml", "hr = ['alice']");
        files.install();
        assert!(
            files.alice_may_view(),
            "the decision before was remembered beyond its set"
        );
        assert!(matches!(files.look(), Change::None));
        files.write("groups.toml", "hr = ['alice']");
        for _ in 0..3 {
            assert!(matches!(files.look(), Change::None), "the content is the same");
        }
        files.policy.forget_look(files.now.get());
        assert!(matches!(files.look(), Change::None));
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
            assert!(matches!(files.look(), Change::None));
            match files.look() {
                Change::Broken(why) => assert!(!word.is_empty() && why.contains(word), "{why}"),
                Change::Mended => assert_eq!(word, ""),
                other => panic!("{other:?}"),
            }
            assert!(matches!(files.look(), Change::None), "reported once");
            files.policy.forget_look(files.now.get());
            assert!(matches!(files.look(), Change::None), "reported once");
            assert!(files.alice_may_view(), "the old set stays in force");
            let status = files.policy.status().borrow().clone();
            assert_eq!(status.broken.is_some(), !word.is_empty());
            assert_eq!(
                (status.loaded_at, status.fingerprint),
                (before.loaded_at, before.fingerprint.clone())
            );
        }
        fs::remove_file(files.path("groups.toml")).expect("was there");
        assert!(matches!(files.look(), Change::None));
        assert!(matches!(files.look(), Change::Broken(why) if why.contains("groups.toml: No such file")));
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

    #[test]
    fn a_file_that_is_written_bit_by_bit_is_taken_up_when_it_rests() {
        let files = Files::new(NOBODY, "hr = ['alice']");
        let start = files.now.get();
        let whole = format!("{HR}\n{NOBODY}\n");
        for (step, end) in (0..).zip([HR.len(), HR.len() + 1, whole.len() - 1, whole.len()]) {
            files.write("policy.cedar", &whole[..end]);
            let now = start + Duration::from_millis(900 * step);
            assert!(matches!(files.policy.look(now), Change::None), "it is being written");
        }
        files.now.set(start + Duration::from_millis(900 * 3));
        match files.look() {
            Change::Valid(rules) => assert_eq!(rules.policy_count(), 2, "taken up whole"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_lost_its_last_line_is_broken() {
        let ended = |text: &str| format!("{text}\n// strongroom: end\n");
        let files = Files::new(&ended(HR), "hr = ['alice']");
        for (text, cut) in [(NOBODY.to_owned(), true), (ended(NOBODY), false)] {
            files.write("policy.cedar", &text);
            assert!(matches!(files.look(), Change::None), "a change settles first");
            match files.look() {
                Change::Broken(why) => assert!(cut && why.contains("may have been cut"), "{why}"),
                Change::Valid(rules) if !cut => files.policy.install(*rules),
                other => panic!("{other:?}"),
            }
            assert_eq!(files.alice_may_view(), cut);
        }
        files.write("groups.toml", "hr = ['alice']\n# strongroom: end");
        files.install();
        files.write("groups.toml", "hr = ['alice']");
        assert!(matches!(files.look(), Change::None));
        assert!(matches!(files.look(), Change::Broken(why) if why.contains("groups.toml")));
    }
}
