//! `strongroom audit …`: a log, or a copy of one, is verified, read and exported here, without the key service; its keys and
//! new segments come from the key service.

use std::{
    collections::VecDeque,
    io::{self, BufWriter, Write},
    path::Path,
    time::Duration,
};

use strongroom_kms::audit::{
    Expected, Follower, Reader, Record, Verified, VerifyOptions, checkpoint::key_id, key_of_pem, verify,
};

use super::session::Session;
use crate::{
    cli::{AuditCommand, AuditExportArgs, AuditFilter, AuditTailArgs, AuditVerifyArgs, ExportFormat},
    error::Error,
    output::{Output, one_line, print},
};

/// The pause between two looks for new records.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// The commands that need no service.
pub(super) async fn offline(command: AuditCommand, output: Output) -> Result<Option<AuditCommand>, Error> {
    match command {
        AuditCommand::Verify(args) => verified(&args, output)?,
        AuditCommand::Tail(args) => tail(&args, output).await?,
        AuditCommand::Export(args) => export(&args)?,
        online @ (AuditCommand::Key | AuditCommand::Rotate) => return Ok(Some(online)),
    }
    Ok(None)
}

/// The commands that ask the key service.
pub(super) async fn online(session: &Session, command: AuditCommand, output: Output) -> Result<(), Error> {
    let audit = session.audit()?;
    if matches!(command, AuditCommand::Rotate) {
        let rotated = audit.rotate().await?;
        let (segment, instance, address) = (rotated.answer, rotated.instance, rotated.address);
        let document = serde_json::json!({"segment": segment, "instance": instance, "address": address});
        return output.result(&document, || {
            format!("records of the key service at {address} go to segment {segment} of log {instance} from now on")
        });
    }
    let answered = audit.keys().await?;
    let keys = &answered.answer;
    if output.is_json() {
        return keys.iter().try_for_each(|key| {
            let document = serde_json::json!({"token": key.token, "key_id": key_id(&key.public_key), "public_key": pem(&key.public_key), "instance": answered.instance});
            output.result(&document, String::new)
        });
    }
    let texts: Vec<_> = keys
        .iter()
        .map(|key| {
            format!(
                "# token {}, key {}\n{}",
                key.token,
                key_id(&key.public_key),
                pem(&key.public_key)
            )
        })
        .collect();
    let who = format!(
        "# of the key service at {}, log {}\n",
        answered.address, answered.instance
    );
    print((who + &texts.join("")).trim_end())
}

/// SubjectPublicKeyInfo in PEM (RFC 7468, section 13).
fn pem(der: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    )
}

fn verified(args: &AuditVerifyArgs, output: Output) -> Result<(), Error> {
    let keys = args.public_key.iter().map(|path| read_key(path));
    let expect = args.expect_seq.map(|seq| Expected {
        seq,
        hash: args.expect_hash,
    });
    let options = VerifyOptions {
        keys: keys.collect::<Result<_, _>>()?,
        archived: args.archived,
        expect,
    };
    let known = expect.is_some();
    let report = verify(&args.paths, options)?;
    output.result(&report, || report_text(&report, known))
}

fn read_key(path: &Path) -> Result<bytes::Bytes, Error> {
    let pem = std::fs::read(path).map_err(Error::local("cannot read", path))?;
    key_of_pem(&pem).ok_or_else(|| Error::Usage {
        message: format!(
            "{} holds no public key in PEM; have it written by: strongroom audit key",
            path.display()
        ),
    })
}

fn report_text(report: &Verified, end_is_known: bool) -> String {
    let time = |time: Option<jiff::Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    let mut lines = vec![
        format!("log       {}", report.log.as_deref().unwrap_or("-")),
        format!(
            "records   {} to {}, unbroken, in {} segments",
            report.first_seq, report.last_seq, report.segments
        ),
        format!("time      {} to {}", time(report.first_time), time(report.last_time)),
        format!("head      {}", report.head),
        match report.signed_seq {
            0 => "signed    not at all".to_owned(),
            seq => format!("signed    through record {seq}, {} checkpoints", report.checkpoints),
        },
        format!("unsigned  {} records at the end", report.unsigned_records),
    ];
    for key in &report.keys {
        let word = if key.given {
            "as given"
        } else {
            "by the log's own word; compare it with: strongroom audit key"
        };
        lines.push(format!("key       {} of token {}, {word}", key.key_id, key.token));
    }
    for torn in &report.torn_files {
        lines.push(format!("torn      {}", torn.display()));
    }
    if !end_is_known {
        lines.push(
            "A log alone cannot tell whether its end was cut off: keep a checkpoint elsewhere and pass its seq and head with --expect-seq and --expect-hash."
                .to_owned(),
        );
    }
    lines.join("\n")
}

