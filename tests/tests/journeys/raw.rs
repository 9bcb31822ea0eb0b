//! Zones that are encrypted as HDFS encrypts, and ciphertext that is carried in and out without a key.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use prost::Message as _;
use strongroom_proto::metadata::v1::RawHeader;
use strongroom_tests::{Bytes, Cli, Dev, seed};

/// More than a block, and not a whole number of anything.
const LENGTH: usize = (4 << 20) + 70_001;

#[test]
fn a_zone_of_suite_ctr_hdfs_is_written_read_and_changed_like_any_other() {
    let dev = Dev::start();
    let (cli, mut random) = (dev.cli(), Bytes::new(seed()));
    let local = dev.scratch("local").join("part");
    let mut model = random.take(LENGTH);
    fs::write(&local, &model).expect("written");
    let (keys, admin) = (cli.as_user("keyadmin"), cli.as_user("fsadmin"));
    keys.line("key create lake --suite hadoop --key-bits 128").ok();
    keys.line("key create payroll").ok();
    admin.line("fs mkdir /lake").ok();
    admin
        .line("zone create /lake --key payroll --suite ctr-hdfs")
        .fails(2, &["key payroll makes EDEKs of suite kw", "strongroom key create"]);
    let made = admin.line("zone create /lake --key lake --suite ctr-hdfs --owner alice");
    let warning = made.ok().stderr;
    assert!(warning.contains("not authenticated"), "{warning}");

    cli.line(&format!("fs put {} /lake/f", local.display())).ok();
    assert!(cli.line("fs cat /lake/f").ok().stdout == model);
    let info = cli.line("--json fs encryption-info /lake/f").json();
    assert_eq!(info["cipherSuite"]["name"], "AES/CTR/NoPadding");
    assert_eq!(
        (&info["keyName"], &info["ezKeyVersionName"]),
        (&"lake".into(), &"lake@0".into())
    );
    let hex = |field: &str| info[field].as_str().expect("hexadecimal").to_owned();
    assert_eq!((hex("edek").len(), hex("iv").len()), (32, 32), "of 128 bits each");
    let text = cli.line("fs encryption-info /lake/f").text();
    assert!(
        text.starts_with("{cipherSuite: {name: AES/CTR/NoPadding, algorithmBlockSize: 16}, "),
        "{text}"
    );
    cli.line("fs encryption-info /lake")
        .fails(2, &["no FileEncryptionInfo found", "zone info /lake"]);
    let part = cli.line("fs cat --offset 4194300 --length 11 /lake/f").ok().stdout;
    assert!(part == model[4_194_300..4_194_311]);
    cli.line("fs truncate --length 4194305 /lake/f").ok();
    model.truncate(4_194_305);
    cli.line(&format!("fs append {} /lake/f", local.display())).ok();
    model.extend_from_slice(&fs::read(&local).expect("there"));
    assert!(cli.line("fs cat /lake/f").ok().stdout == model);
}

/// Two clusters whose keys have one name and one material.
pub(crate) fn twins(home: &Dev) -> (Dev, std::path::PathBuf, [u8; 16]) {
    let away = Dev::start();
    let (folder, mut random) = (home.scratch("keys"), Bytes::new(seed()));
    let (wide, narrow) = (random.take(32), random.take(16));
    for (name, bytes) in [("payroll", &wide), ("lake", &narrow)] {
        let file = folder.join(name);
        fs::write(&file, bytes).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("own file");
    }
    for dev in [home, &away] {
        let keys = dev.cli().as_user("keyadmin");
        let file = |name: &str| folder.join(name).display().to_string();
        keys.line(&format!("key import payroll --suite kw --material {}", file("payroll")))
            .ok();
        keys.line(&format!("key import lake --suite hadoop --material {}", file("lake")))
            .ok();
        dev.cli().as_user("fsadmin").line("fs mkdir /payroll /lake").ok();
    }
    (away, folder, narrow.try_into().expect("16 bytes"))
}

