//! Where traces go. The exporter is set up by the program, which owns the process' subscriber.

use std::path::{Path, PathBuf};

use strongroom_proto::transport::Remote;

/// The table `[traces]` of the configuration: an OpenTelemetry collector that takes OTLP over gRPC with TLS 1.3.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// Host and port of the collector, usually 4317.
    pub collector: Remote,
    /// The CA of the collector's certificate; that of `[tls]` if absent.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The share of calls that are traced, 0 to 1, where the caller has not decided.
    #[serde(default = "sample_ratio")]
    pub sample_ratio: f64,
}

const fn sample_ratio() -> f64 {
    0.01
}

impl TracesConfig {
    /// The same with relative paths taken from `base`.
    #[must_use]
    pub fn relative_to(self, base: &Path) -> Self {
        Self {
            ca: self.ca.map(|ca| base.join(ca)),
            ..self
        }
    }
}
