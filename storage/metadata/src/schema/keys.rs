//! The layout of keys, byte for byte; `docs/formats/metadata-store.md` describes the same.
//!
//! A key is one table byte and fixed-width fields in big-endian, so that byte order is the order of scans.

use strongroom_proto::{
    BlockId, ExtentId, FileId, JobId, KeyVersion, NodeId, QuotaId, RequestId, ZoneId, transport::UserName,
};

use super::records::JobKind;

/// Blocks in one chunk of a block list.
pub(crate) const CHUNK_BLOCKS: u32 = 256;

/// Stands for every block of an extent where a block's index is written; no block has it.
pub(crate) const EVERY_BLOCK: u32 = u32::MAX;

/// The format of this store; a store of another format is refused.
pub(crate) const FORMAT_VERSION: u32 = 2;

const PLACE: u8 = b'i';
const BODY: u8 = b'e';
const DENTRY: u8 = b'd';
const OPEN: u8 = b'o';
const CHUNK: u8 = b'b';
const ZONE: u8 = b'z';
const INDEX: u8 = b'x';
const DEFICIT: u8 = b'f';
const GARBAGE: u8 = b'g';
const PURGE: u8 = b'p';
const REENCRYPTION: u8 = b'r';
const JOB: u8 = b'j';
const JOB_RUNNING: u8 = b'k';
const REMOVAL: u8 = b'w';
const TRANSFER: u8 = b'h';
const NODE: u8 = b'n';
const DUTY: u8 = b'l';
const IMPORT: u8 = b'm';
const ANSWER: u8 = b'a';
const ANSWER_TIME: u8 = b't';
const COUNTER: u8 = b'c';
const DEAD: u8 = b's';
const INVENTORY: u8 = b'B';
const QUOTA: u8 = b'q';
const TRASH: u8 = b'T';
const XATTRS: u8 = b'u';
const REMOVED_ZONE: u8 = b'y';
const PLAIN: u8 = b'P';

/// A half-open range of keys.
pub(crate) struct KeyRange {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl KeyRange {
    /// All keys that begin with `prefix`. A prefix here starts with a table letter, so its end exists.
    pub(crate) fn of(prefix: Vec<u8>) -> Self {
        let end = successor(&prefix);
        Self { start: prefix, end }
    }

    /// The part of the range behind `key`.
    pub(crate) fn after(mut self, key: &[u8]) -> Self {
        self.start = [key, &[0]].concat();
        self
    }
}

/// Every key there can be: a key begins with a table letter.
pub(crate) fn everything() -> KeyRange {
    KeyRange {
        start: Vec::new(),
        end: vec![u8::MAX],
    }
}

/// The first key that does not begin with `prefix`.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn key(table: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![table];
    for field in fields {
        key.extend_from_slice(field);
    }
    key
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(crate) fn format() -> Vec<u8> {
    vec![b'v']
}

pub(crate) fn place(id: FileId) -> Vec<u8> {
    key(PLACE, &[id.as_bytes()])
}

pub(crate) fn places() -> KeyRange {
    KeyRange::of(vec![PLACE])
}

pub(crate) fn bodies() -> KeyRange {
    KeyRange::of(vec![BODY])
}
pub(crate) fn body(id: FileId) -> Vec<u8> {
    key(BODY, &[id.as_bytes()])
}

/// The root's entry, which no directory holds: before all that directories do.
pub(crate) fn root() -> Vec<u8> {
    vec![DENTRY]
}

pub(crate) fn dentry(parent: FileId, name: &str) -> Vec<u8> {
    key(DENTRY, &[parent.as_bytes(), name.as_bytes()])
}
/// What all directories hold. The root's own entry is before that.
pub(crate) fn all_dentries() -> KeyRange {
    KeyRange::of(vec![DENTRY]).after(&root())
}
pub(crate) fn dentries(parent: FileId) -> KeyRange {
    KeyRange::of(key(DENTRY, &[parent.as_bytes()]))
}
pub(crate) fn dentry_name(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(17..)?).ok()
}

pub(crate) fn open_file(id: FileId) -> Vec<u8> {
    key(OPEN, &[id.as_bytes()])
}
pub(crate) fn open_files() -> KeyRange {
    KeyRange::of(vec![OPEN])
}

