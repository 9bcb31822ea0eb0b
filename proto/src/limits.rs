//! Bounds that both ends of a call agree on. Each is enforced by the receiver, whatever the sender does.

use std::time::Duration;

/// EDEKs in one mint, unwrap or re-wrap call.
pub const EDEKS_PER_CALL_MAX: usize = 1000;

/// Blocks in one `AddBlocks`, `CommitFile` or `ListBlocks` message.
pub const BLOCKS_PER_CALL_MAX: usize = 1024;

/// Replicas in one command of the metadata service to a block node, or in the answer to it.
pub const REPLICAS_PER_COMMAND_MAX: usize = 1000;

/// Blocks in one `CheckBlocks` call that reads all of them.
pub const DEEP_CHECKS_PER_CALL_MAX: usize = 16;

/// Extents of one file.
pub const EXTENTS_PER_FILE_MAX: usize = 1024;

/// Ciphertext bytes of one block: 4 MiB of plaintext and room for the tags of its frames, down to 4 KiB frames.
pub const BLOCK_BYTES_MAX: usize = (4 << 20) + (32 << 10);

/// Plaintext bytes of the smallest frame.
pub const FRAME_BYTES_MIN: u32 = 4 << 10;

/// Plaintext bytes of the largest frame.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Bytes of one gRPC message, either direction: a block and its envelope.
pub const MESSAGE_BYTES_MAX: usize = BLOCK_BYTES_MAX + (64 << 10);

/// Bytes of one file or directory name (POSIX `NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a whole path (POSIX `PATH_MAX` less its NUL).
pub const PATH_BYTES_MAX: usize = 4095;

/// Users and groups that an ACL names, and as many a directory's default ACL (HDFS has the same bound).
pub const ACL_NAMES_MAX: usize = 32;

/// Extended attributes of one file or directory (HDFS' `dfs.namenode.fs-limits.max-xattrs-per-inode`).
pub const XATTRS_MAX: usize = 32;

/// Bytes of the name of an extended attribute, `user.` among them.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Bytes of the value of an extended attribute (HDFS' `dfs.namenode.fs-limits.max-xattr-size`).
pub const XATTR_VALUE_BYTES_MAX: usize = 16 << 10;

/// Entries in one page of a listing.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// How long a client waits for a connection with its TLS handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long any unary call may take unless its caller says less.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a block node takes the answer to a heartbeat, and with it the commands in it, after it asked.
pub const HEARTBEAT_ANSWER_MAX: Duration = Duration::from_secs(5);

/// After how long a server ends a connection in good order unless its configuration says otherwise.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3600);
