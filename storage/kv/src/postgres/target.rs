//! Which database: its URL, how its server proves who it is, and what it is called in messages.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

use super::PostgresOpenError;
use crate::PostgresConfig;

/// Bytes of a file with a URL; more is not one.
const URL_BYTES_MAX: u64 = 8 << 10;
/// How long a silent server is believed to be there.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A database and how to reach it.
pub(super) struct Target {
    pub(super) config: Config,
    /// Nothing for a server on this machine whose URL says so.
    pub(super) tls: Option<ClientConfig>,
    /// The database without credentials: `kms on db1:5432`.
    pub(super) name: Arc<str>,
}

impl Target {
    pub(super) fn read(config: &PostgresConfig) -> Result<Self, PostgresOpenError> {
        let url = read_url(&config.url_file)?;
        let refuse = |why| PostgresOpenError::Url {
            path: config.url_file.clone(),
            why,
        };
        let (url, mode) = take_ssl_mode(&url);
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(refuse("it does not start with postgres://".to_owned()));
        }
        let mut parsed: Config = url.parse().map_err(|error| refuse(chain(&error)))?;
        let tls = match mode.as_deref() {
            None | Some("verify-full") => Some(tls(config.ca.as_deref())?),
            Some("disable") if parsed.get_hosts().iter().all(is_local) => None,
            Some("disable") => {
                return Err(refuse(
                    "sslmode=disable is for a server on this machine only (a Unix socket or a loopback address)"
                        .to_owned(),
                ));
            }
            Some(other) => {
                return Err(refuse(format!(
                    "sslmode={other} would not make sure of the server; leave it out or write verify-full"
                )));
            }
        };
        let ssl_mode = if tls.is_some() {
            SslMode::Require
        } else {
            SslMode::Disable
        };
        parsed
            .ssl_mode(ssl_mode)
            .application_name("strongroom")
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .keepalives_idle(SILENCE_MAX)
            .tcp_user_timeout(SILENCE_MAX);
        Ok(Self {
            name: name(&parsed).into(),
            config: parsed,
            tls,
        })
    }
}

/// The URL, from a file that nobody else can read.
fn read_url(path: &Path) -> Result<String, PostgresOpenError> {
    let failed = |source| PostgresOpenError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PostgresOpenError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(URL_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim().to_owned())
}

/// The URL without its `sslmode`, and that: the client knows fewer modes than libpq.
fn take_ssl_mode(url: &str) -> (String, Option<String>) {
    let Some((front, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let (modes, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| pair.starts_with("sslmode="));
    let mode = modes.last().and_then(|pair| pair.split_once('='));
    (
        format!("{front}?{}", rest.join("&")),
        mode.map(|(_, mode)| mode.to_owned()),
    )
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
    }
}

/// TLS 1.3 with a server that must prove that it is the URL's host.
fn tls(ca: Option<&Path>) -> Result<ClientConfig, PostgresOpenError> {
    let path = ca.ok_or(PostgresOpenError::NoCa)?;
    let roots = read_roots(path).map_err(|source| PostgresOpenError::Ca {
        path: path.to_owned(),
        source,
    })?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.3");
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn read_roots(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
        let certificate = certificate.map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::other("it holds no certificate"));
    }
    Ok(roots)
}

fn name(config: &Config) -> String {
    let host = |(n, host): (usize, &Host)| match host {
        Host::Unix(path) => path.display().to_string(),
        Host::Tcp(name) => {
            let ports = config.get_ports();
            format!("{name}:{}", ports.get(n).or(ports.first()).unwrap_or(&5432))
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("{database} on {}", hosts.join(","))
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    fn target(url: &str, mode: u32) -> Result<Target, PostgresOpenError> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let url_file = directory.path().join("url");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .mode(mode)
            .open(&url_file);
        std::io::Write::write_all(&mut file.expect("made"), url.as_bytes()).expect("written");
        Target::read(&PostgresConfig {
            url_file,
            ca: None,
            connections: 2,
            connect_timeout_ms: 1000,
            statement_timeout_ms: 1000,
        })
    }

    #[test]
    fn only_a_local_server_goes_without_tls_and_only_when_told() {
        for (url, refusal) in [
            ("postgres://u:p@127.0.0.1/kms?sslmode=disable", None),
            ("postgres://u:p@[::1]/kms?sslmode=disable", None),
            ("postgres://u@%2Frun%2Fpostgresql/kms?sslmode=disable", None),
            ("postgres://u:p@localhost/kms", Some("needs ca")),
            ("postgres://u:p@localhost/kms?sslmode=verify-full", Some("needs ca")),
            (
                "postgres://u:p@db.example/kms?sslmode=disable",
                Some("on this machine only"),
            ),
            (
                "postgres://u:p@localhost,db.example/kms?sslmode=disable",
                Some("on this machine only"),
            ),
            (
                "postgres://u:p@localhost/kms?sslmode=prefer",
                Some("sslmode=prefer would not"),
            ),
            (
                "postgres://u:p@localhost/kms?sslmode=require",
                Some("sslmode=require would not"),
            ),
            ("mysql://localhost/kms", Some("does not start with postgres://")),
        ] {
            let outcome = target(url, 0o600).map(|target| target.name);
            match refusal {
                None => assert!(outcome.is_ok(), "{url}: {outcome:?}"),
                Some(word) => {
                    let message = outcome.expect_err(url).to_string();
                    assert!(message.contains(word) && !message.contains(":p@"), "{url}: {message}");
                }
            }
        }
    }

    #[test]
    fn a_url_that_others_can_read_is_refused() {
        let message = target("postgres://u@localhost/kms?sslmode=disable", 0o640)
            .map(|target| target.name)
            .expect_err("refused")
            .to_string();
        assert!(message.contains("chmod 600"), "{message}");
    }

    #[test]
    fn the_name_shows_no_password() {
        let target =
            target("postgres://u:secret@127.0.0.1:7,localhost:8/kms?sslmode=disable", 0o600).expect("a target");
        assert_eq!(&*target.name, "kms on 127.0.0.1:7,localhost:8");
        assert!(!format!("{:?}", target.config).contains("secret"));
    }
}