/// The chunk that holds block `index`.
pub(crate) fn chunk(extent: ExtentId, index: u32) -> Vec<u8> {
    key(CHUNK, &[extent.as_bytes(), &(index / CHUNK_BLOCKS).to_be_bytes()])
}

pub(crate) fn chunks() -> KeyRange {
    KeyRange::of(vec![CHUNK])
}
/// The first block that a chunk can hold.
pub(crate) fn chunk_start(key: &[u8]) -> Option<BlockId> {
    let BlockId { extent, index } = block_at(key, 1)?;
    let index = index.checked_mul(CHUNK_BLOCKS)?;
    Some(BlockId { extent, index })
}

pub(crate) fn zone(id: ZoneId) -> Vec<u8> {
    key(ZONE, &[id.as_bytes()])
}
pub(crate) fn zones() -> KeyRange {
    KeyRange::of(vec![ZONE])
}
pub(crate) fn zone_of(key: &[u8]) -> Option<ZoneId> {
    fixed(key, 1).map(ZoneId::from_bytes)
}

pub(crate) fn removed_zone(id: ZoneId) -> Vec<u8> {
    key(REMOVED_ZONE, &[id.as_bytes()])
}

pub(crate) fn index(zone: ZoneId, version: KeyVersion, file: FileId) -> Vec<u8> {
    key(INDEX, &[zone.as_bytes(), &version.0.to_be_bytes(), file.as_bytes()])
}
pub(crate) fn indexes() -> KeyRange {
    KeyRange::of(vec![INDEX])
}
pub(crate) fn index_of_zone(zone: ZoneId) -> KeyRange {
    KeyRange::of(key(INDEX, &[zone.as_bytes()]))
}
pub(crate) fn index_of_version(zone: ZoneId, version: KeyVersion) -> KeyRange {
    KeyRange::of(key(INDEX, &[zone.as_bytes(), &version.0.to_be_bytes()]))
}
pub(crate) fn index_entry(key: &[u8]) -> Option<(KeyVersion, FileId)> {
    let version = fixed(key, 17).map(u32::from_be_bytes)?;
    Some((KeyVersion(version), fixed(key, 21).map(FileId::from_bytes)?))
}

/// A file that is not encrypted, with the zone that adopts it if it is known to be in one. The byte before tells zones from none.
pub(crate) fn plain(zone: Option<ZoneId>, file: FileId) -> Vec<u8> {
    key(PLAIN, &[&plain_group(zone), file.as_bytes()])
}
pub(crate) fn all_plain() -> KeyRange {
    KeyRange::of(vec![PLAIN])
}
pub(crate) fn plain_of(zone: Option<ZoneId>) -> KeyRange {
    KeyRange::of(key(PLAIN, &[&plain_group(zone)]))
}
pub(crate) fn plain_entry(key: &[u8]) -> Option<(Option<ZoneId>, FileId)> {
    match *key.get(1)? {
        0 => Some((None, fixed(key, 2).map(FileId::from_bytes)?)),
        _ => Some((
            fixed(key, 2).map(ZoneId::from_bytes),
            fixed(key, 18).map(FileId::from_bytes)?,
        )),
    }
}
/// How many there are.
pub(crate) fn plain_total(zone: Option<ZoneId>) -> Vec<u8> {
    key(COUNTER, &[&[PLAIN], &plain_group(zone)])
}
pub(crate) fn plain_totals() -> KeyRange {
    KeyRange::of(key(COUNTER, &[&[PLAIN]]))
}
fn plain_group(zone: Option<ZoneId>) -> Vec<u8> {
    zone.map_or_else(|| vec![0], |zone| [&[1], zone.as_bytes().as_slice()].concat())
}

pub(crate) fn deficit(block: BlockId) -> Vec<u8> {
    key(DEFICIT, &[block.extent.as_bytes(), &block.index.to_be_bytes()])
}
pub(crate) fn deficits() -> KeyRange {
    KeyRange::of(vec![DEFICIT])
}
pub(crate) fn deficits_of(extent: ExtentId) -> KeyRange {
    KeyRange::of(key(DEFICIT, &[extent.as_bytes()]))
}
pub(crate) fn deficit_of(key: &[u8]) -> Option<BlockId> {
    block_at(key, 1)
}

