//! The executable as its users meet it, without any service: help, bad input, exit codes.

mod bad_input;
mod help;
mod metadata;
mod policy;
mod support;
