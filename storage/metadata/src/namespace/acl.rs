//! ACLs as lists, which is how people see and change them; stored they are a mode and what goes beyond it.

use std::collections::BTreeMap;

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{
    ZonePath,
    groups::GroupName,
    limits::ACL_NAMES_MAX,
    metadata::v1::{self as pb, AclChange, AclKind},
    transport::UserName,
};

use super::{
    permission::check_owner,
    resolve::{Found, find},
    stat::stat,
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    schema::{access, access::transact, records},
};

/// For whom an entry of an ACL is, in the order in which they are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tag {
    Owner,
    User(UserName),
    OwningGroup,
    Group(GroupName),
    Mask,
    Other,
}

/// Rights by tag: those of the thing itself, or a directory's default.
type List = BTreeMap<Tag, u32>;

/// A change of an ACL.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    kind: AclChange,
    access: List,
    default: List,
}

impl Change {
    /// Parses a change.
    pub(crate) fn parse(kind: AclChange, entries: &[pb::AclEntry]) -> Result<Self, MetadataError> {
        let takes_entries = matches!(kind, AclChange::Replace | AclChange::Modify | AclChange::Remove);
        if kind == AclChange::Unspecified || takes_entries == entries.is_empty() {
            return Err(rule(
                "entries to replace, modify or remove, or none for the other changes",
            ));
        }
        let (mut access, mut default) = (List::new(), List::new());
        for entry in entries {
            let list = if entry.default { &mut default } else { &mut access };
            if entry.rights > 7 {
                return Err(rule("rights are 0 to 7"));
            }
            if list.insert(tag(entry)?, entry.rights).is_some() {
                return Err(rule("each user, group and kind at most once"));
            }
        }
        Ok(Self { kind, access, default })
    }

    /// The whole ACL of a file that comes from elsewhere, `None` if it has none.
    pub(crate) fn parse_of_file(entries: &[pb::AclEntry]) -> Result<Option<Self>, MetadataError> {
        if entries.is_empty() {
            return Ok(None);
        }
        let change = Self::parse(AclChange::Replace, entries)?;
        if change.default.is_empty() {
            return Ok(Some(change));
        }
        Err(rule("only a directory has a default ACL"))
    }

    /// Makes the change, all of it or none.
    pub(crate) fn apply(&self, entry: &mut records::Entry) -> Result<(), MetadataError> {
        let mut access = split(entry.mode, entry.acl.as_ref());
        let mut default = entry.default_acl.as_ref().map(default_list).unwrap_or_default();
        let before = (access.clone(), default.clone());
        match self.kind {
            // As in HDFS and setfacl(1), a list of which nothing is named stays as it is.
            AclChange::Replace => {
                for (list, new) in [(&mut access, &self.access), (&mut default, &self.default)] {
                    if !new.is_empty() {
                        list.clone_from(new);
                    }
                }
            }
            AclChange::Modify => {
                merge(&mut access, &self.access);
                merge(&mut default, &self.default);
            }
            AclChange::Remove => {
                take(&mut access, &self.access)?;
                take(&mut default, &self.default)?;
            }
            AclChange::RemoveDefault => default.clear(),
            AclChange::RemoveAll => {
                access.retain(|tag, _| is_base(tag));
                default.clear();
            }
            AclChange::Unspecified => {}
        }
        if !default.is_empty() {
            for (tag, rights) in access.iter().filter(|(tag, _)| is_base(tag)) {
                default.entry(tag.clone()).or_insert(*rights);
            }
        }
        // As in HDFS: the mask of a list that stays as it is does, too.
        let keeps = |changes: &List, was: &List, is: &List| {
            (self.kind != AclChange::Remove && changes.contains_key(&Tag::Mask)) || was == is
        };
        let (mode, acl) = join(&access, keeps(&self.access, &before.0, &access))?;
        entry.mode = entry.mode & !0o777 | mode;
        entry.acl = acl;
        entry.default_acl = match default.is_empty() {
            true => None,
            false => {
                let (mode, acl) = join(&default, keeps(&self.default, &before.1, &default))?;
                Some(records::DefaultAcl { mode, acl })
            }
        };
        Ok(())
    }
}

/// The ACL at a path.
pub(crate) async fn look(store: &impl Store, who: &Caller, path: &ZonePath) -> Result<pb::Acl, MetadataError> {
    let mut view = store.snapshot().await?;
    let found = find(&mut view, who, path).await?;
    shown(&mut view, &found).await
}

/// Changes the ACL at a path.
pub(crate) async fn change(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: &Change,
) -> Result<pb::Acl, MetadataError> {
    transact!(store, [who, call, path, change], |txn| change_in(
        txn, &who, &call, &path, &change
    ))
    .await
}

