//! ACLs as text and on the wire: `user:bob:r-x`, `group::rwx`, `mask::r--`, `default:group:hr:rw-`, as `getfacl` and HDFS write them.

use std::{fmt, str::FromStr};

use strongroom_proto::{
    groups::GroupName,
    metadata::v1::{self as pb, AclKind},
    transport::UserName,
};

use crate::{FsError, Stat};

/// For whom an entry of an ACL is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AclTag {
    /// The owner.
    Owner,
    /// A user by name.
    User(UserName),
    /// The owning group.
    OwningGroup,
    /// A group by name.
    Group(GroupName),
    /// What limits named users and all groups.
    Mask,
    /// Everybody else.
    Other,
}

/// An entry of an ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclEntry {
    /// Of a directory: what is made in it begins with this.
    pub default: bool,
    /// For whom.
    pub tag: AclTag,
    /// The sum of 4 (read), 2 (write) and 1 (execute).
    pub rights: u32,
}

/// How an ACL is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AclChange {
    /// These entries take the place of all; those for the owner, the owning group and others must be among them.
    Replace(Vec<AclEntry>),
    /// These entries are added, or take the place of those with the same tag.
    Modify(Vec<AclEntry>),
    /// These entries go, whatever their rights.
    Remove(Vec<AclEntry>),
    /// What is made in a directory begins with nothing any more.
    RemoveDefault,
    /// All goes that goes beyond the mode.
    RemoveAll,
}

/// A text is no entry of an ACL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no entry of an ACL: {rule}")]
pub struct AclError {
    text: String,
    rule: String,
}

/// The ACL of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// What it is of.
    pub stat: Stat,
    /// All entries, those that the mode shows among them.
    pub entries: Vec<AclEntry>,
}

impl AclEntry {
    /// Parses an entry to be removed, which says no rights: `user:bob`, `default:mask`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse_tag(text: &str) -> Result<Self, AclError> {
        let (default, fields) = fields(text);
        let entry = match fields.as_slice() {
            [kind] => tag(kind, ""),
            [kind, name] | [kind, name, ""] => tag(kind, name),
            _ => {
                Err("write user:NAME, group:NAME or mask, with default: before it for a directory's default".to_owned())
            }
        };
        let tag = entry.map_err(|rule| refused(text, rule))?;
        Ok(Self {
            default,
            tag,
            rights: 0,
        })
    }
}

impl FromStr for AclEntry {
    type Err = AclError;

    fn from_str(text: &str) -> Result<Self, AclError> {
        let (default, fields) = fields(text);
        let [kind, name, rights] = fields.as_slice() else {
            let rule = "write user:NAME:rwx, group:NAME:r-x, mask::r-x or other::---, with default: before it for a directory's default";
            return Err(refused(text, rule.to_owned()));
        };
        let parsed = tag(kind, name).and_then(|tag| Ok((tag, self::rights(rights)?)));
        let (tag, rights) = parsed.map_err(|rule| refused(text, rule))?;
        Ok(Self { default, tag, rights })
    }
}

impl fmt::Display for AclEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = if self.default { "default:" } else { "" };
        let bit = |bit: u32, letter: char| if self.rights & bit == 0 { '-' } else { letter };
        let rights = format!("{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
        match &self.tag {
            AclTag::Owner => write!(f, "{default}user::{rights}"),
            AclTag::User(name) => write!(f, "{default}user:{name}:{rights}"),
            AclTag::OwningGroup => write!(f, "{default}group::{rights}"),
            AclTag::Group(name) => write!(f, "{default}group:{name}:{rights}"),
            AclTag::Mask => write!(f, "{default}mask::{rights}"),
            AclTag::Other => write!(f, "{default}other::{rights}"),
        }
    }
}

/// The fields of an entry, without the word that makes it a default. A group's name may hold colons: the first and the last count.
fn fields(text: &str) -> (bool, Vec<&str>) {
    let rest = text.strip_prefix("default:").or_else(|| text.strip_prefix("d:"));
    let text = rest.unwrap_or(text);
    let Some((kind, name_and_rights)) = text.split_once(':') else {
        return (rest.is_some(), vec![text]);
    };
    let mut fields = vec![kind];
    match name_and_rights.rsplit_once(':') {
        Some((name, rights)) => fields.extend([name, rights]),
        None => fields.push(name_and_rights),
    }
    (rest.is_some(), fields)
}

