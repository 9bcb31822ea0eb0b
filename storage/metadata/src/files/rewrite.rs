//! Rewriting a file in place: a second body, under another DEK and in one extent, takes the place of the first one in one transaction
//! (ADR 35). The file stays the same inode, so that whoever renames or removes it meanwhile is followed; whoever writes it is not
//! kept from that, and then the rewriting is in vain.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{Edek, ExtentId, FileId, JobId, KeyVersion, ZonePath, metadata::v1 as pb};

use super::{
    commit::Commit,
    create::{TRIES_MAX, Terms, begin_body, granted, ids, kept},
    lease::{abandon, dead_ms, give_up, lost, owned},
    manifest,
    read::opened,
    reopen::{file_at, held},
};
use crate::{
    answers::Call,
    authority::Caller,
    config::Settings,
    core::Core,
    error::MetadataError,
    jobs::rewriting::{Holder, count, gives_deks, is_done, working},
    namespace::{
        permission::{Rights, check},
        remove::put_purge,
        resolve::{Found, climb},
    },
    quota::explained,
    schema::{access, access::transact, counted, keys, records},
    transfer::staged::{arrive, drop_index},
    zones::source::EdekSource,
};

/// What a caller asks to be rewritten.
#[derive(Debug, Clone)]
pub(crate) struct Rewriting {
    pub(crate) call: Call,
    pub(crate) path: ZonePath,
    /// The job that it is done for, and who holds that.
    pub(crate) job: Option<(JobId, Holder)>,
    pub(crate) who: Caller,
}

/// Opens a second body of a file.
pub(crate) async fn begin<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    rewriting: Rewriting,
) -> Result<pb::RewritingFile, MetadataError> {
    let mut version_min = KeyVersion(0);
    for _ in 0..TRIES_MAX {
        let mut txn = core.store.begin().await?;
        if let Some(done) = kept(&mut txn, &rewriting.call, &rewriting.who).await? {
            return both(core, &rewriting, done).await;
        }
        let settings = core.settings;
        let Some(Place { terms, .. }) = place(&mut txn, &rewriting, &settings).await? else {
            return Ok(pb::RewritingFile::default());
        };
        drop(txn);
        core.cluster.check_enough()?;
        version_min = terms.version_min();
        let edek = terms.take(core).await?;
        let (id, extent) = (FileId::generate(), ExtentId::generate());
        let dek_ms = core.clock.now_ms();
        let recorded = transact!(&core.store, [rewriting, edek], |txn| record(
            txn,
            &rewriting,
            edek.as_ref(),
            (id, extent),
            dek_ms,
            &settings
        ))
        .await;
        if let Some(body) = explained(&core.store, &rewriting.who, recorded).await? {
            return both(core, &rewriting, body).await;
        }
    }
    Err(MetadataError::StaleEdek {
        tries: TRIES_MAX,
        needed: version_min,
    })
}

fn granted_ids(body: &pb::CreatedFile) -> Result<(FileId, ExtentId), MetadataError> {
    ids(body.grant.as_ref().ok_or(MetadataError::Corrupt { what: "answer" })?)
}

/// The file that is to be rewritten, and what its zone gives it.
struct Place {
    file: FileId,
    generation: u64,
    terms: Terms,
}

/// Where it is, for somebody who may read and write it; none if the job has nothing to do with it.
async fn place(txn: &mut impl Txn, rewriting: &Rewriting, settings: &Settings) -> Result<Option<Place>, MetadataError> {
    let Rewriting { call, path, job, who } = rewriting;
    let (found, body) = file_at(txn, who, path).await?;
    check(who, &found, Rights::APPEND, path)?;
    if let Some((id, holder)) = *job {
        let job = working(txn, who, id, holder).await?;
        if found.zone.is_none() && gives_deks(&job) {
            return Err(MetadataError::NoDek(path.clone()));
        }
        if is_done(&job, &body) {
            return Ok(None);
        }
    }
    held(txn, found.id, path, call.now_ms()).await?;
    Ok(Some(Place {
        terms: Terms::of(txn, found.zone.as_ref(), path, settings).await?,
        file: found.id,
        generation: body.generation,
    }))
}

/// Records the second body, unless the file came to another zone or key version while the EDEK was fetched.
async fn record(
    txn: &mut impl Txn,
    rewriting: &Rewriting,
    edek: Option<&Edek>,
    (id, extent): (FileId, ExtentId),
    dek_ms: u64,
    settings: &Settings,
) -> Result<Option<pb::CreatedFile>, MetadataError> {
    if let Some(done) = kept(txn, &rewriting.call, &rewriting.who).await? {
        return Ok(Some(done));
    }
    let Some(place) = place(txn, rewriting, settings).await? else {
        return Ok(None);
    };
    if !place.terms.allow(edek) {
        return Ok(None);
    }
    let open = records::OpenFile {
        owner: rewriting.who.name.as_str().to_owned(),
        dek_ms,
        lease_expires_ms: dek_ms + settings.lease_ms,
        replaces: Some(records::Replaced {
            file_id: place.file.into(),
            generation: place.generation,
            job_id: rewriting.job.map(|(id, _)| id.into()).unwrap_or_default(),
        }),
        ..place.terms.open(edek, extent)
    };
    let created = begin_body(txn, id, &open, edek, settings.open_files_per_user)?;
    rewriting.call.keep(txn, &created);
    Ok(Some(created))
}