/// The zero byte ends the node's id, which holds none.
pub(crate) fn garbage(node: &NodeId, block: BlockId) -> Vec<u8> {
    key(
        GARBAGE,
        &[
            node.as_str().as_bytes(),
            &[0],
            block.extent.as_bytes(),
            &block.index.to_be_bytes(),
        ],
    )
}
pub(crate) fn garbage_of(node: &NodeId) -> KeyRange {
    KeyRange::of(key(GARBAGE, &[node.as_str().as_bytes(), &[0]]))
}
pub(crate) fn garbage_block(key: &[u8]) -> Option<BlockId> {
    block_at(key, key.len().checked_sub(20)?)
}

pub(crate) fn purge(id: FileId) -> Vec<u8> {
    key(PURGE, &[id.as_bytes()])
}
pub(crate) fn purges() -> KeyRange {
    KeyRange::of(vec![PURGE])
}

pub(crate) fn reencryption(zone: ZoneId) -> Vec<u8> {
    key(REENCRYPTION, &[zone.as_bytes()])
}
pub(crate) fn reencryptions() -> KeyRange {
    KeyRange::of(vec![REENCRYPTION])
}

pub(crate) fn job(id: JobId) -> Vec<u8> {
    key(JOB, &[id.as_bytes()])
}
pub(crate) fn jobs() -> KeyRange {
    KeyRange::of(vec![JOB])
}
pub(crate) fn job_of(key: &[u8]) -> Option<JobId> {
    fixed(key, 1).map(JobId::from_bytes)
}

/// Is there while a job runs.
pub(crate) fn job_running(kind: JobKind, id: JobId) -> Vec<u8> {
    key(JOB_RUNNING, &[&[kind as u8], id.as_bytes()])
}
pub(crate) fn jobs_running(kind: JobKind) -> KeyRange {
    KeyRange::of(key(JOB_RUNNING, &[&[kind as u8]]))
}
/// Is there until a job is over. No kind of job has the byte 0.
pub(crate) fn job_unfinished(id: JobId) -> Vec<u8> {
    key(JOB_RUNNING, &[&[0], id.as_bytes()])
}
pub(crate) fn jobs_unfinished() -> KeyRange {
    KeyRange::of(vec![JOB_RUNNING, 0])
}
/// Those of every kind, and those that are not over.
pub(crate) fn all_running_jobs() -> KeyRange {
    KeyRange::of(vec![JOB_RUNNING])
}
pub(crate) fn running_job_of(key: &[u8]) -> Option<JobId> {
    fixed(key, 2).map(JobId::from_bytes)
}

/// A directory that a removal has yet to empty, or a transfer to look through.
pub(crate) fn removal(job: JobId, directory: FileId) -> Vec<u8> {
    key(REMOVAL, &[job.as_bytes(), directory.as_bytes()])
}
pub(crate) fn removals(job: JobId) -> KeyRange {
    KeyRange::of(key(REMOVAL, &[job.as_bytes()]))
}
pub(crate) fn all_removals() -> KeyRange {
    KeyRange::of(vec![REMOVAL])
}
pub(crate) fn removal_of(key: &[u8]) -> Option<FileId> {
    fixed(key, 17).map(FileId::from_bytes)
}

/// The clock of the trash, before all trashes.
pub(crate) fn trash_clock() -> Vec<u8> {
    vec![TRASH]
}
/// The zero byte ends the user's name, which holds none.
pub(crate) fn trash(user: &UserName, directory: FileId) -> Vec<u8> {
    key(TRASH, &[user.as_str().as_bytes(), &[0], directory.as_bytes()])
}
pub(crate) fn trashes() -> KeyRange {
    KeyRange::of(vec![TRASH]).after(&trash_clock())
}
pub(crate) fn trashes_of(user: &UserName) -> KeyRange {
    KeyRange::of(key(TRASH, &[user.as_str().as_bytes(), &[0]]))
}
pub(crate) fn trash_of(key: &[u8]) -> Option<(UserName, FileId)> {
    let end = key.len().checked_sub(17)?;
    let user = std::str::from_utf8(key.get(1..end)?).ok()?.parse().ok()?;
    Some((user, fixed(key, end + 1).map(FileId::from_bytes)?))
}

/// Whether a file that is moved to another zone has its EDEK for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Missing = 0,
    Staged = 1,
}

