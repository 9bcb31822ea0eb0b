use strongroom_proto::{DataSuite, KeyName, ZoneId, ZonePath};

/// Why ciphertext cannot be read, or is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// Other bytes than a stream begins with.
    #[error("it is no stream of strongroom fs --raw get; a file of HDFS is brought in with --hdfs")]
    NotAStream,
    /// Other bytes than the file of a directory has.
    #[error("it says not what the directory is; fetch the tree again with strongroom fs --raw get -r")]
    NotADirectory,
    /// A later format.
    #[error("its format is {found}, and this version reads formats up to {newest}; upgrade strongroom here")]
    Format {
        /// The format's number.
        found: u8,
        /// The newest that is known.
        newest: u8,
    },
    /// A directory that was the root of a zone, and is not, or of another zone.
    #[error(
        "it is the root of a zone under key {key} where it comes from, and is to be the same here, so that nothing below it was copied; make it so: strongroom fs mkdir {path}; strongroom zone create {path} --key {key} --suite {suite} --id {id}"
    )]
    OtherZone {
        /// Where it is to be.
        path: ZonePath,
        /// The zone's key.
        key: KeyName,
        /// How its files are encrypted.
        suite: DataSuite,
        /// Its id.
        id: ZoneId,
    },
    /// What a stream says of its file is damaged.
    #[error("its header is damaged; fetch it again")]
    Header,
    /// A block is damaged, or not as long as it has to be.
    #[error("block {block} of the stream is damaged; remove the stream and fetch it again")]
    Block {
        /// Its number in the stream, from 0.
        block: u64,
    },
    /// A stream ends early, or does not end.
    #[error("it does not end where it has to; fetch it again")]
    End,
    /// A metadata service that does not know what came with a file.
    #[error(
        "the metadata service is of an earlier release and drops ACLs and attributes, so that the file is there with rights for nobody (mode 000); upgrade the metadata services, and put it again with --force"
    )]
    Dropped,
    /// What was read of a file or directory may be of two.
    #[error(
        "each time that it was looked at, something else came to its path or its permissions changed; fetch it again when that is over"
    )]
    Restless,
    /// A file without ciphertext.
    #[error("it is not encrypted, so that there is no ciphertext to carry; copy it with strongroom fs get")]
    Plain,
    /// A file that HDFS cannot have.
    #[error(
        "{why}, so that HDFS cannot read it as it is; who may decrypt it can rewrite it to be so: strongroom fs compact, in a zone of suite ctr-hdfs"
    )]
    NotHdfs {
        /// What about it HDFS does not have.
        why: &'static str,
    },
    /// An attribute that is not HDFS'.
    #[error(
        "the attribute raw.hdfs.crypto.file.encryption.info has to be 0x and hexadecimal, as hdfs dfs -getfattr -e hex prints it, of an EDEK, an IV of 16 bytes and a version name"
    )]
    Attribute,
}
