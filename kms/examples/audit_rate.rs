//! What the audit log costs on a disk: records a second, and how long a call waits for its record, by calls in flight.
//!
//! `cargo run -p strongroom-kms --example audit_rate -- DIR [SECONDS]`: DIR is a directory on the disk in question; a log is
//! begun in a new directory below it. Compare a disk with `/dev/shm` to see what is the disk's and what is ours.

use std::{
    error::Error,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use strongroom_kms::audit::{AuditConfig, AuditLog, Caller, Entry};
use strongroom_proto::{KeyVersion, ZoneId, transport::PeerIdentity};

const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: audit_rate DIR [SECONDS]")?);
    let seconds = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    for in_flight in IN_FLIGHT {
        let log = dir.join(format!("audit-rate-{}-{in_flight}", std::process::id()));
        let waits = runtime.block_on(measure(log.clone(), in_flight, Duration::from_secs(seconds)))?;
        std::fs::remove_dir_all(log)?;
        report(in_flight, waits, seconds)?;
    }
    Ok(())
}

/// How long each record took.
async fn measure(dir: PathBuf, in_flight: usize, during: Duration) -> Result<Vec<Duration>, Box<dyn Error>> {
    let (log, writer) = AuditLog::open(&dir, &AuditConfig::default())?;
    let end = Instant::now() + during;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let log = log.clone();
        callers.spawn(async move {
            let mut waits = Vec::new();
            while Instant::now() < end {
                let started = Instant::now();
                if log.record(vec![entry()]).await.is_err() {
                    break;
                }
                waits.push(started.elapsed());
            }
            waits
        });
    }
    let waits = callers.join_all().await.concat();
    drop(log);
    writer.finish().await;
    Ok(waits)
}

fn entry() -> Entry {
    let caller = Caller::certified(PeerIdentity::Metadata, SocketAddr::from(([127, 0, 0, 1], 50_000)));
    Entry::new(&caller, "unwrap")
        .version(Some(KeyVersion(3)))
        .edeks(&ZoneId::from_bytes([7; 16]), 1)
}

fn report(in_flight: usize, mut waits: Vec<Duration>, seconds: u64) -> io::Result<()> {
    waits.sort_unstable();
    let at = |per_mille: usize| waits.get(waits.len() * per_mille / 1000).copied().unwrap_or_default();
    let rate = waits.len() as u64 / seconds.max(1);
    writeln!(
        io::stdout(),
        "{in_flight:4} in flight: {rate:7} records/s, p50 {:?}, p99 {:?}",
        at(500),
        at(990)
    )
}