async fn tail(args: &AuditTailArgs, output: Output) -> Result<(), Error> {
    let (mut follower, last) = last_records(args)?;
    for (line, record) in &last {
        show(line, record, output)?;
    }
    if args.follow {
        follow(&mut follower, &args.filter, output).await
    } else {
        Ok(())
    }
}

type Found = VecDeque<(Vec<u8>, Record)>;

/// The last records that are asked for, and a follower behind them. The last segment seldom has them all: each further look
/// begins twice as many segments before it.
fn last_records(args: &AuditTailArgs) -> Result<(Follower, Found), Error> {
    let mut before = 0;
    loop {
        let (mut follower, is_first) = Follower::open_before(&args.dir, before)?;
        let last = last_of(&mut follower, args)?;
        if is_first || last.len() == args.lines {
            return Ok((follower, last));
        }
        before = before * 2 + 1;
    }
}

fn last_of(follower: &mut Follower, args: &AuditTailArgs) -> Result<Found, Error> {
    let mut last = VecDeque::with_capacity(args.lines);
    while let Some((line, record)) = follower.read_next()? {
        if args.filter.matches(&record) {
            if last.len() == args.lines {
                last.pop_front();
            }
            last.push_back((line, record));
        }
    }
    Ok(last)
}

/// Shows records as they come, until the command is interrupted.
async fn follow(follower: &mut Follower, filter: &AuditFilter, output: Output) -> Result<(), Error> {
    loop {
        match follower.read_next()? {
            Some((line, record)) if filter.matches(&record) => show(&line, &record, output)?,
            Some(_) => {}
            None => tokio::time::sleep(FOLLOW_INTERVAL).await,
        }
    }
}

fn show(line: &[u8], record: &Record, output: Output) -> Result<(), Error> {
    if output.is_json() {
        let mut out = io::stdout().lock();
        let written = out.write_all(line).and_then(|()| out.write_all(b"\n"));
        return written.and_then(|()| out.flush()).map_err(Error::Output);
    }
    print(&one_line(&record_text(record)))
}

/// A record in one line for people.
fn record_text(record: &Record) -> String {
    let entry = &record.entry;
    let mut text = format!(
        "{} {} {} {} {}",
        record.seq,
        record.time,
        entry.who,
        entry.action,
        word_of(record)
    );
    if let Some(key) = &entry.key {
        text += &match entry.version {
            Some(version) => format!(" {key}@{version}"),
            None => format!(" {key}"),
        };
    }
    for (name, value) in [
        ("zone", entry.zone.clone()),
        ("count", entry.count.map(|count| count.to_string())),
        ("from", entry.from.map(|from| from.to_string())),
        ("request", entry.request.clone()),
        ("reason", entry.reason.clone()),
    ] {
        if let Some(value) = value {
            text += &format!(" {name}={value}");
        }
    }
    text
}

fn word_of(record: &Record) -> &'static str {
    record.entry.outcome.as_str()
}

impl AuditFilter {
    fn matches(&self, record: &Record) -> bool {
        let entry = &record.entry;
        self.who
            .as_ref()
            .is_none_or(|who| entry.who == *who || entry.who.ends_with(&format!(" {who}")))
            && self
                .key
                .as_ref()
                .is_none_or(|key| entry.key.as_deref() == Some(key.as_str()))
            && self.outcome.is_none_or(|outcome| entry.outcome == outcome)
    }
}

