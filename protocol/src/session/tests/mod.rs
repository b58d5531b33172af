//! Stories told with both machines as a pair, in virtual time.

mod pair;

mod random;

mod share;

mod respond;

use std::time::Duration;

use pair::{BILLING, Fate, Pair, lease, offer, receipt, relay, start, welcome};

use super::{AgentOutput, AgentSession, CloseCode, NotOffered, RelayOutput, Violation, Window};
use crate::{
    frame::{
        Bye, Cancel, Chunk, Credit, Drain, Held, Hello, Ping, Refuse, RefuseCode, Settled, ToAgent,
        ToRelay,
    },
    id::{AgentId, DeliveryId, SessionId},
    limits::{CHUNK_BYTES_MAX, REPLACED_MAX, UNCONFIRMED_MAX},
};

const MOMENT: Duration = Duration::from_millis(100);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settled(number: u128, attempt: u32) -> Settled {
    receipt(number, attempt).key()
}

fn held(number: u128, attempt: u32) -> Held {
    Held {
        delivery: DeliveryId::from_u128(number),
        lease: lease(number, attempt),
        attempt,
    }
}

fn cancel(number: u128, attempt: u32) -> Cancel {
    Cancel {
        delivery: DeliveryId::from_u128(number),
        lease: lease(number, attempt),
        reason: String::new(),
    }
}

fn long_body() -> Vec<u8> {
    (0..4 * CHUNK_BYTES_MAX + 7)
        .map(|at| (at / 1000) as u8)
        .collect()
}

#[test]
fn an_offer_is_answered_and_confirmed() {
    let mut pair = Pair::open(4, 1000);

    assert!(pair.offer(1, 1, "hello"));
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.bodies[&DeliveryId::from_u128(1)], b"hello");

    pair.finish(1, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.receipts, [receipt(1, 1)]);
    assert_eq!(pair.agent.unconfirmed().len(), 1);

    pair.confirm_all();
    pair.run_for(MOMENT);
    assert!(pair.seen.confirmed.contains(&settled(1, 1)));
    assert!(pair.agent.unconfirmed().is_empty());
}

#[test]
fn nothing_is_offered_beyond_the_credit() {
    let mut pair = Pair::open(2, 10);

    assert!(pair.offer(1, 1, "1234"));
    assert!(!pair.offer(2, 1, "1234567"), "7 more do not fit in 10");
    assert!(pair.offer(2, 1, "1234"));
    assert!(!pair.offer(3, 1, ""), "two are enough");
    pair.run_for(MOMENT);
    pair.finish(1, 1);
    pair.run_for(MOMENT);
    assert!(pair.offer(3, 1, "123456"));
}

#[test]
fn an_event_larger_than_the_window_travels_alone() {
    let mut pair = Pair::open(4, 10);
    let large = "x".repeat(25);

    assert!(pair.offer(1, 1, "1"));
    pair.run_for(MOMENT);
    assert!(!pair.offer(2, 1, large.clone()), "not beside another");
    pair.finish(1, 1);
    pair.run_for(MOMENT);

    assert!(pair.offer(2, 1, large));
    assert_eq!(pair.seen.free[BILLING].bytes(), -15);
    assert!(!pair.offer(3, 1, ""), "nothing beside it");
    pair.run_for(MOMENT);
    pair.finish(2, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.free[BILLING].bytes(), 10);
    assert!(pair.offer(3, 1, "1234567890"));
}

#[test]
fn credit_is_granted_in_batches() {
    let mut pair = Pair::open(64, 1 << 20);
    for number in 0..64 {
        assert!(pair.offer(number, 1, "x"));
    }
    pair.run_for(MOMENT);
    for number in 0..64 {
        pair.finish(number, 1);
    }
    pair.run_for(MOMENT);

    let grants = pair
        .seen
        .sent_to_relay
        .iter()
        .filter(|name| **name == "Credit");
    assert!((4..=5).contains(&grants.count()), "a quarter at a time");
    assert_eq!(pair.seen.free[BILLING].deliveries(), 64);
}

