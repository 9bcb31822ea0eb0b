//! Long work as jobs through the gRPC face: told, paused, resumed, canceled, kept to a pace, and resumed after a restart.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use strongroom_kv::{Reader, Store, StoreError, Txn, transact};
use strongroom_metadata::Settings;
use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::fixture::{NODES, World, check, refused};

#[tokio::test]
async fn a_removal_is_a_job_that_is_paused_resumed_and_told() {
    let mut world = World::with(patient()).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d/e").await;
    let writes = (0..700).map(|number| world.write_empty(format!("/z/d/e/f{number:03}")));
    for written in futures::future::join_all(writes).await {
        written.expect("a file");
    }
    world.mkdir("/z/empty").await;
    assert_eq!(world.removed("/z/empty").await, "", "nothing is left to clear away");

    // A broken record holds it up.
    let file = world.stat("/z/d/e/f123").await.expect("a file").file_id;
    let sound = world.replace_body(&file, b"no file").await;
    let id = world.removed("/z/d").await;
    world.stat("/z/d").await.expect_err("gone at once");
    let job = world
        .control("alice", &id, pb::JobAction::Pause, None)
        .await
        .expect("hers");
    assert_eq!(
        (job.kind(), job.path.as_ref(), job.owner.as_str()),
        (pb::JobKind::Removal, &b"/z/d"[..], "alice")
    );

    world.restart().await;
    let paused = world.job("alice", &id).await.expect("hers");
    assert!(
        paused.state() == pb::JobState::Paused && paused.finished_ms.is_none(),
        "{paused:?}"
    );
    check(
        &world.job("bob", &id).await.expect_err("not his"),
        Reason::PermissionDenied,
        &["user bob"],
    );
    let denied = world.control("bob", &id, pb::JobAction::Resume, None).await;
    check(&denied.expect_err("not his"), Reason::PermissionDenied, &["user bob"]);
    let cancel = world.control("alice", &id, pb::JobAction::Cancel, None).await;
    check(
        &cancel.expect_err("too late"),
        Reason::InvalidArgument,
        &["strongroom job pause"],
    );
    assert_eq!(world.jobs("bob").await.len(), 0);
    assert_eq!(world.jobs("fsadmin").await.len(), 1, "a superuser sees all");

    world
        .control("fsadmin", &id, pb::JobAction::Resume, None)
        .await
        .expect("a superuser");
    world
        .until("it pauses itself", async |world| {
            world.job("alice", &id).await.expect("hers").state() == pb::JobState::Paused
        })
        .await;
    let held = world.job("alice", &id).await.expect("hers");
    assert!(
        held.message.contains("broken") && held.message.contains("strongroom job resume"),
        "{held:?}"
    );
    assert!(held.done < 701, "{held:?}");

    world.replace_body(&file, &sound).await;
    world
        .control("alice", &id, pb::JobAction::Resume, None)
        .await
        .expect("hers");
    let done = world.ended("alice", &id).await;
    assert_eq!(
        (done.state(), done.done, done.failures),
        (pb::JobState::Completed, 701, 0)
    );
    assert!(done.finished_ms.is_some() && done.message.is_empty() && world.jobs("alice").await.is_empty());
    let again = world
        .control("alice", &id, pb::JobAction::Pause, None)
        .await
        .expect("over");
    assert_eq!(again.state(), pb::JobState::Completed, "what is over stays so");
    let unknown = world.job("alice", &[7; 16]).await.expect_err("no such job");
    check(&unknown, Reason::NotFound, &["strongroom job list"]);
}

