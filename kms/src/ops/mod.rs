//! What operators see of the key service: measurements in OpenMetrics, readiness, and a span for every call.
//!
//! [`observe`] stands around every gRPC call, [`Metrics`] counts, and [`page`] answers monitoring over mutual TLS.

mod metrics;
mod observe;
mod page;
mod readiness;
mod standing;
mod traces;

pub(crate) use metrics::Metrics;
pub(crate) use observe::observed;
pub(crate) use page::page;
pub(crate) use readiness::Vitals;
pub(crate) use standing::Standing;
pub use traces::TracesConfig;

use std::net::SocketAddr;

use strongroom_proto::transport::UserName;

/// Where monitoring may look: the table `[metrics]` of the configuration.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where `/metrics`, `/ready` and `/live` are answered, over HTTP/2 and mutual TLS 1.3.
    pub listen: SocketAddr,
    /// The users that may read `/metrics`, which names keys and tokens. Anybody with a certificate may ask for the others.
    pub readers: Vec<UserName>,
}