fn tag(kind: &str, name: &str) -> Result<AclTag, String> {
    let parsed = match (kind, name) {
        ("user" | "u", "") => Ok(AclTag::Owner),
        ("user" | "u", name) => name.parse().map(AclTag::User),
        ("group" | "g", "") => Ok(AclTag::OwningGroup),
        ("group" | "g", name) => name.parse().map(AclTag::Group),
        ("mask" | "m", "") => Ok(AclTag::Mask),
        ("other" | "o", "") => Ok(AclTag::Other),
        _ => return Err("it begins with user, group, mask or other, and only user and group have names".to_owned()),
    };
    parsed.map_err(|error| error.to_string())
}

fn rights(text: &str) -> Result<u32, String> {
    let bits = [('r', 4), ('w', 2), ('x', 1)];
    let mut letters = text.chars();
    let mut rights = 0;
    for (letter, bit) in bits {
        match letters.next() {
            Some(found) if found == letter => rights |= bit,
            Some('-') => {}
            _ => return Err("its rights are three characters, rwx or - in their places".to_owned()),
        }
    }
    match letters.next() {
        None => Ok(rights),
        Some(_) => Err("its rights are three characters, rwx or - in their places".to_owned()),
    }
}

fn refused(text: &str, rule: String) -> AclError {
    let text = text.to_owned();
    AclError { text, rule }
}

impl From<&AclEntry> for pb::AclEntry {
    fn from(entry: &AclEntry) -> Self {
        let (kind, name) = match &entry.tag {
            AclTag::Owner => (AclKind::User, String::new()),
            AclTag::User(name) => (AclKind::User, name.to_string()),
            AclTag::OwningGroup => (AclKind::Group, String::new()),
            AclTag::Group(name) => (AclKind::Group, name.to_string()),
            AclTag::Mask => (AclKind::Mask, String::new()),
            AclTag::Other => (AclKind::Other, String::new()),
        };
        Self {
            default: entry.default,
            kind: kind.into(),
            name,
            rights: entry.rights,
        }
    }
}

impl TryFrom<pb::AclEntry> for AclEntry {
    type Error = FsError;

    fn try_from(wire: pb::AclEntry) -> Result<Self, FsError> {
        let kind = match wire.kind() {
            AclKind::User => "user",
            AclKind::Group => "group",
            AclKind::Mask => "mask",
            AclKind::Other => "other",
            AclKind::Unspecified => "",
        };
        let broken = |_| FsError::metadata_contradiction("it names an entry of an ACL that there is not");
        Ok(Self {
            default: wire.default,
            tag: tag(kind, &wire.name).map_err(broken)?,
            rights: wire.rights & 7,
        })
    }
}

impl TryFrom<pb::Acl> for Acl {
    type Error = FsError;

    fn try_from(wire: pb::Acl) -> Result<Self, FsError> {
        let missing = || FsError::metadata_contradiction("it says not what the ACL is of");
        Ok(Self {
            stat: wire.stat.ok_or_else(missing)?.try_into()?,
            entries: wire
                .entries
                .into_iter()
                .map(AclEntry::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl AclChange {
    pub(crate) fn wire(&self) -> (pb::AclChange, Vec<pb::AclEntry>) {
        let list = |entries: &[AclEntry]| entries.iter().map(Into::into).collect();
        match self {
            Self::Replace(entries) => (pb::AclChange::Replace, list(entries)),
            Self::Modify(entries) => (pb::AclChange::Modify, list(entries)),
            Self::Remove(entries) => (pb::AclChange::Remove, list(entries)),
            Self::RemoveDefault => (pb::AclChange::RemoveDefault, Vec::new()),
            Self::RemoveAll => (pb::AclChange::RemoveAll, Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_written_as_they_are_read() {
        for text in [
            "user::rwx",
            "user:bob:r-x",
            "group::---",
            "group:/eu/hr:rw-",
            "group:a:b:--x",
            "mask::r--",
            "other::--x",
            "default:user:bob:-w-",
            "default:other::r--",
        ] {
            let entry: AclEntry = text.parse().expect(text);
            assert_eq!(entry.to_string(), text);
            let wire = pb::AclEntry::from(&entry);
            assert_eq!(AclEntry::try_from(wire).expect("valid"), entry);
        }
        assert_eq!(
            "d:u:bob:rwx".parse::<AclEntry>().expect("short").to_string(),
            "default:user:bob:rwx"
        );
        assert_eq!(
            AclEntry::parse_tag("default:g:hr").expect("a tag").to_string(),
            "default:group:hr:---"
        );
        assert_eq!(AclEntry::parse_tag("mask").expect("a tag").to_string(), "mask::---");
        for text in [
            "",
            "bob",
            "user:bob",
            "user:bob:rw",
            "user:bob:rwxx",
            "user:bob:xwr",
            "mask:bob:rwx",
            "role::rwx",
        ] {
            assert!(text.parse::<AclEntry>().is_err(), "{text:?}");
        }
        assert!(AclEntry::parse_tag("user:no/such").is_err());
    }
}
