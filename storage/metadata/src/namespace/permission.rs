//! Who may do what: POSIX permissions with ACLs as HDFS has them (ADR 29). This is the one place where that is decided; the walk along
//! a path asks for every directory, each operation for what it ends at.

use std::fmt;

use strongroom_proto::{ZonePath, transport::UserName};

use super::resolve::Found;
use crate::{authority::Caller, error::MetadataError, schema::records};

/// The bit by which only owners may take things out of a directory.
const STICKY: u32 = 0o1000;

/// Some of read, write and execute; in an entry's mode, the bits of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights(u32);

impl Rights {
    /// Read a file.
    pub(crate) const READ: Self = Self(0o4);
    /// Replace a file, or set its time.
    pub(crate) const WRITE: Self = Self(0o2);
    /// Go on writing a file, which takes what is there.
    pub(crate) const APPEND: Self = Self(0o6);
    /// Pass through a directory.
    pub(crate) const PASS: Self = Self(0o1);
    /// List a directory.
    pub(crate) const LIST: Self = Self(0o5);
    /// Make, rename and remove in a directory.
    pub(crate) const CHANGE: Self = Self(0o3);
    /// Remove a directory with what it holds.
    pub(crate) const ALL: Self = Self(0o7);
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(0o4, "r"), (0o2, "w"), (0o1, "x")];
        let held = names.iter().filter(|(bit, _)| self.0 & bit != 0);
        f.write_str(&held.map(|(_, name)| *name).collect::<String>())
    }
}

/// What is missing, and where.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "permission denied for {path}: user {user} needs {right} on {at} (owner {owner}, group {group}, mode {mode:04o}{}); its owner or a superuser can grant it: strongroom fs chmod or setfacl",
    if *.has_acl { ", with an ACL" } else { "" }
)]
pub struct Forbidden {
    path: ZonePath,
    user: UserName,
    /// `wx`, or another condition.
    right: String,
    at: ZonePath,
    owner: String,
    group: String,
    mode: u32,
    has_acl: bool,
}

/// Whether `who` has rights on what an entry stands for.
///
/// Of the classes owner, named user, groups and others the first that fits decides (POSIX.1e draft 17, 23.1.5). Of several groups, the
/// owning one and named ones, one must give all that is asked for. With an ACL the mode's group bits are its mask, which limits
/// named users and all groups.
pub(crate) fn may(who: &Caller, entry: &records::Entry, rights: Rights) -> bool {
    let gives = |bits: u32| bits & rights.0 == rights.0;
    if who.superuser {
        return true;
    }
    let (of_owner, of_group, of_others) = (entry.mode >> 6, entry.mode >> 3, entry.mode);
    if who.owns(&entry.owner) {
        return gives(of_owner);
    }
    let Some(acl) = &entry.acl else {
        return gives(if who.is_in(&entry.group) { of_group } else { of_others });
    };
    let mask = of_group;
    if let Some(named) = acl.names.iter().find(|named| who.owns(&named.user)) {
        return gives(named.rights & mask);
    }
    let owning = who.is_in(&entry.group).then_some(acl.group);
    let named = acl.names.iter().filter(|named| who.is_in(&named.group));
    let mut groups = owning.into_iter().chain(named.map(|named| named.rights)).peekable();
    if groups.peek().is_some() {
        return groups.any(|bits| gives(bits & mask));
    }
    gives(of_others)
}

/// Refuses whoever lacks `rights` on what was found. `path` is what they are needed for.
pub(crate) fn check(who: &Caller, found: &Found, rights: Rights, path: &ZonePath) -> Result<(), MetadataError> {
    if may(who, &found.entry, rights) {
        return Ok(());
    }
    Err(forbidden(who, found, rights.to_string(), path))
}

/// Refuses whoever may not take `found` out of its directory.
pub(crate) fn check_taking(who: &Caller, parent: &Found, found: &Found) -> Result<(), MetadataError> {
    check(who, parent, Rights::CHANGE, &found.path)?;
    if !is_sticky_for(who, &parent.entry) || who.owns(&found.entry.owner) {
        return Ok(());
    }
    let right = format!("to own it or {}, as the sticky bit", found.path);
    Err(forbidden(who, parent, right, &found.path))
}

