//! Files that are not encrypted, of which a start without `--plain` lets nobody have any.

use std::time::{Duration, SystemTime};

use strongroom_proto::{
    metadata::v1::{CheckPageRequest, CheckedPart, fsck_client::FsckClient},
    transport::TlsIdentity,
};
use tokio::time::timeout;

use super::{
    DevError,
    health::channel,
    layout::{Layout, Role},
    ports::Ports,
};
use crate::output::note;

/// How long the metadata service may take to say whether there are any.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Says that there are files which nobody gets to, and how to. A service that does not answer keeps nobody from working.
pub(super) async fn tell_of_unserved(layout: &Layout, ports: &Ports) -> Result<(), DevError> {
    let identity = TlsIdentity::load(&layout.tls("fsadmin"), SystemTime::now())?;
    let mut fsck = FsckClient::new(channel(ports, Role::Metadata, &identity)?);
    let first = CheckPageRequest {
        part: CheckedPart::Plain.into(),
        ..CheckPageRequest::default()
    };
    let Ok(Ok(page)) = timeout(CALL_TIMEOUT, fsck.check_page(first)).await else {
        return Ok(());
    };
    let page = page.into_inner();
    if page.looked_at > 0 {
        let least = if page.next.is_empty() { "" } else { "at least " };
        note(&format!(
            "strongroom dev: {least}{} files here are not encrypted, and are neither read nor written: start with --plain DIR, the directory that they are in",
            page.looked_at
        ));
    }
    Ok(())
}