pub(crate) fn id_of(cli: &Cli, zone: &str) -> String {
    cli.line(&format!("--json zone info {zone}")).json()["zone_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// AES-128-CTR by OpenSSL's command.
fn openssl(key: &[u8], iv: &[u8], text: &Path) -> Vec<u8> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut command = Command::new("openssl");
    command.args(["enc", "-d", "-aes-128-ctr", "-K", &hex(key), "-iv", &hex(iv), "-in"]);
    let output = command.arg(text).output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn ciphertext_goes_to_another_cluster_by_hands_that_have_no_key() {
    let home = Dev::start();
    let (away, folder, _) = twins(&home);
    let (here, there) = (home.cli(), away.cli());
    let (carrier, receiver) = (here.as_user("fsadmin"), there.as_user("fsadmin"));
    let mut random = Bytes::new(seed());
    let local = folder.join("part");
    let mut model = random.take(LENGTH);
    fs::write(&local, &model).expect("written");
    carrier.line("zone create /payroll --key payroll --owner alice").ok();
    here.line(&format!("fs put {} /payroll/f", local.display())).ok();
    here.line("fs truncate --length 4194400 /payroll/f").ok();
    here.line(&format!("fs append {} /payroll/f", local.display())).ok();
    let added = model.clone();
    model.truncate(4_194_400);
    model.extend_from_slice(&added);
    carrier.line("fs cat /payroll/f").fails(4, &["may not unwrap"]);

    let raw = folder.join("f.raw");
    let get = format!("fs --raw get /payroll/f {}", raw.display());
    carrier.line(&get).ok();
    let again = carrier.line(&get).text();
    assert!(again.contains("1 were done already"), "{again}");
    fs::write(&raw, b"something else").expect("written");
    carrier.line(&get).fails(8, &["--force"]);
    carrier.line(&format!("{get} --force")).ok();
    let shown = carrier.line("fs --raw stat /payroll/f").text();
    assert!(shown.contains("raw.strongroom.extents=2"), "{shown}");
    let hdfs = format!("fs --raw get --hdfs /payroll/f {}", folder.join("hdfs").display());
    carrier.line(&hdfs).fails(2, &["ctr-hdfs", "strongroom fs compact"]);

    let put = |name: &str| format!("fs --raw put {} /payroll/{name}", raw.display());
    receiver.line("zone create /payroll --key payroll --owner alice").ok();
    receiver
        .line(&put("f"))
        .fails(2, &["bound to zone", "zone create --id"]);
    receiver.line("fs rm -r /payroll").ok();
    receiver.line("fs mkdir /payroll").ok();
    let id = id_of(&here, "/payroll");
    receiver
        .line(&format!("zone create /payroll --key payroll --owner alice --id {id}"))
        .ok();
    there.line(&put("f")).fails(4, &["bring in ciphertext", "superusers"]);
    receiver.line(&put("f")).ok();
    assert_eq!(there.line("--json fs stat /payroll/f").json()["owner"], "alice");
    assert!(there.line("fs cat /payroll/f").ok().stdout == model);
    receiver.line("fs cat /payroll/f").fails(4, &["may not unwrap"]);

    // A second copy, and both are written on; the first one goes.
    receiver.line(&put("g")).ok();
    fs::write(&local, b"one").expect("written");
    there.line(&format!("fs append {} /payroll/f", local.display())).ok();
    fs::write(&local, b"two").expect("written");
    there.line(&format!("fs append {} /payroll/g", local.display())).ok();
    let whole = |end: &[u8]| [model.as_slice(), end].concat();
    assert!(there.line("fs cat /payroll/f").ok().stdout == whole(b"one"));
    there.line("fs rm /payroll/f").ok();
    assert!(there.line("fs cat /payroll/g").ok().stdout == whole(b"two"));
    there.line("fs truncate --length 100 /payroll/g").ok();
    assert!(there.line("fs cat /payroll/g").ok().stdout == model[..100]);

    // What is damaged is refused, and nothing shows.
    let whole = fs::read(&raw).expect("there");
    for (at, words) in [
        (20, "header is damaged"),
        (whole.len() / 2, "is damaged"),
        (whole.len() - 3, "does not end"),
    ] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&raw, &damaged).expect("written");
        receiver.line(&put("damaged")).fails(2, &[words]);
    }
    fs::write(&raw, &whole[..whole.len() - 100_000]).expect("written");
    receiver.line(&put("damaged")).fails(2, &["fetch it again"]);
    there.line("fs stat /payroll/damaged").fails(3, &["cannot find"]);
}

