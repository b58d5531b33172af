//! Offers, receipts and services for tests of this crate.

use protocol::{
    frame::{Headers, LeaseToken, Outcome, Receipt, RequestHead},
    id::EventId,
};

use super::*;
use crate::config::Lane;

pub(crate) fn offer(number: u128, attempt: u32) -> Offer {
    Offer {
        delivery: DeliveryId::from_u128(number),
        event: EventId::from_u128(number),
        lease: LeaseToken(format!("lease-{number}-{attempt}")),
        lease_ms: 90_000,
        attempt,
        destination: "ci".to_owned(),
        source: "github".to_owned(),
        received_at_ms: 1_795_433_942_114,
        event_type: Some("push".to_owned()),
        remote: None,
        public_origin: None,
        replay: None,
        respond: false,
        request: RequestHead {
            method: "POST".to_owned(),
            target: String::new(),
            headers: Headers::default(),
        },
        body_bytes: 0,
        used_deliveries: 0,
        used_bytes: 0,
        body: Bytes::new(),
    }
}

pub(crate) fn lane(to: &str) -> Lane {
    Lane {
        target: to.parse().unwrap(),
        host: None,
        tls: Default::default(),
        concurrency: 4,
        timeout: Duration::from_secs(10),
        window_bytes: 1 << 20,
    }
}

/// A service without TLS that may be anywhere.
pub(crate) fn service(lane: &Lane) -> Arc<Service> {
    Arc::new(Service::new(lane, None, Default::default()))
}

pub(crate) fn receipt(number: u128, attempt: u32, status: u16) -> Receipt {
    let offer = offer(number, attempt);
    Receipt {
        delivery: offer.delivery,
        lease: offer.lease,
        attempt,
        outcome: Outcome::Answered {
            status,
            headers: Headers::default(),
            body_bytes: 0,
        },
        elapsed_ms: 3,
        response_start: Bytes::new(),
    }
}
