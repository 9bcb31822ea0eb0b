//! `strongroom metadata export|import`: a namespace out of one store and into another. No service is asked.

use std::path::Path;

use strongroom_metadata::{Config, Summary, export, import};

use super::roles::bad_config;
use crate::{
    cli::{MetadataCommand, MetadataExportArgs, MetadataImportArgs},
    error::Error,
    output::Output,
};

/// `strongroom metadata …`
pub(super) async fn run(command: MetadataCommand, output: Output) -> Result<(), Error> {
    match command {
        MetadataCommand::Export(MetadataExportArgs {
            config,
            output: file,
            running,
        }) => {
            let summary = export(&load(&config)?, &file, running).await?;
            output.result(&summary, || text("exported", &summary))
        }
        MetadataCommand::Import(MetadataImportArgs { config, export, sha256 }) => {
            let sha256 = sha256.map(hex::encode);
            let summary = import(&load(&config)?, &export, sha256.as_deref()).await?;
            output.result(&summary, || text("imported and read back", &summary))
        }
    }
}

/// Neither the service nor one of the commands.
pub(super) fn nothing_asked() -> Error {
    Error::Usage {
        message: "give --config FILE to run the metadata service, or one of: export, import".to_owned(),
    }
}

fn load(config: &Path) -> Result<Config, Error> {
    Config::load(config).map_err(bad_config("metadata", config))
}

fn text(what: &str, summary: &Summary) -> String {
    format!(
        "{what} {} records: {} files, {} directories, {} zones, {} files being written\nSHA-256 {}",
        summary.records, summary.files, summary.directories, summary.zones, summary.open_files, summary.sha256
    )
}
