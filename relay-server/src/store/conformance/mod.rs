//! One suite that defines what a store is.
//!
//! Cases are plain functions over a [`Stage`]; [`store_conformance!`](crate::store_conformance) lists
//! each once, so that no backend can forget one. A case calls [`Stage::pause`] where nothing in memory
//! is promised to last: a backend that survives restarts is then closed and opened again.

#![expect(
    clippy::unwrap_used,
    reason = "a case fails by panicking, like any test"
)]

pub mod accept;

pub mod handout;

pub mod order;

pub mod settle;

pub mod manage;

pub mod look;

pub mod replays;

pub mod configure;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use protocol::{
    frame::Headers,
    id::{AttemptId, DeliveryId, DestinationId, EventId, RouteId, SourceId, TenantId},
};

use super::{
    Appended, DestinationKey, Due, Events, Held, Lease, NewDelivery, NewEvent, Queries, Settings,
    Settled, Settlement, Want,
};
use crate::{
    clock::{Clock, ManualClock, Timestamp},
    lifecycle::{
        AttemptOutcome, AttemptReport, DeadReason, DeliveryState, Event, RouteDecision, Spent,
        Verdict, Verification,
    },
};

/// A store under test.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Its hot path.
    pub events: Arc<dyn Events>,
    /// Its lists.
    pub queries: Arc<dyn Queries>,
    /// Its settings.
    pub settings: Arc<dyn Settings>,
}

impl Backend {
    /// All three from one store.
    pub fn of<S: Events + Queries + Settings>(store: Arc<S>) -> Self {
        Self {
            events: store.clone(),
            queries: store.clone(),
            settings: store,
        }
    }
}

/// Opens a store on the same data as before.
pub type Open = Box<
    dyn FnMut(Arc<ManualClock>, Arc<Due>) -> Pin<Box<dyn Future<Output = Backend> + Send>> + Send,
>;

/// A store, the clock that it obeys, and what a case needs to tell its story.
pub struct Stage {
    /// The time.
    pub clock: Arc<ManualClock>,
    /// What the store marks.
    pub due: Arc<Due>,
    /// The store.
    pub store: Backend,
    open: Open,
    restarts: bool,
    made: u128,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

/// Where every stage's clock begins.
pub const START: Timestamp = Timestamp(1_800_000_000_000);

/// How long a lease lasts unless a case says otherwise.
pub const TTL: Duration = Duration::from_secs(60);

/// How long a provider's id is remembered.
pub const WINDOW: Duration = Duration::from_secs(3600);

/// The tenant of most cases.
pub const TENANT: TenantId = TenantId::from_u128(1);

/// Another one.
pub const STRANGER: TenantId = TenantId::from_u128(2);

/// The source of most cases.
pub const SOURCE: SourceId = SourceId::from_u128(11);

/// The queue of most cases.
pub const QUEUE: DestinationKey = DestinationKey {
    tenant: TENANT,
    destination: DestinationId::from_u128(21),
};

/// Another queue of the same tenant.
pub const OTHER_QUEUE: DestinationKey = DestinationKey {
    tenant: TENANT,
    destination: DestinationId::from_u128(22),
};

impl Stage {
    /// A stage with a store. With `restarts`, every pause closes it and opens it again.
    pub async fn set(mut open: Open, restarts: bool) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let due = Arc::new(Due::default());
        let store = open(clock.clone(), due.clone()).await;
        Self {
            clock,
            due,
            store,
            open,
            restarts,
            made: 0,
        }
    }

    /// A moment after which only what is durable is left.
    pub async fn pause(&mut self) {
        if self.restarts {
            self.store.events.close().await;
            self.store = (self.open)(self.clock.clone(), self.due.clone()).await;
        }
    }

    fn fresh(&mut self) -> u128 {
        self.made += 1;
        self.clock.now().0 as u128 * (1 << 80) + self.made
    }

    /// An event with one delivery to [`QUEUE`].
    pub fn event(&mut self, provider_id: Option<&str>) -> NewEvent {
        self.event_for(&[QUEUE], provider_id)
    }

