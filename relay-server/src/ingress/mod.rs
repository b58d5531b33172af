//! The public URL of a source: from a provider's request to a durable event.
//!
//! In this order, cheapest first: is the request unambiguous, is there such a source, does it take
//! the method, this address, this rate, this size; only then is the body read, a challenge
//! answered, the signature checked over the raw bytes, and the event appended. The answer 2xx is
//! given after the append returned, never before. Test events ([`Ingress::send_test`]) are signed with
//! the source's own secret and take the same way from there on.

mod accept;

mod ambiguity;

mod body;

mod hold;

mod rate;

mod receive;

mod reply;

mod target;

mod test_event;

pub use accept::{Ingress, IngressConfig, IngressCounters};
pub use body::BodyDeadlines;
pub(crate) use body::{BodyError, BodyMemory, read as read_body};
pub use rate::Rate;
pub use receive::Accepted;
pub use test_event::TestEvent;
pub(crate) use {hold::Holding, reply::Reply};

#[cfg(test)]
mod tests;
