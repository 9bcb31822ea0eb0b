//! Looks for plaintext where only ciphertext may be.
//!
//! Draws 64-byte windows with at least 32 distinct bytes from a tree of plaintext and searches every byte
//! offset of other trees for all of them at once: a rolling hash over 64 bytes, a bitmap that rules nearly
//! every offset out, and a comparison with the window itself for the rest. One window is planted in a file
//! of its own, across the border of two reads; a search that does not find it proves nothing and fails.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{Findings, Summary};

const WINDOW_BYTES: usize = 64;
const DISTINCT_MIN: usize = 32;
const READ_BYTES: usize = 4 << 20;
/// Draws per wanted window before the input counts as too uniform.
const DRAWS_PER_WINDOW_MAX: usize = 200;
/// Places that are named one by one.
const FINDINGS_MAX: usize = 20;
const PLANTED: &str = "planted-plaintext";

type Window = [u8; WINDOW_BYTES];

struct Options {
    seed: u64,
    count: usize,
    from: PathBuf,
    plant: PathBuf,
    searched: Vec<PathBuf>,
}

/// Draws, plants, searches and says what was found where.
pub(crate) fn run(arguments: &[String]) -> Result<Summary, Findings> {
    let options = parse(arguments).map_err(|error| vec![error])?;
    examine(&options).unwrap_or_else(|error| Err(vec![format!("windows: {error}")]))
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut options = Options {
        seed: now.as_secs() ^ u64::from(now.subsec_nanos()),
        count: 10_000,
        from: PathBuf::new(),
        plant: PathBuf::new(),
        searched: Vec::new(),
    };
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{flag} {value} is not a number"))
        };
        match flag.as_str() {
            "--seed" => options.seed = number()?,
            "--count" => options.count = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--from" => options.from = value.into(),
            "--plant" => options.plant = value.into(),
            "--in" => options.searched.push(value.into()),
            _ => return Err(format!("windows does not know {flag}")),
        }
    }
    if options.from.as_os_str().is_empty() || options.plant.as_os_str().is_empty() || options.searched.is_empty() {
        return Err("windows needs --from, --plant and --in".to_owned());
    }
    Ok(options)
}

fn examine(options: &Options) -> io::Result<Result<Summary, Findings>> {
    let started = Instant::now();
    let (windows, files_drawn) = draw(&options.from, options.count, options.seed)?;
    if windows.len() < options.count {
        return Ok(Err(vec![format!(
            "only {} of {} windows with {DISTINCT_MIN} distinct bytes could be drawn from {}",
            windows.len(),
            options.count,
            options.from.display()
        )]));
    }
    let planted = plant(&options.plant, &windows[0])?;
    let mut files = Vec::new();
    for path in options.searched.iter().chain([&planted]) {
        collect(path, &mut files)?;
    }
    let outcome = search(&files, &Index::of(&windows));
    fs::remove_file(&planted)?;
    let (bytes, hits) = outcome?;
    let (found_plant, leaks): (Vec<_>, Vec<_>) = hits.into_iter().partition(|hit| hit.path == planted);
    if !leaks.is_empty() {
        let mut findings: Findings = leaks.iter().take(FINDINGS_MAX).map(Hit::finding).collect();
        findings.push(format!("{} places hold plaintext", leaks.len()));
        return Ok(Err(findings));
    }
    if found_plant.len() != 1 {
        return Ok(Err(vec![format!(
            "the planted window was found {} times, not once",
            found_plant.len()
        )]));
    }
    Ok(Ok(format!(
        "windows: {} windows of {WINDOW_BYTES} bytes from {files_drawn} files (seed {}), none in {} files of {} MB; \
         the planted one found; {:.1} s",
        windows.len(),
        options.seed,
        files.len() - 1,
        bytes / 1_000_000,
        started.elapsed().as_secs_f64()
    )))
}

