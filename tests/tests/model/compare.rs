//! Holds what can be seen of the namespace against the oracle: names, zones, bytes.

use std::collections::BTreeMap;

use strongroom_fs::{FileKind, ZoneFs};
use strongroom_proto::{DataSuite, Reason, ZonePath};

use crate::{
    oracle::{Found, Oracle},
    play::{is_as, told},
};

/// Everything there is, and nothing else.
pub(crate) async fn all(fs: &ZoneFs, oracle: &Oracle) -> Result<(), String> {
    let mut zones = BTreeMap::new();
    for at in oracle.paths() {
        path(fs, oracle, &at).await?;
        if let Ok(Found::Directory { zone: Some(zone), .. }) = oracle.look(&at) {
            zones.insert(at.to_string(), zone.key.clone());
        }
    }
    let listed = fs.zones().await.map_err(|error| told(&error))?;
    let listed = listed
        .into_iter()
        .map(|zone| (zone.path.to_string(), zone.key_name.to_string()));
    let listed: BTreeMap<_, _> = listed.collect();
    if listed == zones {
        return Ok(());
    }
    Err(format!("there are the zones {listed:?}, expected {zones:?}"))
}

/// What is at a path, or that nothing is.
pub(crate) async fn path(fs: &ZoneFs, oracle: &Oracle, at: &ZonePath) -> Result<(), String> {
    let seen = match (fs.stat(at).await, oracle.look(at)) {
        (Err(error), Err(reason)) if error.reason() == reason => return Ok(()),
        (Err(error), expected) => return Err(format!("{at}: {}, expected {expected:?}", told(&error))),
        (Ok(_), Err(reason)) => return Err(format!("{at} is there, though {} was expected", reason.as_str())),
        (Ok(stat), Ok(found)) => (stat, found),
    };
    match seen {
        (stat, Found::File(file)) if stat.kind == FileKind::File => {
            if !is_as(&stat, file.bytes.len() as u64, file.mtime_ms) {
                return Err(format!("{at} is {stat:?}, expected {} bytes", file.bytes.len()));
            }
            if (stat.data_suite == Some(DataSuite::Plain)) != file.plain {
                return Err(format!("{at} is {stat:?}, expected that it is plain: {}", file.plain));
            }
            bytes(fs, at, &file.bytes).await?;
        }
        (stat, Found::Directory { names: expected, .. }) if stat.kind == FileKind::Directory => {
            names(fs, at, &expected).await?;
        }
        (stat, expected) => return Err(format!("{at} is {stat:?}, expected {expected:?}")),
    }
    attributes(fs, oracle, at).await?;
    zone(fs, oracle, at).await
}

/// Permission bits and extended attributes.
async fn attributes(fs: &ZoneFs, oracle: &Oracle, at: &ZonePath) -> Result<(), String> {
    let mode = fs.stat(at).await.map_err(|error| told(&error))?.mode;
    let attached = fs.xattrs(at, &[]).await.map_err(|error| told(&error))?;
    let attached: BTreeMap<_, _> = attached
        .into_iter()
        .map(|(name, value)| (name, value.to_vec()))
        .collect();
    let (expected, kept) = oracle.attributes(at).map_err(|reason| reason.as_str().to_owned())?;
    if (mode, &attached) == (expected, kept) {
        return Ok(());
    }
    Err(format!(
        "{at} has mode {mode:o} and {attached:?}, expected {expected:o} and {kept:?}"
    ))
}

/// Bytes of the file at a path, 0 if there is none.
pub(crate) fn length(oracle: &Oracle, at: &ZonePath) -> u64 {
    match oracle.look(at) {
        Ok(Found::File(file)) => file.bytes.len() as u64,
        _ => 0,
    }
}

async fn bytes(fs: &ZoneFs, at: &ZonePath, expected: &[u8]) -> Result<(), String> {
    let reader = fs.open(at).await.map_err(|error| told(&error))?;
    let mut stream = reader.stream(0);
    let mut read = Vec::new();
    while let Some(part) = stream.next().await {
        read.extend_from_slice(&part.map_err(|error| format!("reading {at}: {}", told(&error)))?);
    }
    if read == expected {
        return Ok(());
    }
    let same = read
        .iter()
        .zip(expected)
        .take_while(|(read, expected)| read == expected);
    let (same, read, expected) = (same.count(), read.len(), expected.len());
    Err(format!(
        "{at} has {read} bytes that differ from the {expected} expected at {same}"
    ))
}

async fn names(fs: &ZoneFs, at: &ZonePath, expected: &[&str]) -> Result<(), String> {
    let page = fs.list(at, None).await.map_err(|error| told(&error))?;
    let listed: Vec<_> = page.entries.iter().map(|entry| entry.name.as_str()).collect();
    if listed == expected && page.next.is_none() {
        return Ok(());
    }
    Err(format!("{at} holds {listed:?}, expected {expected:?}"))
}

async fn zone(fs: &ZoneFs, oracle: &Oracle, at: &ZonePath) -> Result<(), String> {
    let expected = oracle.zone(at).ok().flatten();
    let expected = expected.map(|(path, zone)| (path, zone.key.clone()));
    match fs.zone(at).await {
        Ok(zone) if expected == Some((zone.path.clone(), zone.key_name.to_string())) => Ok(()),
        Err(error) if expected.is_none() && error.reason() == Reason::NotInZone => Ok(()),
        Ok(zone) => Err(format!("{at} is in {zone:?}, expected {expected:?}")),
        Err(error) => Err(format!("the zone of {at}: {}, expected {expected:?}", told(&error))),
    }
}