/// A file that a transfer has to do with.
pub(crate) fn transfer(job: JobId, stage: Stage, file: FileId) -> Vec<u8> {
    key(TRANSFER, &[job.as_bytes(), &[stage as u8], file.as_bytes()])
}
pub(crate) fn transfers(job: JobId, stage: Stage) -> KeyRange {
    KeyRange::of(key(TRANSFER, &[job.as_bytes(), &[stage as u8]]))
}
pub(crate) fn all_transfers() -> KeyRange {
    KeyRange::of(vec![TRANSFER])
}
pub(crate) fn transfer_of(key: &[u8]) -> Option<FileId> {
    fixed(key, 18).map(FileId::from_bytes)
}

pub(crate) fn node(node: &NodeId) -> Vec<u8> {
    key(NODE, &[node.as_str().as_bytes()])
}
pub(crate) fn nodes() -> KeyRange {
    KeyRange::of(vec![NODE])
}
pub(crate) fn node_of(key: &[u8]) -> Option<NodeId> {
    std::str::from_utf8(key.get(1..)?).ok()?.parse().ok()
}

pub(crate) fn answer(id: RequestId) -> Vec<u8> {
    key(ANSWER, &[id.as_bytes()])
}
/// Finds answers in the order of their times.
pub(crate) fn answer_time(kept_ms: u64, id: RequestId) -> Vec<u8> {
    key(ANSWER_TIME, &[&kept_ms.to_be_bytes(), id.as_bytes()])
}
pub(crate) fn answers_before(kept_ms: u64) -> KeyRange {
    KeyRange {
        start: vec![ANSWER_TIME],
        end: key(ANSWER_TIME, &[&kept_ms.to_be_bytes()]),
    }
}
pub(crate) fn answer_of(time_key: &[u8]) -> Option<RequestId> {
    fixed(time_key, 9).map(RequestId::from_bytes)
}

/// Rows that one counter counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counted {
    Deficits,
    Garbage,
    OpenFiles,
}

/// Counters of rows are under the letter of the table that they count.
pub(crate) fn total(kind: Counted) -> Vec<u8> {
    key(COUNTER, &[&[kind.table()]])
}
/// The rows that one counter counts.
pub(crate) fn counted(kind: Counted) -> KeyRange {
    KeyRange::of(vec![kind.table()])
}

impl Counted {
    const fn table(self) -> u8 {
        match self {
            Self::Deficits => DEFICIT,
            Self::Garbage => GARBAGE,
            Self::OpenFiles => OPEN,
        }
    }
}
pub(crate) fn files_total(zone: ZoneId, version: KeyVersion) -> Vec<u8> {
    key(COUNTER, &[&[INDEX], zone.as_bytes(), &version.0.to_be_bytes()])
}
pub(crate) fn totals_of_zone(zone: ZoneId) -> KeyRange {
    KeyRange::of(key(COUNTER, &[&[INDEX], zone.as_bytes()]))
}
pub(crate) fn zone_totals() -> KeyRange {
    KeyRange::of(key(COUNTER, &[&[INDEX]]))
}
pub(crate) fn total_zone(key: &[u8]) -> Option<ZoneId> {
    fixed(key, 2).map(ZoneId::from_bytes)
}
pub(crate) fn total_version(key: &[u8]) -> Option<KeyVersion> {
    fixed(key, 18).map(u32::from_be_bytes).map(KeyVersion)
}

/// How many files a user has open to write.
pub(crate) fn open_files_of(user: &str) -> Vec<u8> {
    key(COUNTER, &[&[OPEN], user.as_bytes()])
}
/// The counters of all users.
pub(crate) fn open_files_of_all() -> KeyRange {
    KeyRange::of(vec![COUNTER, OPEN]).after(&total(Counted::OpenFiles))
}
pub(crate) fn open_files_user(key: &[u8]) -> Option<&str> {
    let user = key.strip_prefix(&[COUNTER, OPEN])?;
    std::str::from_utf8(user).ok().filter(|user| !user.is_empty())
}

/// The extended attributes of an inode.
pub(crate) fn xattrs(id: FileId) -> Vec<u8> {
    key(XATTRS, &[id.as_bytes()])
}

