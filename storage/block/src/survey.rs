//! Commands of the metadata service that ask what is on this node's disk.

use strongroom_proto::{
    BlockId, Failure, Reason,
    limits::REPLICAS_PER_COMMAND_MAX,
    metadata::v1::{CheckReplicas, Replica, ReplicaPage, TellReplicas},
};

use crate::{
    api::Node,
    news::Outcome,
    store::{Expected, Found, Position},
};

/// Looks whether blocks are there, by their headers.
pub(crate) async fn check(node: &Node, order: CheckReplicas) -> Result<Outcome, Failure> {
    if order.replicas.len() > REPLICAS_PER_COMMAND_MAX {
        let message = format!("at most {REPLICAS_PER_COMMAND_MAX} blocks can be looked for at once");
        return Err(Failure::new(Reason::InvalidArgument, message));
    }
    let expected: Result<Vec<Expected>, Failure> = order.replicas.into_iter().map(expected).collect();
    let checked = node.store.check(expected?, false).await?;
    if let Some((block, error)) = checked.unreadable.first() {
        tracing::error!(%block, %error, files = checked.unreadable.len(), "files of blocks cannot be read");
    }
    Ok(Outcome {
        missing: checked.lacking.into_iter().map(|block| block.id).collect(),
        unreadable: checked.unreadable.into_iter().map(|(block, _)| block).collect(),
        page: None,
    })
}

fn expected(replica: Replica) -> Result<Expected, Failure> {
    Ok(Expected {
        id: BlockId::try_from(replica.block_id)?,
        length: replica.length,
        crc32c: replica.crc32c,
    })
}

/// Says which blocks are there.
pub(crate) async fn tell(node: &Node, order: TellReplicas) -> Result<Outcome, Failure> {
    let after = order.after.map(|after| BlockId::try_from(Some(after))).transpose()?;
    let survey = node.store.survey(Position { fan: order.fan, after }).await?;
    let page = ReplicaPage {
        replicas: survey.found.into_iter().map(replica).collect(),
        next: survey.next.map(|next| TellReplicas {
            fan: next.fan,
            after: next.after.map(Into::into),
        }),
    };
    Ok(Outcome {
        page: Some(page),
        unreadable: survey.unreadable,
        ..Outcome::default()
    })
}

fn replica(found: Found) -> Replica {
    Replica {
        block_id: Some(found.id.into()),
        length: found.length,
        crc32c: found.crc32c,
        aside: found.aside,
        age_ms: u64::try_from(found.age.as_millis()).unwrap_or(u64::MAX),
    }
}
