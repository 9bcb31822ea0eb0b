//! Waits until every role serves and every block node is known to the metadata service.

use std::time::{Duration, SystemTime};

use strongroom_proto::{
    metadata::v1::{GetClusterStatusRequest, cluster_client::ClusterClient},
    transport::{self, Remote, TlsIdentity},
};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    DevError,
    layout::{Layout, Role},
    ports::Ports,
    supervisor::{last_words, log_tail},
};
use crate::output::note;

/// How long everything may take to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long somebody who waits is told for what.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// The pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long one look may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of a log in the message about a role that does not come up.
const TAIL_LINES: usize = 5;

/// Waits for all roles, at most [`READY_TIMEOUT`].
pub(super) async fn wait_until_ready(layout: &Layout, ports: &Ports) -> Result<(), DevError> {
    let identity = TlsIdentity::load(&layout.tls("fsadmin"), SystemTime::now())?;
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut waiting = Vec::new();
    for role in Role::ALL {
        let channel = channel(ports, role, &identity)?;
        if !poll(deadline, || serves(channel.clone()), || tell(layout, role)).await {
            waiting.push(role);
        }
    }
    if !waiting.is_empty() {
        return Err(not_ready(layout, &waiting));
    }
    let metadata = channel(ports, Role::Metadata, &identity)?;
    let known = poll(
        deadline,
        || all_nodes_known(metadata.clone()),
        || tell(layout, Role::Metadata),
    );
    if known.await {
        Ok(())
    } else {
        Err(not_ready(layout, &[Role::Block(1), Role::Block(2), Role::Block(3)]))
    }
}

/// How a role is reached.
pub(super) fn channel(ports: &Ports, role: Role, identity: &TlsIdentity) -> Result<Channel, DevError> {
    let remote: Remote = format!("localhost:{}", ports.of(role)).parse()?;
    let expected = match role {
        Role::Kms => transport::Role::Kms,
        Role::Metadata => transport::Role::Metadata,
        Role::Block(_) => transport::Role::Block,
    };
    Ok(transport::connect(&remote, identity, expected))
}

/// Looks again and again until `good` says so or the deadline is over; meanwhile calls `tell` once.
async fn poll<F: Future<Output = bool>>(deadline: Instant, good: impl Fn() -> F, tell: impl Fn()) -> bool {
    let started = Instant::now();
    let mut told = false;
    loop {
        if timeout(CALL_TIMEOUT, good()).await.unwrap_or(false) {
            return true;
        }
        if !told && started.elapsed() >= TELL_AFTER {
            told = true;
            tell();
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn tell(layout: &Layout, role: Role) {
    note(&format!(
        "strongroom dev: waiting for {}; it said: {}",
        role.name(),
        last_words(layout, role)
    ));
}

async fn serves(channel: Channel) -> bool {
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await;
    answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
}

async fn all_nodes_known(channel: Channel) -> bool {
    let answer = ClusterClient::new(channel)
        .get_cluster_status(GetClusterStatusRequest {})
        .await;
    answer.is_ok_and(|status| status.get_ref().nodes.iter().filter(|node| node.alive).count() >= 3)
}

fn not_ready(layout: &Layout, waiting: &[Role]) -> DevError {
    let names: Vec<String> = waiting.iter().map(|role| role.name()).collect();
    let last_words = waiting
        .first()
        .map(|&role| log_tail(layout, role, TAIL_LINES))
        .unwrap_or_default();
    DevError::NotReady {
        seconds: READY_TIMEOUT.as_secs(),
        waiting: format!("waiting for {}", names.join(", ")),
        logs: layout.logs(),
        last_words: if last_words.is_empty() {
            last_words
        } else {
            format!("\n{last_words}")
        },
    }
}
