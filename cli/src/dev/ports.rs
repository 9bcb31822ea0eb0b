//! The five loopback ports: chosen once, kept, and checked at every start.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    DevError,
    files::{self, Audience},
    layout::{Layout, Role},
};

/// Ports are drawn from here: above the well-known ones and below the range from which Linux and others take ports for
/// outgoing connections, so that nothing sits on them at the next start by accident.
const CHOICE: std::ops::Range<u16> = 20_000..32_000;
/// Runs of five ports that are tried.
const TRIES_MAX: usize = 100;

/// The port of every role, on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    /// The key service.
    pub(super) kms: u16,
    /// The metadata service.
    pub(super) metadata: u16,
    /// The block nodes, in order.
    pub(super) block: [u16; 3],
}

impl Ports {
    /// The ports asked for, else those of the data directory, else free ones; all free now, and kept for the next start.
    pub(super) fn settle(layout: &Layout, base: Option<u16>) -> Result<Self, DevError> {
        let path = layout.ports();
        let ports = match base {
            Some(base) => Self::from_base(base)?,
            None => Self::kept(&path)?.map_or_else(Self::choose, Ok)?,
        };
        ports.check_free()?;
        let text = ports.to_toml();
        if files::read(&path)?.as_ref() != Some(&text) {
            files::write(&path, &text, Audience::Everyone)?;
        }
        Ok(ports)
    }

    /// The ports that the file names; profiles and configurations elsewhere may have them too, so that a damaged file
    /// is not just replaced.
    fn kept(path: &Path) -> Result<Option<Self>, DevError> {
        let damaged = |source| DevError::DamagedPorts {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let text = files::read(path)?;
        text.map(|text| toml::from_str(&text).map_err(damaged)).transpose()
    }

    /// The port of a role.
    pub(super) fn of(&self, role: Role) -> u16 {
        match role {
            Role::Kms => self.kms,
            Role::Metadata => self.metadata,
            Role::Block(node) => self.block[usize::from(node) - 1],
        }
    }

    /// What a role listens on.
    pub(super) fn listen(&self, role: Role) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.of(role)).into()
    }

    /// How clients reach the key service.
    pub(super) fn kms_remote(&self) -> String {
        format!("localhost:{}", self.kms)
    }

    /// How clients reach the metadata service.
    pub(super) fn metadata_remote(&self) -> String {
        format!("localhost:{}", self.metadata)
    }

    /// `base` and the four after it.
    fn from_base(base: u16) -> Result<Self, DevError> {
        if base < 1024 || base.checked_add(4).is_none() {
            return Err(DevError::PortBase { base });
        }
        Ok(Self {
            kms: base,
            metadata: base + 1,
            block: [base + 2, base + 3, base + 4],
        })
    }

    fn choose() -> Result<Self, DevError> {
        for _ in 0..TRIES_MAX {
            let span = u128::from(CHOICE.end - CHOICE.start - 5);
            let offset = u16::try_from(uuid::Uuid::new_v4().as_u128() % span).unwrap_or_default();
            let ports = Self::from_base(CHOICE.start + offset)?;
            if ports.check_free().is_ok() {
                return Ok(ports);
            }
        }
        Err(DevError::NoPorts)
    }

    fn check_free(&self) -> Result<(), DevError> {
        for role in Role::ALL {
            let port = self.of(role);
            match TcpListener::bind(self.listen(role)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(DevError::PortTaken {
                        port,
                        role: role.name(),
                        holder: holder(port).unwrap_or_default(),
                    });
                }
                Err(error) => {
                    return Err(DevError::Spawn {
                        what: format!("{} on port {port}", role.name()),
                        source: error,
                    });
                }
            }
        }
        Ok(())
    }

    fn to_toml(&self) -> String {
        let Self { kms, metadata, block } = self;
        format!(
            "# Written by strongroom dev; change with --port-base.\nkms = {kms}\nmetadata = {metadata}\nblock = {block:?}\n"
        )
    }
}

/// ` by pid N (name)` for the process that listens on `port`, as far as /proc tells us.
fn holder(port: u16) -> Option<String> {
    let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = listening_inode(&sockets, port)?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // `self` and `thread-self` name processes that have a number too.
        if process
            .file_name()
            .to_str()
            .is_none_or(|name| name.parse::<u32>().is_err())
        {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = |link: io::Result<std::path::PathBuf>| link.is_ok_and(|to| to.as_os_str() == socket.as_str());
        if descriptors
            .flatten()
            .any(|descriptor| holds(fs::read_link(descriptor.path())))
        {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!(" by pid {} ({})", process.file_name().display(), name.trim()));
        }
    }
    None
}

/// The inode of the listening socket on `port` in the text of /proc/net/tcp (proc(5)): columns are slot, local address
/// `HEXADDRESS:HEXPORT`, remote address, state (0A is LISTEN), queues, timers, retransmits, uid, timeout, inode.
fn listening_inode(table: &str, port: u16) -> Option<&str> {
    let suffix = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        (local.ends_with(&suffix) && state == "0A")
            .then(|| columns.nth(5))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (layout, lock) = Layout::open(Some(&dir.path().join("data"))).expect("opens");
        drop(lock);
        (dir, layout)
    }

    #[test]
    fn ports_survive_a_restart_and_yield_to_port_base() {
        let (_dir, layout) = fresh();
        let first = Ports::settle(&layout, None).expect("finds free ports");
        assert_eq!(Ports::settle(&layout, None).expect("still free"), first);
        let other = Ports::choose().expect("finds free ports");
        let moved = Ports::settle(&layout, Some(other.kms)).expect("free a moment ago");
        assert_eq!(moved, other);
        assert_eq!(Ports::settle(&layout, None).expect("kept"), other);
    }

    #[test]
    fn a_damaged_file_is_named_and_kept_unless_ports_are_chosen() {
        let (_dir, layout) = fresh();
        let first = Ports::settle(&layout, None).expect("finds free ports");
        for damaged in [
            "",
            "kms = 1\n",
            "\0\0\0",
            "kms = 70000\nmetadata = 1\nblock = [1, 2, 3]\n",
        ] {
            fs::write(layout.ports(), damaged).expect("writes");
            let error = Ports::settle(&layout, None).expect_err("damaged").to_string();
            for part in ["ports.toml is damaged", "delete it", "--port-base"] {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
            assert_eq!(fs::read_to_string(layout.ports()).expect("there"), damaged);
        }
        let chosen = Ports::settle(&layout, Some(first.kms)).expect("mends it");
        assert_eq!(chosen, first);
        assert_eq!(Ports::settle(&layout, None).expect("whole again"), first);
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder_and_the_way_out() {
        let (_dir, layout) = fresh();
        let ports = Ports::settle(&layout, None).expect("finds free ports");
        let _taken = TcpListener::bind(ports.listen(Role::Metadata)).expect("free a moment ago");
        let error = Ports::settle(&layout, None).expect_err("taken").to_string();
        for part in [
            format!("port {} for metadata is taken", ports.metadata),
            format!("by pid {}", std::process::id()),
            "--port-base".to_owned(),
        ] {
            assert!(error.contains(&part), "{error:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_base_needs_room_for_five() {
        for base in [0, 1023, 65_532] {
            assert!(
                matches!(Ports::from_base(base), Err(DevError::PortBase { .. })),
                "{base}"
            );
        }
        assert_eq!(
            Ports::from_base(65_531).expect("the last").block,
            [65_533, 65_534, 65_535]
        );
    }
}