/// Refuses whoever may not remove a directory with what it holds. In one with the sticky bit that is others' as well.
pub(crate) fn check_clearing(who: &Caller, found: &Found, path: &ZonePath) -> Result<(), MetadataError> {
    check(who, found, Rights::ALL, path)?;
    if found.entry.mode & STICKY == 0 {
        return Ok(());
    }
    check_owner(who, found)
}

/// Whether of what is in a directory somebody may take his own alone.
pub(crate) fn is_sticky_for(who: &Caller, directory: &records::Entry) -> bool {
    directory.mode & STICKY != 0 && !who.superuser && !who.owns(&directory.owner)
}

/// Refuses whoever may not write a file that is there. Its owner always may, also if he made it read-only: he could take it away.
pub(crate) fn check_writing(who: &Caller, found: &Found) -> Result<(), MetadataError> {
    if who.owns(&found.entry.owner) {
        return Ok(());
    }
    check(who, found, Rights::WRITE, &found.path)
}

/// Refuses whoever may not attach attributes to what was found. To a directory with the sticky bit, which many may write, only its
/// owner may (as in HDFS).
pub(crate) fn check_attaching(who: &Caller, found: &Found) -> Result<(), MetadataError> {
    if found.entry.is_directory() && found.entry.mode & STICKY != 0 {
        return check_owner(who, found);
    }
    check(who, found, Rights::WRITE, &found.path)
}

/// Refuses whoever neither owns what was found nor is a superuser.
pub(crate) fn check_owner(who: &Caller, found: &Found) -> Result<(), MetadataError> {
    if who.superuser || who.owns(&found.entry.owner) {
        return Ok(());
    }
    Err(forbidden(who, found, "to own it".to_owned(), &found.path))
}

pub(crate) fn forbidden(who: &Caller, at: &Found, right: String, path: &ZonePath) -> MetadataError {
    let entry = &at.entry;
    MetadataError::Forbidden(Box::new(Forbidden {
        path: path.clone(),
        user: who.name.clone(),
        right,
        at: at.path.clone(),
        owner: entry.owner.clone(),
        group: entry.group.clone(),
        mode: entry.mode,
        has_acl: entry.acl.is_some(),
    }))
}

