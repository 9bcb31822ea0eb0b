//! What happened in a run, line by line: the same seed gives the same lines.
//!
//! Beside what is written here, every message on the simulated network and every log line of the services goes into a running
//! sum, which is part of the lines, so that runs that differ anywhere differ here.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::machine;

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

#[derive(Default)]
struct Trace {
    lines: String,
    violations: Vec<String>,
    messages: u64,
    sum: Sum,
    verbose: bool,
}

/// FNV-1a, 64 bits.
struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}

/// Adds a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    TRACE.with_borrow_mut(|trace| {
        let (seconds, sum) = (machine::elapsed().as_secs_f64(), trace.sum.0);
        let messages = trace.messages;
        _ = writeln!(trace.lines, "{seconds:9.3} {messages:6} {sum:016x} {text}");
    });
}

/// Notes that something is as it must never be.
pub(crate) fn violation(text: &str) {
    line(format_args!("VIOLATION {text}"));
    TRACE.with_borrow_mut(|trace| trace.violations.push(text.to_owned()));
}

/// The lines and violations of the run.
pub(crate) fn end() -> (String, Vec<String>) {
    TRACE.with_borrow_mut(|trace| (std::mem::take(&mut trace.lines), std::mem::take(&mut trace.violations)))
}

/// Takes up what the services and the network log from here on; with `verbose` the services' lines are lines of the trace.
pub(crate) fn listen(verbose: bool) {
    TRACE.with_borrow_mut(|trace| trace.verbose = verbose);
    tracing::subscriber::set_global_default(Ear).expect("it is the only one");
}

struct Ear;

const NETWORK: &str = "turmoil";

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == NETWORK
            || (metadata.target().starts_with("strongroom") && *metadata.level() <= Level::INFO)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let is_network = event.metadata().target() == NETWORK;
        let verbose = TRACE.with_borrow_mut(|trace| {
            trace.messages += u64::from(is_network);
            _ = trace.sum.write_str(&text.0);
            trace.verbose
        });
        if verbose && !is_network {
            line(format_args!("    {}: {}", event.metadata().target(), text.0));
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event as text. Of a message it has what kind it is and not its bytes, which TLS makes others in each run.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "protocol" {
            // It ends there with an error, which is the point.
            _ = write!(Beginning(&mut self.0, "TCP [".len()), "{value:?}");
        } else {
            _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

/// Takes so many bytes of a text and refuses the rest, so that nobody goes on writing it.
struct Beginning<'t>(&'t mut String, usize);

impl fmt::Write for Beginning<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.get(..self.1).unwrap_or(text);
        self.0.push_str(taken);
        self.1 -= taken.len();
        if self.1 == 0 { Err(fmt::Error) } else { Ok(()) }
    }
}
