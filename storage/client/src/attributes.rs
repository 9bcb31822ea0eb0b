//! What callers set of files, directories and zones.

use strongroom_proto::{DataSuite, FrameSize, KeyName, ZoneId, groups::GroupName, transport::UserName};

/// Attributes to set, each if it is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, at most 0o7777.
    pub mode: Option<u32>,
    /// Last change, in milliseconds since the Unix epoch.
    pub mtime_ms: Option<u64>,
    /// Whose it is to be.
    pub owner: Option<UserName>,
    /// The group whose members the middle permission bits are for.
    pub group: Option<GroupName>,
}

/// How a zone is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneOptions {
    /// How its files are encrypted.
    pub data_suite: DataSuite,
    /// The frames that files of suite `gcm` are sealed in, if not the usual ones.
    pub frame: Option<FrameSize>,
    /// Its id, if it is to be that of a zone elsewhere whose files are to be brought in.
    pub id: Option<ZoneId>,
    /// Whose its root is to be, if not whose the directory is.
    pub owner: Option<UserName>,
    /// And of which group.
    pub group: Option<GroupName>,
    /// Whether the directory for its users' trash is made with it, rather than when something is removed first.
    pub provision_trash: bool,
}

/// How a zone is made of a directory that holds something. What is not given is the default at first, and later what it was begun with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdoptOptions {
    /// Its EZ key, which is needed at first.
    pub key: Option<KeyName>,
    /// How its files are encrypted.
    pub data_suite: Option<DataSuite>,
    /// The frames that files of suite `gcm` are sealed in.
    pub frame: Option<FrameSize>,
}
