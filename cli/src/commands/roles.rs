//! `strongroom kms|metadata|block`: one service, until it is told to stop.

use std::{error::Error as StdError, path::Path};

use crate::{
    cli::RoleArgs,
    error::Error,
    signals::Stop,
    telemetry::{log_and_trace, log_as_service},
};

/// The key service.
pub(super) async fn kms(args: &RoleArgs, level: &str) -> Result<(), Error> {
    let config = strongroom_kms::Config::load(&args.config).map_err(bad_config("kms", &args.config))?;
    let _traces = log_and_trace(level, &config).map_err(stopped("kms"))?;
    let stop = listen(args)?;
    strongroom_kms::run(config, stop).await.map_err(stopped("kms"))
}

/// The metadata service.
pub(super) async fn metadata(args: &RoleArgs, level: &str) -> Result<(), Error> {
    log_as_service(level);
    let config = strongroom_metadata::Config::load(&args.config).map_err(bad_config("metadata", &args.config))?;
    let stop = listen(args)?;
    strongroom_metadata::run(config, stop)
        .await
        .map_err(stopped("metadata"))
}

/// A block node.
pub(super) async fn block(args: &RoleArgs, level: &str) -> Result<(), Error> {
    log_as_service(level);
    let config = strongroom_block::Config::load(&args.config).map_err(bad_config("block", &args.config))?;
    let stop = listen(args)?;
    strongroom_block::run(config, stop).await.map_err(stopped("block"))
}

fn listen(args: &RoleArgs) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let stop = if args.stop_on_stdin_eof {
        Stop::listen_with_stdin()?
    } else {
        Stop::listen()?
    };
    Ok(async move {
        stop.requested().await;
        tracing::info!("stopping");
    })
}

pub(super) fn bad_config<E: StdError + Send + Sync + 'static>(
    role: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |error| Error::RoleConfig {
        role,
        path,
        source: Box::new(error),
    }
}

fn stopped<E: StdError + Send + Sync + 'static>(role: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Role {
        role,
        source: Box::new(error),
    }
}
