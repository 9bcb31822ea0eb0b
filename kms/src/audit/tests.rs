//! The writer over a disk that fails as it is told to.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Instant,
};

use strongroom_proto::transport::PeerIdentity;

use super::{verify::Verifier, *};

/// A disk in memory.
#[derive(Clone, Default)]
struct Disk {
    segments: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Appends write half and fail.
    full: Arc<AtomicBool>,
    sync_fails: Arc<AtomicBool>,
    /// The next append waits for this.
    hang: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
}

impl Disk {
    fn segments(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.segments.lock().expect("no panic under the lock")
    }

    fn log(&self, config: &AuditConfig) -> (AuditLog, AuditWriter) {
        let mut store = self.clone();
        let segment = store.create(1).expect("a segment");
        let tail = Tail {
            head: Head::genesis(),
            unsigned: 0,
            segment: 1,
        };
        AuditLog::start(LogId::from_bytes([7; 16]), Box::new(store), segment, 0, tail, config).expect("a thread")
    }

    /// The number of the last record, if all is one chain.
    fn verify(&self) -> Result<u64, AuditError> {
        let start = Some(Head::genesis());
        let mut verifier = Verifier::continuing(start, LogId::from_bytes([7; 16]), VerifyOptions::default());
        for segment in self.segments().iter() {
            verifier.segment(Path::new("memory"), segment.as_slice())?;
        }
        Ok(verifier.end().0.seq)
    }
}

impl Store for Disk {
    fn create(&mut self, _: u64) -> io::Result<Box<dyn Segment>> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.segments().push(Vec::new());
        Ok(Box::new(self.clone()))
    }
}

impl Segment for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let hang = self.hang.lock().expect("no panic under the lock").take();
        if let Some(hang) = hang {
            _ = hang.recv();
        }
        let full = self.full.load(Ordering::Relaxed);
        let written = if full { &bytes[..bytes.len() / 2] } else { bytes };
        self.segments()
            .last_mut()
            .expect("a segment")
            .extend_from_slice(written);
        if full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.sync_fails.load(Ordering::Relaxed) {
            Err(io::Error::other("the device is gone"))
        } else {
            Ok(())
        }
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).expect("a small segment");
        self.segments().last_mut().expect("a segment").truncate(length);
        Ok(())
    }
}

fn entry() -> Entry {
    let caller = Caller::certified(PeerIdentity::Metadata, SocketAddr::from(([127, 0, 0, 1], 7)));
    Entry::new(&caller, "mint")
}

fn quick() -> AuditConfig {
    AuditConfig {
        wait_ms: 200,
        ..AuditConfig::default()
    }
}

#[tokio::test]
async fn a_disk_that_hangs_fails_calls_within_the_wait_and_serves_again_when_it_answers() {
    let disk = Disk::default();
    let (log, writer) = disk.log(&quick());
    log.record(vec![entry()]).await.expect("written");
    let (resume, hang) = mpsc::channel();
    *disk.hang.lock().expect("no panic under the lock") = Some(hang);
    let started = Instant::now();
    let calls: Vec<_> = (0..2000).map(|_| log.record(vec![entry()])).collect();
    for outcome in futures::future::join_all(calls).await {
        let failure = outcome.expect_err("the disk hangs");
        assert_eq!(failure.reason, Reason::StoreFailed);
        assert!(
            failure.message.contains("the disk did not answer for 200 ms"),
            "{failure}"
        );
    }
    assert!(started.elapsed() < Duration::from_secs(5), "the wait is bounded");
    drop(resume);
    let deadline = Instant::now() + Duration::from_secs(10);
    while log.record(vec![entry()]).await.is_err() {
        assert!(Instant::now() < deadline, "it does not come back");
    }
    let last = log.head().seq;
    drop(log);
    writer.finish().await;
    assert_eq!(disk.verify().expect("one chain"), last);
    assert!(last <= 2 + 1 + 1024 + 4096, "what nobody waits for is bounded: {last}");
}

#[tokio::test]
async fn a_full_disk_refuses_until_there_is_room_and_the_chain_goes_on() {
    let disk = Disk::default();
    let (log, writer) = disk.log(&AuditConfig {
        segment_bytes: 4096,
        ..quick()
    });
    for _ in 0..100 {
        log.record(vec![entry()]).await.expect("written");
        disk.full.store(true, Ordering::Relaxed);
        let failure = log.record(vec![entry(), entry()]).await.expect_err("full");
        assert_eq!(failure.reason, Reason::StoreFailed);
        disk.full.store(false, Ordering::Relaxed);
    }
    assert_eq!(log.head().seq, 100);
    drop(log);
    writer.finish().await;
    assert_eq!(disk.verify().expect("one chain"), 100);
    assert!(
        disk.segments().len() > 3,
        "it went from segment to segment all the while"
    );
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_any_more() {
    let disk = Disk::default();
    let (log, writer) = disk.log(&quick());
    disk.sync_fails.store(true, Ordering::Relaxed);
    log.record(vec![entry()]).await.expect_err("not durable");
    disk.sync_fails.store(false, Ordering::Relaxed);
    let failure = log
        .record(vec![entry()])
        .await
        .expect_err("nobody knows what is on disk");
    assert!(failure.message.contains("the device is gone"), "{failure}");
    assert!(log.rotate().await.is_err(), "nor in another segment");
    drop(log);
    writer.finish().await;
}

#[tokio::test]
async fn a_segment_ends_on_demand_and_an_empty_one_does_not() {
    let disk = Disk::default();
    let (log, writer) = disk.log(&quick());
    assert_eq!(log.rotate().await.expect("nothing to end"), 1);
    log.record(vec![entry()]).await.expect("written");
    assert_eq!(log.rotate().await.expect("ended"), 2);
    assert_eq!(log.rotate().await.expect("empty"), 2);
    log.record(vec![entry()]).await.expect("written");
    drop(log);
    writer.finish().await;
    assert_eq!(disk.verify().expect("one chain"), 2);
    assert_eq!(disk.segments().len(), 2);
}
