//! Groups of users: their names, the file that says who is in which (TOML, `group = ["user", "user"]`), and how a service keeps in
//! step with that file while it runs.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{ParseError, transport::UserName};

/// Bytes of the largest groups file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the last line of a file says, as a comment, that is whole. A file that lost its end may be valid, and say less.
pub const END: &str = "strongroom: end";

/// The name of a group of users: 1 to 128 bytes without control characters, as directories have them (`hr`,
/// `/eu/analysts`, `CN=HR,DC=example`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(String);

impl GroupName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        if (1..=128).contains(&s.len()) && !s.contains(char::is_control) {
            Ok(Self(s.to_owned()))
        } else {
            Err(ParseError::new(
                "group name",
                s,
                "1 to 128 bytes without control characters",
            ))
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is in which group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    of_user: HashMap<UserName, Vec<GroupName>>,
}

impl Groups {
    /// Reads the text of a groups file; `path` is for messages.
    ///
    /// # Errors
    /// [`InvalidGroups`] with the line, for anything but a table of lists of user names.
    pub fn parse(path: &Path, text: &str) -> Result<Self, InvalidGroups> {
        let refused = |line, reason| InvalidGroups {
            path: path.to_owned(),
            line,
            reason,
        };
        let table: BTreeMap<String, Vec<toml::Spanned<String>>> = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            refused(line_of(text, at), error.message().to_owned())
        })?;
        let mut groups = Self::default();
        for (group, users) in table {
            let name: GroupName = group.parse().map_err(|error| refused(1, format!("{error}")))?;
            for user in users {
                let line = line_of(text, user.span().start);
                let user = user
                    .into_inner()
                    .parse()
                    .map_err(|error| refused(line, format!("{error}")))?;
                groups.add(user, &name);
            }
        }
        Ok(groups)
    }

    /// The groups of a user, in order, each once.
    #[must_use]
    pub fn of(&self, user: &UserName) -> &[GroupName] {
        self.of_user.get(user).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, user: UserName, group: &GroupName) {
        let of_user = self.of_user.entry(user).or_default();
        if !of_user.contains(group) {
            of_user.push(group.clone());
        }
    }
}

/// A groups file is no table of lists of user names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {reason}", path.display())]
pub struct InvalidGroups {
    /// The file.
    pub path: PathBuf,
    /// The line of the first error, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Why a groups file is not used.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// It cannot be read.
    #[error("cannot read the groups file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is far larger than any such file.
    #[error("{} is over 4 MiB; is it the right groups file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It ended with [`END`] before and does not now.
    #[error(
        "{} does not end with the line {END:?} as before: it may have been cut; complete it, or to do without that line restart the service",
        path.display()
    )]
    Cut {
        /// The file.
        path: PathBuf,
    },
    /// It says something else than who is in which group.
    #[error(transparent)]
    Invalid(#[from] InvalidGroups),
}

/// A groups file that is looked at again and again.
#[derive(Debug)]
pub struct GroupsFile {
    path: PathBuf,
    groups: RwLock<Arc<Groups>>,
    seen: Mutex<Seen>,
}

/// Texts of the file.
#[derive(Debug)]
struct Seen {
    in_force: String,
    /// What the last look found, if it was something else, or why it could not be read.
    last: Option<Result<String, String>>,
    /// Whether that was said to be broken.
    reported: bool,
}

/// What a look at a groups file brought.
#[derive(Debug)]
pub enum Look {
    /// Nothing that is to be said.
    Nothing,
    /// What it says now is in force.
    Changed,
    /// It cannot be used as it is; what was in force stays so. Reported once for each way in which it is broken.
    Broken(GroupsError),
}

