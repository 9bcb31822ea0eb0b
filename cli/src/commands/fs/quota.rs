//! `fs quota …`: what directories may hold.

use strongroom_fs::{Quota, QuotaLimit, ZoneFs};
use strongroom_proto::ZonePath;

use super::{for_each, parse, parse_all};
use crate::{
    cli::QuotaCommand,
    error::Error,
    output::{Output, human_bytes, one_line},
};

/// `strongroom fs quota …`
pub(super) async fn run(fs: &ZoneFs, command: QuotaCommand, output: Output) -> Result<(), Error> {
    match command {
        QuotaCommand::Set { path, limits } => {
            let limit = |limit: Option<u64>| limit.map_or(QuotaLimit::Keep, QuotaLimit::Set);
            let path = parse(&path)?;
            let quotas = fs.set_quota(&path, limit(limits.names), limit(limits.bytes)).await?;
            show(&path, &quotas, output)
        }
        QuotaCommand::Clear { paths, names, bytes } => {
            let cleared = |spared: bool| if spared { QuotaLimit::Keep } else { QuotaLimit::Clear };
            for_each(&parse_all(&paths)?, output, async |path| {
                let quotas = fs.set_quota(path, cleared(bytes), cleared(names)).await?;
                show(path, &quotas, output)
            })
            .await
        }
        QuotaCommand::Show { paths } => {
            for_each(&parse_all(&paths)?, output, async |path| {
                show(path, &fs.quotas(path).await?, output)
            })
            .await
        }
    }
}

/// The quotas that a directory is under, each in a line.
fn show(path: &ZonePath, quotas: &[Quota], output: Output) -> Result<(), Error> {
    if quotas.is_empty() && !output.is_json() {
        return crate::output::print(&format!("{}: no quota", one_line(path.as_str())));
    }
    quotas.iter().try_for_each(|quota| output.result(quota, || text(quota)))
}

fn text(quota: &Quota) -> String {
    let of = |limit: Option<String>| limit.map_or_else(|| "no bound".to_owned(), |limit| format!("at most {limit}"));
    let counting = match quota.counting {
        true => "  (not counted yet, and not in force: set it again)",
        false => "",
    };
    format!(
        "{}  {} names ({}), {} ({}){counting}",
        one_line(quota.path.as_str()),
        quota.names,
        of(quota.names_max.map(|limit| limit.to_string())),
        human_bytes(quota.bytes),
        of(quota.bytes_max.map(human_bytes)),
    )
}