    /// An event with a delivery to each of some queues.
    pub fn event_for(&mut self, queues: &[DestinationKey], provider_id: Option<&str>) -> NewEvent {
        let id = EventId::from_u128(self.fresh());
        let tenant = queues.first().map_or(TENANT, |queue| queue.tenant);
        let header = |name: &'static str, value: &'static [u8]| {
            (
                Bytes::from_static(name.as_bytes()),
                Bytes::from_static(value),
            )
        };
        let event = Event {
            id,
            tenant,
            source: SOURCE,
            received_at: self.clock.now(),
            method: "POST".to_owned(),
            target: "/hook?b=2&a=1&a=3".to_owned(),
            headers: Headers(vec![
                header("X-Twice", b"one"),
                header("x-twice", b"\xff\xfe two"),
                header("Empty", b""),
            ]),
            body: Bytes::from(format!("body \0\u{7f} of {id}")),
            verification: Verification {
                rule: "stripe".to_owned(),
                secret: Some(1),
            },
            event_type: Some("invoice.paid".to_owned()),
            provider_id: provider_id.map(str::to_owned),
            remote: Some([192, 0, 2, 7].into()),
        };
        let deliveries = queues
            .iter()
            .map(|queue| NewDelivery {
                id: DeliveryId::from_u128(self.fresh()),
                destination: queue.destination,
                order: None,
            })
            .collect();
        NewEvent {
            waited_for: None,
            event,
            dedupe_window: WINDOW,
            deliveries,
            decisions: decisions(),
        }
    }

    /// Accepts a new event for [`QUEUE`].
    pub async fn accept(&mut self) -> (EventId, DeliveryId) {
        let new = self.event(None);
        let ids = (new.event.id, new.deliveries[0].id);
        assert_eq!(self.store.events.append(new).await, Ok(Appended::New));
        ids
    }

    /// Claims from [`QUEUE`].
    pub async fn claim(&self, deliveries: u32) -> Vec<Lease> {
        self.claim_from(QUEUE, deliveries).await
    }

    /// Claims from a queue.
    pub async fn claim_from(&self, key: DestinationKey, deliveries: u32) -> Vec<Lease> {
        self.claim_wanting(Want {
            key,
            deliveries,
            bytes: u64::MAX / 2,
            in_flight_max: None,
            ttl: TTL,
        })
        .await
    }

    /// Claims from [`QUEUE`] as long as no more than `in_flight_max` are leased there.
    pub async fn claim_within(&self, deliveries: u32, in_flight_max: u32) -> Vec<Lease> {
        self.claim_wanting(Want {
            key: QUEUE,
            deliveries,
            bytes: u64::MAX / 2,
            in_flight_max: Some(in_flight_max),
            ttl: TTL,
        })
        .await
    }

    async fn claim_wanting(&self, want: Want) -> Vec<Lease> {
        self.store.events.claim(&[want]).await.unwrap()
    }

    /// Claims exactly one delivery from [`QUEUE`].
    pub async fn claim_one(&self) -> Lease {
        let mut leases = self.claim(1).await;
        assert_eq!(leases.len(), 1, "one delivery is due");
        leases.remove(0)
    }

    /// Settles one attempt.
    pub async fn settle(&mut self, lease: &Lease, verdict: Verdict) -> Settled {
        let settlement = self.settlement(lease, verdict);
        let settled = self.store.events.settle(vec![settlement]).await.unwrap();
        assert_eq!(settled.len(), 1);
        settled[0]
    }

    /// What an agent reports and what it means.
    pub fn settlement(&mut self, lease: &Lease, verdict: Verdict) -> Settlement {
        let status = if verdict == Verdict::Deliver {
            200
        } else {
            500
        };
        Settlement {
            tenant: lease.info.key.tenant,
            delivery: lease.info.delivery,
            token: lease.info.token,
            attempt: AttemptReport {
                id: AttemptId::from_u128(self.fresh()),
                number: lease.info.attempt,
                agent: None,
                ended_at: self.clock.now(),
                elapsed_ms: 12,
                outcome: AttemptOutcome::Answered {
                    status,
                    headers: Headers(vec![(
                        Bytes::from_static(b"content-type"),
                        Bytes::from_static(b"text/plain"),
                    )]),
                    body_bytes: 2,
                    response_start: Bytes::from_static(b"ok"),
                },
            },
            verdict,
            park: false,
        }
    }

    /// Accepts an event and lets its delivery die.
    pub async fn accept_dead(&mut self, provider_id: Option<&str>) -> (EventId, DeliveryId) {
        let new = self.event(provider_id);
        let ids = (new.event.id, new.deliveries[0].id);
        assert_eq!(self.store.events.append(new).await, Ok(Appended::New));
        let lease = self.claim_one().await;
        assert_eq!(self.settle(&lease, die()).await, Settled::Applied);
        ids
    }

    /// In how long an attempt may be made.
    pub fn retry_in(&self, seconds: u64) -> Verdict {
        let at = self.clock.now().after(Duration::from_secs(seconds));
        let spent = Spent {
            attempts: 1,
            window_ms: seconds,
        };
        Verdict::Retry { at, spent }
    }