async fn change_in(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: &Change,
) -> Result<pb::Acl, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let mut found = find(txn, who, path).await?;
    check_owner(who, &found)?;
    if !found.entry.is_directory() && !change.default.is_empty() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    change.apply(&mut found.entry)?;
    access::put(txn, &found.key, &found.entry);
    let acl = shown(txn, &found).await?;
    call.keep(txn, &acl);
    Ok(acl)
}

async fn shown(view: &mut impl Reader, found: &Found) -> Result<pb::Acl, MetadataError> {
    let access = split(found.entry.mode, found.entry.acl.as_ref());
    let default = found.entry.default_acl.as_ref().map(default_list).unwrap_or_default();
    let entries = access.iter().map(|(tag, rights)| wire(tag, *rights, false));
    Ok(pb::Acl {
        stat: Some(stat(view, found).await?),
        entries: entries
            .chain(default.iter().map(|(tag, rights)| wire(tag, *rights, true)))
            .collect(),
    })
}

/// A mode and what goes beyond it as one list.
fn split(mode: u32, acl: Option<&records::Acl>) -> List {
    let group = mode >> 3 & 7;
    let mut list = List::from([
        (Tag::Owner, mode >> 6 & 7),
        (Tag::OwningGroup, group),
        (Tag::Other, mode & 7),
    ]);
    if let Some(acl) = acl {
        list.insert(Tag::OwningGroup, acl.group);
        list.insert(Tag::Mask, group);
        list.extend(
            acl.names
                .iter()
                .filter_map(|name| Some((stored_tag(name)?, name.rights))),
        );
    }
    list
}

fn default_list(default: &records::DefaultAcl) -> List {
    split(default.mode, default.acl.as_ref())
}

/// A list as a mode and what goes beyond it. Unless the mask `is_given`, it is what any of those that it limits has: with
/// nobody named that is what the group has, and nothing goes beyond the mode.
fn join(list: &List, is_given: bool) -> Result<(u32, Option<records::Acl>), MetadataError> {
    let of = |tag: Tag| {
        let missing = || rule("user::, group:: and other:: are part of every ACL");
        list.get(&tag).copied().ok_or_else(missing)
    };
    let (owner, group, other) = (of(Tag::Owner)?, of(Tag::OwningGroup)?, of(Tag::Other)?);
    let names: Vec<_> = list.iter().filter_map(|(tag, rights)| stored(tag, *rights)).collect();
    if names.len() > ACL_NAMES_MAX {
        return Err(rule(&format!("an ACL names at most {ACL_NAMES_MAX} users and groups")));
    }
    let mask = list.get(&Tag::Mask).filter(|_| is_given).copied();
    if names.is_empty() && mask.is_none() {
        return Ok((owner << 6 | group << 3 | other, None));
    }
    let all = names.iter().fold(group, |all, name| all | name.rights);
    let mask = mask.unwrap_or(all);
    Ok((owner << 6 | mask << 3 | other, Some(records::Acl { group, names })))
}

fn merge(list: &mut List, changes: &List) {
    list.extend(changes.iter().map(|(tag, rights)| (tag.clone(), *rights)));
}

fn take(list: &mut List, tags: &List) -> Result<(), MetadataError> {
    for tag in tags.keys() {
        if is_base(tag) {
            return Err(rule(
                "user::, group:: and other:: are part of every ACL and cannot be removed",
            ));
        }
        list.remove(tag);
    }
    let has_names = list.keys().any(|tag| matches!(tag, Tag::User(_) | Tag::Group(_)));
    if has_names && tags.contains_key(&Tag::Mask) {
        return Err(rule(
            "a mask is part of every ACL that names users or groups; set it to what it is to allow, or remove those names",
        ));
    }
    Ok(())
}

const fn is_base(tag: &Tag) -> bool {
    matches!(tag, Tag::Owner | Tag::OwningGroup | Tag::Other)
}

fn tag(entry: &pb::AclEntry) -> Result<Tag, MetadataError> {
    let name = entry.name.as_str();
    Ok(match (entry.kind(), name) {
        (AclKind::User, "") => Tag::Owner,
        (AclKind::User, name) => Tag::User(name.parse()?),
        (AclKind::Group, "") => Tag::OwningGroup,
        (AclKind::Group, name) => Tag::Group(name.parse()?),
        (AclKind::Mask, "") => Tag::Mask,
        (AclKind::Other, "") => Tag::Other,
        _ => {
            return Err(rule(
                "of user and group, with or without a name, mask and other, without",
            ));
        }
    })
}

