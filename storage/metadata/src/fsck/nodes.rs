//! Block nodes: what the comparison of their disks with what is recorded left for people to look at.

use bytes::Bytes;
use strongroom_kv::Store;
use strongroom_proto::{NodeId, metadata::v1 as pb};

use super::{Question, finding, rows};
use crate::{
    core::Core,
    error::MetadataError,
    schema::{access, keys, records},
    zones::source::EdekSource,
};

/// A page of nodes.
pub(super) async fn check<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, keys::nodes(), &question.after).await?;
    let mut page = pb::CheckPageResponse {
        next,
        looked_at: found.len() as u64,
        ..pb::CheckPageResponse::default()
    };
    let gone = core.cluster.gone();
    for (key, value) in found {
        let record: Option<records::Node> = access::decode(value, "node").ok();
        let (Some(node), Some(record)) = (keys::node_of(&key), record) else {
            let what = format!("the record of node {} cannot be read", hex::encode(&key[1..]));
            page.findings
                .push(finding(pb::FindingKind::Unreadable, Bytes::new(), what));
            continue;
        };
        if gone.contains(&node) {
            continue;
        }
        let problems = problems(&node, &record).into_iter().flatten();
        page.findings
            .extend(problems.map(|what| finding(pb::FindingKind::Node, Bytes::new(), what)));
    }
    Ok(page)
}

fn problems(node: &NodeId, record: &records::Node) -> [Option<String>; 3] {
    let strays = (record.strays_kept > 0 && !record.strays_wait).then(|| {
        format!(
            "{} blocks on node {node} are needed by nothing, and are too many to be deleted: if the namespace is not an old copy, \
             have them deleted with strongroom fsck --repair --delete-strays",
            record.strays_kept
        )
    });
    let unreadable = (record.unreadable > 0).then(|| {
        format!(
            "{} files of blocks on node {node} could not be read: look at its disk, and at its log for their names",
            record.unreadable
        )
    });
    let untold = record.untold.then(|| {
        format!(
            "node {node} did not tell all that it has when it was asked last: until all nodes do, blocks that nothing needs are deleted \
             on none; look at its disk and its log, or take it away"
        )
    });
    [strays, unreadable, untold]
}
