//! A file comes in closed, and its commit opens it: a metadata service that does not know what the commit says of permissions leaves it closed,
//! where the mode alone would give the owning group what the mask of an ACL allows, and named users of a directory's default ACL what it says.

use strongroom_proto::metadata::v1::{self as pb, AclKind};

use super::RawHeader;
use crate::Stat;

/// The bits of a mode that an ACL sets, too.
const RIGHTS: u32 = 0o777;

impl RawHeader {
    /// The file as it is opened: with rights for nobody, if its commit gives them.
    pub(super) fn closed_file(&self) -> pb::RawFile {
        let mut file = self.file.clone();
        if self.extended.is_some() {
            file.mode &= !RIGHTS;
        }
        file
    }

    /// What its commit gives it: attributes, and all its rights, also those that the mode says.
    pub(super) fn given(&self) -> Option<pb::RawExtended> {
        let mut given = self.extended.clone()?;
        if given.acl.is_empty() {
            let bits = [(AclKind::User, 6), (AclKind::Group, 3), (AclKind::Other, 0)];
            given.acl = bits.map(|(kind, at)| entry(kind, self.file.mode >> at & 7)).into();
        }
        Some(given)
    }

    /// Whether a file that is there now was not given it. Attributes do not show in a stat, but who drops them drops rights, too.
    pub(super) fn lost_it(&self, there: &Stat) -> bool {
        self.extended.as_ref().is_some_and(|extended| {
            let is_closed = there.mode & RIGHTS == 0 && self.file.mode & RIGHTS != 0;
            is_closed || there.has_acl == extended.acl.is_empty()
        })
    }
}

fn entry(kind: AclKind, rights: u32) -> pb::AclEntry {
    pb::AclEntry {
        kind: kind.into(),
        rights,
        ..pb::AclEntry::default()
    }
}
