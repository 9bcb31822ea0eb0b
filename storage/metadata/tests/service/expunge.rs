//! Emptying the trash: each user's own, no more of it than they could remove, and in steps that are bounded.

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{Store, StoreConfig, Txn};
use strongroom_metadata::Settings;
use strongroom_proto::{FileId, Reason, RequestId, metadata::v1 as pb};

use crate::{
    fixture::{NODES, World, check, quick, refused},
    fsck::findings,
    quotas::{set, used},
    trash::hasty,
};

/// The stored records, from the same file that the service is built from.
#[allow(missing_docs, clippy::all, unreachable_pub, dead_code)]
mod records {
    include!(concat!(env!("OUT_DIR"), "/strongroom.metadata.records.v1.rs"));
}

impl World {
    /// Expunges all trashes of a user. Says what each call answered.
    async fn expunge_pages(&self, user: &str) -> Vec<pb::ExpungeResponse> {
        let mut request = pb::ExpungeRequest {
            immediate: true,
            ..pb::ExpungeRequest::default()
        };
        let mut pages = Vec::new();
        loop {
            let answer = self.user(user).trash.expunge(request.clone()).await;
            let answer = answer.expect("expunged").into_inner();
            request.from = answer.next.clone();
            pages.push(answer);
            if request.from.is_empty() {
                return pages;
            }
            assert!(pages.len() < 100, "{pages:?}");
        }
    }

    /// Puts directories into one, in its store.
    pub(crate) async fn fill(&mut self, path: &str, directories: usize) {
        self.fill_with(path, directories, false).await;
    }

    /// Puts directories into one, or files that are empty and not encrypted.
    async fn fill_with(&mut self, path: &str, names: usize, are_files: bool) {
        let parent = self.stat(path).await.expect("a directory").file_id;
        self.stop().await;
        let store = self.open_store().await;
        let numbers: Vec<_> = (0..names).collect();
        for part in numbers.chunks(2000) {
            let mut txn = store.begin().await.expect("a transaction");
            for number in part {
                let name = format!("{number:06}");
                let id: Bytes = FileId::generate().into();
                let entry = records::Entry {
                    id: id.clone(),
                    mode: 0o755,
                    owner: "alice".to_owned(),
                    group: "supergroup".to_owned(),
                    file: are_files.then(records::Size::default),
                    ..records::Entry::default()
                };
                let place = records::Place {
                    parent: parent.clone(),
                    name: name.clone(),
                    unlinked: false,
                };
                txn.put(
                    &[b"d", parent.as_ref(), name.as_bytes()].concat(),
                    entry.encode_to_vec(),
                );
                txn.put(&[b"i", id.as_ref()].concat(), place.encode_to_vec());
                if are_files {
                    put_plain(&mut txn, &id);
                }
            }
            txn.commit().await.expect("committed");
        }
        drop(store);
        self.run().await;
    }
}

/// What there is of a plain file in no zone besides its name.
fn put_plain(txn: &mut impl Txn, id: &[u8]) {
    let body = records::Body {
        plain: Some(records::Plain::default()),
        ..records::Body::default()
    };
    txn.put(&[b"e", id].concat(), body.encode_to_vec());
    txn.put(&[b"P\0", id].concat(), Bytes::new());
    txn.add(b"cP\0", 1, i64::MAX);
}

fn removed(page: &pb::ExpungeResponse) -> usize {
    page.trashes.iter().map(|trash| trash.removed.len()).sum()
}

#[tokio::test]
async fn expunging_is_each_users_own() {
    let world = World::start().await;
    for zone in ["/y", "/z"] {
        world.zone(zone, "payroll").await;
        world.open_to_all(zone).await;
        for name in ["a", "b", "c"] {
            world.touch(&format!("{zone}/{name}")).await;
        }
        world.trash("alice", &format!("{zone}/a")).await.expect("moved");
        world.trash("bob", &format!("{zone}/b")).await.expect("moved");
    }
    let done = world.expunge("alice", false).await;
    let mut paths: Vec<_> = done.iter().map(|trash| String::from_utf8_lossy(&trash.path)).collect();
    paths.sort();
    assert_eq!(paths, ["/y/.Trash/alice", "/z/.Trash/alice"]);
    assert!(
        done.iter()
            .all(|trash| trash.checkpoint.len() == 12 && trash.removed.is_empty())
    );
    assert!(world.is_there("/z/.Trash/bob/Current/z/b").await);
    // Two checkpoints within a second have a number behind the time.
    world.trash("alice", "/z/c").await.expect("moved");
    world.expunge("alice", false).await;
    assert_eq!(world.names("/z/.Trash/alice").await.len(), 2);
    world.trash("alice", "/y/c").await.expect("moved");
    let done = world.expunge("alice", true).await;
    assert_eq!(
        done.iter().map(|trash| trash.removed.len()).sum::<usize>(),
        4,
        "{done:?}"
    );
    assert_eq!(world.names("/y/.Trash/alice").await, [""; 0]);
    assert!(world.expunge("alice", true).await.is_empty());
    assert!(world.is_there("/z/.Trash/bob/Current/z/b").await);
}

