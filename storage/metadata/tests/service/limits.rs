//! Each limit of `docs/operations.md`, hit once: refused with the limit in the message, and just below it taken.

use strongroom_metadata::Settings;
use strongroom_proto::{Failure, Reason, limits, metadata::v1 as pb};

use crate::fixture::{
    NODES, World, check,
    files::{commit_request, extent},
    quick,
};

async fn mkdir(world: &World, path: &str) -> Result<(), Failure> {
    let request = pb::MakeDirectoryRequest {
        path: path.to_owned().into(),
        mode: 0o755,
        parents: true,
        ..pb::MakeDirectoryRequest::default()
    };
    world.user("alice").namespace.make_directory(request).await?;
    Ok(())
}

async fn names_in_an_acl(world: &World, count: usize) -> Result<(), Failure> {
    let entry = |number| pb::AclEntry {
        kind: pb::AclKind::User.into(),
        name: format!("user{number}"),
        rights: 4,
        ..pb::AclEntry::default()
    };
    let request = pb::SetAclRequest {
        path: "/z".into(),
        change: pb::AclChange::Modify.into(),
        entries: (0..count).map(entry).collect(),
        ..pb::SetAclRequest::default()
    };
    world.user("alice").namespace.set_acl(request).await?;
    Ok(())
}

async fn attribute(world: &World, name: String, bytes: usize) -> Result<(), Failure> {
    let request = pb::SetXattrRequest {
        path: "/z".into(),
        name,
        value: Some(vec![1; bytes].into()),
        ..pb::SetXattrRequest::default()
    };
    world.user("alice").namespace.set_xattr(request).await?;
    Ok(())
}

async fn attributes(world: &World, count: usize) -> Result<(), Failure> {
    for number in 0..count {
        attribute(world, format!("user.{number}"), 1).await?;
    }
    Ok(())
}

async fn extents(world: &World, count: usize) -> Result<(), Failure> {
    let reopened = world.reopen("/z/f").await?;
    let grant = reopened.grant.expect("a grant");
    let request = pb::CommitFileRequest {
        generation: 2,
        extents: vec![extent(&grant, 10); count],
        ..commit_request(&grant, 10, &NODES)
    };
    let committed = world.commit(request).await;
    let abandon = pb::AbandonFileRequest {
        file_id: grant.file_id,
        extent_id: grant.extent_id,
    };
    world.user("alice").files.abandon_file(abandon).await?;
    committed.map(drop)
}

async fn open_files(world: &World, count: usize) -> Result<(), Failure> {
    let mut grants = Vec::new();
    let mut outcome = Ok(());
    for number in 0..count {
        match world.create(&format!("/z/open{number}"), false).await {
            Ok(created) => grants.extend(created.grant),
            Err(failure) => outcome = Err(failure),
        }
    }
    for grant in grants {
        let abandon = pb::AbandonFileRequest {
            file_id: grant.file_id,
            extent_id: grant.extent_id,
        };
        world.user("alice").files.abandon_file(abandon).await?;
    }
    outcome
}

#[tokio::test]
async fn each_limit_is_refused_with_its_figure() {
    const OPEN_MAX: u32 = 4;
    let settings = Settings {
        open_files_per_user: OPEN_MAX,
        mint_wait_ms: 20_000,
        ..quick()
    };
    let world = World::with(settings).await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    let name = |bytes: usize| format!("/z/{}", "n".repeat(bytes));
    let long = |bytes: usize| {
        let whole = format!("/z{}", format!("/{}", "p".repeat(254)).repeat(16));
        whole[..bytes].to_owned()
    };
    let figures = [
        (
            "a name",
            mkdir(&world, &name(limits::NAME_BYTES_MAX)).await,
            mkdir(&world, &name(256)).await,
            "255",
        ),
        (
            "a path",
            mkdir(&world, &long(4000)).await,
            mkdir(&world, &format!("{}{}", long(4000), "/pp".repeat(32))).await,
            "4095",
        ),
        (
            "an ACL",
            names_in_an_acl(&world, limits::ACL_NAMES_MAX).await,
            names_in_an_acl(&world, 33).await,
            "at most 32",
        ),
        (
            "a value",
            attribute(&world, "user.v".to_owned(), limits::XATTR_VALUE_BYTES_MAX).await,
            attribute(&world, "user.v".to_owned(), 16_385).await,
            "16384",
        ),
        (
            "a name",
            attribute(&world, format!("user.{}", "n".repeat(250)), 1).await,
            attribute(&world, format!("user.{}", "n".repeat(251)), 1).await,
            "255",
        ),
        (
            "attributes",
            attributes(&world, limits::XATTRS_MAX - 2).await,
            attributes(&world, limits::XATTRS_MAX - 1).await,
            "32",
        ),
    ];
    for (what, taken, refused, figure) in figures {
        taken.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
        check(&refused.expect_err(what), Reason::InvalidArgument, &[figure]);
    }
    let failure = extents(&world, limits::EXTENTS_PER_FILE_MAX + 1)
        .await
        .expect_err("too many");
    check(&failure, Reason::InvalidArgument, &["at most 1024 extents"]);
    let (from, to) = (
        format!("/z/a{}", "/d".repeat(1000)),
        format!("/z/b{}", "/d".repeat(1100)),
    );
    mkdir(&world, &from).await.expect("made");
    mkdir(&world, &to).await.expect("made");
    let open = world.create(&format!("{from}/f"), false).await.expect("made");
    world.rename("/z/a", &format!("{to}/a"), false).await.expect("moved");
    let deep = world
        .commit(commit_request(&open.grant.expect("a grant"), 0, &[]))
        .await;
    check(
        &deep.expect_err("too deep"),
        Reason::InvalidMove,
        &["below too many directories"],
    );
    world
        .rename(&format!("{to}/a"), "/z/a", false)
        .await
        .expect("moved back");
    let most = OPEN_MAX as usize - 1;
    open_files(&world, most).await.expect("as many as one may");
    let failure = open_files(&world, most + 1).await.expect_err("one too many");
    check(
        &failure,
        Reason::QuotaExceeded,
        &["user alice has 4 files open", "open_files_per_user"],
    );
    open_files(&world, most).await.expect("those were given up");
}
