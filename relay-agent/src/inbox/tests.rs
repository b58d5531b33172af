//! What is taken, what waits, what is dropped.

use super::{
    sample::{lane, offer, service},
    *,
};
use crate::config::Lane;

const LINK: LinkId = LinkId(1);
const OTHER: LinkId = LinkId(2);

fn inbox(concurrency: u32) -> Inbox {
    let mut inbox = Inbox::new(mpsc::channel(8).0);
    let lane = Lane {
        concurrency,
        timeout: Duration::from_secs(30),
        ..lane("http://127.0.0.1:1/hook")
    };
    inbox.serve("ci", service(&lane));
    inbox
}

fn started(admission: Admission) -> Box<Attempt> {
    match admission {
        Admission::Start(attempt) => attempt,
        other => panic!("not started: {other:?}"),
    }
}

/// Tells the inbox of a call, as the driver does, and ends it.
fn finish(inbox: &mut Inbox, number: u128) -> (InHand, Option<Box<Attempt>>) {
    let call = tokio::spawn(async {}).abort_handle();
    inbox.running(id(number), call.clone());
    inbox.finished(id(number), call.id()).unwrap()
}

fn id(number: u128) -> DeliveryId {
    DeliveryId::from_u128(number)
}

#[tokio::test]
async fn no_more_than_the_concurrency_run_and_the_rest_keeps_its_order() {
    let mut inbox = inbox(2);
    started(inbox.admit(offer(1, 1).into(), LINK));
    started(inbox.admit(offer(2, 1).into(), LINK));
    for number in 3..=4 {
        assert!(matches!(
            inbox.admit(offer(number, 1).into(), LINK),
            Admission::Waits
        ));
    }
    let (done, next) = finish(&mut inbox, 2);
    assert_eq!(done.held.delivery, id(2));
    assert_eq!(next.unwrap().offer.delivery, id(3));
    assert_eq!(finish(&mut inbox, 1).1.unwrap().offer.delivery, id(4));
    assert!(finish(&mut inbox, 3).1.is_none());
    assert!(finish(&mut inbox, 4).1.is_none());
    assert!(inbox.is_empty());
}

#[tokio::test]
async fn repeated_offer_adopts_the_newer_lease_and_calls_nobody() {
    let mut inbox = inbox(1);
    started(inbox.admit(offer(1, 1).into(), LINK));
    let Admission::Adopted { older } = inbox.admit(offer(1, 2).into(), OTHER) else {
        panic!("called twice");
    };
    assert_eq!(older.attempt, 1);
    let done = finish(&mut inbox, 1).0;
    assert_eq!((done.held.attempt, done.link), (2, OTHER));
    assert_eq!(done.held.lease, offer(1, 2).lease);
}

#[tokio::test]
async fn time_out_is_the_smaller_one() {
    let mut inbox = inbox(1);
    inbox.limit_timeout("ci", Duration::from_secs(5));
    let attempt = started(inbox.admit(offer(1, 1).into(), LINK));
    assert_eq!(attempt.timeout, Duration::from_secs(5));
    finish(&mut inbox, 1);
    inbox.limit_timeout("ci", Duration::from_secs(500));
    let attempt = started(inbox.admit(offer(2, 1).into(), LINK));
    assert_eq!(attempt.timeout, Duration::from_secs(30));
}

#[test]
fn unknown_destination_is_unserved() {
    let mut strange = offer(1, 1);
    strange.destination = "elsewhere".to_owned();
    assert!(matches!(
        inbox(1).admit(strange.into(), LINK),
        Admission::Unserved(_)
    ));
}

#[tokio::test]
async fn cancel_takes_what_waits_and_leaves_what_runs() {
    let mut inbox = inbox(1);
    started(inbox.admit(offer(1, 1).into(), LINK));
    inbox.admit(offer(2, 1).into(), LINK);
    let cancel = |number| Cancel {
        delivery: id(number),
        lease: offer(number, 1).lease,
        reason: String::new(),
    };
    assert_eq!(inbox.cancel(&cancel(1)).map(|held| held.delivery), None);
    assert_eq!(
        inbox.cancel(&cancel(2)).map(|held| held.delivery),
        Some(id(2))
    );
    assert!(finish(&mut inbox, 1).1.is_none());
}

#[test]
fn body_that_can_never_be_complete_ends_its_delivery() {
    let mut inbox = inbox(1);
    let large = |attempt| {
        let mut offer = offer(1, attempt);
        offer.body_bytes = 10;
        offer.body = Bytes::from_static(b"start");
        Box::new(offer)
    };
    started(inbox.admit(large(1), LINK));
    assert!(inbox.take_over(OTHER, &[]).is_empty());
    inbox.link_lost(OTHER);
    assert!(!inbox.is_empty());
    inbox.link_lost(LINK);
    assert!(inbox.is_empty());

    // Offered again while it arrives: the first call is given up, the second starts afresh.
    started(inbox.admit(large(2), LINK));
    started(inbox.admit(large(3), OTHER));
    inbox.body(id(1), LINK, Bytes::from_static(b"stray"));
    assert!(inbox.hand_over(OTHER, LINK).is_empty());
    inbox.body(id(1), OTHER, Bytes::from_static(b" rest"));
    assert_eq!(inbox.hand_over(OTHER, LINK).len(), 1);
}

