//! Long work in the background, as jobs: records that say what is to be done and how far it is. The instance with the background
//! duties works on them, in steps that are transactions; each takes the record along, so that a restart or another instance
//! goes on where the last step ended, and so that a job that was paused or canceled takes no further step.
//!
//! A kind of job has a function that works on one until it is over; everything else is here. Rewritings are worked on by clients, which
//! hold them by leases.

pub(crate) mod control;
pub(crate) mod pace;
mod places;
pub(crate) mod record;
pub(crate) mod rewriting;
pub(crate) mod runner;