fn wire(tag: &Tag, rights: u32, default: bool) -> pb::AclEntry {
    let (kind, name) = match tag {
        Tag::Owner => (AclKind::User, String::new()),
        Tag::User(name) => (AclKind::User, name.to_string()),
        Tag::OwningGroup => (AclKind::Group, String::new()),
        Tag::Group(name) => (AclKind::Group, name.to_string()),
        Tag::Mask => (AclKind::Mask, String::new()),
        Tag::Other => (AclKind::Other, String::new()),
    };
    pb::AclEntry {
        default,
        kind: kind.into(),
        name,
        rights,
    }
}

fn stored(tag: &Tag, rights: u32) -> Option<records::AclName> {
    let (user, group) = match tag {
        Tag::User(name) => (name.to_string(), String::new()),
        Tag::Group(name) => (String::new(), name.to_string()),
        Tag::Owner | Tag::OwningGroup | Tag::Mask | Tag::Other => return None,
    };
    Some(records::AclName { user, group, rights })
}

fn stored_tag(name: &records::AclName) -> Option<Tag> {
    if name.user.is_empty() {
        return name.group.parse().ok().map(Tag::Group);
    }
    name.user.parse().ok().map(Tag::User)
}

fn rule(rule: &str) -> MetadataError {
    MetadataError::Field {
        field: "acl",
        rule: rule.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of an ACL that begins with `default:` or not, as in `user:bob:6`.
    fn entry(text: &str) -> pb::AclEntry {
        let (default, text) = text.strip_prefix("default:").map_or((false, text), |rest| (true, rest));
        let fields: Vec<&str> = text.split(':').collect();
        let kind = match fields[0] {
            "user" => AclKind::User,
            "group" => AclKind::Group,
            "mask" => AclKind::Mask,
            _ => AclKind::Other,
        };
        pb::AclEntry {
            default,
            kind: kind.into(),
            name: fields[1].to_owned(),
            rights: fields[2].parse().expect("rights"),
        }
    }

    /// A directory of mode 0770 on which alice set `user:bob:7` and `default:user:bob:7`, and which she then closed with masks of 0.
    fn closed() -> records::Entry {
        let mut closed = records::Entry {
            mode: 0o770,
            ..records::Entry::default()
        };
        let opened = ["user:bob:7", "default:user:bob:7", "mask::0", "default:mask::0"].map(entry);
        let change = Change::parse(AclChange::Modify, &opened).expect("valid");
        change.apply(&mut closed).expect("possible");
        closed
    }

    fn masks(entry: &records::Entry) -> (u32, Option<u32>) {
        let default = entry.default_acl.as_ref();
        (entry.mode >> 3 & 7, default.map(|default| default.mode >> 3 & 7))
    }

    /// `AclTransformation.calculateMasks` of HDFS.
    #[test]
    fn a_mask_changes_with_its_own_list_alone() {
        assert_eq!(masks(&closed()), (0, Some(0)));
        for (kind, entries, expected) in [
            (AclChange::RemoveDefault, vec![], (0, None)),
            (AclChange::Modify, vec!["default:user:carol:5"], (0, Some(7))),
            (AclChange::Modify, vec!["user:carol:5"], (7, Some(0))),
            (AclChange::Modify, vec!["user:carol:5", "mask::1"], (1, Some(0))),
            (AclChange::Remove, vec!["user:nobody:0"], (0, Some(0))),
            (AclChange::Remove, vec!["default:user:nobody:0"], (0, Some(0))),
        ] {
            let mut changed = closed();
            let list: Vec<_> = entries.iter().map(|text| entry(text)).collect();
            let change = Change::parse(kind, &list).expect("valid");
            change.apply(&mut changed).expect("possible");
            assert_eq!(masks(&changed), expected, "{kind:?} {entries:?}");
        }
    }

    #[test]
    fn a_mask_goes_with_the_names_that_it_limits_and_not_before() {
        for (entries, allowed) in [
            (vec!["mask::0"], false),
            (vec!["mask::0", "default:user:bob:0"], false),
            (vec!["user:bob:0", "mask::0"], true),
            (vec!["default:mask::0", "default:user:bob:0"], true),
        ] {
            let list: Vec<_> = entries.iter().map(|text| entry(text)).collect();
            let change = Change::parse(AclChange::Remove, &list).expect("valid");
            assert_eq!(change.apply(&mut closed()).is_ok(), allowed, "{entries:?}");
        }
        let mut plain = records::Entry {
            mode: 0o660,
            ..records::Entry::default()
        };
        for (kind, text, group_bits) in [
            (AclChange::Modify, "mask::4", 4),
            (AclChange::Remove, "user:bob:0", 4),
            (AclChange::Remove, "mask::0", 6),
        ] {
            let change = Change::parse(kind, &[entry(text)]).expect("valid");
            change.apply(&mut plain).expect("possible");
            assert_eq!(plain.mode, 0o600 | group_bits << 3, "{kind:?} {text}");
            assert_eq!(plain.acl.is_some(), group_bits == 4, "{kind:?} {text}");
        }
    }
}