/// What a new file or directory begins with: `fresh`, whose mode is what was asked for, made fit for its directory. It takes the
/// directory's group (as in HDFS); a default ACL of the directory takes the place of the caller's umask (POSIX.1e draft 17, 23.3.2).
pub(crate) fn born_in(parent: &records::Entry, fresh: records::Entry, umask: u32) -> records::Entry {
    let group = parent.group.clone();
    let Some(default) = &parent.default_acl else {
        let mode = fresh.mode & !umask;
        return records::Entry { mode, group, ..fresh };
    };
    records::Entry {
        mode: fresh.mode & (default.mode | !0o777),
        group,
        acl: default.acl.clone(),
        default_acl: fresh.is_directory().then(|| default.clone()),
        ..fresh
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use strongroom_proto::groups::{GroupName, Groups};

    use super::*;

    const USERS: [&str; 3] = ["alice", "bob", "carol"];
    const GROUPS: [&str; 3] = ["hr", "it", "law"];

    /// Who is in which groups, by bits.
    fn groups(member: [u8; 3]) -> Groups {
        let of_group = |bit: usize| {
            let users = (0..3).filter(|user| member[*user] >> bit & 1 == 1);
            users
                .map(|user| format!("'{}'", USERS[user]))
                .collect::<Vec<_>>()
                .join(",")
        };
        let lines = GROUPS
            .iter()
            .enumerate()
            .map(|(bit, name)| format!("{name} = [{}]", of_group(bit)));
        Groups::parse(Path::new("groups"), &lines.collect::<Vec<_>>().join("\n")).expect("valid")
    }

    fn named(kind: bool, who: usize, rights: u32) -> records::AclName {
        let (user, group) = if kind { (USERS[who], "") } else { ("", GROUPS[who]) };
        records::AclName {
            user: user.to_owned(),
            group: group.to_owned(),
            rights,
        }
    }

    prop_compose! {
        fn entries()(
            owner in 0..3_usize, group in 0..3_usize, mode in 0..0o1000_u32,
            acl in proptest::option::of((0..8_u32, proptest::collection::vec((any::<bool>(), 0..3_usize, 0..8_u32), 0..6))),
        ) -> records::Entry {
            let acl = acl.map(|(group, names)| {
                let mut names: Vec<_> = names.into_iter().map(|(kind, who, rights)| named(kind, who, rights)).collect();
                names.sort_by(|a, b| (&a.user, &a.group).cmp(&(&b.user, &b.group)));
                names.dedup_by(|a, b| (&a.user, &a.group) == (&b.user, &b.group));
                records::Acl { group, names }
            });
            records::Entry {
                owner: USERS[owner].to_owned(),
                group: GROUPS[group].to_owned(),
                mode,
                acl,
                ..records::Entry::default()
            }
        }
    }

    /// POSIX.1e draft 17, 23.1.5, as it is written: a list of entries with tags, looked through in the order of its sentences.
    fn oracle(user: &str, of_user: &[&str], entry: &records::Entry, want: u32) -> bool {
        let class = |shift: u32| entry.mode >> shift & 7;
        let mut list: Vec<(&str, String, u32)> = vec![
            ("user_obj", entry.owner.clone(), class(6)),
            ("other", String::new(), class(0)),
        ];
        let mut mask = 7;
        match &entry.acl {
            None => list.push(("group_obj", entry.group.clone(), class(3))),
            Some(acl) => {
                mask = class(3);
                list.push(("group_obj", entry.group.clone(), acl.group));
                for name in &acl.names {
                    let tag = if name.user.is_empty() { "group" } else { "user" };
                    list.push((tag, format!("{}{}", name.user, name.group), name.rights));
                }
            }
        }
        if user == entry.owner {
            return list
                .iter()
                .any(|(tag, _, rights)| *tag == "user_obj" && rights & want == want);
        }
        if let Some((.., rights)) = list.iter().find(|(tag, name, _)| *tag == "user" && name == user) {
            return rights & mask & want == want;
        }
        let matching: Vec<u32> = list
            .iter()
            .filter(|(tag, name, _)| tag.starts_with("group") && of_user.contains(&name.as_str()))
            .map(|(.., rights)| *rights)
            .collect();
        if !matching.is_empty() {
            return matching.iter().any(|rights| rights & mask & want == want);
        }
        list.iter()
            .any(|(tag, _, rights)| *tag == "other" && rights & want == want)
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_posix(entry in entries(), member in any::<[u8; 3]>(), user in 0..3_usize) {
            let groups = groups(member);
            let name: UserName = USERS[user].parse().expect("a user");
            let of_user: Vec<&str> = groups.of(&name).iter().map(GroupName::as_str).collect();
            let who = Caller::of(USERS[user], groups.clone(), false);
            let root = Caller::of(USERS[user], groups.clone(), true);
            for rights in [Rights::READ, Rights::WRITE, Rights::PASS, Rights::LIST, Rights::CHANGE, Rights::ALL] {
                prop_assert_eq!(may(&who, &entry, rights), oracle(USERS[user], &of_user, &entry, rights.0), "{}", rights);
                prop_assert!(may(&root, &entry, rights));
            }
        }
    }

    #[test]
    fn new_entries_take_the_group_and_a_default_acl_takes_the_place_of_the_umask() {
        let parent = records::Entry {
            group: "hr".to_owned(),
            ..records::Entry::default()
        };
        let file = |mode| records::Entry {
            mode,
            file: Some(records::Size::default()),
            ..records::Entry::default()
        };
        let born = born_in(&parent, file(0o666), 0o027);
        assert_eq!((born.mode, born.group.as_str(), born.acl), (0o640, "hr", None));
        let acl = records::Acl {
            group: 5,
            names: vec![named(true, 1, 6)],
        };
        let parent = records::Entry {
            default_acl: Some(records::DefaultAcl {
                mode: 0o770,
                acl: Some(acl.clone()),
            }),
            ..parent
        };
        let born = born_in(&parent, file(0o664), 0o027);
        assert_eq!(
            (born.mode, &born.acl, &born.default_acl),
            (0o660, &Some(acl.clone()), &None)
        );
        let directory = records::Entry {
            mode: 0o1777,
            ..records::Entry::default()
        };
        let born = born_in(&parent, directory, 0o027);
        assert_eq!(
            (born.mode, &born.acl, &born.default_acl),
            (0o1770, &Some(acl), &parent.default_acl)
        );
    }
}