    /// Where a delivery of [`TENANT`] stands.
    pub async fn state(&self, delivery: DeliveryId) -> Option<DeliveryState> {
        let filter = super::DeliveryFilter::default();
        let page = self
            .store
            .queries
            .deliveries(TENANT, &filter, None, 250)
            .await;
        page.unwrap()
            .rows
            .iter()
            .find(|row| row.id == delivery)
            .map(|row| row.state)
    }
}

/// What two routes said of every event of a stage.
pub fn decisions() -> Vec<RouteDecision> {
    let decision = |route, unmet: Option<&str>| RouteDecision {
        route: RouteId::from_u128(route),
        unmet: unmet.map(str::to_owned),
    };
    vec![decision(31, None), decision(32, Some("/body/amount/$gt"))]
}

/// Policy gives up.
pub fn die() -> Verdict {
    Verdict::Die {
        reason: DeadReason::RetriesExhausted,
    }
}

/// A lease as its holder names it.
pub fn held(lease: &Lease) -> Held {
    Held {
        tenant: lease.info.key.tenant,
        delivery: lease.info.delivery,
        token: lease.info.token,
        attempt: lease.info.attempt,
    }
}

/// Runs every case against a backend, each in a test of its own. The argument is an expression of
/// type `Stage` (it may await).
#[macro_export]
macro_rules! store_conformance {
    ($stage:expr) => {
        $crate::store_conformance!(@cases $stage;
            accept::{
                repeats_are_recognised_within_the_window,
                a_repeat_reopens_what_is_dead,
                concurrent_repeats_share_one_acceptance,
                repeats_and_decisions_are_kept_for_explanations,
                provider_ids_belong_to_their_source_and_tenant,
                a_forgotten_source_remembers_nothing,
                unrouted_events_are_kept,
                fan_out_owes_every_destination,
            }
            handout::{
                deliveries_come_in_accept_order_and_once,
                credit_in_deliveries_and_bytes_is_kept,
                leases_in_flight_are_limited,
                events_come_back_as_they_were,
                a_lease_ends_and_is_named_until_settled,
                renewing_lengthens_and_shortens,
                a_released_delivery_counts_no_attempt,
                a_holder_takes_its_lease_back,
                a_backlog_larger_than_memory_is_handed_out_in_order,
                appends_mark_their_destination,
            }
            order::{
                what_is_waited_for_goes_first,
                one_of_a_key_at_a_time,
                a_backlog_of_keys_keeps_its_order,
                a_key_parks_with_its_head,
                a_key_waits_for_an_attempt_in_vain,
                a_replay_joins_the_tail_of_its_key,
                live_goes_before_backlog_and_replays,
            }
            settle::{
                a_delivered_delivery_is_never_handed_out_again,
                a_retry_waits_and_counts,
                many_retries_wait_and_come_back,
                a_stale_failure_is_fenced,
                a_stale_success_settles,
                settling_twice_changes_nothing,
                tenants_settle_only_their_own,
                attempts_are_listed_in_order,
            }
            manage::{
                a_replay_makes_a_new_delivery,
                a_replay_delivers_an_event_once,
                what_is_still_owed_is_not_replayed,
                a_repeat_reopens_the_last_replay,
                one_delivery_is_ended,
                a_destination_is_ended_whole,
                a_closed_store_refuses,
            }
            look::{
                events_are_paged_newest_first,
                events_are_filtered,
                deliveries_are_filtered,
                tenants_see_only_their_own,
                depth_counts_open_and_dead,
                an_open_delivery_waits_for_something,
                what_is_behind_waits_for_its_key,
            }
            replays::{
                dead_letters_are_filtered,
                a_dead_letter_leaves_when_it_is_owed_again,
                a_replay_takes_what_was_there_oldest_first,
                deliveries_of_a_replay_are_counted,
            }
            configure::{
                a_resource_is_stored_replaced_and_removed,
                names_are_unique_among_the_living,
                a_stale_change_conflicts,
                what_was_done_is_kept_and_found,
                the_last_use_of_a_token_is_kept,
            }
        );
    };
    (@cases $stage:expr; $($module:ident::{ $($case:ident,)* })*) => {
        $(mod $module {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let mut stage = $stage;
                    $crate::store::conformance::$module::$case(&mut stage).await;
                }
            )*
        })*
    };
}

#[cfg(test)]
mod memory {
    use super::*;
    use crate::store::memory::Memory;

    fn open() -> Open {
        Box::new(|clock, due| Box::pin(async { Backend::of(Memory::new(clock, due)) }))
    }

    crate::store_conformance!(Stage::set(open(), false).await);
}