/// The directory that a quota is of.
pub(crate) fn quota(id: QuotaId) -> Vec<u8> {
    key(QUOTA, &[id.as_bytes()])
}
pub(crate) fn quotas() -> KeyRange {
    KeyRange::of(vec![QUOTA])
}
pub(crate) fn quota_of(key: &[u8]) -> Option<QuotaId> {
    fixed(key, 1).map(QuotaId::from_bytes)
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Files and directories.
    Names,
    /// Plaintext bytes of files.
    Bytes,
}

impl Measure {
    pub(crate) const ALL: [Self; 2] = [Self::Names, Self::Bytes];

    const fn letter(self) -> u8 {
        match self {
            Self::Names => b'n',
            Self::Bytes => b'b',
        }
    }
}

/// The counter of what a quota has used.
pub(crate) fn used(id: QuotaId, measure: Measure) -> Vec<u8> {
    key(COUNTER, &[&[QUOTA], id.as_bytes(), &[measure.letter()]])
}
pub(crate) fn used_of(key: &[u8]) -> Option<(QuotaId, Measure)> {
    let (rest, letter) = key.split_at_checked(18)?;
    let measure = Measure::ALL.into_iter().find(|measure| [measure.letter()] == letter)?;
    let id = rest.strip_prefix(&[COUNTER, QUOTA])?.try_into().ok()?;
    Some((id, measure))
}

/// An extent that was given up, to be deleted once more at `due_ms`.
pub(crate) fn dead(due_ms: u64, extent: ExtentId) -> Vec<u8> {
    key(DEAD, &[&due_ms.to_be_bytes(), extent.as_bytes()])
}
pub(crate) fn dead_before(due_ms: u64) -> KeyRange {
    KeyRange {
        start: vec![DEAD],
        end: key(DEAD, &[&due_ms.to_be_bytes()]),
    }
}
pub(crate) fn dead_extent(key: &[u8]) -> Option<ExtentId> {
    fixed(key, 9).map(ExtentId::from_bytes)
}

pub(crate) fn inventory() -> Vec<u8> {
    vec![INVENTORY]
}

pub(crate) fn import() -> Vec<u8> {
    vec![IMPORT]
}
/// Whether a record belongs to the namespace, wherever that is kept. The others are about the store or its services.
pub(crate) fn is_moved(key: &[u8]) -> bool {
    !matches!(key.first(), None | Some(&(IMPORT | DUTY | INVENTORY)))
}

/// Records that are counted by kind.
pub(crate) enum Kind {
    Entry,
    OpenFile,
    Zone,
}

/// What kind of record is under a key, if it is one of those.
pub(crate) fn kind(key: &[u8]) -> Option<Kind> {
    match *key.first()? {
        DENTRY => Some(Kind::Entry),
        OPEN => Some(Kind::OpenFile),
        ZONE => Some(Kind::Zone),
        _ => None,
    }
}

pub(crate) fn duty() -> Vec<u8> {
    vec![DUTY]
}