#[test]
fn small_offers_and_heartbeats_overtake_a_long_body() {
    let mut pair = Pair::open(8, 1 << 24);

    assert!(pair.offer(1, 1, long_body()));
    assert!(pair.offer(2, 1, long_body()));
    assert!(pair.offer(3, 1, "small"));
    pair.relay
        .handle_frame(ToRelay::Ping(Ping { nonce: 9 }), pair.now)
        .unwrap();
    pair.run_for(MOMENT);

    let sent = &pair.seen.sent_to_agent[1..];
    assert_eq!(sent[0], "Pong");
    let last_offer = sent.iter().rposition(|name| *name == "Offer").unwrap();
    let chunks_before = sent[..last_offer].iter().filter(|name| **name == "Chunk");
    assert!(chunks_before.count() <= 2, "{sent:?}");
    for number in [1, 2] {
        assert!(pair.seen.bodies[&DeliveryId::from_u128(number)] == long_body());
    }
    assert_eq!(pair.agent.holding().len(), 3);
}

#[test]
fn a_lost_receipt_is_sent_again() {
    let mut pair = Pair::open(4, 1000);
    let mut losses = 2;
    pair.judge(move |frame| match frame {
        Err(ToRelay::Receipt(_)) if losses > 0 => {
            losses -= 1;
            Fate::Lost
        }
        _ => Fate::Arrives,
    });

    assert!(pair.offer(1, 1, ""));
    pair.run_for(MOMENT);
    pair.finish(1, 1);
    pair.run_for(seconds(19));
    assert!(pair.seen.receipts.is_empty());
    pair.run_for(seconds(2));
    assert_eq!(pair.seen.receipts.len(), 1);

    pair.confirm_all();
    pair.run_for(seconds(60));
    assert_eq!(pair.seen.receipts.len(), 1, "confirmed is confirmed");
}

#[test]
fn a_cut_link_loses_no_receipt() {
    let mut pair = Pair::open(2, 1000);
    assert!(pair.offer(1, 1, ""));
    assert!(pair.offer(2, 1, "four"));
    pair.run_for(MOMENT);
    pair.is_cut = true;
    pair.finish(1, 1);
    pair.run_for(MOMENT);

    pair.reconnect();
    pair.run_for(MOMENT);
    let hello = pair.seen.hello.as_ref().unwrap();
    assert_eq!(
        hello.holding,
        [held(2, 1), held(1, 1)],
        "what is reported after Welcome is not lost either"
    );
    assert_eq!(
        (
            hello.destinations[0].deliveries,
            hello.destinations[0].bytes
        ),
        (1, 996)
    );
    assert_eq!(pair.seen.receipts, [receipt(1, 1)]);

    pair.finish(2, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.receipts.len(), 2);
    assert_eq!(
        pair.seen.free[BILLING].deliveries(),
        2,
        "the window has grown back"
    );
}

#[test]
fn hello_names_the_newest_of_the_sessions_it_replaces() {
    let now = start();
    let sessions: Vec<_> = (0..100).map(SessionId::from_u128).collect();
    let config = Pair::open(1, 1).config;
    let mut agent = AgentSession::new(config, Vec::new(), Vec::new(), now);
    agent.replace(&sessions);
    let Some(AgentOutput::Send(ToRelay::Hello(hello))) = agent.poll_output() else {
        panic!("no Hello");
    };
    assert_eq!(hello.replaces, sessions[100 - REPLACED_MAX..]);
}

#[test]
fn silence_is_death_on_both_ends() {
    let mut pair = Pair::open(1, 1);
    pair.is_cut = true;
    pair.run_for(seconds(46));

    let (close, said_bye) = pair.seen.relay_closed.unwrap();
    assert_eq!((close.code, said_bye), (CloseCode::Silent, false));
    assert_eq!(pair.seen.agent_closed.unwrap().code, CloseCode::Silent);
    assert_eq!(
        (pair.relay.poll_timeout(), pair.agent.poll_timeout()),
        (None, None)
    );
}

#[test]
fn heartbeats_keep_a_quiet_session_alive() {
    let mut pair = Pair::open(1, 1);
    pair.run_for(seconds(3600));

    assert!(pair.seen.relay_closed.is_none() && pair.seen.agent_closed.is_none());
    assert_eq!(pair.seen.suspects, 0);
    assert!(pair.seen.rtts.len() >= 2 * 239);
    assert!(pair.seen.rtts.iter().all(|rtt| *rtt == 2 * pair.delay));
}

#[test]
fn an_unanswered_heartbeat_makes_the_link_suspect_once() {
    let mut pair = Pair::open(1, 1);
    pair.is_cut = true;
    pair.run_for(seconds(17));
    assert_eq!(pair.seen.suspects, 0);
    pair.run_for(seconds(20));
    assert_eq!(pair.seen.suspects, 1);
}

