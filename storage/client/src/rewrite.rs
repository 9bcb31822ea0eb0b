//! Rewriting a file in place: what it holds is read, sealed again under a DEK that nothing was sealed under before, in one extent,
//! and put in the place of what was there.

use std::{future::Future, sync::Arc};

use strongroom_dataplane::{Geometry, Manifest};
use strongroom_proto::{
    DataSuite, KeyName, RequestId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{
    FileReader, FsError, Stat, ZoneFs,
    extent_writer::{Ended, ExtentWriter},
    lease::{Keeper, Lease},
    opening::{Opening, parse_edek, wire_extent},
    plain::{CodeKey, FileKey},
    suite,
};

impl ZoneFs {
    /// Writes a file anew, under a DEK of its own and in one extent. It is readable all the time, and shows what was written only
    /// once all of it is durable; path, owner, permissions and times stay as they are.
    ///
    /// # Errors
    /// `lease-held` while somebody has it open to write it; `file-changed` if somebody wrote it meanwhile: then it is as they
    /// wrote it; otherwise as [`Self::open`] and [`crate::FileWriter::finish`].
    pub async fn rewrite(&self, path: &ZonePath) -> Result<Stat, FsError> {
        let request = pb::RewriteFileRequest {
            path: path.into(),
            request_id: RequestId::generate().into(),
            ..pb::RewriteFileRequest::default()
        };
        let rewritten = self.rewrite_at(path, request, None, |_| std::future::ready(())).await?;
        rewritten.ok_or_else(|| FsError::metadata_contradiction("it grants nothing"))
    }

    /// The same for a job, which may have nothing to do with the file, and may have to encrypt it on `terms`. Before each piece it waits for
    /// its `turn`.
    pub(crate) async fn rewrite_at<F: Future<Output = ()>>(
        &self,
        path: &ZonePath,
        request: pb::RewriteFileRequest,
        terms: Option<&Terms>,
        turn: impl Fn(usize) -> F,
    ) -> Result<Option<Stat>, FsError> {
        let answer = retry(Repeat::Harmless, || self.metadata().rewrite_file(request.clone())).await?;
        let Some(body) = answer.body else { return Ok(None) };
        let lease = self.lease(body.grant.clone())?;
        let giving_up = GivingUp(Some(Arc::clone(&lease)));
        let outcome = match terms.map_or(Ok(()), |terms| terms.check(&body)) {
            Ok(()) => self.rewrite_under(path, &lease, answer.file, body, turn).await,
            Err(error) => Err(error),
        };
        giving_up.disarm();
        if outcome.is_err()
            && let Err(failure) = lease.abandon().await
        {
            tracing::debug!(%failure, %path, "cannot give up a body");
        }
        outcome.map(Some)
    }

    async fn rewrite_under<F: Future<Output = ()>>(
        &self,
        path: &ZonePath,
        lease: &Arc<Lease>,
        file: Option<pb::OpenedFile>,
        body: pb::CreatedFile,
        turn: impl Fn(usize) -> F,
    ) -> Result<Stat, FsError> {
        let _keeper = Keeper::start(Arc::clone(lease));
        let file = file.ok_or_else(|| FsError::metadata_contradiction("it says nothing about the file"))?;
        let opening = Opening::parse(path, file)?;
        let (id, generation, length) = (opening.stat.file_id, opening.generation(), opening.stat.length);
        let suite = opening.geometry().suite();
        let old = self
            .unwrap(path, opening.edek.as_ref(), suite, self.plain_at(path))
            .await?;
        let key = suite::file_key(suite, &old)?;
        let (mut extent, seal) = self.second_body(path, lease, (&opening, &key), body).await?;
        let reader = FileReader::new(self.clone(), opening, &key)?;
        drop(old);
        let mut stream = reader.stream(0);
        while let Some(part) = stream.next().await.transpose()? {
            turn(part.len()).await;
            extent.append(&part).await?;
        }
        let request = seal.commit(path, lease, generation + 1, extent.end().await?)?;
        let stat = lease.commit(request).await?.stat;
        let mut stat = stat.ok_or_else(|| FsError::metadata_contradiction("it says nothing about the file"))?;
        if stat.path.is_empty() {
            // A rename further up moved it where no path leads for now.
            stat.path = path.into();
        }
        let stat = Stat::try_from(stat)?;
        if (stat.file_id, stat.length) != (id, length) {
            return Err(FsError::metadata_contradiction("it published another file"));
        }
        Ok(stat)
    }

    /// The extent of the second body, and what authenticates it.
    async fn second_body(
        &self,
        path: &ZonePath,
        lease: &Arc<Lease>,
        (opening, old): (&Opening, &FileKey<'_>),
        body: pb::CreatedFile,
    ) -> Result<(ExtentWriter, Seal), FsError> {
        let edek = parse_edek(body.edek)?;
        let suite = body.data_suite.parse().map_err(FsError::metadata_answer)?;
        let geometry = suite::geometry(path, suite, body.frame_bytes, body.block_bytes)?;
        // What was encrypted stays so, whatever the metadata service says of where it is.
        let secret = self.unwrap(path, edek.as_ref(), geometry.suite(), old.plain()).await?;
        let key = suite::file_key(geometry.suite(), &secret)?;
        if key.plain().is_none() && opening.are_one(&key, old) {
            // Nobody can have a file appear to be under another DEK.
            return Err(FsError::metadata_contradiction(
                "it gives the DEK that the file has already",
            ));
        }
        let file = opening.stat.file_id;
        let first = suite::first_seed(geometry.suite(), edek.as_ref())?;
        let extent = ExtentWriter::new(
            self.clone(),
            path.clone(),
            Arc::clone(lease),
            &key,
            file,
            geometry,
            first,
        )?;
        let seal = Seal {
            geometry,
            key: key.code(file),
        };
        Ok((extent, seal))
    }
}

/// What a file is put under that was not encrypted: its user said so, and the metadata service has no say in it.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) key: KeyName,
    pub(crate) suite: DataSuite,
}

impl Terms {
    fn check(&self, body: &pb::CreatedFile) -> Result<(), FsError> {
        let key = body.edek.as_ref().map(|edek| edek.key_name.as_str());
        if key == Some(self.key.as_str()) && body.data_suite == self.suite.as_str() {
            return Ok(());
        }
        Err(FsError::metadata_contradiction(
            "it has a file written in another suite or under another key than those of the zone that adopts it",
        ))
    }
}

/// What authenticates a body once it is written.
struct Seal {
    geometry: Geometry,
    key: CodeKey,
}

impl Seal {
    fn commit(
        &self,
        path: &ZonePath,
        lease: &Lease,
        generation: u64,
        ended: Option<Ended>,
    ) -> Result<pb::CommitFileRequest, FsError> {
        let (extents, first_index, blocks) = match ended {
            Some(ended) => (vec![ended.extent], ended.first_index, ended.blocks),
            None => (Vec::new(), 0, Vec::new()),
        };
        let manifest = Manifest::new(self.geometry, generation, extents).map_err(|source| FsError::Manifest {
            path: path.clone(),
            source,
        })?;
        Ok(pb::CommitFileRequest {
            file_id: lease.file().into(),
            extent_id: lease.extent().into(),
            generation,
            extents: manifest.extents().iter().map(wire_extent).collect(),
            first_index,
            blocks,
            manifest_mac: self.key.authenticate(&manifest),
            request_id: RequestId::generate().into(),
            ..pb::CommitFileRequest::default()
        })
    }
}

/// Gives a body up if the call that writes it is dropped.
struct GivingUp(Option<Arc<Lease>>);

impl GivingUp {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for GivingUp {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.abandon_in_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::kms::v1::Edek;

    use super::*;

    #[test]
    fn an_adopted_file_is_put_under_what_its_user_said_and_nothing_else() {
        let terms = Terms {
            key: "payroll".parse().expect("a name"),
            suite: DataSuite::Gcm,
        };
        let edek = |key: &str| Edek {
            key_name: key.to_owned(),
            ..Edek::default()
        };
        for (edek, suite, is_allowed) in [
            (Some(edek("payroll")), "gcm", true),
            (Some(edek("other")), "gcm", false),
            (Some(edek("payroll")), "ctr-hdfs", false),
            (Some(edek("payroll")), "plain", false),
            (None, "plain", false),
            (None, "gcm", false),
        ] {
            let body = pb::CreatedFile {
                edek,
                data_suite: suite.to_owned(),
                ..pb::CreatedFile::default()
            };
            assert_eq!(terms.check(&body).is_ok(), is_allowed, "{body:?}");
        }
    }
}
