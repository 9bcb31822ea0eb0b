//! Who callers are to the namespace: their groups, and whether they are superusers.

use std::{path::Path, sync::Arc, time::Duration};

use strongroom_proto::{
    groups::{GroupName, Groups, GroupsError, GroupsFile, Look},
    transport::UserName,
};
use tokio::time::sleep;

use crate::error::chain;

/// Time between two looks at the groups file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Superusers, and the groups of users.
#[derive(Debug)]
pub struct Authority {
    superusers: Vec<UserName>,
    supergroup: GroupName,
    groups: Option<Arc<GroupsFile>>,
}

impl Authority {
    /// The users of a list and of a group are superusers. Who is in which group is in the file `groups`; without one nobody is in any.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn load(superusers: Vec<UserName>, supergroup: GroupName, groups: Option<&Path>) -> Result<Self, GroupsError> {
        Ok(Self {
            superusers,
            supergroup,
            groups: groups.map(GroupsFile::load).transpose()?.map(Arc::new),
        })
    }

    /// Who a user is now.
    pub(crate) fn caller(&self, name: UserName) -> Caller {
        let groups = self.groups.as_ref().map(|file| file.groups()).unwrap_or_default();
        let superuser = self.superusers.contains(&name) || groups.of(&name).contains(&self.supergroup);
        Caller {
            name,
            groups,
            superuser,
        }
    }

    /// Whose the root directory is at first.
    pub(crate) fn root(&self) -> (String, String) {
        let owner = self.superusers.first().map_or("root", UserName::as_str);
        (owner.to_owned(), self.supergroup.as_str().to_owned())
    }

    /// Keeps the groups in step with their file, for ever.
    pub(crate) fn follow(&self) -> impl Future<Output = ()> + Send + use<> {
        let file = self.groups.clone();
        async move {
            let Some(file) = file else {
                return std::future::pending().await;
            };
            loop {
                sleep(LOOK_EVERY).await;
                let looked = Arc::clone(&file);
                match tokio::task::spawn_blocking(move || looked.look()).await {
                    Ok(Look::Changed) => tracing::info!("the groups file was taken up"),
                    Ok(Look::Broken(error)) => {
                        tracing::error!(error = %chain(&error), "the groups file cannot be used: the groups before it stay");
                    }
                    Ok(Look::Nothing) | Err(_) => {}
                }
            }
        }
    }
}

/// A user who asks, as of when the call came.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: UserName,
    groups: Arc<Groups>,
    pub(crate) superuser: bool,
}

impl Caller {
    /// Whether the user is in a group.
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.of(&self.name).iter().any(|name| name.as_str() == group)
    }

    /// Whether something belongs to the user.
    pub(crate) fn owns(&self, owner: &str) -> bool {
        self.name.as_str() == owner
    }

    /// The service itself, about what is a user's: no permission stops it.
    pub(crate) fn keeper(name: UserName) -> Self {
        Self {
            name,
            groups: Arc::default(),
            superuser: true,
        }
    }

    #[cfg(test)]
    pub(crate) fn of(name: &str, groups: Groups, superuser: bool) -> Self {
        Self {
            name: name.parse().expect("a user"),
            groups: Arc::new(groups),
            superuser,
        }
    }
}