impl GroupsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`GroupsError`], but for [`GroupsError::Cut`].
    pub fn load(path: &Path) -> Result<Self, GroupsError> {
        let text = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            groups: RwLock::new(Arc::new(Groups::parse(path, &text)?)),
            seen: Mutex::new(Seen {
                in_force: text,
                last: None,
                reported: false,
            }),
        })
    }

    /// The groups that are in force.
    #[must_use]
    pub fn groups(&self) -> Arc<Groups> {
        // They are swapped whole, so that a panic elsewhere leaves nothing half done.
        Arc::clone(&self.groups.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file. What two looks in a row find is put in force: a file that is being written may be valid, and say less, long
    /// before it is whole. To be called every second or so; it blocks.
    pub fn look(&self) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read(&self.path);
        let found = match &read {
            Ok(text) if *text == seen.in_force => {
                (seen.last, seen.reported) = (None, false);
                return Look::Nothing;
            }
            Ok(text) => Ok(text.clone()),
            Err(error) => Err(error.to_string()),
        };
        if seen.last.as_ref() != Some(&found) {
            (seen.last, seen.reported) = (Some(found), false);
            return Look::Nothing;
        }
        match read.and_then(|text| self.install(&mut seen, text)) {
            Ok(()) => Look::Changed,
            Err(_) if seen.reported => Look::Nothing,
            Err(error) => {
                seen.reported = true;
                Look::Broken(error)
            }
        }
    }

    fn install(&self, seen: &mut Seen, text: String) -> Result<(), GroupsError> {
        if has_end(&seen.in_force) && !has_end(&text) {
            let path = self.path.clone();
            return Err(GroupsError::Cut { path });
        }
        let groups = Groups::parse(&self.path, &text)?;
        *self.groups.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(groups);
        *seen = Seen {
            in_force: text,
            last: None,
            reported: false,
        };
        Ok(())
    }
}

/// Whether the last line is a comment that says [`END`].
#[must_use]
pub fn has_end(text: &str) -> bool {
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let comment = last.strip_prefix("//").or(last.strip_prefix('#'));
    comment.is_some_and(|comment| comment.trim() == END)
}

/// The line, from 1, of a byte of `text`.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

fn read(path: &Path) -> Result<String, GroupsError> {
    let unreadable = |source| GroupsError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(GroupsError::TooLarge { path: path.to_owned() });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Groups, String> {
        Groups::parse(Path::new("groups.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_those_that_directories_have() {
        for name in ["hr", "/eu/analysts", "Größe 7", &"x".repeat(128)] {
            assert_eq!(name.parse::<GroupName>().expect("a group").as_str(), name);
        }
        for name in ["", "a\nb", &"x".repeat(129)] {
            assert!(name.parse::<GroupName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_user_is_in_the_groups_that_list_it() {
        let text = "# people\nhr = ['alice', 'bob', 'bob']\n\"/eu/it\" = [\n  'bob',\n]\nempty = []\n";
        let groups = parse(text).expect("valid");
        let of = |user: &str| -> Vec<String> {
            let groups = groups.of(&user.parse().expect("a user"));
            groups.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of("alice"), ["hr"]);
        assert_eq!(of("bob"), ["/eu/it", "hr"]);
        assert!(of("carol").is_empty());
        assert_eq!(parse("").expect("no group is no error"), Groups::default());
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        for (text, start) in [
            ("hr = ['alice']\nit = 'bob'\n", "groups.toml:2: "),
            ("hr = ['alice',\n  'no such/user']\n", "groups.toml:2: user name"),
            ("hr = ['alice']\nhr = ['bob']\n", "groups.toml:2: "),
            ("\"\" = ['alice']\n", "groups.toml:1: group name"),
            ("hr = [1]", "groups.toml:1: "),
        ] {
            let error = parse(text).expect_err("must be refused");
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn a_changed_file_takes_effect_when_it_rests_and_a_broken_one_is_reported_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("groups.toml");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("hr = ['alice']\n# strongroom: end\n");
        let file = GroupsFile::load(&path).expect("valid");
        let hr = |user: &str| !file.groups().of(&user.parse().expect("a user")).is_empty();
        assert!(matches!(file.look(), Look::Nothing) && hr("alice"));

        write("hr = ['bob']\n# strongroom: end\n");
        assert!(matches!(file.look(), Look::Nothing) && hr("alice"), "it settles first");
        assert!(matches!(file.look(), Look::Changed) && hr("bob") && !hr("alice"));
        for (text, word) in [
            ("hr = ['carol']", "may have been cut"),
            ("hr = 'carol'\n# strongroom: end", "groups.toml:1: "),
        ] {
            write(text);
            assert!(matches!(file.look(), Look::Nothing));
            match file.look() {
                Look::Broken(error) => assert!(error.to_string().contains(word), "{error}"),
                other => panic!("{other:?}"),
            }
            assert!(matches!(file.look(), Look::Nothing), "reported once");
            assert!(hr("bob"), "what was in force stays");
        }
        std::fs::remove_file(&path).expect("was there");
        assert!(matches!(file.look(), Look::Nothing));
        assert!(matches!(file.look(), Look::Broken(GroupsError::Read { .. })));
        write("# strongroom: end");
        assert!(matches!(file.look(), Look::Nothing));
        assert!(matches!(file.look(), Look::Changed) && !hr("bob"));
    }
}