#[test]
fn heartbeats_renew_what_is_held() {
    let mut pair = Pair::open(2, 100);
    assert!(pair.offer(1, 1, ""));
    pair.run_for(seconds(16));

    assert_eq!(pair.seen.renewed, [held(1, 1)]);
}

#[test]
fn a_draining_relay_still_takes_receipts() {
    let mut pair = Pair::open(4, 1000);
    assert!(pair.offer(1, 1, ""));
    pair.run_for(MOMENT);
    assert!(pair.offer(2, 1, ""));
    pair.relay.drain(Drain {
        reason: "upgrade".to_owned(),
        reconnect_after_ms: 250,
    });
    pair.run_for(MOMENT);
    assert_eq!(
        pair.seen.released,
        [held(2, 1)],
        "what was not sent goes back"
    );
    assert_eq!(pair.seen.drained, Some(Duration::from_millis(250)));
    let NotOffered(back) = pair.relay.offer(offer(3, 1, "")).unwrap_err();
    assert_eq!(back.delivery, DeliveryId::from_u128(3));

    pair.finish(1, 1);
    pair.agent.bye("moved");
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.receipts, [receipt(1, 1)]);
    let (close, said_bye) = pair.seen.relay_closed.unwrap();
    assert_eq!((close.code, said_bye), (CloseCode::Normal, true));
    assert_eq!(pair.seen.agent_closed.unwrap().code, CloseCode::Normal);
}

#[test]
fn a_draining_agent_hands_late_offers_back() {
    let mut pair = Pair::open(4, 1000);
    assert!(pair.offer(1, 1, ""));
    pair.run_for(MOMENT);
    assert!(pair.offer(2, 1, ""));
    pair.agent.begin_drain();
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.released, [held(2, 1)]);
    assert_eq!(pair.seen.offers.len(), 1);

    pair.finish(1, 1);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 2, "no new credit");
}

#[test]
fn a_refused_agent_learns_when_to_return() {
    let mut pair = Pair::new(1, 1);
    pair.is_welcoming = false;
    pair.run_for(MOMENT);
    pair.relay.refuse(Refuse {
        code: RefuseCode::UnknownDestination,
        detail: "é".repeat(100),
        retry_after_ms: Some(60_000),
    });
    pair.run_for(MOMENT);

    let close = pair.seen.agent_closed.unwrap();
    assert_eq!(close.code, CloseCode::Forbidden);
    assert_eq!(close.retry_after, Some(seconds(60)));
    assert_eq!(close.reason, "é".repeat(60), "cut where a character ends");
}

#[test]
fn no_version_in_common_is_refused() {
    let now = start();
    let mut relay = relay(now);
    let hello = Hello {
        versions: vec![2, 3],
        instance: AgentId::from_u128(1),
        name: String::new(),
        agent: String::new(),
        destinations: Vec::new(),
        holding: Vec::new(),
        replaces: Vec::new(),
        listen: None,
    };
    relay.handle_frame(ToRelay::Hello(hello), now).unwrap();

    let Some(RelayOutput::Send(ToAgent::Refuse(refuse))) = relay.poll_output() else {
        panic!("not refused");
    };
    assert_eq!(
        (refuse.code, refuse.retry_after_ms),
        (RefuseCode::Version, None)
    );
    let Some(RelayOutput::Close { close, .. }) = relay.poll_output() else {
        panic!("not closed");
    };
    assert_eq!(
        (close.code, close.retry_after),
        (CloseCode::Forbidden, None)
    );
    assert!(relay.poll_output().is_none());
}

#[test]
fn a_handshake_does_not_wait_for_ever() {
    let mut pair = Pair::new(1, 1);
    pair.is_cut = true;
    pair.run_for(seconds(11));

    assert_eq!(pair.seen.relay_closed.unwrap().0.code, CloseCode::Silent);
    assert_eq!(pair.seen.agent_closed.unwrap().code, CloseCode::Silent);
}

#[test]
fn a_relay_that_cannot_decide_says_so() {
    let mut pair = Pair::new(1, 1);
    pair.is_welcoming = false;
    pair.delay = Duration::ZERO;
    pair.run_for(seconds(11));

    assert!(pair.seen.agent_closed.is_some());
    assert_eq!(pair.seen.relay_closed.unwrap().0.code, CloseCode::Busy);
}

