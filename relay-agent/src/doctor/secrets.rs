//! How the token and the key of the client certificate are kept on this machine.

use std::path::Path;

use super::check::{Check, Hop};
use crate::config::{Inspected, TokenOrigin};

/// Looks at where secrets are, never at what they are.
pub(super) fn check(inspected: &Inspected) -> Check {
    let origin = match &inspected.token {
        Ok(origin) => origin,
        Err(failure) => return Check::failed(Hop::Secrets, "look for the token", failure),
    };
    let tried = match origin.path() {
        Some(path) => format!("look at the token file {}", path.display()),
        None => format!("look for the token ({})", origin.name()),
    };
    let mut check = Check::ok(Hop::Secrets, tried, "").fact("token_from", origin.name());
    if *origin == TokenOrigin::Environment {
        check = check.warn(
            "HOOKFERRY_TOKEN holds the token: every child of the process inherits it, and tools \
             that show the environment show it",
            "put the token into a file that only its owner can read, and give --token-file FILE",
        );
    }
    let certificate = inspected.link.client_certificate.as_ref();
    let key = certificate.map(|files| files.key.as_path());
    for path in origin.path().into_iter().chain(key) {
        if is_open_to_all(path) {
            let path = path.display();
            let seen = format!("every user of this machine can read {path}");
            check = check.warn(&seen, &format!("chmod o-rwx {path}"));
        }
    }
    if check.seen.is_empty() {
        check.seen = match origin.path() {
            Some(_) => "only some users of this machine can read it".to_owned(),
            None => "found".to_owned(),
        };
    }
    check
}

/// Whether the file belongs to nobody in particular.
#[cfg(unix)]
fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_path: &Path) -> bool {
    false
}
