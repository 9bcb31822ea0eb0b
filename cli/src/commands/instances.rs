//! `strongroom instances`: the instances of the key service over one store.

use strongroom_kms_admin::{Instance, Instances};

use super::session::Session;
use crate::{
    error::Error,
    output::{Output, table},
};

/// Prints the instances.
pub(super) async fn run(session: &Session, output: Output) -> Result<(), Error> {
    let seen = session.keys()?.instances().await?;
    let json = |instance: &Instance| {
        serde_json::json!({
            "id": instance.id,
            "address": instance.address,
            "lease": lease(instance),
            "silent_ms": instance.silent_ms,
            "behind": instance.behind,
            "ready": instance.ready,
            "answering": instance.answering,
        })
    };
    let instances: Vec<_> = seen.instances.iter().map(json).collect();
    let document = serde_json::json!({"revision": seen.revision, "instances": instances});
    output.result(&document, || text(&seen))
}

fn text(seen: &Instances) -> String {
    if seen.instances.is_empty() {
        return "this key service has a store of its own; there are no other instances".to_owned();
    }
    let rows: Vec<_> = seen.instances.iter().map(row).collect();
    format!(
        "{}\n\nrevision: {}",
        table(["INSTANCE", "ADDRESS", "LEASE", "SILENT", "BEHIND", "TOKEN", ""], &rows),
        seen.revision
    )
}

fn row(instance: &Instance) -> [String; 7] {
    [
        instance.id.clone(),
        instance.address.clone(),
        lease(instance).to_owned(),
        format!("{} ms", instance.silent_ms),
        instance.behind.to_string(),
        if instance.ready { "ready" } else { "away" }.to_owned(),
        if instance.answering { "answered" } else { "" }.to_owned(),
    ]
}

const fn lease(instance: &Instance) -> &'static str {
    if instance.leased { "held" } else { "lapsed" }
}
