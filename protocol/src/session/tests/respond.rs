//! Responses that a provider waits for: byte for byte, under reverse credit, never short and whole.

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{AgentSession, NotSent, Violation},
    MOMENT, cancel, check_relay_violation, held,
    pair::{Fate, Pair, lease, receipt},
    seconds,
};
use crate::{
    frame::{
        Headers, LeaseToken, Outcome, Receipt, ResponseChunk, ResponseHead, ServiceFailure,
        ToAgent, ToRelay,
    },
    id::DeliveryId,
    limits::{RESPONSE_BYTES_INITIAL, RESPONSE_WINDOW_BYTES},
};

const ONE: DeliveryId = DeliveryId::from_u128(1);

fn response(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 100) as u8).collect()
}

fn head(status: u16) -> ResponseHead {
    let field = ("x-own".into(), "1".into());
    ResponseHead {
        status,
        headers: Headers(vec![field]),
    }
}

fn chunk(number: u128, is_first: bool, part: impl Into<Bytes>, last: bool) -> ResponseChunk {
    ResponseChunk {
        delivery: DeliveryId::from_u128(number),
        lease: lease(number, 1),
        head: is_first.then(|| head(200)),
        offset: 0,
        last,
        part: part.into(),
    }
}

fn failed(number: u128) -> Receipt {
    Receipt {
        outcome: Outcome::Failed {
            failure: ServiceFailure::Broken,
            detail: String::new(),
        },
        ..receipt(number, 1)
    }
}

/// A service's response on its way into the agent's end, as fast as credit allows.
struct Flow {
    number: u128,
    body: Vec<u8>,
    sent: usize,
    has_begun: bool,
    is_done: bool,
}

impl Flow {
    fn new(number: u128, size: usize) -> Self {
        Self {
            number,
            body: response(size),
            sent: 0,
            has_begun: false,
            is_done: false,
        }
    }

    fn push(&mut self, agent: &mut AgentSession) {
        let (delivery, lease) = (DeliveryId::from_u128(self.number), lease(self.number, 1));
        let Some(room) = agent.response_room(delivery, &lease) else {
            return;
        };
        let end = self.body.len().min(self.sent + room as usize);
        let last = end == self.body.len();
        if self.is_done || (end == self.sent && !last) {
            return;
        }
        let part = self.body[self.sent..end].to_vec();
        let part = chunk(self.number, !self.has_begun, part, last);
        assert_eq!(agent.respond(part), Ok(()));
        self.has_begun = true;
        (self.sent, self.is_done) = (end, last);
    }
}

impl Pair {
    /// What came of a response.
    fn response(&self, number: u128) -> Vec<u8> {
        let chunks = self.seen.responses.iter();
        let own = chunks.filter(|chunk| chunk.delivery == DeliveryId::from_u128(number));
        own.map(|chunk| &chunk.part[..])
            .collect::<Vec<_>>()
            .concat()
    }

    fn is_complete(&self, number: u128) -> bool {
        let own = |chunk: &&ResponseChunk| chunk.delivery == DeliveryId::from_u128(number);
        self.seen
            .responses
            .iter()
            .rfind(own)
            .is_some_and(|chunk| chunk.last)
    }

    fn take_response(&mut self, number: u128, bytes: u64) {
        let (delivery, lease) = (DeliveryId::from_u128(number), lease(number, 1));
        self.relay.response_taken(delivery, &lease, bytes);
    }
}

#[test]
fn a_short_response_comes_before_its_receipt() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.run_for(MOMENT);
    assert!(pair.seen.offers[0].respond);
    assert_eq!(pair.agent.respond(chunk(1, true, "ok", true)), Ok(()));
    pair.finish(1, 1);
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.responses, [chunk(1, true, "ok", true)]);
    assert_eq!(pair.seen.receipts, [receipt(1, 1)]);
    let sent = &pair.seen.sent_to_relay;
    assert_eq!(
        sent[sent.len() - 3..],
        ["Credit", "ResponseChunk", "Receipt"]
    );
    assert!(pair.seen.cut.is_empty());
}