#[test]
fn a_doubling_link_changes_nothing() {
    let mut pair = Pair::open(4, 1 << 24);
    pair.judge(|_| Fate::Doubled);
    assert!(pair.offer(1, 1, long_body()));
    pair.run_for(MOMENT);
    pair.finish(1, 1);
    pair.run_for(MOMENT);
    pair.confirm_all();
    pair.run_for(seconds(60));

    assert_eq!(pair.seen.offers.len(), 1);
    assert!(pair.seen.bodies[&DeliveryId::from_u128(1)] == long_body());
    assert_eq!(pair.seen.free[BILLING].deliveries(), 4);
    assert!(pair.agent.unconfirmed().is_empty());
}

#[test]
fn a_lost_offer_gives_its_credit_back() {
    let mut pair = Pair::open(2, 1000);
    let mut lost = false;
    pair.judge(move |frame| match frame {
        Ok(ToAgent::Offer(_)) if !lost => {
            lost = true;
            Fate::Lost
        }
        _ => Fate::Arrives,
    });
    assert!(pair.offer(1, 1, "lost"));
    assert!(pair.offer(2, 1, "kept"));
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.offers.len(), 1);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 1);
}

#[test]
fn a_cancelled_offer_is_released_or_answered() {
    let mut pair = Pair::open(4, 1 << 24);
    assert!(pair.offer(1, 1, ""));
    pair.run_for(MOMENT);
    assert!(pair.offer(2, 1, ""));
    pair.relay.cancel(cancel(1, 1));
    pair.relay.cancel(cancel(2, 1));
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.cancelled, [cancel(1, 1)]);
    assert_eq!(pair.seen.released, [held(2, 1)], "it was not sent yet");
    assert_eq!(pair.seen.free[BILLING].deliveries(), 3);
    pair.agent.release(held(1, 1));
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.released.len(), 2);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 4);
}

#[test]
fn a_cancelled_body_stops() {
    let mut pair = Pair::open(4, 1 << 24);
    pair.judge(|frame| match frame {
        Ok(ToAgent::Chunk(_)) => Fate::Lost,
        _ => Fate::Arrives,
    });
    assert!(pair.offer(1, 1, long_body()));
    pair.run_for(MOMENT);
    assert!(pair.agent.holding().is_empty(), "its body is not complete");
    pair.relay.cancel(cancel(1, 1));
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.released, [held(1, 1)]);
    assert_eq!(pair.seen.free[BILLING].bytes(), 1 << 24);
}

#[track_caller]
fn check_relay_violation(frames: Vec<ToRelay>, expected: &'static str) {
    let mut pair = Pair::open(4, 1000);
    let result = frames
        .into_iter()
        .try_for_each(|frame| pair.relay.handle_frame(frame, pair.now));
    assert_eq!(result, Err(Violation(expected)));
    pair.run_for(MOMENT);
    let (close, said_bye) = pair.seen.relay_closed.unwrap();
    assert_eq!((close.code, said_bye), (CloseCode::Violation, false));
    assert_eq!(pair.seen.agent_closed.unwrap().code, CloseCode::Violation);
}

#[test]
fn relays_refuse_what_breaks_the_rules() {
    let credit = |destination: &str, deliveries| {
        ToRelay::Credit(Credit {
            destination: destination.to_owned(),
            deliveries,
            bytes: 0,
        })
    };
    let many = vec![ToRelay::Ping(Ping { nonce: 1 }); 65];
    let mut oversized = receipt(1, 1);
    oversized.lease.0 = "x".repeat(97);
    let leases = vec![held(1, 1); 1025];

    check_relay_violation(
        vec![credit("other", 1)],
        "credit for a destination that is not served",
    );
    check_relay_violation(
        vec![credit(BILLING, 5000)],
        "credit exceeds the largest window",
    );
    check_relay_violation(many, "heartbeats come faster than the protocol allows");
    check_relay_violation(
        vec![ToRelay::Receipt(Box::new(oversized))],
        "a lease token is too long",
    );
    check_relay_violation(
        vec![ToRelay::Renew(crate::frame::Renew { leases })],
        "a frame names too many leases",
    );
}

#[test]
fn the_first_frame_is_hello() {
    let now = start();
    let mut relay = relay(now);
    let bye = ToRelay::Bye(Bye {
        reason: String::new(),
    });

    assert!(relay.handle_frame(bye, now).is_err());
}

#[track_caller]
fn check_agent_violation(frames: Vec<ToAgent>, expected: &'static str) {
    let mut pair = Pair::open(4, 1 << 24);
    let result = frames
        .into_iter()
        .try_for_each(|frame| pair.agent.handle_frame(frame, pair.now));
    assert_eq!(result, Err(Violation(expected)));
    pair.drain();
    assert_eq!(pair.seen.agent_closed.unwrap().code, CloseCode::Violation);
}