fn block_at(key: &[u8], at: usize) -> Option<BlockId> {
    Some(BlockId {
        extent: fixed(key, at).map(ExtentId::from_bytes)?,
        index: fixed(key, at + 16).map(u32::from_be_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_documented_bytes_and_read_back() {
        let (file, zone, extent) = (
            FileId::from_bytes([1; 16]),
            ZoneId::from_bytes([2; 16]),
            ExtentId::from_bytes([3; 16]),
        );
        let node: NodeId = "n1".parse().expect("valid");
        let block = BlockId { extent, index: 258 };
        let request = RequestId::from_bytes([4; 16]);
        let job = JobId::from_bytes([5; 16]);
        let quota = QuotaId::from_bytes([6; 16]);
        let user: UserName = "al".parse().expect("valid");
        for (key, expected) in [
            (place(file), format!("69{}", "01".repeat(16))),
            (body(file), format!("65{}", "01".repeat(16))),
            (root(), "64".to_owned()),
            (dentry(file, "a"), format!("64{}61", "01".repeat(16))),
            (open_file(file), format!("6f{}", "01".repeat(16))),
            (chunk(extent, 258), format!("62{}00000001", "03".repeat(16))),
            (super::zone(zone), format!("7a{}", "02".repeat(16))),
            (
                index(zone, KeyVersion(7), file),
                format!("78{}00000007{}", "02".repeat(16), "01".repeat(16)),
            ),
            (plain(None, file), format!("5000{}", "01".repeat(16))),
            (
                plain(Some(zone), file),
                format!("5001{}{}", "02".repeat(16), "01".repeat(16)),
            ),
            (plain_total(Some(zone)), format!("635001{}", "02".repeat(16))),
            (deficit(block), format!("66{}00000102", "03".repeat(16))),
            (garbage(&node, block), format!("676e3100{}00000102", "03".repeat(16))),
            (purge(file), format!("70{}", "01".repeat(16))),
            (reencryption(zone), format!("72{}", "02".repeat(16))),
            (super::job(job), format!("6a{}", "05".repeat(16))),
            (job_running(JobKind::Removal, job), format!("6b02{}", "05".repeat(16))),
            (job_unfinished(job), format!("6b00{}", "05".repeat(16))),
            (removal(job, file), format!("77{}{}", "05".repeat(16), "01".repeat(16))),
            (
                transfer(job, Stage::Staged, file),
                format!("68{}01{}", "05".repeat(16), "01".repeat(16)),
            ),
            (super::node(&node), "6e6e31".to_owned()),
            (trash_clock(), "54".to_owned()),
            (trash(&user, file), format!("54616c00{}", "01".repeat(16))),
            (total(Counted::Garbage), "6367".to_owned()),
            (
                files_total(zone, KeyVersion(7)),
                format!("6378{}00000007", "02".repeat(16)),
            ),
            (duty(), "6c".to_owned()),
            (import(), "6d".to_owned()),
            (inventory(), "42".to_owned()),
            (answer(request), format!("61{}", "04".repeat(16))),
            (
                answer_time(258, request),
                format!("740000000000000102{}", "04".repeat(16)),
            ),
            (dead(258, extent), format!("730000000000000102{}", "03".repeat(16))),
            (super::quota(quota), format!("71{}", "06".repeat(16))),
            (xattrs(file), format!("75{}", "01".repeat(16))),
            (removed_zone(zone), format!("79{}", "02".repeat(16))),
            (open_files_of("bob"), "636f626f62".to_owned()),
            (used(quota, Measure::Bytes), format!("6371{}62", "06".repeat(16))),
            (format(), "76".to_owned()),
        ] {
            assert_eq!(hex::encode(key), expected);
        }
        assert_eq!(
            index_entry(&index(zone, KeyVersion(7), file)),
            Some((KeyVersion(7), file))
        );
        for of in [None, Some(zone)] {
            assert_eq!(plain_entry(&plain(of, file)), Some((of, file)));
        }
        assert_eq!(total_version(&files_total(zone, KeyVersion(7))), Some(KeyVersion(7)));
        assert_eq!(running_job_of(&job_running(JobKind::Removal, job)), Some(job));
        assert_eq!(removal_of(&removal(job, file)), Some(file));
        assert_eq!(trash_of(&trash(&user, file)), Some((user, file)));
        assert_eq!(transfer_of(&transfer(job, Stage::Missing, file)), Some(file));
        assert_eq!(garbage_block(&garbage(&node, block)), Some(block));
        assert_eq!(deficit_of(&deficit(block)), Some(block));
        assert_eq!(answer_of(&answer_time(258, request)), Some(request));
        assert_eq!(dead_extent(&dead(258, extent)), Some(extent));
        assert_eq!(dentry_name(&dentry(file, "ä")), Some("ä"));
        for measure in Measure::ALL {
            assert_eq!(used_of(&used(quota, measure)), Some((quota, measure)));
        }
        assert_eq!(used_of(&total(Counted::Garbage)), None);
        assert_eq!(open_files_user(&open_files_of("bob")), Some("bob"));
        assert_eq!(open_files_user(&total(Counted::OpenFiles)), None);
    }

    #[test]
    fn ranges_hold_their_prefix_and_nothing_else() {
        let all_ones = FileId::from_bytes([255; 16]);
        let range = dentries(all_ones);
        assert_eq!(range.end, vec![b'd' + 1]);
        assert!(root() < dentries(FileId::from_bytes([0; 16])).start);
        assert!(range.start <= dentry(all_ones, "a") && dentry(all_ones, "\u{10ffff}") < range.end);
        let after = dentries(all_ones).after(&dentry(all_ones, "a"));
        assert!(dentry(all_ones, "a") < after.start && after.start <= dentry(all_ones, "a\u{1}"));
    }
}
