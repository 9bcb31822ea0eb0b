//! The groups file: which users are in which group, in TOML, `group = ["user", "user"]`.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use strongroom_proto::transport::UserName;

use super::{GroupName, PolicyError, load::line_of};

/// Who is in which group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    of_user: HashMap<UserName, Vec<GroupName>>,
}

impl Groups {
    /// Reads the text of a groups file; `path` is for messages.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with the line, for anything but a table of lists of user names.
    pub fn parse(path: &Path, text: &str) -> Result<Self, PolicyError> {
        let refused = |line, reason| PolicyError::Invalid {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Groups, String> {
        Groups::parse(Path::new("groups.toml"), text).map_err(|error| error.to_string())
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
}
