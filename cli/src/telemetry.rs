//! What the processes tell: log lines on standard error, and for the key service spans to a collector.

use std::{io, time::SystemTime};

use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use strongroom_kms::TracesConfig;
use strongroom_proto::transport::{TlsError, TlsFiles, TlsIdentity, connect_outside};
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _,
};

/// The target of spans that are for traces only.
const TRACES: &str = "strongroom::trace";

/// Logs at `level` and above to standard error, as a client command does: for the eyes of who typed it.
pub(crate) fn log_for_people(level: &str) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_filter(filter(level));
    tracing_subscriber::registry().with(lines).init();
}

/// Logs at `level` and above to standard error, as a service does.
pub(crate) fn log_as_service(level: &str) {
    tracing_subscriber::registry().with(service_lines(level)).init();
}

/// Logs as a service does, and sends spans to the collector if there is one. Dropping the answer sends the last spans.
/// To be called on the runtime, which carries the connection.
///
/// # Errors
/// If the collector's certificates cannot be used.
pub(crate) fn log_and_trace(level: &str, config: &strongroom_kms::Config) -> Result<Traces, TlsError> {
    let traces = config.traces.as_ref();
    let provider = traces.map(|traces| provider(traces, &config.tls)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("strongroom"))
            .with_filter(Targets::new().with_target(TRACES, Level::INFO))
    });
    let subscriber = tracing_subscriber::registry().with(service_lines(level));
    subscriber.with(spans).init();
    Ok(Traces(provider))
}

fn service_lines<S>(level: &str) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_filter(filter(level))
}

/// Spans on their way out. Sends the last ones when it is dropped.
#[must_use]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// `RUST_LOG` overrides the level.
fn filter(level: &str) -> EnvFilter {
    // The binding of PKCS#11 reports every mechanism of a token that it has no name for as an error.
    let directives = format!("{level},cryptoki::mechanism=off,{TRACES}=off");
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives))
}

fn provider(config: &TracesConfig, tls: &TlsFiles) -> Result<SdkTracerProvider, TlsError> {
    let files = TlsFiles {
        ca: config.ca.clone().unwrap_or_else(|| tls.ca.clone()),
        ..tls.clone()
    };
    let channel = connect_outside(&config.collector, &TlsIdentity::load(&files, SystemTime::now())?);
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .build()
        .expect("an exporter over a given channel has nothing left to fail on");
    global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            config.sample_ratio,
        ))))
        .with_resource(Resource::builder().with_service_name("strongroom-kms").build())
        .build())
}
