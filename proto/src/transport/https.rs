//! Fetching a small document from a web server that is none of ours, such as an issuer's keys: https only, from a server
//! that a given CA vouches for, straight (no proxy, no redirect), bounded in time and size.

use std::{fmt, io, path::Path, str::FromStr, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    Remote, TlsError,
    tls::{provider, roots_of},
};
use crate::{ParseError, limits::CONNECT_TIMEOUT};

/// An https URL without user, query and fragment of its own: `https://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    remote: Remote,
    path: String,
}

impl FromStr for HttpsUrl {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("URL", s, "https://host[:port]/path");
        let uri: http::Uri = s.parse().map_err(|_| bad())?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(bad());
        };
        if authority.as_str().contains('@') {
            return Err(bad());
        }
        let remote = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443));
        Ok(Self {
            remote: remote.parse().map_err(|_| bad())?,
            path: uri
                .path_and_query()
                .map_or("/", http::uri::PathAndQuery::as_str)
                .to_owned(),
        })
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.remote, self.path)
    }
}

/// Fetches documents from servers of one CA.
pub struct HttpsClient {
    tls: Arc<ClientConfig>,
}

impl HttpsClient {
    /// A client that trusts the CA certificates in a PEM file, and no others.
    ///
    /// # Errors
    /// If the file cannot be read or used.
    pub fn trusting(ca: &Path) -> Result<Self, TlsError> {
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
            .with_root_certificates(roots_of(ca)?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    /// The document at `url`, of at most `bytes_max` bytes, within 10 s.
    ///
    /// # Errors
    /// If the server cannot be reached or trusted, answers with anything but 200, or with too much.
    pub async fn get(&self, url: &HttpsUrl, bytes_max: usize) -> io::Result<Bytes> {
        timeout(2 * CONNECT_TIMEOUT, self.fetch(url, bytes_max))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn fetch(&self, url: &HttpsUrl, bytes_max: usize) -> io::Result<Bytes> {
        let stream = TcpStream::connect(url.remote.host_and_port()).await?;
        let name = ServerName::try_from(url.remote.host_and_port().0.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::get(&url.path)
            .header(header::HOST, url.remote.to_string())
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            if response.status() != StatusCode::OK {
                return Err(io::Error::other(format!("the server answered {}", response.status())));
            }
            let body = Limited::new(response.into_body(), bytes_max).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes())
        };
        // The connection has to be driven for the answer to come; its own end matters only if there was none.
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answered = &mut answer => answered,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_are_urls() {
        for (text, shown) in [
            ("https://idp.example.org/keys", "https://idp.example.org:443/keys"),
            ("https://idp:8443/a/b?c=d", "https://idp:8443/a/b?c=d"),
            ("https://127.0.0.1", "https://127.0.0.1:443/"),
        ] {
            assert_eq!(text.parse::<HttpsUrl>().expect("a URL").to_string(), shown);
        }
        for text in [
            "http://idp/keys",
            "https://",
            "idp/keys",
            "https://user@idp/",
            "file:///keys",
            "",
        ] {
            assert!(text.parse::<HttpsUrl>().is_err(), "{text}");
        }
    }
}
