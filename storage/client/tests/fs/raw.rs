//! Ciphertext keeps the rights that its file had, whatever service it comes to and whatever is renamed while it is read.

use strongroom_fs::{CreateOptions, FsError, RawBlock, RawError, RawHeader, Stat};
use strongroom_proto::{
    Reason,
    metadata::v1::{AclEntry, AclKind, RawExtended, Xattr},
};

use crate::stand_ins::{World, path};

const BLOCK: usize = 8192;
const LENGTH: usize = 2 * BLOCK + 77;

fn entry(kind: AclKind, name: &str, rights: u32) -> AclEntry {
    AclEntry {
        default: false,
        kind: kind.into(),
        name: name.to_owned(),
        rights,
    }
}

/// Mode 0660 to look at, and yet nothing for the owning group.
fn guarded() -> RawExtended {
    RawExtended {
        acl: vec![
            entry(AclKind::User, "", 6),
            entry(AclKind::User, "bob", 6),
            entry(AclKind::Group, "", 0),
            entry(AclKind::Mask, "", 6),
            entry(AclKind::Other, "", 0),
        ],
        xattrs: vec![Xattr {
            name: "user.a".to_owned(),
            value: vec![0, 255].into(),
        }],
    }
}

async fn write(world: &World, name: &str, mode: u32, extended: Option<RawExtended>) -> Vec<u8> {
    let new = CreateOptions { mode, overwrite: false };
    let data: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + name.len()) as u8).collect();
    let mut writer = world.fs.create(&path(name), new).await.expect("created");
    writer.write(&data).await.expect("written");
    writer.finish(1234).await.expect("finished");
    if let Some(extended) = extended {
        world.metadata.change(name, |file| file.apply(extended));
    }
    data
}

/// A file as a stream has it.
async fn fetched(world: &World, name: &str) -> (RawHeader, Vec<RawBlock>) {
    let mut reader = world.fs.open_raw(&path(name)).await.expect("opened");
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().await.expect("read") {
        blocks.push(block);
    }
    (reader.header().clone(), blocks)
}

async fn put(world: &World, name: &str, (header, blocks): &(RawHeader, Vec<RawBlock>)) -> Result<Stat, FsError> {
    let mut writer = world.fs.create_raw(&path(name), header, false).await?;
    for block in blocks {
        writer.put(block.clone()).await?;
    }
    writer.finish().await
}

#[tokio::test]
async fn a_copy_has_the_rights_of_its_file() {
    let world = World::start(BLOCK as u32).await;
    for (number, extended) in [None, Some(guarded())].into_iter().enumerate() {
        let (name, copy) = (format!("/z/{number}"), format!("/z/{number}.copy"));
        let data = write(&world, &name, 0o4660, extended.clone()).await;
        let sent = fetched(&world, &name).await;
        let stat = put(&world, &copy, &sent).await.expect("taken");
        assert_eq!((stat.mode, stat.has_acl), (0o4660, extended.is_some()));
        assert!(sent.0.is_same(&fetched(&world, &copy).await.0));
        let mut read = vec![0; LENGTH];
        let reader = world.fs.open(&path(&copy)).await.expect("opened");
        assert_eq!(reader.read_at(0, &mut read).await.expect("read"), LENGTH);
        assert!(read == data);
    }
}

#[tokio::test]
async fn a_service_that_drops_acls_is_told_and_leaves_the_file_closed() {
    let world = World::start(BLOCK as u32).await;
    for (number, extended) in [None, Some(guarded())].into_iter().enumerate() {
        let (name, copy) = (format!("/z/{number}"), format!("/z/{number}.copy"));
        write(&world, &name, 0o660, extended).await;
        let sent = fetched(&world, &name).await;
        world.metadata.lock().drops_extended = true;
        let refusal = put(&world, &copy, &sent).await.expect_err("the ACL is lost");
        let is_told = matches!(
            &refusal,
            FsError::Raw {
                source: RawError::Dropped,
                ..
            }
        );
        assert!(
            is_told && refusal.to_string().contains("upgrade the metadata services"),
            "{refusal}"
        );
        let mut state = world.metadata.lock();
        assert_eq!(state.files[copy.as_bytes()].stat.mode, 0, "nobody has a right to it");
        state.drops_extended = false;
    }
}

#[tokio::test]
async fn rights_are_those_of_the_file_whose_bytes_come() {
    let world = World::start(BLOCK as u32).await;
    let swap = ["/z/closed", "/z/guarded"];
    write(&world, swap[0], 0o600, None).await;
    write(&world, swap[1], 0o660, Some(guarded())).await;
    // Once after what is opened first, and once more after what is there then; or there and back while its ACL is read.
    for (name, swaps) in [(swap[0], 1), (swap[1], 1), (swap[0], 2), (swap[1], 2), (swap[1], 3)] {
        world.metadata.lock().swaps = vec![swap; swaps];
        let found = fetched(&world, name).await;
        assert!(world.metadata.lock().swaps.is_empty());
        let quiet = fetched(&world, name).await;
        assert!(found == quiet, "{name} after {swaps} swaps");
    }
    // Nobody looks for ever.
    world.metadata.lock().swaps = vec![swap; 100];
    let failure = world.fs.open_raw(&path(swap[0])).await.expect_err("never still");
    assert_eq!(failure.reason(), Reason::Overloaded, "{failure}");
    assert!(world.metadata.lock().swaps.len() > 80);
}