#[test]
fn what_is_waited_for_is_offered_first() {
    let mut pair = Pair::open(8, 1000);
    for number in 1..=2 {
        assert!(pair.offer(number, 1, ""));
    }
    pair.ask(3, 1);
    pair.ask(4, 1);
    assert!(pair.offer(5, 1, ""));
    pair.run_for(MOMENT);
    let order = pair.seen.offers.iter().map(|offer| offer.delivery);
    let order: Vec<_> = order.collect();
    assert_eq!(order, [3, 4, 1, 2, 5].map(DeliveryId::from_u128));
}

#[test]
fn a_long_response_flows_as_fast_as_it_is_taken() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.run_for(MOMENT);
    let mut flow = Flow::new(1, 5_000_000);
    let mut taken = 0;
    while !flow.is_done {
        flow.push(&mut pair.agent);
        pair.run_for(MOMENT);
        let came = pair.response(1).len();
        assert!(
            (came - taken) as u64 <= RESPONSE_WINDOW_BYTES,
            "no more than a window waits"
        );
        pair.take_response(1, (came - taken) as u64);
        taken = came;
        pair.run_for(MOMENT);
    }
    pair.finish(1, 1);
    pair.run_for(MOMENT);

    assert!(pair.response(1) == flow.body && pair.is_complete(1));
    assert_eq!(pair.seen.receipts.len(), 1);
}

#[test]
fn a_response_that_nobody_takes_holds_up_nothing_else() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.ask(2, 1);
    pair.run_for(MOMENT);
    let mut stuck = Flow::new(1, 1_000_000);
    stuck.push(&mut pair.agent);
    pair.run_for(seconds(100));
    assert_eq!(pair.agent.response_room(ONE, &lease(1, 1)), Some(0));
    assert_eq!(pair.response(1).len() as u64, RESPONSE_BYTES_INITIAL);

    let mut other = Flow::new(2, 50_000);
    other.push(&mut pair.agent);
    pair.finish(2, 1);
    pair.run_for(MOMENT);
    assert!(pair.response(2) == other.body && pair.is_complete(2));
    assert_eq!(pair.seen.receipts, [receipt(2, 1)]);
    assert!(pair.offer(3, 1, ""));
    assert!(pair.seen.relay_closed.is_none());
}

#[test]
fn an_agent_sends_no_more_than_it_may() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    assert!(pair.offer(2, 1, ""));
    pair.run_for(MOMENT);
    let too_much = response(RESPONSE_BYTES_INITIAL as usize + 1);

    assert_eq!(
        pair.agent
            .response_room(DeliveryId::from_u128(2), &lease(2, 1)),
        None
    );
    assert_eq!(pair.agent.respond(chunk(2, true, "x", true)), Err(NotSent));
    assert_eq!(
        pair.agent.respond(chunk(1, true, too_much, true)),
        Err(NotSent)
    );
    assert_eq!(
        pair.agent.respond(chunk(1, false, "x", false)),
        Err(NotSent),
        "no head"
    );
    assert_eq!(pair.agent.respond(chunk(1, true, "x", false)), Ok(()));
    assert_eq!(
        pair.agent.respond(chunk(1, true, "x", false)),
        Err(NotSent),
        "a second head"
    );
    assert_eq!(pair.agent.respond(chunk(1, false, "y", true)), Ok(()));
    assert_eq!(
        pair.agent.respond(chunk(1, false, "z", true)),
        Err(NotSent),
        "after the end"
    );
    pair.run_for(MOMENT);
    assert_eq!(pair.response(1), b"xy");
}

#[test]
fn a_response_that_nobody_waits_for_stops_and_the_attempt_goes_on() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.run_for(MOMENT);
    let mut flow = Flow::new(1, 1_000_000);
    flow.push(&mut pair.agent);
    pair.run_for(MOMENT);
    pair.relay.forgo_response(ONE, &lease(1, 1));
    pair.relay.forgo_response(ONE, &lease(1, 1));
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.unwanted, [ONE]);
    assert_eq!(
        pair.agent.respond(chunk(1, false, "x", false)),
        Err(NotSent)
    );
    pair.finish(1, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.receipts, [receipt(1, 1)]);
    assert!(
        pair.seen.cut.is_empty(),
        "whoever gave it up need not be told"
    );
}

