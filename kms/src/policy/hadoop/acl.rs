//! What the properties of a `kms-acls.xml` mean (`KMSACLs`, `AccessControlList`).

use std::collections::{BTreeMap, BTreeSet};

/// Who is on a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AccessList {
    /// `*`: everybody, whoever else is named.
    pub(super) everybody: bool,
    pub(super) users: BTreeSet<String>,
    pub(super) groups: BTreeSet<String>,
}

impl AccessList {
    /// `u1,u2 g1,g2`: users up to the first space, groups behind it; `*` for either is everybody.
    pub(super) fn parse(value: &str) -> Self {
        let (users, groups) = match value.split_once(' ') {
            Some((users, groups)) => (users, Some(groups)),
            None => (value, None),
        };
        let everybody = users.trim() == "*" || groups.is_some_and(|groups| groups.trim() == "*");
        if everybody {
            return Self {
                everybody,
                ..Self::default()
            };
        }
        Self {
            everybody,
            users: names(users),
            groups: groups.map(names).unwrap_or_default(),
        }
    }
}

fn names(list: &str) -> BTreeSet<String> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// An operation that a key is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeyOp {
    Management,
    GenerateEek,
    DecryptEek,
    Read,
    All,
}

impl KeyOp {
    const ALL: [Self; 5] = [
        Self::Management,
        Self::GenerateEek,
        Self::DecryptEek,
        Self::Read,
        Self::All,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Management => "MANAGEMENT",
            Self::GenerateEek => "GENERATE_EEK",
            Self::DecryptEek => "DECRYPT_EEK",
            Self::Read => "READ",
            Self::All => "ALL",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == word)
    }
}

/// An operation of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    Create,
    Delete,
    Rollover,
    GetKeys,
    GetMetadata,
    SetKeyMaterial,
    GenerateEek,
    DecryptEek,
}

impl Op {
    pub(super) const ALL: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::Rollover,
        Self::GetKeys,
        Self::GetMetadata,
        Self::SetKeyMaterial,
        Self::GenerateEek,
        Self::DecryptEek,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Delete => "DELETE",
            Self::Rollover => "ROLLOVER",
            Self::GetKeys => "GET_KEYS",
            Self::GetMetadata => "GET_METADATA",
            Self::SetKeyMaterial => "SET_KEY_MATERIAL",
            Self::GenerateEek => "GENERATE_EEK",
            Self::DecryptEek => "DECRYPT_EEK",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == word)
    }
}

/// All ACLs of a file.
#[derive(Debug, Default)]
pub(super) struct Acls {
    /// An operation that is missing is everybody's.
    pub(super) ops: BTreeMap<Op, AccessList>,
    pub(super) blacklists: BTreeMap<Op, AccessList>,
    /// By ACL name. A name that is here has no defaults.
    pub(super) keys: BTreeMap<String, BTreeMap<KeyOp, AccessList>>,
    pub(super) defaults: BTreeMap<KeyOp, AccessList>,
    pub(super) whitelist: BTreeMap<KeyOp, AccessList>,
}

impl Acls {
    /// What the properties say; `notes` gets what they do not.
    pub(super) fn parse(properties: &[(String, String)], notes: &mut Vec<String>) -> Self {
        let mut acls = Self::default();
        for (name, value) in properties {
            match acls.take(name, value) {
                Ok(()) => note_spaces(name, value, notes),
                Err(why) => notes.push(format!("{name}: {why}")),
            }
        }
        acls
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let list = AccessList::parse(value);
        if let Some(op) = name.strip_prefix("hadoop.kms.acl.") {
            self.ops.insert(op_word(op)?, list);
        } else if let Some(op) = name.strip_prefix("hadoop.kms.blacklist.") {
            self.blacklists.insert(op_word(op)?, list);
        } else if let Some(op) = name.strip_prefix("default.key.acl.") {
            self.defaults.insert(op_of_any_key(op)?, list);
        } else if let Some(op) = name.strip_prefix("whitelist.key.acl.") {
            self.whitelist.insert(op_of_any_key(op)?, list);
        } else if let Some(rest) = name.strip_prefix("key.acl.") {
            // A name may contain dots.
            let (key, op) = rest
                .rsplit_once('.')
                .ok_or("names no key, as in Hadoop without effect")?;
            if key.is_empty() {
                return Err("names no key, as in Hadoop without effect");
            }
            self.keys.entry(key.to_owned()).or_default().insert(key_op(op)?, list);
        } else {
            return Err("is no ACL, not imported");
        }
        Ok(())
    }
}

fn op_word(word: &str) -> Result<Op, &'static str> {
    if word == "GET" {
        return Err("has no counterpart: key material is given to nobody, not imported");
    }
    Op::parse(word).ok_or("is no operation of a Hadoop KMS, not imported")
}

fn key_op(word: &str) -> Result<KeyOp, &'static str> {
    KeyOp::parse(word).ok_or("is no operation on a key, as in Hadoop without effect")
}

fn op_of_any_key(word: &str) -> Result<KeyOp, &'static str> {
    match key_op(word)? {
        KeyOp::All => Err("ALL counts for single keys only, as in Hadoop without effect"),
        op => Ok(op),
    }
}

/// `u1, u2` says, to Hadoop and therefore here, that `u1` is a user and `u2` a group.
fn note_spaces(name: &str, value: &str, notes: &mut Vec<String>) {
    let spaces = value.matches(' ').count();
    let misleading = value.split_once(' ').is_some_and(|(users, _)| users.ends_with(',')) || spaces > 1;
    if misleading && !AccessList::parse(value).everybody {
        notes.push(format!(
            "{name}: only the first space divides users from groups, as in Hadoop; look whether {value:?} means what it should"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_hadoop_reads_them() {
        for (value, everybody, users, groups) in [
            ("*", true, &[][..], &[][..]),
            (" * ", true, &[], &[]),
            ("alice *", true, &[], &[]),
            ("", false, &[], &[]),
            (" ", false, &[], &[]),
            ("alice", false, &["alice"], &[]),
            ("alice,bob hr,it", false, &["alice", "bob"], &["hr", "it"]),
            (" hr", false, &[], &["hr"]),
            ("alice, bob", false, &["alice"], &["bob"]),
            ("alice hr it", false, &["alice"], &["hr it"]),
            ("a*,b", false, &["a*", "b"], &[]),
        ] {
            let list = AccessList::parse(value);
            assert_eq!(list.everybody, everybody, "{value:?}");
            assert!(list.users.iter().eq(users.iter()), "{value:?}: {:?}", list.users);
            assert!(list.groups.iter().eq(groups.iter()), "{value:?}: {:?}", list.groups);
        }
    }
}
