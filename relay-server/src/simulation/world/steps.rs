//! What the plan does to the world.

use std::time::Duration;

use bytes::Bytes;
use protocol::{
    frame::Headers,
    id::{DeliveryId, EventId, ReplayId, SourceId},
};

use super::{Happening, Posted, World};
use crate::{
    clock::Clock as _,
    dispatch::Pause,
    lifecycle::{EndReason, Event, OrderKey, Verification},
    simulation::{
        plan::{Cut, Step},
        watched::{at_once, lock},
    },
    store::{Events as _, NewDelivery, NewEvent, Replay},
};

impl World {
    pub(super) fn take_step(&mut self, step: Step) {
        match step {
            Step::Post { .. } => self.post(step),
            Step::Replay(nth) => self.replay(nth),
            Step::End(nth, reason) => self.end(nth, reason),
            Step::Park(index, key) => {
                let order = OrderKey::new(key_text(key).as_bytes());
                let _ = at_once(
                    self.around
                        .store
                        .park(self.plan.destinations[index].key, order),
                );
            }
            Step::Resume(index, key) => {
                let order = OrderKey::new(key_text(key).as_bytes()).digest;
                let _ = at_once(
                    self.around
                        .store
                        .resume(self.plan.destinations[index].key, order),
                );
            }
            Step::Pause(index, lasts) => {
                let until = lasts.map(|ms| self.clock.now().after(Duration::from_millis(ms)));
                self.set_pause(index, Some(Pause { until }));
            }
            Step::Unpause(index) => self.set_pause(index, None),
            Step::Mood(index, whose, mood) => {
                self.moods.insert((index, whose), mood);
            }
            Step::Cut(number, cut) => self.cut(number, cut),
            Step::Offline(number, lasts) => {
                self.offline.insert(number);
                self.cut(number, Cut::Silent);
                self.after(lasts, Happening::Online(number));
            }
            Step::Late(number, by, lasts) => {
                self.late_ms.insert(number, by);
                self.after(lasts, Happening::OnTime(number));
            }
            Step::Crash(number, back_after) => {
                self.agents[number].die();
                self.cut(number, Cut::Loud);
                self.after(back_after, Happening::Start(number));
            }
            Step::Stop(number, back_after) => {
                self.agents[number].stop();
                self.fulfil(number);
                // It is given its time, then it is killed.
                self.after(back_after + 10_000, Happening::Step(Step::Crash(number, 0)));
            }
            Step::Restart(back_after) => {
                self.relay = None;
                self.around.store.restart();
                for number in 0..self.agents.len() {
                    self.cut(number, Cut::Loud);
                }
                self.after(back_after, Happening::StartRelay);
            }
            Step::SetClock(by) => self.clock.set_by(by),
            Step::StoreFails(lasts) => {
                self.around.store.fail(true);
                self.after(lasts, Happening::StoreWorks);
            }
        }
    }

    /// Ends something open by hand.
    fn end(&self, nth: u64, reason: EndReason) {
        let open: Vec<_> = {
            let check = lock(&self.check);
            check
                .open()
                .map(|(id, owed)| (id, owed.key.tenant))
                .collect()
        };
        if let Some((id, tenant)) = nth_of(&open, nth) {
            let _ = at_once(self.around.store.end(*tenant, *id, reason));
        }
    }

    fn set_pause(&mut self, index: usize, pause: Option<Pause>) {
        let key = self.plan.destinations[index].key;
        if let Some(rules) = lock(&self.around.settings.0).get_mut(&key) {
            rules.pause = pause;
        }
        if let Some(relay) = &mut self.relay {
            relay.heed_settings();
        }
    }

    fn post(&mut self, step: Step) {
        let Step::Post {
            destinations,
            key,
            bytes,
            poison,
            provider_id,
        } = step
        else {
            return;
        };
        // Without a relay nobody takes it, and it is not accepted.
        if self.relay.is_none() {
            return;
        }
        self.posts += 1;
        let id = EventId::from_u128(self.posts);
        let tenant = self.plan.destinations[destinations[0]].key.tenant;
        let header = (Bytes::from_static(b"x-key"), Bytes::from(key_text(key)));
        let event = Event {
            id,
            tenant,
            source: SourceId::from_u128(tenant.as_u128()),
            received_at: self.clock.now(),
            method: "POST".to_owned(),
            target: poison
                .map(|status| format!("/{status}"))
                .unwrap_or_default(),
            headers: Headers(vec![header]),
            body: Bytes::from(vec![b'x'; bytes]),
            verification: Verification {
                rule: "none".to_owned(),
                secret: None,
            },
            event_type: None,
            provider_id: provider_id.map(|id| format!("provider-{id}")),
            remote: None,
        };
        let deliveries = destinations.iter().zip(0..).map(|(index, nth)| {
            let plan = &self.plan.destinations[*index];
            NewDelivery {
                id: DeliveryId::from_u128(self.posts * 1_000 + nth),
                destination: plan.key.destination,
                order: plan.order.key_of(&event.headers, &event.body),
            }
        });
        let deliveries = deliveries.collect();
        let dedupe_window = Duration::from_secs(72 * 3_600);
        let new = NewEvent {
            waited_for: None,
            event,
            dedupe_window,
            deliveries,
            decisions: Vec::new(),
        };
        if at_once(self.around.store.append(new)).is_ok() {
            self.events.push(Posted {
                id,
                keys: vec![key; destinations.len()],
            });
        }
    }

    /// Replays an event to a destination where it has ended.
    fn replay(&mut self, nth: u64) {
        let ended: Vec<_> = {
            let check = lock(&self.check);
            let ended = check.owed.iter().filter(|(_, owed)| owed.ended.is_some());
            ended
                .map(|(id, owed)| (*id, owed.key, owed.order))
                .collect()
        };
        let Some((id, key, is_ordered)) = nth_of(&ended, nth).copied() else {
            return;
        };
        let number = id.as_u128() / 1_000;
        let event = EventId::from_u128(number);
        let Some(posted) = self.events.iter().find(|posted| posted.id == event) else {
            return;
        };
        self.posts += 1;
        let plan = self.plan.destinations.iter().find(|plan| plan.key == key);
        let text = key_text(posted.keys[0]);
        let header = (Bytes::from_static(b"x-key"), Bytes::from(text));
        let order = plan.and_then(|plan| plan.order.key_of(&Headers(vec![header]), b""));
        let replay = Replay {
            tenant: key.tenant,
            event,
            replay: ReplayId::from_u128(self.posts),
            delivery: NewDelivery {
                // The event's number stays readable in it.
                id: DeliveryId::from_u128(number * 1_000 + 100 + self.posts % 900),
                destination: key.destination,
                order: order.filter(|_| is_ordered.is_some()),
            },
        };
        if !lock(&self.check).owed.contains_key(&replay.delivery.id) {
            let _ = at_once(self.around.store.replay(&[replay]));
        }
    }
}

fn key_text(key: u64) -> String {
    format!("key-{key}")
}

fn nth_of<T>(all: &[T], nth: u64) -> Option<&T> {
    let len = u64::try_from(all.len()).ok().filter(|len| *len > 0)?;
    all.get(usize::try_from(nth % len).ok()?)
}