#[test]
fn what_comes_late_is_not_wanted() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.agent.respond(chunk(1, true, "x", false)), Ok(()));
    pair.drain();
    pair.relay.forgo_response(ONE, &lease(1, 1));
    pair.run_for(MOMENT);
    assert!(pair.seen.responses.is_empty());
    assert_eq!(pair.seen.unwanted, [ONE], "told twice, heard once");
    assert!(pair.seen.relay_closed.is_none());
}

#[test]
fn a_withdrawn_attempt_has_no_response() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.run_for(MOMENT);
    pair.relay.cancel(cancel(1, 1));
    pair.run_for(MOMENT);
    assert_eq!(pair.agent.respond(chunk(1, true, "x", true)), Err(NotSent));
    assert_eq!(pair.seen.unwanted, [ONE]);
    assert_eq!(pair.seen.cancelled, [cancel(1, 1)]);
}

#[test]
fn a_response_that_fails_in_the_middle_is_cut() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.ask(2, 1);
    pair.ask(3, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.agent.respond(chunk(1, true, "half", false)), Ok(()));
    pair.agent.finish(failed(1), pair.now);
    pair.agent.finish(failed(2), pair.now);
    assert_eq!(pair.agent.respond(chunk(3, true, "half", false)), Ok(()));
    pair.run_for(MOMENT);
    pair.agent.release(held(3, 1));
    pair.run_for(MOMENT);

    let three = DeliveryId::from_u128(3);
    let mut cut = pair.seen.cut.clone();
    cut.sort();
    assert_eq!(cut, [ONE, three], "what never began cannot be cut");
    assert_eq!(pair.seen.receipts, [failed(1), failed(2)]);
}

#[test]
fn a_receipt_may_come_before_the_end_of_its_response() {
    let now = super::start();
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.run_for(MOMENT);
    // Not what our agent does, but what the protocol allows.
    let first = chunk(1, true, "a", false);
    let rest = ResponseChunk {
        offset: 1,
        ..chunk(1, false, "b", true)
    };
    let frames = [
        ToRelay::ResponseChunk(first),
        ToRelay::Receipt(Box::new(receipt(1, 1))),
        ToRelay::ResponseChunk(rest),
    ];
    for frame in frames {
        pair.relay.handle_frame(frame, now).unwrap();
    }
    pair.drain();
    assert_eq!(pair.response(1), b"ab");
    assert!(pair.is_complete(1) && pair.seen.cut.is_empty());
}

#[test]
fn a_lost_link_cuts_what_has_begun_and_nothing_else() {
    let mut pair = Pair::open(4, 1000);
    pair.ask(1, 1);
    pair.ask(2, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.agent.respond(chunk(1, true, "half", false)), Ok(()));
    pair.run_for(MOMENT);
    pair.relay.handle_disconnect();
    pair.agent.handle_disconnect();
    pair.drain();
    assert_eq!(pair.seen.cut, [ONE]);
    assert_eq!(
        pair.agent.respond(chunk(2, true, "late", true)),
        Err(NotSent)
    );

    pair.reconnect();
    pair.agent.may_respond(&held(2, 1));
    pair.relay
        .expect_response(DeliveryId::from_u128(2), lease(2, 1));
    assert_eq!(
        pair.agent.respond(chunk(2, true, "ok", true)),
        Ok(()),
        "before Hello"
    );
    pair.finish(2, 1);
    pair.run_for(MOMENT);
    assert!(pair.is_complete(2));
    assert_eq!(pair.response(2), b"ok");
    assert_eq!(pair.seen.receipts, [receipt(2, 1)]);
}

