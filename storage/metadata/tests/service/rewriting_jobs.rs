//! Rewritings as jobs that clients hold, through the gRPC face: one client at a time, none lost, none done twice, each paused, ended and
//! counted as the file's own transaction says.

use std::sync::atomic::Ordering;

use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::fixture::{
    NODES, World, check,
    files::{behind, commit_request},
};

const LEASE_MS: u64 = 10_000;
const A: [u8; 16] = [1; 16];
const B: [u8; 16] = [2; 16];

/// A zone with a file of one extent and one of two.
async fn with_files() -> World {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    for path in ["/z/one", "/z/two"] {
        world.write(path, 10, &NODES).await.expect("a file");
    }
    let reopened = world.reopen("/z/two").await.expect("opened");
    let file = reopened.file.expect("the file");
    let more = commit_request(&reopened.grant.expect("a grant"), 20, &NODES);
    world.commit(behind(&file, more)).await.expect("appended");
    // So that a job which is begun now is younger than the files' DEKs.
    world.ahead_ms.fetch_add(1, Ordering::SeqCst);
    world
}

async fn start(world: &World, user: &str, kind: pb::RewritingKind, holder: [u8; 16]) -> Result<pb::Job, Failure> {
    let request = pb::StartRewritingRequest {
        path: "/z".into(),
        kind: kind.into(),
        holder: holder.to_vec().into(),
        throttle: None,
        whole_zone: true,
    };
    Ok(world.user(user).jobs.start_rewriting(request).await?.into_inner())
}

async fn hold(world: &World, job: &pb::Job, holder: [u8; 16], over: bool) -> Result<pb::Job, Failure> {
    let request = pb::HoldRewritingRequest {
        job_id: job.job_id.clone(),
        holder: holder.to_vec().into(),
        failures: 1,
        skipped: 2,
        over,
    };
    Ok(world.user("alice").jobs.hold_rewriting(request).await?.into_inner())
}

async fn rewrite(world: &World, job: &pb::Job, holder: [u8; 16], path: &str) -> Result<pb::RewritingFile, Failure> {
    let request = pb::RewriteFileRequest {
        path: path.to_owned().into(),
        job_id: job.job_id.clone(),
        holder: holder.to_vec().into(),
        ..pb::RewriteFileRequest::default()
    };
    Ok(world.user("alice").files.rewrite_file(request).await?.into_inner())
}

async fn put_in_place(world: &World, begun: &pb::RewritingFile) -> Result<pb::Stat, Failure> {
    let file = begun.file.as_ref().expect("the file");
    let grant = begun
        .body
        .as_ref()
        .and_then(|body| body.grant.as_ref())
        .expect("a grant");
    let length = file.stat.as_ref().expect("known").length;
    let mut request = commit_request(grant, length, &NODES);
    request.generation = file.generation + 1;
    world.commit(request).await
}

async fn control(world: &World, job: &pb::Job, action: pb::JobAction) -> pb::Job {
    let request = pb::ControlJobRequest {
        job_id: job.job_id.clone(),
        action: action.into(),
        throttle: None,
    };
    let changed = world.user("alice").jobs.control_job(request).await;
    changed.expect("hers").into_inner()
}

async fn shown(world: &World, job: &pb::Job) -> pb::Job {
    let job_id = job.job_id.clone();
    let job = world.user("alice").jobs.get_job(pb::GetJobRequest { job_id }).await;
    job.expect("hers").into_inner()
}

#[tokio::test]
async fn a_job_does_what_is_left_to_do_and_counts_it_with_the_file() {
    let world = with_files().await;
    let job = start(&world, "alice", pb::RewritingKind::Compaction, A)
        .await
        .expect("begun");
    assert_eq!(
        (job.kind(), job.state()),
        (pb::JobKind::Rewriting, pb::JobState::Running)
    );
    assert_eq!(
        rewrite(&world, &job, A, "/z/one").await,
        Ok(pb::RewritingFile::default()),
        "one extent"
    );
    let begun = rewrite(&world, &job, A, "/z/two").await.expect("begun");
    assert_eq!(shown(&world, &job).await.done, 0, "nothing is done yet");
    put_in_place(&world, &begun).await.expect("put in place");
    assert_eq!(
        rewrite(&world, &job, A, "/z/two").await,
        Ok(pb::RewritingFile::default()),
        "done"
    );
    let job = hold(&world, &job, A, true).await.expect("heard");
    let rewriting = job.rewriting.expect("a rewriting");
    assert_eq!((job.state(), job.done, job.failures), (pb::JobState::Completed, 1, 1));
    assert_eq!((rewriting.bytes, rewriting.skipped), (30, 2));
    assert!(job.message.contains("3 files are as they were"), "{}", job.message);

    let job = start(&world, "alice", pb::RewritingKind::Rekeying, A)
        .await
        .expect("begun");
    world.write("/z/new", 10, &NODES).await.expect("a file");
    assert_eq!(
        rewrite(&world, &job, A, "/z/new").await,
        Ok(pb::RewritingFile::default()),
        "a fresh DEK"
    );
    for path in ["/z/one", "/z/two"] {
        let edek = world.edek(path).await;
        put_in_place(&world, &rewrite(&world, &job, A, path).await.expect("begun"))
            .await
            .expect("put in place");
        assert_ne!(world.edek(path).await, edek);
        assert_eq!(
            rewrite(&world, &job, A, path).await,
            Ok(pb::RewritingFile::default()),
            "done"
        );
    }
}

