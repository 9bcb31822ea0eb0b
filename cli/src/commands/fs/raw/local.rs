//! Local files that ciphertext is read from.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use strongroom_fs::{HDFS_ATTRIBUTE, RawBlock, RawError, RawHeader};

use crate::{
    error::Error,
    transfer::{mtime_ms, open_regular},
};

/// The mode of a file of HDFS, which says none here.
const HDFS_MODE: u32 = 0o644;

/// Where HDFS' attribute of a local file is.
pub(super) fn sidecar(local: &Path) -> PathBuf {
    let mut name = local.as_os_str().to_owned();
    name.push(".");
    name.push(HDFS_ATTRIBUTE);
    name.into()
}

/// A local file that ciphertext is read from. Its methods block.
pub(super) struct Stream {
    file: BufReader<File>,
    path: PathBuf,
    hdfs: bool,
}

impl Stream {
    /// Opens a stream, or a file of HDFS; one that the user `named` may be a link.
    pub(super) fn open(path: &Path, named: bool, hdfs: bool) -> Result<(Self, RawHeader), Error> {
        let (file, metadata) = open_regular(path, named)?;
        let mut stream = Self {
            file: BufReader::new(file),
            path: path.to_owned(),
            hdfs,
        };
        let header = match hdfs {
            true => stream.hdfs_header(&metadata),
            false => stream.header(),
        };
        Ok((stream, header?))
    }

    fn header(&mut self) -> Result<RawHeader, Error> {
        let mut prefix = [0; RawHeader::PREFIX_BYTES];
        self.fill(&mut prefix, RawError::NotAStream)?;
        let length = RawHeader::length(&prefix).map_err(|error| self.bad(error))?;
        let mut header = vec![0; length];
        self.fill(&mut header, RawError::Header)?;
        RawHeader::from_bytes(&prefix, &header).map_err(|error| self.bad(error))
    }

    fn hdfs_header(&self, metadata: &Metadata) -> Result<RawHeader, Error> {
        let beside = sidecar(&self.path);
        let attribute = fs::read_to_string(&beside).map_err(Error::local("cannot read the attribute", &beside))?;
        RawHeader::of_hdfs(&attribute, metadata.len(), HDFS_MODE, mtime_ms(metadata)).map_err(|error| self.bad(error))
    }

    /// Whether a stream is as long as its `header` says and ends as one does. Blocks are not looked at: a file of that name has all of
    /// them on disk, and they are checked where they are read.
    pub(super) fn is_whole(&mut self, header: &RawHeader) -> io::Result<bool> {
        if self.file.get_ref().metadata()?.len() != header.stream_bytes() {
            return Ok(false);
        }
        let behind_header = self.file.stream_position()?;
        let mut end = [0; RawHeader::END.len()];
        self.file
            .seek(SeekFrom::Start(header.stream_bytes() - end.len() as u64))?;
        self.file.read_exact(&mut end)?;
        self.file.seek(SeekFrom::Start(behind_header))?;
        Ok(end == RawHeader::END)
    }

    /// Whether the file that was opened still has its name.
    pub(super) fn has_its_name(&self) -> io::Result<bool> {
        let (opened, there) = (self.file.get_ref().metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((opened.dev(), opened.ino()) == (there.dev(), there.ino()))
    }

    /// The next block, which has to have so many bytes.
    pub(super) fn block(&mut self, wanted: usize) -> Result<RawBlock, Error> {
        let mut frame = [0; 8];
        if !self.hdfs {
            self.fill(&mut frame, RawError::End)?;
        }
        let mut bytes = vec![0; wanted];
        self.fill(&mut bytes, RawError::End)?;
        if self.hdfs {
            return Ok(RawBlock::of(bytes.into()));
        }
        let [length, crc32c] = [[0, 1, 2, 3], [4, 5, 6, 7]].map(|at| u32::from_be_bytes(at.map(|i: usize| frame[i])));
        if length as usize != wanted {
            return Err(self.bad(RawError::End));
        }
        Ok(RawBlock {
            bytes: bytes.into(),
            crc32c,
        })
    }

    /// The same of a stream, if its bytes are those that were summed. It is the block `number` of it, from 0.
    pub(super) fn sound_block(&mut self, number: u64, wanted: usize) -> Result<RawBlock, Error> {
        let block = self.block(wanted)?;
        if block.is_sound() {
            return Ok(block);
        }
        Err(self.bad(RawError::Block { block: number }))
    }

    /// Nothing may follow but what a stream ends with.
    pub(super) fn end(mut self) -> Result<(), Error> {
        let mut rest = Vec::new();
        let limit = RawHeader::END.len() as u64 + 1;
        let read = (&mut self.file).take(limit).read_to_end(&mut rest);
        read.map_err(Error::local("cannot read", &self.path))?;
        let wanted: &[u8] = if self.hdfs { &[] } else { &RawHeader::END };
        if rest == wanted {
            return Ok(());
        }
        Err(self.bad(RawError::End))
    }

    fn fill(&mut self, bytes: &mut [u8], short: RawError) -> Result<(), Error> {
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.bad(short)),
            Err(error) => Err(Error::local("cannot read", &self.path)(error)),
        }
    }

    fn bad(&self, error: RawError) -> Error {
        Error::raw(self.path.display().to_string(), error)
    }
}