/// Every plain file at or below `path`; a file that goes away while others work is no error.
fn collect(path: &Path, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_file() {
        files.push((path.to_owned(), metadata.len()));
    } else if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            match collect(&entry?.path(), files) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Distinct windows from random places, each byte of the tree as likely as any other; and from how many files.
fn draw(from: &Path, count: usize, seed: u64) -> io::Result<(Vec<Window>, usize)> {
    let mut files = Vec::new();
    collect(from, &mut files)?;
    files.retain(|(_, length)| *length >= WINDOW_BYTES as u64);
    files.sort();
    let mut ends = Vec::with_capacity(files.len());
    let mut total = 0;
    for (_, length) in &files {
        total += length - WINDOW_BYTES as u64 + 1;
        ends.push(total);
    }
    let (mut windows, mut seen, mut drawn) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut random = SplitMix(seed);
    for _ in 0..count.saturating_mul(DRAWS_PER_WINDOW_MAX) {
        if windows.len() == count || total == 0 {
            break;
        }
        let place = random.next() % total;
        let at = ends.partition_point(|end| *end <= place);
        let start = if at == 0 { 0 } else { ends[at - 1] };
        let window = read_at(&files[at].0, place - start)?;
        if distinct(&window) >= DISTINCT_MIN && seen.insert(window) {
            windows.push(window);
            drawn.insert(at);
        }
    }
    Ok((windows, drawn.len()))
}

fn read_at(path: &Path, offset: u64) -> io::Result<Window> {
    let mut window = [0; WINDOW_BYTES];
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut window)?;
    Ok(window)
}

fn distinct(window: &Window) -> usize {
    let mut seen = [false; 256];
    for byte in window {
        seen[usize::from(*byte)] = true;
    }
    seen.iter().filter(|seen| **seen).count()
}

/// A file of noise with the window across the border of two reads.
fn plant(folder: &Path, window: &Window) -> io::Result<PathBuf> {
    let mut random = SplitMix(1);
    let mut bytes: Vec<u8> = (0..READ_BYTES + 1024).map(|_| random.next().to_le_bytes()[0]).collect();
    bytes[READ_BYTES - 17..][..WINDOW_BYTES].copy_from_slice(window);
    let path = folder.join(PLANTED);
    fs::write(&path, bytes)?;
    Ok(path)
}

#[derive(Debug)]
struct Hit {
    path: PathBuf,
    offset: u64,
}

impl Hit {
    fn finding(&self) -> String {
        format!("plaintext found in {} at byte {}", self.path.display(), self.offset)
    }
}

/// Searches the files on all processors; also tells how many bytes it looked at.
fn search(files: &[(PathBuf, u64)], index: &Index) -> io::Result<(u64, Vec<Hit>)> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut bytes, mut hits) = (0, Vec::new());
        while let Some((path, _)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            match File::open(path) {
                Ok(file) => bytes += search_one(path, file, index, &mut hits)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((bytes, hits))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<io::Result<(u64, Vec<Hit>)>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a search thread panicked")))
        };
        workers.into_iter().map(join).collect()
    });
    let (mut bytes, mut hits) = (0, Vec::new());
    for part in parts {
        let (more, found) = part?;
        bytes += more;
        hits.extend(found);
    }
    Ok((bytes, hits))
}

fn search_one(path: &Path, mut from: impl Read, index: &Index, hits: &mut Vec<Hit>) -> io::Result<u64> {
    let mut buffer = Vec::with_capacity(READ_BYTES + WINDOW_BYTES);
    let mut position = 0;
    loop {
        let read = from.by_ref().take(READ_BYTES as u64).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok(position + buffer.len() as u64);
        }
        for at in index.offsets_in(&buffer) {
            hits.push(Hit {
                path: path.to_owned(),
                offset: position + at as u64,
            });
        }
        // The last 63 bytes may begin a window that the next read ends.
        let done = buffer.len().saturating_sub(WINDOW_BYTES - 1);
        position += done as u64;
        buffer.drain(..done);
    }
}

/// The windows by their hash, with a bitmap in front that fits the cache.
struct Index {
    bitmap: Vec<u64>,
    by_hash: HashMap<u64, Vec<Window>>,
}

impl Index {
    const BITMAP_BITS: u32 = 20;
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15 | 1;

    fn of(windows: &[Window]) -> Self {
        let mut index = Self {
            bitmap: vec![0; 1 << (Self::BITMAP_BITS - 6)],
            by_hash: HashMap::new(),
        };
        for window in windows {
            let hash = Self::hash(window);
            let bit = Self::bit(hash);
            index.bitmap[bit / 64] |= 1 << (bit % 64);
            index.by_hash.entry(hash).or_default().push(*window);
        }
        index
    }

    fn hash(window: &Window) -> u64 {
        window.iter().fold(0, |hash: u64, byte| Self::shift_in(hash, *byte))
    }