#[tokio::test]
async fn one_client_at_a_time_and_another_one_once_it_is_gone() {
    let mut world = with_files().await;
    let kind = pb::RewritingKind::Rekeying;
    let job = start(&world, "alice", kind, A).await.expect("begun");
    let begun = rewrite(&world, &job, A, "/z/one").await.expect("begun");
    put_in_place(&world, &begun).await.expect("put in place");
    let again = start(&world, "alice", kind, A).await.expect("the same");
    assert_eq!(again.job_id, job.job_id);
    let held = start(&world, "alice", kind, B).await.expect_err("held");
    check(&held, Reason::JobHeld, &["strongroom job cancel"]);
    let late = rewrite(&world, &job, B, "/z/two").await.expect_err("not the holder");
    check(&late, Reason::JobStopped, &["taken on by another client"]);
    world.ahead_ms.fetch_add(LEASE_MS / 2, Ordering::SeqCst);
    hold(&world, &job, A, false).await.expect("heard");
    world.ahead_ms.fetch_add(LEASE_MS / 2 + 1000, Ordering::SeqCst);
    start(&world, "alice", kind, B).await.expect_err("heard of since");

    world.restart().await;
    world.ahead_ms.fetch_add(LEASE_MS, Ordering::SeqCst);
    world
        .until("the nodes are heard again", async |world| {
            world.cluster_status().await.nodes.iter().all(|node| node.alive)
        })
        .await;
    let message = shown(&world, &job).await.message;
    assert!(message.contains("go on with: strongroom zone rekey"), "{message}");
    let other = start(&world, "bob", kind, B).await.expect("a job of his own");
    assert_ne!(other.job_id, job.job_id);
    let taken = start(&world, "alice", kind, B).await.expect("taken on");
    assert_eq!((&taken.job_id, taken.done, taken.failures), (&job.job_id, 1, 0));
    assert_eq!(
        rewrite(&world, &taken, B, "/z/one").await,
        Ok(pb::RewritingFile::default()),
        "done"
    );
    let late = hold(&world, &job, A, true).await.expect_err("lost");
    check(&late, Reason::JobStopped, &["strongroom job show"]);
    assert_eq!(shown(&world, &job).await.state(), pb::JobState::Running);
}

#[tokio::test]
async fn a_job_that_was_paused_or_ended_takes_no_step() {
    let world = with_files().await;
    let job = start(&world, "alice", pb::RewritingKind::Rekeying, A)
        .await
        .expect("begun");
    let edek = world.edek("/z/one").await;
    let begun = rewrite(&world, &job, A, "/z/one").await.expect("begun");
    control(&world, &job, pb::JobAction::Pause).await;
    let stopped = put_in_place(&world, &begun).await.expect_err("paused");
    check(&stopped, Reason::JobStopped, &["was paused"]);
    let stopped = rewrite(&world, &job, A, "/z/two").await.expect_err("paused");
    check(&stopped, Reason::JobStopped, &["was paused"]);
    assert_eq!(world.edek("/z/one").await, edek);
    let told = hold(&world, &job, A, true).await.expect("heard");
    assert_eq!(told.state(), pb::JobState::Paused, "what is paused is not over");
    control(&world, &job, pb::JobAction::Resume).await;
    put_in_place(&world, &begun).await.expect("it goes on");
    let begun = rewrite(&world, &job, A, "/z/two").await.expect("begun");
    control(&world, &job, pb::JobAction::Cancel).await;
    put_in_place(&world, &begun).await.expect_err("canceled");
    let told = hold(&world, &job, A, false).await.expect("heard");
    assert_eq!((told.state(), told.done), (pb::JobState::Canceled, 1));
    let fresh = start(&world, "alice", pb::RewritingKind::Rekeying, B)
        .await
        .expect("another");
    assert_ne!(fresh.job_id, job.job_id);
}

#[tokio::test]
async fn a_job_is_its_owners_and_about_what_he_may_list() {
    let world = with_files().await;
    let job = start(&world, "alice", pb::RewritingKind::Compaction, A)
        .await
        .expect("begun");
    let request = pb::HoldRewritingRequest {
        job_id: job.job_id.clone(),
        holder: A.to_vec().into(),
        ..pb::HoldRewritingRequest::default()
    };
    let foreign = world.user("bob").jobs.hold_rewriting(request).await;
    check(
        &foreign.expect_err("hers").into(),
        Reason::NotFound,
        &["there is no job"],
    );
    let ask = async |user: &str, path: &str, whole_zone: bool| -> Result<pb::Job, Failure> {
        let request = pb::StartRewritingRequest {
            path: path.to_owned().into(),
            kind: pb::RewritingKind::Rekeying.into(),
            holder: B.to_vec().into(),
            throttle: Some(5),
            whole_zone,
        };
        Ok(world.user(user).jobs.start_rewriting(request).await?.into_inner())
    };
    world.mkdir("/z/d").await;
    let inside = ask("alice", "/z/d", true).await.expect_err("no zone");
    check(&inside, Reason::NotInZone, &["it is in the zone /z"]);
    let denied = ask("bob", "/z/one", false).await.expect_err("not his to write");
    check(&denied, Reason::PermissionDenied, &["user bob needs rw"]);
    check(
        &ask("bob", "/none", false).await.expect_err("nothing"),
        Reason::NotFound,
        &["/none"],
    );
    let slow = ask("alice", "/z/one", false).await.expect("begun");
    assert_eq!(slow.throttle, 5);
    let request = pb::ControlJobRequest {
        job_id: slow.job_id.clone(),
        action: pb::JobAction::Resume.into(),
        throttle: Some(7),
    };
    let faster = world
        .user("alice")
        .jobs
        .control_job(request)
        .await
        .expect("her own work");
    assert_eq!(faster.into_inner().throttle, 7);
}