fn export(args: &AuditExportArgs) -> Result<(), Error> {
    let mut reader = Reader::open(&args.paths)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.format == ExportFormat::Csv {
        writeln!(out, "{}", COLUMNS.join(",")).map_err(Error::Output)?;
    }
    while let Some((line, record)) = reader.read_next()? {
        let within = args.from.is_none_or(|from| record.time >= from) && args.to.is_none_or(|to| record.time < to);
        if !within || !args.filter.matches(&record) {
            continue;
        }
        let written = match args.format {
            ExportFormat::Jsonl => out.write_all(line).and_then(|()| out.write_all(b"\n")),
            ExportFormat::Csv => writeln!(out, "{}", csv_line(&record)),
        };
        written.map_err(Error::Output)?;
    }
    out.flush().map_err(Error::Output)
}

/// The columns of a CSV export.
const COLUMNS: [&str; 15] = [
    "seq", "time", "instance", "who", "from", "action", "key", "version", "zone", "count", "outcome", "reason",
    "message", "policies", "request",
];

/// One record as CSV (RFC 4180).
fn csv_line(record: &Record) -> String {
    let entry = &record.entry;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let fields = [
        record.seq.to_string(),
        record.time.to_string(),
        record.instance.clone(),
        entry.who.clone(),
        entry.from.map(|from| from.to_string()).unwrap_or_default(),
        entry.action.clone(),
        text(&entry.key),
        entry.version.map(|version| version.to_string()).unwrap_or_default(),
        text(&entry.zone),
        entry.count.map(|count| count.to_string()).unwrap_or_default(),
        word_of(record).to_owned(),
        text(&entry.reason),
        text(&entry.message),
        entry.policies.join(" "),
        text(&entry.request),
    ];
    fields.map(|field| csv_field(&field)).join(",")
}

/// Quoted where it has to be; what a spreadsheet would take for a formula gets an apostrophe.
fn csv_field(field: &str) -> String {
    let field = if field.starts_with(['=', '+', '-', '@']) {
        format!("'{field}")
    } else {
        field.to_owned()
    };
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

#[cfg(test)]
mod tests {
    use strongroom_kms::audit::{AuditConfig, AuditLog, Caller, Entry};

    use super::*;

    #[test]
    fn csv_fields_are_quoted_where_they_must_be() {
        for (field, expected) in [
            ("user alice", "user alice"),
            ("a, \"b\"", "\"a, \"\"b\"\"\""),
            ("=1+1", "'=1+1"),
            ("two\nlines", "\"two\nlines\""),
        ] {
            assert_eq!(csv_field(field), expected);
        }
    }

    #[test]
    fn a_public_key_in_pem_reads_back() {
        let der: Vec<u8> = (0..91).collect();
        assert_eq!(key_of_pem(pem(&der).as_bytes()).as_deref(), Some(der.as_slice()));
    }

    #[tokio::test]
    async fn the_last_records_come_from_as_many_segments_as_it_takes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, writer) = AuditLog::open(dir.path(), &AuditConfig::default()).expect("a log");
        for number in 0..7 {
            let who = ["alice", "bob"][number % 2];
            let identity = format!("spiffe://strongroom/user/{who}").parse().expect("an identity");
            let caller = Caller::certified(identity, ([127, 0, 0, 1], 7600).into());
            let entry = Entry::new(&caller, &format!("call-{number}"));
            log.record(vec![entry]).await.expect("written");
            log.rotate().await.expect("a new segment");
        }
        drop(log);
        writer.finish().await;
        for (lines, who, expected) in [
            (3, None, &["call-4", "call-5", "call-6"][..]),
            (2, Some("bob"), &["call-3", "call-5"]),
            (100, Some("bob"), &["call-1", "call-3", "call-5"]),
        ] {
            let args = AuditTailArgs {
                dir: dir.path().to_owned(),
                lines,
                follow: false,
                filter: AuditFilter {
                    who: who.map(str::to_owned),
                    key: None,
                    outcome: None,
                },
            };
            let (_, last) = last_records(&args).expect("readable");
            let actions: Vec<_> = last.iter().map(|(_, record)| record.entry.action.as_str()).collect();
            assert_eq!(actions, expected, "the last {lines} of {who:?}");
        }
    }
}