/// A stream's header, and where the first block is.
fn header(stream: &[u8]) -> (RawHeader, usize) {
    let length = u32::from_be_bytes(stream[8..12].try_into().expect("4 bytes")) as usize;
    let header = RawHeader::decode(&stream[16..16 + length]).expect("a header");
    (header, 16 + length)
}

/// A stream of this format, with this header and what comes behind it.
fn stream_of(format: u8, header: &[u8], blocks: &[u8]) -> Vec<u8> {
    let length = (header.len() as u32).to_be_bytes();
    let sum = crc_fast::crc32_iscsi(header).to_be_bytes();
    [b"SRMRAW\0", &[format][..], &length, &sum, header, blocks].concat()
}

/// The same stream as earlier releases wrote it.
fn of_format_1(stream: &[u8]) -> Vec<u8> {
    let (header, blocks) = header(stream);
    let header = header.file.expect("a file").encode_to_vec();
    stream_of(1, &header, &stream[blocks..])
}

/// The same stream with the sums that its blocks have.
fn summed_anew(stream: &[u8]) -> Vec<u8> {
    let (mut summed, mut at) = (stream.to_vec(), header(stream).1);
    while at + 8 < stream.len() {
        let length = u32::from_be_bytes(stream[at..at + 4].try_into().expect("4 bytes")) as usize;
        let block = at + 8..at + 8 + length;
        at = block.end;
        summed[block.start - 4..block.start].copy_from_slice(&crc_fast::crc32_iscsi(&stream[block]).to_be_bytes());
    }
    summed
}

#[test]
fn a_stream_gets_the_edek_that_its_file_was_given_since() {
    let dev = Dev::start();
    let (cli, zone) = (dev.cli(), dev.zone("payroll"));
    let (admin, folder) = (cli.as_user("fsadmin"), dev.scratch("raw"));
    let (local, raw) = (folder.join("part"), folder.join("f.raw"));
    let model = Bytes::new(seed()).take(LENGTH);
    fs::write(&local, &model).expect("written");
    cli.line(&format!("fs put {} {zone}/f", local.display())).ok();
    cli.line(&format!("fs setfacl -m user:guest:r-- {zone}/f")).ok();
    let get = format!("--json fs --raw get {zone}/f {}", raw.display());
    let got = || {
        let done = admin.line(&get).json();
        (done["files"].as_u64(), done["unchanged"].as_u64())
    };
    let version = |stream: &[u8]| {
        let file = header(stream).0.file.expect("a file");
        file.edek.expect("an EDEK").key_version
    };
    assert_eq!(got(), (Some(1), Some(0)));
    let old = fs::read(&raw).expect("there");
    cli.line("key roll payroll").ok();
    cli.line(&format!("zone reencrypt {zone} --wait")).ok();

    // Its blocks are those that were there: bytes that the service does not have stay as they are, if they are as they were summed.
    let damaged = {
        let mut stream = old.clone();
        let at = stream.len() - 20;
        stream[at] ^= 1;
        stream
    };
    let marked = summed_anew(&damaged);
    for (begins, ends) in [(&old, &old), (&of_format_1(&old), &old), (&marked, &marked)] {
        fs::write(&raw, begins).expect("written");
        assert_eq!(got(), (Some(1), Some(0)));
        let new = fs::read(&raw).expect("there");
        assert_eq!((version(&old), version(&new), new[7]), (0, 1, 2));
        assert!(new[header(&new).1..] == ends[header(ends).1..]);
        assert_eq!(header(&new).0.extended, header(&old).0.extended);
        assert_eq!(got(), (Some(0), Some(1)));
    }
    fs::write(&raw, &damaged).expect("written");
    let plainly = get.replace("--json ", "");
    admin
        .line(&plainly)
        .fails(2, &["block 1 of the stream is damaged", "fetch it again"]);
    assert!(fs::read(&raw).expect("there") == damaged);
    admin.line(&format!("{get} --force")).ok();
    let new = fs::read(&raw).expect("there");
    assert!(
        version(&new) == 1 && new[header(&new).1..] == old[header(&old).1..],
        "it was fetched"
    );
    let cut = &old[..old.len() - 1];
    fs::write(&raw, cut).expect("written");
    admin.line(&get).fails(8, &[]);
    assert!(fs::read(&raw).expect("there") == cut);

    // What comes of an older state of the service is not taken in place of what is newer.
    let (mut changed, blocks) = header(&old);
    let edek = changed.file.as_mut().and_then(|file| file.edek.as_mut());
    edek.expect("an EDEK").key_version = 2;
    let later = stream_of(2, &changed.encode_to_vec(), &old[blocks..]);
    fs::write(&raw, &later).expect("written");
    admin.line(&get).fails(8, &[]);
    assert!(fs::read(&raw).expect("there") == later);

    // The zone takes it back, which it would not as it was.
    let put = |name: &str| format!("fs --raw put {} {zone}/{name}", raw.display());
    fs::write(&raw, &old).expect("written");
    admin.line(&put("g")).fails(2, &["no EDEKs older than version 1"]);
    admin.line(&get).ok();
    admin.line(&put("g")).ok();
    assert!(cli.line(&format!("fs cat {zone}/g")).ok().stdout == model);
}

