//! Reading the pages of the port for monitoring.

use std::net::SocketAddr;

use axum::body::to_bytes;
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};

use super::Kms;

/// Bytes of the largest page that is read.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Status and text of a page, asked for as `who`.
pub async fn page(kms: &Kms<'_>, address: SocketAddr, who: &str, path: &str) -> (u16, String) {
    ask(&mut kms.channel_to(address, who), path).await
}

/// The same over a connection that is there.
pub async fn ask(channel: &mut Channel, path: &str) -> (u16, String) {
    let request = http::Request::get(path)
        .body(tonic::body::Body::empty())
        .expect("a request");
    let ready = channel.ready().await.expect("connected");
    let response = ready.call(request).await.expect("an answer");
    let status = response.status().as_u16();
    let body = to_bytes(axum::body::Body::new(response.into_body()), PAGE_BYTES_MAX);
    let text = String::from_utf8(body.await.expect("a body").to_vec()).expect("text");
    (status, text)
}