#[tokio::test]
async fn a_removed_zone_ends_its_re_encryption() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write_empty("/z/f".to_owned()).await.expect("a file");
    world.kms.roll("payroll");
    let started = world.reencrypt(None).await;
    let id = started.job_id.clone();
    world
        .control("fsadmin", &id, pb::JobAction::Pause, None)
        .await
        .expect("paused");
    let removal = world.removed("/z").await;
    world.ended("alice", &removal).await;
    let ended = world.job("fsadmin", &id).await.expect("a job");
    assert!(
        ended.is_over() && (ended.done == 1 || ended.message == "the zone was removed"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_proof_that_a_removal_is_in_the_way_of_names_the_jobs() {
    let mut world = World::start().await;
    let zone = world.zone("/z", "payroll").await.zone_id;
    world.write_empty("/z/f".to_owned()).await.expect("a file");
    world.kms.roll("payroll");
    let file = world.stat("/z/f").await.expect("a file").file_id;
    let sound = world.replace_body(&file, b"no file").await;
    let removal = world.removed("/z").await;
    let ask = pb::ProveZoneRequest {
        zone_id: zone,
        key_name: "payroll".to_owned(),
        ..pb::ProveZoneRequest::default()
    };
    let failure = refused(world.user("fsadmin").zones.prove_zone(ask.clone()).await);
    check(
        &failure,
        Reason::KeyInUse,
        &["1 files that use version 0", "which was removed", "strongroom job list"],
    );
    world.replace_body(&file, &sound).await;
    world.ended("alice", &removal).await;
    let proof = world.user("fsadmin").zones.prove_zone(ask).await;
    proof.expect("nothing is in the way any more");
}

#[tokio::test]
async fn a_re_encryption_keeps_to_its_pace_and_is_paused_and_canceled() {
    let mut world = World::with(patient()).await;
    world.zone("/z", "payroll").await;
    for number in 0..40 {
        world.write_empty(format!("/z/f{number}")).await.expect("a file");
    }
    world.kms.roll("payroll");
    let begun = Instant::now();
    let id = world.reencrypt(Some(10)).await.job_id;
    let denied = world.control("alice", &id, pb::JobAction::Pause, None).await;
    check(
        &denied.expect_err("not hers"),
        Reason::PermissionDenied,
        &["user alice"],
    );
    world
        .until("a page is done", async |world| world.status().await.files_done >= 10)
        .await;
    let told = world.status().await;
    assert_eq!((told.throttle, told.key_name.as_str()), (10, "payroll"));
    assert!(told.last_file.starts_with(b"/z/f"), "{told:?}");
    let paused = world
        .control("fsadmin", &id, pb::JobAction::Pause, None)
        .await
        .expect("paused");
    assert!(
        paused.done <= 10 * (begun.elapsed().as_secs() + 1),
        "{paused:?} after {:?}",
        begun.elapsed()
    );

    world.restart().await;
    let still = world.status().await;
    assert_eq!((still.state(), still.rate), (pb::ReencryptionState::Paused, 0));
    assert_eq!(still.files_done + still.files_left, 40);
    // Started again it goes on, at another pace.
    let resumed = world.reencrypt(Some(20)).await;
    assert_eq!((resumed.job_id, resumed.throttle), (id.clone(), 20));
    let canceled = world.cancel().await;
    assert_eq!(canceled.state(), pb::ReencryptionState::Canceled);
    assert!(
        canceled.finished_ms.is_some() && canceled.files_left > 0,
        "{canceled:?}"
    );
    let resumed = world
        .control("fsadmin", &id, pb::JobAction::Resume, None)
        .await
        .expect("over");
    assert_eq!(resumed.state(), pb::JobState::Canceled);

    let anew = world.reencrypt(None).await;
    assert_ne!(anew.job_id, id, "another job");
    world.ended("fsadmin", &anew.job_id).await;
    assert_eq!(world.status().await.files_left, 0);
    let mut zones = world.user("alice").zones;
    let listed = zones.list_reencryptions(pb::ListReencryptionsRequest::default());
    let listed = listed.await.expect("a list").into_inner().reencryptions;
    assert_eq!(listed, [world.status().await], "the newest of each zone");
    assert_eq!(
        world.all_jobs("fsadmin").await.len(),
        2,
        "older ones are among the jobs"
    );
}

#[tokio::test]
async fn jobs_that_are_over_are_forgotten_after_a_week_but_for_the_newest_re_encryption_of_a_zone() {
    const EIGHT_DAYS_MS: u64 = 8 * 24 * 3_600_000;
    let mut world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d/e").await;
    let removal = world.removed("/z/d").await;
    world.ended("alice", &removal).await;
    let mut newest = bytes::Bytes::new();
    for _ in 0..2 {
        newest = world.reencrypt(None).await.job_id;
        world.ended("fsadmin", &newest).await;
    }
    world.restart().await;
    assert_eq!(world.all_jobs("fsadmin").await.len(), 3);
    world.ahead_ms.store(EIGHT_DAYS_MS, Ordering::Relaxed);
    world.restart().await;
    world
        .until("the others are forgotten", async |world| {
            world.all_jobs("fsadmin").await.len() == 1
        })
        .await;
    assert_eq!(world.status().await.job_id, newest);
}

#[tokio::test]
async fn a_page_that_is_refused_as_a_whole_costs_only_the_files_that_it_is_refused_for() {
    let world = World::with(patient()).await;
    world.zone("/z", "payroll").await;
    for number in 0..60 {
        world.write_empty(format!("/z/f{number}")).await.expect("a file");
    }
    for name in ["/z/f3", "/z/f44"] {
        world.kms.refuse_with(&world.edek(name).await.wrapped);
    }
    world.kms.roll("payroll");
    let id = world.reencrypt(None).await.job_id;
    world.ended("fsadmin", &id).await;
    let done = world.status().await;
    assert_eq!((done.files_done, done.failures, done.files_left), (58, 2, 2));
    for (name, version) in [("/z/f3", 0), ("/z/f4", 1), ("/z/f44", 0), ("/z/f59", 1)] {
        assert_eq!(world.edek(name).await.key_version, version, "{name}");
    }
}

#[tokio::test]
async fn purges_that_always_fail_keep_no_other_from_its_turn() {
    let mut world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 1 << 20, &NODES).await.expect("a file");
    world.stop().await;
    let store = world.open_store().await;
    let mut txn = store.begin().await.expect("a transaction");
    for number in 0..150_u8 {
        txn.put(&[&b"p"[..], &[0; 15], &[number]].concat(), "no purge");
    }
    txn.commit().await.expect("committed");
    drop(store);
    world.run().await;
    world.remove("/z/f", false).await.expect("removed");
    world
        .until("its blocks are deleted", async |world| world.nodes.blocks() == 0)
        .await;
}

/// Many creates at once share a small stock: on a busy machine they wait for it.
fn patient() -> Settings {
    Settings {
        mint_wait_ms: 20_000,
        ..crate::fixture::quick()
    }
}

trait IsOver {
    fn is_over(&self) -> bool;
}

impl IsOver for pb::Job {
    fn is_over(&self) -> bool {
        matches!(self.state(), pb::JobState::Completed | pb::JobState::Canceled)
    }
}

impl World {
    /// Puts other bytes in the place of a file's record, and gives those that were there.
    async fn replace_body(&mut self, file: &[u8], bytes: &[u8]) -> bytes::Bytes {
        self.stop().await;
        let store = self.open_store().await;
        let key = [b"e", file].concat();
        let replaced: Result<_, StoreError> = transact(&store, |txn| {
            let (key, bytes) = (key.clone(), bytes.to_vec());
            Box::pin(async move {
                let before = txn.get(&key).await?;
                txn.put(&key, bytes);
                Ok(before)
            })
        })
        .await;
        let before = replaced.expect("committed").expect("a record");
        drop(store);
        self.run().await;
        before
    }

    /// Removes a directory and gives the job's id.
    async fn removed(&self, path: &str) -> bytes::Bytes {
        let request = pb::RemoveRequest {
            path: path.to_owned().into(),
            recursive: true,
            ..pb::RemoveRequest::default()
        };
        let removed = self.user("alice").namespace.remove(request).await;
        removed.expect("removed").into_inner().job_id
    }

    async fn job(&self, user: &str, id: &[u8]) -> Result<pb::Job, Failure> {
        let job_id = bytes::Bytes::copy_from_slice(id);
        Ok(self
            .user(user)
            .jobs
            .get_job(pb::GetJobRequest { job_id })
            .await?
            .into_inner())
    }

    async fn control(
        &self,
        user: &str,
        id: &bytes::Bytes,
        action: pb::JobAction,
        throttle: Option<u32>,
    ) -> Result<pb::Job, Failure> {
        let request = pb::ControlJobRequest {
            job_id: id.clone(),
            action: action.into(),
            throttle,
        };
        Ok(self.user(user).jobs.control_job(request).await?.into_inner())
    }

    /// The jobs that are not over.
    async fn jobs(&self, user: &str) -> Vec<pb::Job> {
        self.listed(user, true).await
    }

    async fn all_jobs(&self, user: &str) -> Vec<pb::Job> {
        self.listed(user, false).await
    }

    /// Jobs, in pages of one.
    async fn listed(&self, user: &str, unfinished: bool) -> Vec<pb::Job> {
        let (mut jobs, mut after) = (Vec::new(), bytes::Bytes::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let request = pb::ListJobsRequest {
                after,
                limit: 1,
                unfinished,
            };
            let page = self
                .user(user)
                .jobs
                .list_jobs(request)
                .await
                .expect("a list")
                .into_inner();
            jobs.extend(page.jobs);
            after = page.next;
            assert!(Instant::now() < deadline, "the list has no end");
            if after.is_empty() {
                return jobs;
            }
        }
    }

    async fn ended(&self, user: &str, id: &[u8]) -> pb::Job {
        self.until("the job is over", async |world| {
            world.job(user, id).await.expect("a job").is_over()
        })
        .await;
        self.job(user, id).await.expect("a job")
    }

    async fn reencrypt(&self, throttle: Option<u32>) -> pb::Reencryption {
        let path = "/z".into();
        let request = pb::StartReencryptionRequest { path, throttle };
        let started = self.user("fsadmin").zones.start_reencryption(request).await;
        started.expect("started").into_inner()
    }

    async fn cancel(&self) -> pb::Reencryption {
        let denied = pb::CancelReencryptionRequest { path: "/z".into() };
        let failure = refused(self.user("alice").zones.cancel_reencryption(denied.clone()).await);
        check(&failure, Reason::PermissionDenied, &["user alice"]);
        let canceled = self.user("fsadmin").zones.cancel_reencryption(denied).await;
        canceled.expect("canceled").into_inner()
    }

    async fn status(&self) -> pb::Reencryption {
        let request = pb::GetReencryptionRequest { path: "/z".into() };
        let status = self.user("alice").zones.get_reencryption(request).await;
        status.expect("a status").into_inner()
    }
}