#[test]
fn hdfs_reads_what_strongroom_writes_and_the_other_way_round() {
    let home = Dev::start();
    let (away, folder, ez_key) = twins(&home);
    let (here, there) = (home.cli(), away.cli());
    let (carrier, receiver) = (here.as_user("fsadmin"), there.as_user("fsadmin"));
    let mut random = Bytes::new(seed());
    let (local, out) = (folder.join("part"), folder.join("out"));
    let model = random.take(LENGTH);
    fs::write(&local, &model).expect("written");
    for admin in [&carrier, &receiver] {
        admin
            .line("zone create /lake --key lake --suite ctr-hdfs --owner alice")
            .ok();
    }
    here.line(&format!("fs put {} /lake/f", local.display())).ok();
    carrier
        .line(&format!("fs --raw get --hdfs /lake/f {}", out.display()))
        .ok();

    // As HDFS would: the attribute has EDEK and IV, the DEK is decrypted under the inverted IV, the file under the IV.
    let attribute = format!("{}.raw.hdfs.crypto.file.encryption.info", out.display());
    let value = fs::read_to_string(&attribute).expect("the attribute");
    let digits = value.strip_prefix("0x").expect("hexadecimal");
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    // Tag and length, then 16 bytes, twice; then the name of the version.
    assert_eq!((&bytes[..2], &bytes[18..20]), (&[0x0a, 16][..], &[0x12, 16][..]));
    assert_eq!(&bytes[36..], b"\x1a\x06lake@0");
    let inverted: Vec<u8> = bytes[20..36].iter().map(|byte| !byte).collect();
    let edek = folder.join("edek");
    fs::write(&edek, &bytes[2..18]).expect("written");
    let dek = openssl(&ez_key, &inverted, &edek);
    assert!(openssl(&dek, &bytes[20..36], &out) == model, "what HDFS would read");

    let put = format!("fs --raw put --hdfs {} /lake/f", out.display());
    there.line(&put).fails(4, &["superusers"]);
    receiver.line(&put).ok();
    receiver.line("fs chown alice /lake/f").ok();
    assert!(there.line("fs cat /lake/f").ok().stdout == model);
    fs::write(&local, b"more").expect("written");
    there.line(&format!("fs append {} /lake/f", local.display())).ok();
    assert!(there.line("fs cat /lake/f").ok().stdout == [model.as_slice(), b"more"].concat());
    receiver
        .line(&format!("fs --raw get --hdfs --force /lake/f {}", out.display()))
        .fails(2, &["several extents", "strongroom fs compact"]);
    fs::write(&attribute, value.replace("6c616b65", "6f636561")).expect("written");
    receiver
        .line(&format!("fs --raw put --hdfs {} /lake/g", out.display()))
        .fails(2, &["KeyVersion 'ocea@0' does not belong to the key 'lake'"]);
}
