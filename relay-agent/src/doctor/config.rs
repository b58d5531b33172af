//! Flags, environment and file: what was read, and whether it can be used.

use super::check::{Check, Hop};
use crate::{config::Inspected, explain::Failure};

/// The configuration could not even be read.
pub(super) fn unusable(failure: &Failure) -> Check {
    Check::failed(Hop::Config, "read flags, environment and file", failure)
}

/// Looks at a configuration that could be read.
pub(super) fn check(inspected: &Inspected) -> Check {
    let tried = match &inspected.file {
        Some(path) => format!("read {}", path.display()),
        None => "read flags and environment; there is no file".to_owned(),
    };
    let served = match &inspected.serve {
        Err(failure) => return Check::failed(Hop::Config, tried, failure),
        Ok(serve) => serve.iter().map(|serve| serve.lanes().count()).sum(),
    };
    let server = &inspected.link.server;
    let seen = match served {
        0 => format!("the relay is {server}; nothing is forwarded"),
        1 => format!("the relay is {server}; 1 destination is forwarded"),
        many => format!("the relay is {server}; {many} destinations are forwarded"),
    };
    let file = inspected
        .file
        .as_ref()
        .map(|path| path.display().to_string());
    Check::ok(Hop::Config, tried, seen)
        .fact("file", file)
        .fact("destinations", served)
}
