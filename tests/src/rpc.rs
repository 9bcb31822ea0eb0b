use std::time::{Duration, SystemTime};

use bytes::Bytes;
use strongroom_proto::{
    Failure, RequestId,
    block::v1::{self as block, blocks_client::BlocksClient},
    kms::v1 as kms,
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{self as metadata, cluster_client::ClusterClient, files_client::FilesClient},
    transport::{Role, TlsFiles, TlsIdentity, connect},
};
use tonic::transport::Channel;

use crate::{Dev, poll::until_async};

/// How long the cluster may take to bring every block back to its replicas: a node counts as gone after 5 s and
/// commands are sent again after 10 s.
const REPAIR_LIMIT: Duration = Duration::from_secs(90);

/// Calls below the client library, for what it would not send or does not show.
impl Dev {
    /// What a reader gets when it opens a file: EDEK, extents and blocks.
    ///
    /// # Errors
    /// As the service says.
    pub async fn open(&self, path: &str) -> Result<metadata::OpenedFile, Failure> {
        let request = metadata::OpenFileRequest {
            path: path.as_bytes().to_vec().into(),
            ..metadata::OpenFileRequest::default()
        };
        Ok(self.files().open_file(request).await?.into_inner())
    }

    /// Reads every block of a file of one extent from one node, whatever the others have; tells how each read went.
    pub async fn read_blocks(&self, opened: &metadata::OpenedFile, node: &str) -> Vec<Result<(), Failure>> {
        let blocks = opened.blocks.as_ref().expect("the first blocks come with the opening");
        let target = blocks.nodes.iter().find(|target| target.node_id == node);
        let remote = target
            .expect("the node has blocks of the file")
            .address
            .parse()
            .expect("host:port");
        let tls = TlsIdentity::load(&self.tls_files("alice"), SystemTime::now()).expect("a usable certificate");
        let mut client =
            BlocksClient::new(connect(&remote, &tls, Role::Block)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut outcomes = Vec::new();
        for index in 0..opened.extents[0].blocks {
            let request = block::GetBlockRequest {
                capability: blocks.capability.clone(),
                block_id: Some(block::BlockId {
                    extent_id: opened.extents[0].extent_id.clone(),
                    index,
                }),
                offset: 0,
                length: 0,
            };
            let answer = client.get_block(request).await;
            outcomes.push(answer.map(|_| ()).map_err(Failure::from));
        }
        outcomes
    }

    /// Nodes and deficits.
    ///
    /// # Errors
    /// As the service says.
    pub async fn cluster(&self) -> Result<metadata::ClusterStatus, Failure> {
        let mut client = ClusterClient::new(self.channel("fsadmin", Role::Metadata));
        Ok(client
            .get_cluster_status(metadata::GetClusterStatusRequest {})
            .await?
            .into_inner())
    }

    /// Waits until every node is alive and no block has fewer replicas than wanted.
    pub async fn repaired(&self) {
        let whole = || async {
            let status = self.cluster().await.ok()?;
            let alive = status.nodes.iter().filter(|node| node.alive).count();
            (alive == 3 && status.blocks_in_deficit == 0).then_some(())
        };
        until_async("the repair of every block", REPAIR_LIMIT, whole).await;
    }

    /// Waits until the metadata service counts at least one block in deficit; tells how many.
    pub async fn in_deficit(&self) -> u64 {
        let deficit = || async {
            self.cluster()
                .await
                .ok()
                .map(|status| status.blocks_in_deficit)
                .filter(|blocks| *blocks > 0)
        };
        until_async("a recorded deficit", REPAIR_LIMIT, deficit).await
    }

    /// [`unwrap`] with any certificate.
    ///
    /// # Errors
    /// When the call as a whole is refused.
    pub async fn unwrap(&self, files: &TlsFiles, edeks: Vec<kms::Edek>) -> Result<Vec<Unwrapped>, Failure> {
        unwrap(self.channel_with(files, Role::Kms), edeks).await
    }

    /// [`mint`] with any certificate.
    ///
    /// # Errors
    /// As the service says.
    pub async fn mint(&self, files: &TlsFiles, key: &str) -> Result<Vec<kms::Edek>, Failure> {
        mint(self.channel_with(files, Role::Kms), key, 1).await
    }

    fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel("alice", Role::Metadata))
    }
}

/// Whether a DEK was given, and why not.
pub type Unwrapped = Result<(), kms::ItemFailure>;

/// Makes a key.
///
/// # Errors
/// As the service says.
pub async fn create_key(channel: Channel, name: &str) -> Result<kms::Key, Failure> {
    let request = kms::CreateKeyRequest {
        name: name.to_owned(),
        request_id: RequestId::generate().into(),
        ..kms::CreateKeyRequest::default()
    };
    Ok(kms::key_admin_client::KeyAdminClient::new(channel)
        .create_key(request)
        .await?
        .into_inner())
}

/// Rolls a key.
///
/// # Errors
/// As the service says.
pub async fn roll_key(channel: Channel, name: &str) -> Result<kms::Key, Failure> {
    let request = kms::RollKeyRequest {
        name: name.to_owned(),
        request_id: RequestId::generate().into(),
    };
    let mut client = kms::key_admin_client::KeyAdminClient::new(channel);
    Ok(client.roll_key(request).await?.into_inner())
}

/// What the service says of a key.
///
/// # Errors
/// As the service says.
pub async fn describe_key(channel: Channel, name: &str) -> Result<kms::Key, Failure> {
    let request = kms::DescribeKeyRequest { name: name.to_owned() };
    let mut client = kms::key_admin_client::KeyAdminClient::new(channel);
    Ok(client.describe_key(request).await?.into_inner())
}

/// Asks the key service for fresh EDEKs of a zone that only tests have.
///
/// # Errors
/// As the service says.
pub async fn mint(channel: Channel, key: &str, count: u32) -> Result<Vec<kms::Edek>, Failure> {
    let zone_id = Bytes::from_static(&[7; 16]);
    let request = kms::MintRequest {
        key_name: key.to_owned(),
        zone_id: zone_id.clone(),
        count,
    };
    let answer = kms::mint_client::MintClient::new(channel)
        .mint(request)
        .await?
        .into_inner();
    let edek = |wrapped| kms::Edek {
        key_name: key.to_owned(),
        key_version: answer.key_version,
        zone_id: zone_id.clone(),
        suite: answer.suite.clone(),
        wrapped,
    };
    Ok(answer.wrapped.iter().cloned().map(edek).collect())
}

/// Asks the key service for the DEKs of EDEKs. The DEKs are dropped.
///
/// # Errors
/// When the call as a whole is refused.
pub async fn unwrap(channel: Channel, edeks: Vec<kms::Edek>) -> Result<Vec<Unwrapped>, Failure> {
    let mut client = kms::unwrap_client::UnwrapClient::new(channel);
    let answer = client.unwrap(kms::UnwrapRequest { edeks }).await?.into_inner();
    let given = |result: kms::UnwrapResult| match result.result {
        Some(kms::unwrap_result::Result::Dek(dek)) => {
            assert_eq!(dek.len(), 32, "a DEK is an AES-256 key");
            Ok(())
        }
        Some(kms::unwrap_result::Result::Failure(failure)) => Err(failure),
        None => panic!("a result without content"),
    };
    Ok(answer.results.into_iter().map(given).collect())
}
