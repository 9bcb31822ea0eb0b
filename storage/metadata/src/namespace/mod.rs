//! The tree of names: resolution, directories, rename, removal.

pub(crate) mod above;
pub(crate) mod acl;
pub(crate) mod attributes;
pub(crate) mod clearing;
pub(crate) mod directories;
pub(crate) mod permission;
pub(crate) mod removal;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod resolve;
pub(crate) mod stat;
pub(crate) mod walk;
pub(crate) mod walkers;
pub(crate) mod xattrs;