/// The answer: the file as it is, of the generation that the second body is for, and the whole grant.
async fn both<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    rewriting: &Rewriting,
    body: pb::CreatedFile,
) -> Result<pb::RewritingFile, MetadataError> {
    let Rewriting { who, .. } = rewriting;
    let (id, extent) = granted_ids(&body)?;
    let mut txn = core.store.begin().await?;
    let replaced = owned(&mut txn, id, extent, &who.name).await?.replaces;
    let replaced = replaced.ok_or(MetadataError::Corrupt { what: "open file" })?;
    let file = match unchanged(&mut txn, who, &replaced).await {
        Ok((found, _)) => opened(core, &mut txn, &found, &who.name).await,
        Err(error) => Err(error),
    };
    drop(txn);
    match file {
        Ok(file) => Ok(pb::RewritingFile {
            file: Some(file),
            body: Some(granted(core, body, &who.name)?),
        }),
        Err(error) => {
            let dead_ms = dead_ms(core.clock.now_ms(), &core.settings);
            abandon(&core.store, id, extent, &who.name, dead_ms).await?;
            Err(error)
        }
    }
}

/// The file that a second body is for, if it is what it was when that was begun, and the caller may still read and write it.
pub(super) async fn unchanged(
    txn: &mut impl Reader,
    who: &Caller,
    replaced: &records::Replaced,
) -> Result<(Found, records::Body), MetadataError> {
    let id = access::file_id(&replaced.file_id)?;
    let removed = || lost(id, &who.name, "it was removed");
    let found = climb(txn, who, id).await?.ok_or_else(removed)?;
    let body = access::body(txn, id).await?.ok_or_else(removed)?;
    check(who, &found, Rights::APPEND, &found.path)?;
    if body.generation == replaced.generation {
        return Ok((found, body));
    }
    Err(MetadataError::Changed(found.path))
}

/// Puts a second body in the place of the first one, whose blocks go. Nothing else about the file changes.
pub(super) async fn put_in_place(
    txn: &mut impl Txn,
    commit: &Commit,
    open: &records::OpenFile,
    replaced: &records::Replaced,
) -> Result<(Found, records::Body), MetadataError> {
    if commit.lease_expires_ms.is_some() {
        return Err(MetadataError::Field {
            field: "go_on",
            rule: "a file that is rewritten is done with its commit".to_owned(),
        });
    }
    manifest::check(commit, open, &[])?;
    let (mut found, before) = unchanged(txn, &commit.who, replaced).await?;
    let id = found.id;
    let lapsed = held(txn, id, &found.path, commit.call.now_ms()).await?;
    if !open.fits(found.zone.as_ref().map(|zone| zone.id)) {
        // It came to another zone, or to one.
        return Err(MetadataError::Changed(found.path));
    }
    let body = records::Body {
        same_since: before.same_since(),
        ..open.body(commit.extents.clone(), commit.manifest_mac.clone(), commit.generation)
    };
    check_length(commit, &before, &body)?;
    if !replaced.job_id.is_empty() {
        let job = replaced.job_id.as_ref().try_into()?;
        count(txn, &commit.who, job, body.size().length).await?;
    }
    if let Some(lapsed) = lapsed {
        // Its writer may come back, and would go on from what is no more there.
        give_up(txn, id, &lapsed, commit.dead_ms).await?;
    }
    counted::withdraw(txn, &before, id)?;
    // What was staged for a move is of the old DEK.
    drop_index(txn, id, &before)?;
    if let Some(job) = found.moving {
        arrive(txn, job, id).await?;
    }
    if let Some(edek) = &open.edek {
        counted::delete_index(txn, edek, commit.file)?;
    }
    counted::enter(txn, &body, id)?;
    put_purge(txn, FileId::generate(), &before.garbage());
    found.entry.file = Some(body.size());
    access::put(txn, &keys::body(id), &body);
    access::put(txn, &found.key, &found.entry);
    Ok((found, body))
}

fn check_length(commit: &Commit, before: &records::Body, after: &records::Body) -> Result<(), MetadataError> {
    let (had, has) = (before.size().length, after.size().length);
    if had == has {
        return Ok(());
    }
    Err(MetadataError::Manifest {
        file: commit.file,
        rule: format!("a file of {had} bytes is not rewritten with {has}"),
    })
}
