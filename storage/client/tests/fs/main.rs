//! The filesystem's client against stand-ins for the three services, which fail and lie when they are told to.

mod ctr;
mod files;
mod growing;
mod plain;
mod raw;
mod rewriting;
mod stand_ins;