#[test]
fn agents_refuse_what_breaks_the_rules() {
    let start_of_long = || {
        let mut offer = offer(1, 1, long_body());
        offer.body_bytes = offer.body.len() as u64;
        offer.body.truncate(CHUNK_BYTES_MAX);
        (offer.used_deliveries, offer.used_bytes) = (1, offer.body_bytes);
        ToAgent::Offer(offer)
    };
    let chunk = |number: usize, fill: u8, length: usize| {
        ToAgent::Chunk(Chunk {
            delivery: DeliveryId::from_u128(1),
            lease: lease(1, 1),
            offset: (number * CHUNK_BYTES_MAX) as u64,
            part: vec![fill; length].into(),
        })
    };
    let whole = CHUNK_BYTES_MAX;
    let mut beyond = offer(2, 1, "");
    (beyond.used_deliveries, beyond.used_bytes) = (5, 0);
    let mut elsewhere = offer(2, 1, "");
    elsewhere.destination = "other".to_owned();

    check_agent_violation(vec![ToAgent::Offer(beyond)], "an offer exceeds the credit");
    check_agent_violation(
        vec![ToAgent::Offer(elsewhere)],
        "an offer for a destination that is not served",
    );
    check_agent_violation(
        vec![start_of_long(), chunk(2, 0, whole)],
        "a chunk leaves a gap",
    );
    check_agent_violation(
        vec![start_of_long(), chunk(1, 0, whole), chunk(1, 1, whole)],
        "a chunk contradicts an earlier one",
    );
    check_agent_violation(
        vec![start_of_long(), chunk(1, 0, whole - 1)],
        "a chunk has the wrong length",
    );
    check_agent_violation(
        vec![start_of_long(), chunk(5, 0, 1)],
        "a chunk lies outside of its body",
    );
}

#[test]
fn bye_waits_for_the_receipts() {
    let mut pair = Pair::open(4, 1000);
    assert!(pair.offer(1, 1, ""));
    pair.run_for(MOMENT);
    pair.finish(1, 1);
    pair.agent.bye("done");
    pair.drain();

    let sent = &pair.seen.sent_to_relay;
    assert_eq!(sent[sent.len() - 2..], ["Receipt", "Bye"]);
}

#[test]
fn many_attempts_in_hand_are_named_in_several_frames() {
    let mut pair = Pair::new(4096, 1000);
    let holding: Vec<Held> = (0..2500).map(|number| held(number, 1)).collect();
    pair.agent = AgentSession::new(pair.config.clone(), holding.clone(), Vec::new(), pair.now);
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.hello.as_ref().unwrap().holding.len(), 1024);
    assert_eq!(pair.seen.renewed, holding);
}

#[test]
fn a_disconnect_is_a_close_without_bye() {
    let mut pair = Pair::open(1, 1);
    pair.relay.handle_disconnect();
    pair.agent.handle_close(4009, "replaced");
    pair.drain();

    assert!(!pair.seen.relay_closed.unwrap().1);
    assert_eq!(pair.seen.agent_closed.unwrap().code, CloseCode::Replaced);
}

#[test]
fn nothing_more_is_let_in_while_nothing_is_confirmed() {
    let mut pair = Pair::open(4, 1000);
    for number in 10..10 + UNCONFIRMED_MAX as u128 {
        pair.finish(number, 1);
    }
    for number in 0..4 {
        assert!(pair.offer(number, 1, ""));
    }
    pair.run_for(MOMENT);
    (0..4).for_each(|number| pair.finish(number, 1));
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 0);

    pair.confirm_all();
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 4);
}

#[test]
fn a_window_has_a_ceiling() {
    let mut pair = Pair::new(0, 0);
    let window = Window {
        deliveries: u64::MAX,
        bytes: u64::MAX,
    };
    pair.config.destinations[0].1 = window;
    pair.agent = AgentSession::new(pair.config.clone(), Vec::new(), Vec::new(), pair.now);
    pair.run_for(MOMENT);

    assert_eq!(pair.seen.free[BILLING].deliveries(), 4096);
    assert!(pair.seen.relay_closed.is_none());
    let hello = pair.seen.hello.unwrap();
    assert_eq!(welcome(&hello).destinations.len(), 1);
}