#[test]
fn relays_refuse_responses_that_break_the_rules() {
    let check = |chunks: Vec<ResponseChunk>, expected| {
        let mut pair = Pair::open(4, 1000);
        pair.ask(1, 1);
        pair.run_for(MOMENT);
        let result = chunks.into_iter().try_for_each(|chunk| {
            pair.relay
                .handle_frame(ToRelay::ResponseChunk(chunk), pair.now)
        });
        assert_eq!(result, Err(Violation(expected)));
    };
    let first = || chunk(1, true, "ab", false);
    let at = |offset, part: &'static str| ResponseChunk {
        offset,
        ..chunk(1, false, part, false)
    };
    let mut early = first();
    early.head = Some(head(100));
    let mut heavy = first();
    heavy.head = Some(ResponseHead {
        status: 200,
        headers: Headers(vec![("x".into(), vec![b'x'; 41_000].into())]),
    });
    let too_much = response(RESPONSE_BYTES_INITIAL as usize + 1);

    check(vec![at(0, "ab")], "a response begins without its head");
    check(vec![first(), at(3, "d")], "a response chunk leaves a gap");
    check(
        vec![first(), at(1, "bc")],
        "a response chunk contradicts an earlier one",
    );
    check(
        vec![at(u64::MAX, "x")],
        "a response is longer than can be counted",
    );
    check(vec![early], "a response has no final status");
    check(vec![heavy], "the head of a response is too long");
    check(
        vec![chunk(1, true, too_much, false)],
        "a response exceeds its credit",
    );
    let mut overlong = first();
    overlong.lease = LeaseToken("x".repeat(97));
    check_relay_violation(
        vec![ToRelay::ResponseChunk(overlong)],
        "a lease token is too long",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is doubled, cut, given up or read slowly: what came is a prefix of the response, whole
    /// if and only if its end came, and never more than a window ahead of its reader.
    #[test]
    fn responses_are_prefixes_and_bounded(
        sizes in prop::collection::vec(0_usize..700_000, 1..4),
        steps in prop::collection::vec((0_u8..8, 0_usize..4, 0_u64..300_000), 1..80),
        doubled in any::<u64>(),
    ) {
        let mut pair = Pair::open(8, 1000);
        let mut frames = 0_u32;
        pair.judge(move |frame| {
            frames += 1;
            let may = matches!(frame, Err(ToRelay::ResponseChunk(_)) | Ok(ToAgent::ResponseCredit(_)));
            match may && (doubled >> (frames % 64)) & 1 == 1 {
                true => Fate::Doubled,
                false => Fate::Arrives,
            }
        });
        let mut flows: Vec<Flow> = sizes.iter().enumerate().map(|(n, &size)| Flow::new(n as u128, size)).collect();
        let mut taken = vec![0_u64; flows.len()];
        for n in 0..flows.len() {
            pair.ask(n as u128, 1);
        }
        pair.run_for(MOMENT);
        for (what, which, amount) in steps {
            let n = which % flows.len();
            let delivery = DeliveryId::from_u128(n as u128);
            match what {
                0..4 => flows[n].push(&mut pair.agent),
                4..7 => {
                    let waiting = pair.response(n as u128).len() as u64 - taken[n];
                    let bytes = amount.min(waiting);
                    taken[n] += bytes;
                    pair.take_response(n as u128, bytes);
                }
                _ if amount % 4 == 0 => pair.relay.forgo_response(delivery, &lease(n as u128, 1)),
                _ => {}
            }
            pair.run_for(MOMENT);
            for (n, flow) in flows.iter().enumerate().filter(|(other, _)| *other == n) {
                let came = pair.response(n as u128);
                prop_assert!(flow.body.starts_with(&came));
                prop_assert!(came.len() as u64 <= (taken[n] + RESPONSE_WINDOW_BYTES));
                prop_assert!(!pair.is_complete(n as u128) || came == flow.body);
            }
        }
        prop_assert!(pair.seen.relay_closed.is_none() && pair.seen.agent_closed.is_none());
    }
}