#[tokio::test]
async fn what_is_too_large_to_be_counted_at_once_is_expunged_in_parts() {
    // A database takes a minute to take in so many names and to remove them part by part.
    let settings = Settings {
        plain_files: true,
        ..quick()
    };
    let mut world = World::with_store(settings, StoreConfig::default()).await;
    world.mkdir("/big").await;
    // Files: to list so many takes a fraction of the time that a call has for it, on any machine. Directories are listed one by one.
    world.fill_with("/big", 50_100, true).await;
    set(&world, "/", Some(100_000), None).await;
    assert_eq!(used(&world, "/").await, (50_102, 0));
    world.trash("alice", "/big").await.expect("moved");
    let pages = world.expunge_pages("alice").await;
    assert!(pages.len() > 1 && removed(&pages[0]) == 0, "{pages:?}");
    assert_eq!(pages.iter().map(removed).sum::<usize>(), 1, "{pages:?}");
    assert_eq!(world.names("/user/alice/.Trash").await, [""; 0]);
    assert_eq!(used(&world, "/").await, (4, 0), "the root, and three above the trash");
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn below_a_quota_a_call_removes_one_checkpoint() {
    let world = World::start().await;
    for zone in ["/y", "/z"] {
        world.zone(zone, "payroll").await;
        for number in 0..3 {
            world.mkdir(&format!("{zone}/d{number}/e")).await;
            world.trash("alice", &format!("{zone}/d{number}")).await.expect("moved");
            world.expunge("alice", false).await;
        }
    }
    set(&world, "/z", Some(100), None).await;
    set(&world, "/y", Some(100), None).await;
    let pages = world.expunge_pages("alice").await;
    assert!(pages.iter().all(|page| removed(page) <= 1), "{pages:?}");
    assert_eq!(pages.iter().map(removed).sum::<usize>(), 6);
    for zone in ["/y", "/z"] {
        assert_eq!(used(&world, zone).await, (3, 0), "{zone}");
    }
}

/// Of what is too large to be looked through in a transaction a call looks at one, and goes on behind it in the next one.
#[tokio::test]
async fn a_checkpoint_that_is_kept_is_looked_at_once_in_a_run() {
    // A database that has much else to do may take longer to list so many directories than they are looked through for.
    let mut world = World::with_store(quick(), StoreConfig::default()).await;
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    for directory in ["/z/a", "/z/b", "/z/c"] {
        world.mkdir(directory).await;
        world.fill(directory, 1100).await;
    }
    for directory in ["/z/a", "/z/c"] {
        world.open_to_all(directory).await;
        world.mkdir_as("bob", &format!("{directory}/private"), 0o700).await;
        world.mkdir_as("bob", &format!("{directory}/private/x"), 0o755).await;
    }
    world.mkdir("/z/d/e").await;
    for directory in ["/z/a", "/z/b", "/z/c", "/z/d"] {
        world.trash("alice", directory).await.expect("moved");
        world.expunge("alice", false).await;
    }
    let names = world.names("/z/.Trash/alice").await;
    let pages = world.expunge_pages("alice").await;
    let dealt_with: Vec<(Vec<&String>, Vec<&String>)> = pages
        .iter()
        .map(|page| {
            let kept = page.trashes.iter().flat_map(|trash| &trash.kept);
            let removed = page.trashes.iter().flat_map(|trash| &trash.removed);
            (kept.map(|kept| &kept.name).collect(), removed.collect())
        })
        .collect();
    let expected = [
        (vec![&names[0]], vec![]),
        (vec![], vec![&names[1]]),
        (vec![&names[2]], vec![&names[3]]),
    ];
    assert_eq!(dealt_with, expected, "{pages:?}");
    assert_eq!(
        world.names("/z/.Trash/alice").await,
        [names[0].clone(), names[2].clone()]
    );

    // What was answered is answered again, and goes on at the same place.
    let request = pb::ExpungeRequest {
        immediate: true,
        from: pages[0].next.clone(),
        request_id: RequestId::generate().into(),
    };
    let mut trash = world.user("alice").trash;
    let first = trash.expunge(request.clone()).await.expect("expunged").into_inner();
    let again = trash.expunge(request.clone()).await.expect("a repeat").into_inner();
    assert_eq!(first, again);
    assert_eq!(first.trashes[0].kept[0].name, names[2]);
    for broken in [&[7; 15][..], &[7; 300], &[255; 20]] {
        let request = pb::ExpungeRequest {
            from: Bytes::copy_from_slice(broken),
            request_id: RequestId::generate().into(),
            ..request.clone()
        };
        check(
            &refused(trash.expunge(request).await),
            Reason::InvalidArgument,
            &["from"],
        );
    }
}

/// Directories of alice's that hold something of others: one that is closed to her, and one of which she may take her own alone.
async fn with_others(world: &World) {
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    for directory in ["/z/closed", "/z/sticky"] {
        world.mkdir(directory).await;
        world.open_to_all(directory).await;
    }
    world.mkdir_as("bob", "/z/closed/private", 0o700).await;
    world.mkdir_as("bob", "/z/closed/private/x", 0o755).await;
    world.mkdir_as("bob", "/z/sticky/board", 0o755).await;
    let request = pb::SetAttributesRequest {
        path: "/z/sticky/board".into(),
        mode: Some(0o1777),
        ..pb::SetAttributesRequest::default()
    };
    let set = world.user("bob").namespace.set_attributes(request).await;
    set.expect("it is bob's");
    world.mkdir_as("carol", "/z/sticky/board/note", 0o755).await;
}

#[tokio::test]
async fn what_holds_a_directory_that_is_closed_to_its_remover_goes_to_the_trash_and_not_for_good() {
    let world = World::start().await;
    with_others(&world).await;
    let for_good = async |path: &str| {
        let request = pb::RemoveRequest {
            path: path.to_owned().into(),
            recursive: true,
            ..pb::RemoveRequest::default()
        };
        world.user("alice").namespace.remove(request).await
    };
    let closed = ["user alice needs rwx on", "closed/private (owner bob"];
    let sticky = ["sticky bit", "sticky/board (owner bob"];
    check(&refused(for_good("/z/closed").await), Reason::PermissionDenied, &closed);
    check(&refused(for_good("/z/sticky").await), Reason::PermissionDenied, &sticky);

    // One of her own is in a checkpoint before, and each of these in another one.
    world.mkdir("/z/own/e").await;
    for directory in ["/z/own", "/z/closed", "/z/sticky"] {
        world.trash("alice", directory).await.expect("as a rename");
        world.expunge("alice", false).await;
    }
    let told = world.expunge("alice", true).await.remove(0);
    assert_eq!((told.removed.len(), told.kept.len()), (1, 2), "{told:?}");
    for (kept, words) in told.kept.iter().zip([closed, sticky]) {
        for word in words {
            assert!(kept.why.contains(word), "{kept:?} lacks {word}");
        }
        let path = format!("/z/.Trash/alice/{}", kept.name);
        check(&refused(for_good(&path).await), Reason::PermissionDenied, &words);
    }
    assert_eq!(world.names("/z/.Trash/alice").await.len(), 2);

    // An empty directory is in nobody's way, and a superuser's in none.
    let at = format!("/z/.Trash/alice/{}/z/closed", told.kept[0].name);
    let back = world.rename(&at, "/z/closed", false).await;
    back.expect("it can be taken back");
    let request = pb::RemoveRequest {
        path: "/z/closed/private/x".into(),
        ..pb::RemoveRequest::default()
    };
    world.user("bob").namespace.remove(request).await.expect("it is bob's");
    for_good("/z/closed").await.expect("nothing closed holds anything");
    let request = pb::RemoveRequest {
        path: format!("/z/.Trash/alice/{}", told.kept[1].name).into(),
        recursive: true,
        ..pb::RemoveRequest::default()
    };
    let by_superuser = world.user("fsadmin").namespace.remove(request).await;
    by_superuser.expect("superusers may");
}

#[tokio::test]
async fn what_a_user_may_not_expunge_ends_when_its_time_is_over() {
    let world = World::with(hasty()).await;
    with_others(&world).await;
    world.write("/z/closed/f", 10, &NODES).await.expect("a file");
    world.trash("alice", "/z/closed").await.expect("moved");
    let told = world.expunge("alice", true).await.remove(0);
    assert_eq!((told.removed.len(), told.kept.len()), (0, 1), "{told:?}");
    world
        .until("the service has removed it", async |world| {
            world.names("/z/.Trash/alice").await.is_empty()
        })
        .await;
}
