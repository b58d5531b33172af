//! The header fields of one attempt: as the event came, or with a signature that services accept now.
//! The stored event never changes, and neither does its body.

use protocol::frame::Headers;
use tracing::warn;

use super::driver::SessionContext;
use crate::{
    lifecycle::Event,
    store::DestinationKey,
    tenancy::{Directory, OldSignatures},
    verify::Request,
};

impl SessionContext {
    /// What the destination wants of an old signature is done when its lease is handed out.
    pub(super) fn headers(&self, event: &Event, key: DestinationKey) -> Headers {
        let directory = self.tenancy.directory();
        let destination = directory.destination(key.tenant, key.destination);
        let wanted = destination.map_or(OldSignatures::Keep, |it| it.policy.old_signatures);
        match wanted {
            OldSignatures::Keep => event.headers.clone(),
            OldSignatures::Refresh => self.refreshed(&directory, event),
            OldSignatures::Add => {
                let mut headers = event.headers.clone();
                // Without a key that opens there is none; the log says so when settings change.
                if let Some(signer) = directory.signer(key.tenant, key.destination) {
                    signer.sign(&mut headers, event.id, self.store.now(), &event.body);
                }
                headers
            }
        }
    }

    fn refreshed(&self, directory: &Directory, event: &Event) -> Headers {
        let live = directory.source(event.tenant, event.source);
        let Some((live, verifier)) = live.and_then(|it| Some((it, it.verifier.as_ref().ok()?)))
        else {
            warn!(event = %event.id, source = %event.source, "the source of an event is gone or unusable; its signature is delivered as it came");
            return event.headers.clone();
        };
        let url = format!("{}/in/{}{}", self.public_url, live.source.key, event.target);
        let request = Request {
            method: &event.method,
            url: &url,
            headers: &event.headers,
            body: &event.body,
        };
        let refreshed = verifier.refresh(&request, event.received_at.0, self.store.now().0);
        refreshed.unwrap_or_else(|error| {
            warn!(event = %event.id, source = %event.source, %error, "a signature is delivered as it came");
            event.headers.clone()
        })
    }
}
