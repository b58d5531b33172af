//! Whether an agent is let in, and what it then serves.

use std::time::Duration;

use protocol::{
    frame::{Hello, Listen, ListenedSource, Listening, Refuse, RefuseCode, ServedDestination},
    limits,
};
use tracing::warn;

use super::{Authorised, driver::SessionContext};
use crate::{
    store::DestinationKey,
    tenancy::{Destination, Listener, Name, Scope, TenancyError},
};

/// When to try again if the relay itself is in trouble.
const TROUBLE_RETRY_MS: u64 = 5_000;

/// A destination as one session serves it.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) name: String,
    pub(super) key: DestinationKey,
    pub(super) timeout: Duration,
}

/// What an agent is let in for.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) served: Vec<Served>,
    pub(super) listening: Option<Listening>,
    /// The expiring destination, to be told when the session ends.
    pub(super) listener: Option<DestinationKey>,
}

impl Served {
    fn of(destination: &Destination) -> Self {
        Self {
            name: destination.name.as_str().to_owned(),
            key: DestinationKey {
                tenant: destination.tenant,
                destination: destination.id,
            },
            timeout: destination.policy.timeout,
        }
    }

    /// How long leases last.
    pub(super) fn ttl(&self) -> Duration {
        self.timeout + limits::LEASE_MARGIN
    }

    pub(super) fn to_frame(&self) -> ServedDestination {
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        ServedDestination {
            name: self.name.clone(),
            timeout_ms,
        }
    }
}

/// Judges a Hello.
pub(super) async fn admit(
    context: &SessionContext,
    authorised: &Authorised,
    hello: &Hello,
) -> Result<Admitted, Refuse> {
    let mut served = Vec::with_capacity(hello.destinations.len() + 1);
    for offered in &hello.destinations {
        served.push(find(context, authorised, &offered.name)?);
    }
    let mut admitted = Admitted {
        served,
        listening: None,
        listener: None,
    };
    if let Some(listen) = &hello.listen {
        let listener = open_listener(context, authorised, hello, listen).await?;
        let destination = Served::of(&listener.destination);
        admitted.listening = Some(describe(context, &listener));
        admitted.listener = Some(destination.key);
        admitted.served.push(destination);
    }
    if admitted.served.is_empty() {
        return Err(refuse(
            RefuseCode::UnknownDestination,
            "name at least one destination to serve",
        ));
    }
    Ok(admitted)
}

fn find(context: &SessionContext, authorised: &Authorised, name: &str) -> Result<Served, Refuse> {
    let shown: String = name.chars().take(64).collect();
    let unknown = || {
        let detail = format!(
            "there is no destination `{shown}`; create it with `relay-server destination create {shown}`"
        );
        refuse(RefuseCode::UnknownDestination, &detail)
    };
    let name: Name = name.parse().map_err(|_| unknown())?;
    if !authorised.token.may(Scope::Connect) || !authorised.token.may_serve(&name) {
        return Err(refuse(
            RefuseCode::Forbidden,
            &format!("the token may not serve the destination `{shown}`"),
        ));
    }
    let directory = context.tenancy.directory();
    let destination = directory
        .destination_by_name(authorised.tenant, &name)
        .ok_or_else(unknown)?;
    Ok(Served::of(destination))
}

async fn open_listener(
    context: &SessionContext,
    authorised: &Authorised,
    hello: &Hello,
    listen: &Listen,
) -> Result<Listener, Refuse> {
    let opened = context.tenancy.open_listen(
        &authorised.token,
        hello.instance,
        &listen.sources,
        listen.filter.as_ref(),
    );
    opened.await.map_err(|error| match &error {
        TenancyError::Forbidden(_) => refuse(RefuseCode::Forbidden, &error.to_string()),
        TenancyError::Filter(_) => refuse(RefuseCode::InvalidFilter, &error.to_string()),
        TenancyError::Invalid(_) => refuse(RefuseCode::UnknownSource, &error.to_string()),
        TenancyError::Store(_) => {
            warn!(%error, "a listener could not be opened");
            let detail = "the relay cannot store settings at the moment".to_owned();
            Refuse {
                code: RefuseCode::Unavailable,
                detail,
                retry_after_ms: Some(TROUBLE_RETRY_MS),
            }
        }
        _ => refuse(RefuseCode::Limit, &error.to_string()),
    })
}

fn describe(context: &SessionContext, listener: &Listener) -> Listening {
    let sources = listener.sources.iter().map(|live| ListenedSource {
        name: live.source.name.as_str().to_owned(),
        url: format!("{}/in/{}", context.public_url, live.source.key.as_str()),
    });
    Listening {
        destination: listener.destination.name.as_str().to_owned(),
        sources: sources.collect(),
    }
}

fn refuse(code: RefuseCode, detail: &str) -> Refuse {
    Refuse {
        code,
        detail: detail.to_owned(),
        retry_after_ms: None,
    }
}