    const fn shift_in(hash: u64, byte: u8) -> u64 {
        hash.wrapping_mul(Self::MULTIPLIER).wrapping_add(byte as u64 + 1)
    }

    const fn bit(hash: u64) -> usize {
        (hash >> (64 - Self::BITMAP_BITS)) as usize
    }

    /// Where in `bytes` any of the windows starts.
    fn offsets_in(&self, bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        let Some(first) = bytes.first_chunk::<WINDOW_BYTES>() else {
            return found;
        };
        let weight = (0..WINDOW_BYTES).fold(1_u64, |weight, _| weight.wrapping_mul(Self::MULTIPLIER));
        let mut hash = Self::hash(first);
        if self.holds(hash, first) {
            found.push(0);
        }
        for (at, (out, next)) in bytes.iter().zip(&bytes[WINDOW_BYTES..]).enumerate() {
            hash = Self::shift_in(hash, *next).wrapping_sub(weight.wrapping_mul(u64::from(*out) + 1));
            let bit = Self::bit(hash);
            if self.bitmap[bit / 64] >> (bit % 64) & 1 == 1 && self.holds(hash, &bytes[at + 1..][..WINDOW_BYTES]) {
                found.push(at + 1);
            }
        }
        found
    }

    fn holds(&self, hash: u64, candidate: &[u8]) -> bool {
        self.by_hash
            .get(&hash)
            .is_some_and(|windows| windows.iter().any(|window| window == candidate))
    }
}

/// Steele, Lea and Flood's SplitMix64: good enough to draw places, and one number repeats a run.
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut random = SplitMix(seed);
        (0..length).map(|_| random.next().to_le_bytes()[3]).collect()
    }

    fn windows_of(bytes: &[u8]) -> Vec<Window> {
        bytes.as_chunks::<WINDOW_BYTES>().0.to_vec()
    }

    #[test]
    fn a_window_is_found_at_every_offset_and_a_changed_one_nowhere() {
        let windows = windows_of(&noise(64 * 40, 7));
        let index = Index::of(&windows);
        for at in 0..300 {
            let mut bytes = noise(600, 8);
            bytes[at..at + WINDOW_BYTES].copy_from_slice(&windows[at % 40]);
            assert_eq!(index.offsets_in(&bytes), [at]);
            bytes[at + at % WINDOW_BYTES] ^= 1;
            assert_eq!(index.offsets_in(&bytes), [0_usize; 0]);
        }
        assert_eq!(index.offsets_in(&windows[3]), [0]);
        assert_eq!(index.offsets_in(&windows[3][..63]), [0_usize; 0]);
    }

    #[test]
    fn windows_across_reads_are_found_once_with_their_place() {
        let windows = windows_of(&noise(64, 9));
        let index = Index::of(&windows);
        for at in [READ_BYTES - 64, READ_BYTES - 63, READ_BYTES - 1, READ_BYTES] {
            let mut bytes = noise(READ_BYTES + 200, 10);
            bytes[at..at + WINDOW_BYTES].copy_from_slice(&windows[0]);
            let mut hits = Vec::new();
            let read = search_one(Path::new("f"), bytes.as_slice(), &index, &mut hits).expect("memory reads");
            assert_eq!(read, bytes.len() as u64);
            assert_eq!(hits.iter().map(|hit| hit.offset).collect::<Vec<_>>(), [at as u64]);
        }
    }

    #[test]
    fn a_leak_is_named_and_a_clean_tree_passes() {
        let root = std::env::temp_dir().join(format!("strongroom-windows-{}", std::process::id()));
        let dir = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(&path).expect("a temporary directory can be made");
            path
        };
        let options = Options {
            seed: 1,
            count: 50,
            from: dir("plain"),
            plant: dir("plant"),
            searched: vec![dir("cipher")],
        };
        let plain = noise(20_000, 11);
        fs::write(root.join("plain/a"), &plain).expect("writable");
        fs::write(root.join("cipher/b"), noise(20_000, 12)).expect("writable");
        let clean = examine(&options).expect("readable");
        fs::write(root.join("cipher/leak"), &plain).expect("writable");
        let leaking = examine(&options).expect("readable");
        fs::remove_dir_all(&root).expect("own directory");
        assert!(clean.expect("no leak").contains("50 windows"));
        let findings = leaking.expect_err("a leak");
        assert!(
            findings.len() == FINDINGS_MAX + 1 && findings[0].contains("cipher/leak at byte"),
            "{findings:?}"
        );
    }
}
