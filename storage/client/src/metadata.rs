use std::future::Future;

use strongroom_proto::{
    limits::MESSAGE_BYTES_MAX,
    metadata::v1::{
        self as pb, cluster_client::ClusterClient, files_client::FilesClient, fsck_client::FsckClient,
        jobs_client::JobsClient, namespace_client::NamespaceClient, raw_client::RawClient,
        transfers_client::TransfersClient, trash_client::TrashClient, zones_client::ZonesClient,
    },
    transport::{self, Remotes, Role, TlsIdentity},
};
use tonic::{Response, Status, transport::Channel};

macro_rules! calls {
    ($($client:ident . $call:ident ($request:ident) -> $answer:ident;)*) => {
        $(pub(crate) fn $call(
            &self,
            request: pb::$request,
        ) -> impl Future<Output = Result<Response<pb::$answer>, Status>> + use<> {
            let mut client = self.$client.clone();
            async move { client.$call(request).await }
        })*
    };
}

/// The metadata service. Each call is one attempt; [`transport::retry`] repeats them.
#[derive(Clone)]
pub(crate) struct Metadata {
    namespace: NamespaceClient<Channel>,
    files: FilesClient<Channel>,
    zones: ZonesClient<Channel>,
    jobs: JobsClient<Channel>,
    transfers: TransfersClient<Channel>,
    trash: TrashClient<Channel>,
    raw: RawClient<Channel>,
    cluster: ClusterClient<Channel>,
    fsck: FsckClient<Channel>,
}

impl Metadata {
    pub(crate) fn connect(remotes: &Remotes, tls: &TlsIdentity) -> Self {
        let channel = transport::connect_any(remotes, tls, Role::Metadata);
        Self {
            namespace: NamespaceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            files: FilesClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            zones: ZonesClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            raw: RawClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            jobs: JobsClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            transfers: TransfersClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            trash: TrashClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            fsck: FsckClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            cluster: ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
        }
    }

    calls! {
        namespace.make_directory(MakeDirectoryRequest) -> Stat;
        namespace.get_stat(GetStatRequest) -> Stat;
        namespace.list(ListRequest) -> ListResponse;
        namespace.rename(RenameRequest) -> Stat;
        namespace.remove(RemoveRequest) -> RemoveResponse;
        namespace.set_attributes(SetAttributesRequest) -> Stat;
        namespace.get_acl(GetAclRequest) -> Acl;
        namespace.set_acl(SetAclRequest) -> Acl;
        namespace.set_quota(SetQuotaRequest) -> Quotas;
        namespace.get_quotas(GetQuotasRequest) -> Quotas;
        namespace.set_xattr(SetXattrRequest) -> Stat;
        namespace.get_xattrs(GetXattrsRequest) -> Xattrs;
        files.create_file(CreateFileRequest) -> CreatedFile;
        files.add_blocks(AddBlocksRequest) -> WriteGrant;
        files.commit_file(CommitFileRequest) -> CommittedFile;
        files.reopen_file(ReopenFileRequest) -> ReopenedFile;
        files.recover_file(RecoverFileRequest) -> RecoverFileResponse;
        files.abandon_file(AbandonFileRequest) -> AbandonFileResponse;
        files.rewrite_file(RewriteFileRequest) -> RewritingFile;
        files.open_file(OpenFileRequest) -> OpenedFile;
        files.list_blocks(ListBlocksRequest) -> ListBlocksResponse;
        zones.create_zone(CreateZoneRequest) -> Zone;
        zones.adopt_zone(AdoptZoneRequest) -> Zone;
        zones.list_zones(ListZonesRequest) -> ListZonesResponse;
        zones.get_zone(GetZoneRequest) -> Zone;
        zones.start_reencryption(StartReencryptionRequest) -> Reencryption;
        zones.get_reencryption(GetReencryptionRequest) -> Reencryption;
        zones.list_reencryptions(ListReencryptionsRequest) -> ListReencryptionsResponse;
        zones.cancel_reencryption(CancelReencryptionRequest) -> Reencryption;
        raw.create_raw(CreateRawRequest) -> CreatedRaw;
        raw.commit_raw(CommitRawRequest) -> Stat;
        jobs.list_jobs(ListJobsRequest) -> ListJobsResponse;
        jobs.get_job(GetJobRequest) -> Job;
        jobs.control_job(ControlJobRequest) -> Job;
        jobs.start_rewriting(StartRewritingRequest) -> Job;
        jobs.hold_rewriting(HoldRewritingRequest) -> Job;
        transfers.begin_transfer(BeginTransferRequest) -> BegunTransfer;
        transfers.transfer_file(TransferFileRequest) -> Stat;
        transfers.list_transfer(ListTransferRequest) -> ListTransferResponse;
        transfers.stage_transfer(StageTransferRequest) -> StageTransferResponse;
        transfers.finish_transfer(FinishTransferRequest) -> FinishTransferResponse;
        zones.prove_zone(ProveZoneRequest) -> ProveZoneResponse;
        trash.expunge(ExpungeRequest) -> ExpungeResponse;
        trash.provision_trash(ProvisionTrashRequest) -> Stat;
        cluster.get_cluster_status(GetClusterStatusRequest) -> ClusterStatus;
        fsck.check_page(CheckPageRequest) -> CheckPageResponse;
        fsck.list_replicas(ListReplicasRequest) -> ReplicaList;
        fsck.report_lost(ReportLostRequest) -> ReportLostResponse;
        fsck.account_for(AccountForRequest) -> AccountForResponse;
        fsck.take_inventory(TakeInventoryRequest) -> TakeInventoryResponse;
    }
}
