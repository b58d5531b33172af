//! Log events, for `run`.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::{News, View, line::for_people};
use crate::{explain::Failure, forward::Outcome};

/// Logs one line a change of state, and at DEBUG one a delivery. Never headers, bodies or queries.
#[derive(Debug, Default)]
pub struct Log {
    /// The last trouble, so that each is told once above DEBUG.
    trouble: Option<Failure>,
}

impl Log {
    fn lost(&mut self, failure: &Failure, wait: Duration) {
        let code = failure.code;
        if self.trouble.as_ref() == Some(failure) {
            debug!(%code, error = failure.what, ?wait, "Still no session");
            return;
        }
        warn!(%code, error = failure.what, context = failure.context, ?wait, "No session with the relay");
        self.trouble = Some(failure.clone());
    }
}

impl View for Log {
    fn delivered(&mut self, outcome: &Outcome) {
        let offer = &outcome.offer;
        match &outcome.result {
            Ok(answer) => debug!(
                delivery = %offer.delivery,
                event = %offer.event,
                destination = offer.destination,
                attempt = offer.attempt,
                status = answer.status.as_u16(),
                elapsed = ?outcome.elapsed,
                "Service answered"
            ),
            Err(error) => debug!(
                delivery = %offer.delivery,
                event = %offer.event,
                destination = offer.destination,
                attempt = offer.attempt,
                %error,
                elapsed = ?outcome.elapsed,
                "Service did not answer"
            ),
        }
    }

    fn news(&mut self, news: &News<'_>) {
        match news {
            News::Connected {
                url,
                is_fallback,
                welcome,
            } => {
                self.trouble = None;
                let transport = if *is_fallback { "poll" } else { "websocket" };
                let destinations = welcome.destinations.len();
                info!(
                    url,
                    transport,
                    node = welcome.node.as_deref().map(for_people),
                    session = %welcome.session,
                    destinations,
                    "Connected"
                );
            }
            News::Heartbeat { .. } => {}
            News::Suspect => info!("The relay is silent: opening another connection"),
            News::Lost { failure, wait } => self.lost(failure, *wait),
            News::RelayDrains { reason } => {
                info!(
                    reason = for_people(reason),
                    "The relay is going away: connecting again"
                );
            }
            News::Stopping { in_hand } => info!(in_hand, "Stopping"),
        }
    }
}
