//! Whether a WebSocket comes through. It is left before a session is opened, so that no delivery is
//! given to it.

use super::{
    Way,
    check::{Check, Hop},
};
use crate::{
    explain::{Code, Exit, Failure},
    link::DialError,
};

/// Opens a WebSocket and leaves it again.
pub(super) async fn check(way: &Way) -> Check {
    let tried = format!("open a WebSocket at {}", way.link.server.connect_url());
    if !way.has_token {
        return Check::skipped(Hop::WebSocket, "there is no token to open one with");
    }
    match open(way).await {
        Ok(true) => Check::ok(Hop::WebSocket, tried, "it carries messages both ways"),
        Ok(false) => {
            let what = "it was opened, but the relay's answer did not come back through it";
            Check::failed(Hop::WebSocket, tried, &Failure::new(Code::Upgrade, what))
        }
        Err(error) => {
            let failure = error.failure();
            // The relay looks at the token of what arrived as an upgrade.
            if failure.code.exit() == Exit::NotAuthorised {
                let why = "the upgrade reached the relay, which does not accept the token";
                return Check::skipped(Hop::WebSocket, why);
            }
            Check::failed(Hop::WebSocket, tried, &failure)
        }
    }
}

async fn open(way: &Way) -> Result<bool, DialError> {
    let stream = way.dialer.open().await?;
    way.dialer.try_upgrade(stream).await
}