#[test]
fn what_is_in_hand_goes_from_link_to_link() {
    const THIRD: LinkId = LinkId(3);
    let mut inbox = inbox(4);
    started(inbox.admit(offer(1, 1).into(), LINK));
    started(inbox.admit(offer(2, 1).into(), OTHER));
    let deliveries = |taken: Vec<&InHand>| -> Vec<_> {
        taken.iter().map(|in_hand| in_hand.held.delivery).collect()
    };
    assert_eq!(deliveries(inbox.take_over(THIRD, &[OTHER])), [id(1)]);
    assert_eq!(deliveries(inbox.hand_over(LINK, OTHER)), []);
    assert_eq!(deliveries(inbox.hand_over(THIRD, OTHER)), [id(1)]);
    assert_eq!(inbox.take_over(THIRD, &[]).len(), 2);
}

#[test]
fn draining_takes_back_what_has_not_begun() {
    let mut inbox = inbox(1);
    started(inbox.admit(offer(1, 1).into(), LINK));
    inbox.admit(offer(2, 1).into(), LINK);
    let waiting = inbox.take_waiting();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].held.delivery, id(2));
    assert_eq!(inbox.abandon().len(), 1);
    assert!(inbox.is_empty());
}

#[test]
fn what_a_link_in_doubt_offered_and_has_not_begun_is_taken_back() {
    let mut inbox = inbox(1);
    started(inbox.admit(offer(1, 1).into(), LINK));
    inbox.admit(offer(2, 1).into(), LINK);
    inbox.admit(offer(3, 1).into(), OTHER);
    let taken = inbox.take_waiting_of(LINK);
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].held.delivery, id(2));
    assert_eq!(inbox.take_waiting().len(), 1);
}

#[tokio::test]
async fn whoever_is_waited_for_has_its_turn_first() {
    let mut inbox = inbox(1);
    started(inbox.admit(offer(1, 1).into(), LINK));
    let ask = |number| Offer {
        respond: true,
        ..offer(number, 1)
    };
    for waiting in [offer(2, 1), ask(3), offer(4, 1), ask(5)] {
        assert!(matches!(
            inbox.admit(waiting.into(), LINK),
            Admission::Waits
        ));
    }
    let mut order = Vec::new();
    let mut running = 1;
    while let Some(next) = finish(&mut inbox, running).1 {
        order.push(next.offer.delivery);
        running = next.offer.delivery.as_u128();
    }
    assert_eq!(order, [3, 5, 2, 4].map(id));
}

#[tokio::test]
async fn a_response_belongs_to_the_link_it_began_on() {
    let mut inbox = inbox(4);
    let ask = |number, attempt| Offer {
        respond: true,
        ..offer(number, attempt)
    };
    for number in 1..=3 {
        let attempt = started(inbox.admit(ask(number, 1).into(), LINK));
        assert!(attempt.responder.is_some());
    }
    let part = |number: u128| ResponsePart {
        delivery: id(number),
        call: number as u64,
        head: None,
        bytes: Bytes::from_static(b"x"),
        is_last: false,
    };
    assert!(inbox.outgoing(&part(1)).unwrap().begun_on.is_none());
    inbox.responded(id(1), LINK);
    assert_eq!(inbox.outgoing(&part(1)).unwrap().begun_on, Some(LINK));
    let other_call = ResponsePart { call: 9, ..part(2) };
    assert!(inbox.outgoing(&other_call).is_none());

    inbox.link_lost(LINK);
    assert!(inbox.outgoing(&part(1)).is_none(), "its rest is lost");
    inbox.keep_response(part(2));
    let may: Vec<_> = inbox.complete().filter(|it| it.may_respond()).collect();
    assert_eq!(may.len(), 2);
    assert_eq!(inbox.take_kept(id(2)), [part(2)]);
    inbox.unwanted(id(3), &offer(3, 2).lease);
    assert!(inbox.outgoing(&part(3)).is_some(), "that was another lease");
    inbox.unwanted(id(3), &offer(3, 1).lease);
    assert!(inbox.outgoing(&part(3)).is_none());

    let again = inbox.admit(ask(2, 2).into(), OTHER);
    assert!(matches!(again, Admission::Adopted { .. }));
    assert_eq!(
        inbox.outgoing(&part(2)).unwrap().chunk.lease,
        offer(2, 2).lease
    );
    inbox.responded(id(2), OTHER);
    inbox.admit(ask(2, 3).into(), OTHER);
    assert!(
        inbox.outgoing(&part(2)).is_none(),
        "it began under the older lease"
    );
}

#[tokio::test]
async fn a_new_service_is_for_new_offers_and_a_closed_destination_takes_none() {
    let mut inbox = inbox(1);
    let first = started(inbox.admit(offer(1, 1).into(), LINK));
    assert!(matches!(
        inbox.admit(offer(2, 1).into(), LINK),
        Admission::Waits
    ));
    let other = Lane {
        concurrency: 1,
        ..lane("http://127.0.0.1:2/other")
    };
    inbox.serve("ci", service(&other));
    assert!(matches!(
        inbox.admit(offer(3, 1).into(), LINK),
        Admission::Waits
    ));
    assert_eq!(
        first.service.target().to_string(),
        "http://127.0.0.1:1/hook"
    );
    let second = finish(&mut inbox, 1).1.unwrap();
    assert_eq!(
        second.service.target().to_string(),
        "http://127.0.0.1:1/hook"
    );
    inbox.serve_only(|_| false);
    assert!(matches!(
        inbox.admit(offer(4, 1).into(), LINK),
        Admission::Unserved(_)
    ));
    // What was in hand goes on.
    let third = finish(&mut inbox, 2).1.unwrap();
    assert_eq!(
        third.service.target().to_string(),
        "http://127.0.0.1:2/other"
    );
    assert!(finish(&mut inbox, 3).1.is_none());
    assert!(inbox.is_empty());
}
