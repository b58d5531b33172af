//! What the relay thinks of the token, and whether it may serve what the configuration forwards.

use jiff::{SignedDuration, Timestamp};

use super::{
    Way,
    check::{Check, Hop},
    relay::{Answer, TokenView},
};
use crate::{
    explain::{Code, Failure},
    link::for_people,
};

/// A token that ends sooner is worth a warning.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Reads what the relay said of the token.
pub(super) fn check(way: &Way, answer: &Answer) -> Check {
    let tried = "ask what the token is good for";
    if !way.has_token {
        return Check::skipped(Hop::Token, "there is no token");
    }
    let kind = way.link.token.kind();
    let view = match &answer.token {
        Ok(view) => view,
        Err(failure) => {
            let mut check = Check::failed(Hop::Token, tried, failure);
            if let Some(kind) = kind.filter(|kind| *kind != "hf_agent_") {
                check.seen = format!("{}; it is a {kind}... token, not hf_agent_...", check.seen);
            }
            return check;
        }
    };
    let scopes = view.scopes.join(" and ");
    let seen = format!("`{}` of tenant {} may {scopes}", view.name, view.tenant);
    let check = Check::ok(Hop::Token, tried, for_people(&seen))
        .fact("name", view.name.clone())
        .fact("tenant", view.tenant.clone())
        .fact("scopes", view.scopes.clone())
        .fact("expires_at", view.expires_at.clone());
    with_end(check, view, Timestamp::now())
}

fn with_end(check: Check, view: &TokenView, now: Timestamp) -> Check {
    let end = view
        .expires_at
        .as_deref()
        .and_then(|end| end.parse::<Timestamp>().ok());
    let Some(left) = end.map(|end| end.duration_since(now)) else {
        return check;
    };
    if left > ENDS_SOON {
        return check;
    }
    let seen = format!("it expires in {} days", left.as_hours() / 24);
    check.warn(&seen, Code::TokenExpired.fix())
}

/// Reads what the relay said of the destinations.
pub(super) fn destinations(way: &Way, answer: &Answer) -> Check {
    let Ok(view) = &answer.token else {
        return Check::skipped(Hop::Destinations, "the token is not accepted");
    };
    if way.destinations.is_empty() {
        return Check::skipped(Hop::Destinations, "nothing is forwarded");
    }
    let tried = format!("ask whether it may serve {}", way.destinations.join(", "));
    let named = |state: &str| {
        let those = view.destinations.iter().filter(|one| one.state == state);
        those.map(|one| for_people(&one.name)).collect::<Vec<_>>()
    };
    let (unknown, forbidden) = (named("unknown"), named("forbidden"));
    let failure = match (unknown.as_slice(), forbidden.as_slice()) {
        ([], []) => return Check::ok(Hop::Destinations, tried, "it may"),
        ([], forbidden) => Failure::new(
            Code::Forbidden,
            format!("the token may not serve {}", forbidden.join(", ")),
        ),
        (unknown, _) => Failure::new(
            Code::UnknownDestination,
            format!(
                "tenant {} has no {}",
                for_people(&view.tenant),
                unknown.join(", ")
            ),
        ),
    };
    Check::failed(Hop::Destinations, tried, &failure)
        .fact("unknown", unknown)
        .fact("forbidden", forbidden)
}
