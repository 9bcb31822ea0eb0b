//! `strongroom status`: block nodes, missing replicas, queues.

use strongroom_fs::{ClusterStatus, NodeStatus};

use super::session::Session;
use crate::{
    error::Error,
    output::{Output, human_bytes, table, time_text},
};

/// Prints the cluster's status.
pub(super) async fn run(session: &Session, output: Output) -> Result<(), Error> {
    let status = session.zones()?.cluster_status().await?;
    output.result(&status, || text(&status))
}

fn text(status: &ClusterStatus) -> String {
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    let notes: String = status.nodes.iter().flat_map(notes).collect();
    let word = match status.deleting_strays {
        true => "\nblocks that nothing needs are deleted at a superuser's word, however many they are",
        false => "",
    };
    format!(
        "{}{notes}\n\nblocks with missing replicas: {}\nreplicas to delete: {}\nfiles being written: {}",
        table(
            ["NODE", "ADDRESS", "STATE", "BLOCKS", "FREE", "CAPACITY", "LAST SEEN"],
            &rows
        ),
        status.blocks_in_deficit,
        status.blocks_to_delete,
        status.files_open
    ) + word
}

/// What is to be looked at on a node.
fn notes(node: &NodeStatus) -> Vec<String> {
    let (id, mut notes) = (&node.node_id, Vec::new());
    if node.strays + node.unreadable > 0 {
        notes.push(format!(
            "\n{id}: {} blocks that nothing needs are kept, {} files cannot be read; see strongroom fsck",
            node.strays, node.unreadable
        ));
    }
    if node.untold {
        notes.push(format!(
            "\n{id}: did not tell all that it has; until it does, blocks that nothing needs are kept on all nodes"
        ));
    }
    notes
}

fn row(node: &NodeStatus) -> [String; 7] {
    [
        node.node_id.to_string(),
        node.address.clone(),
        if node.alive { "alive" } else { "gone" }.to_owned(),
        node.blocks.to_string(),
        human_bytes(node.free_bytes),
        human_bytes(node.capacity_bytes),
        time_text(node.last_seen_ms),
    ]
}
