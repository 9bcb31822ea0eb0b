//! What has to be so when everything is healed: every file can be read, written on and replicated in full.

use std::{rc::Rc, time::Duration};

use strongroom_fs::ReencryptionState;
use tokio::time::{sleep, timeout};

use crate::{
    chance::one_in,
    history::Path,
    site::{JUDGE, Phase, Site},
    trace,
    workload::{User, zone_path},
};

/// How long readers may have to wait after everything was healed: dead connections are found by then, and nodes joined.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long replicas may take to be complete.
const REPAIR: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Has the zone re-encrypted now and then until the run's judgement, looks, and ends the run.
pub(crate) async fn judge(site: Rc<Site>) -> turmoil::Result {
    let zone = zone_path(&Path(Vec::new()));
    let fs = site.filesystem(JUDGE);
    while site.phase() < Phase::Judgement {
        if one_in(40)
            && let Err(error) = fs.start_reencryption(&zone, None).await
        {
            trace::line(format_args!("{JUDGE}: no re-encryption: {error}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
    let user = User {
        history: site.history.clone(),
        who: JUDGE.to_owned(),
        fs,
    };
    look(&user).await;
    if reencrypted(&user).await {
        look(&user).await;
    } else {
        trace::violation("the zone cannot be re-encrypted after everything was healed");
    }
    site.enter(Phase::Over);
    Ok(())
}

/// Looks at every file, up to the first that is not as it should be.
async fn look(user: &User) {
    let files = walk(user).await;
    for file in &files {
        if patiently(async || user.read(file.clone()).await).await.is_none() {
            return trace::violation(&format!("{file} cannot be read after everything was healed"));
        }
    }
    for file in files {
        if !is_replicated(user, &file).await {
            return trace::violation(&format!("{file} does not get its replicas back"));
        }
    }
}

/// Whether a re-encryption that is begun now comes to its end without a failure.
async fn reencrypted(user: &User) -> bool {
    let zone = zone_path(&Path(Vec::new()));
    let begun = patiently(async || user.fs.start_reencryption(&zone, None).await.is_ok());
    let done = async || {
        let status = user.fs.reencryption(&zone).await;
        status.is_ok_and(|status| status.state == ReencryptionState::Completed && status.failures == 0)
    };
    begun.await.is_some() && patiently(done).await.is_some()
}

/// The files below the zone's root.
async fn walk(user: &User) -> Vec<Path> {
    let (mut files, mut directories) = (Vec::new(), vec![Path(Vec::new())]);
    while let Some(directory) = directories.pop() {
        let mut names = None;
        let listed = patiently(async || {
            names = user.list(directory.clone()).await;
            names.is_some()
        });
        if listed.await.is_none() {
            trace::violation(&format!("{directory} cannot be listed after everything was healed"));
        }
        for (name, is_directory) in names.unwrap_or_default() {
            let mut path = directory.clone();
            // The model's names live as long as the program; there are few.
            path.0.push(String::leak(name));
            if is_directory {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// Whether every block of a file gets its replicas back.
async fn is_replicated(user: &User, file: &Path) -> bool {
    let path = zone_path(file);
    let whole = timeout(REPAIR, async {
        loop {
            if user.fs.stat(&path).await.is_ok_and(|stat| stat.blocks_in_deficit == 0) {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    });
    whole.await.is_ok()
}

/// Tries until it succeeds; none if it does not in time.
async fn patiently(mut attempt: impl AsyncFnMut() -> bool) -> Option<()> {
    let done = timeout(PATIENCE, async {
        while !attempt().await {
            sleep(LOOK_EVERY).await;
        }
    });
    done.await.ok()
}
