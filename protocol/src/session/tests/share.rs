//! Stories of an agent with several sessions.

use super::{MOMENT, Pair, held, pair::BILLING, seconds};

#[test]
fn sessions_share_a_window_as_they_come_and_go() {
    let mut pair = Pair::open(8, 1000);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 8);
    pair.agent.share(2);
    for number in 0..8 {
        assert!(pair.offer(number, 1, ""), "what was granted stays so");
    }
    pair.run_for(MOMENT);
    for number in 0..6 {
        pair.finish(number, 1);
    }
    pair.run_for(MOMENT);
    // Two are in hand still, so two more make the half.
    assert_eq!(pair.seen.free[BILLING].deliveries(), 2);

    pair.agent.share(1);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.free[BILLING].deliveries(), 6);
    pair.agent.share(3);
    pair.finish(6, 1);
    pair.finish(7, 1);
    pair.run_for(MOMENT);
    assert_eq!(
        pair.seen.free[BILLING].deliveries(),
        6,
        "nothing is taken back"
    );
}

#[test]
fn an_attempt_goes_from_one_session_to_another() {
    let mut gone = Pair::open(2, 1000);
    assert!(gone.offer(1, 1, "four"));
    gone.run_for(MOMENT);

    let mut heir = Pair::open(2, 1000);
    assert!(!heir.agent.holds(&held(1, 1)));
    heir.agent.adopt(held(1, 1), BILLING, 4);
    heir.agent.adopt(held(1, 1), BILLING, 4);
    heir.run_for(MOMENT);
    assert!(heir.agent.holds(&held(1, 1)) && !heir.agent.is_idle());
    assert_eq!(heir.seen.renewed, [held(1, 1)], "at once");
    heir.run_for(seconds(16));
    assert_eq!(heir.seen.renewed.len(), 2, "and with every heartbeat");

    // It takes its place in the window.
    assert!(heir.offer(2, 1, ""));
    assert!(heir.offer(3, 1, ""));
    heir.run_for(MOMENT);
    heir.finish(2, 1);
    heir.run_for(MOMENT);
    assert_eq!(heir.seen.free[BILLING].deliveries(), 0);
    heir.finish(1, 1);
    heir.run_for(MOMENT);
    assert_eq!(heir.seen.free[BILLING].deliveries(), 1);
    heir.finish(3, 1);
    heir.run_for(MOMENT);
    assert!(!heir.agent.is_idle(), "reported, not confirmed");
    heir.confirm_all();
    heir.run_for(MOMENT);
    assert!(heir.agent.is_idle());
}

#[test]
fn what_is_taken_over_before_welcome_is_told_after_it() {
    let mut pair = Pair::new(2, 1000);
    pair.agent.adopt(held(1, 1), BILLING, 4);
    pair.is_welcoming = false;
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.hello.as_ref().unwrap().holding, [held(1, 1)]);
    pair.agent.adopt(held(2, 1), BILLING, 4);
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.renewed, []);
    pair.let_in();
    pair.run_for(MOMENT);
    assert_eq!(pair.seen.renewed, [held(2, 1)]);
}

#[test]
fn a_machine_that_has_slept_asks_at_once() {
    let mut pair = Pair::open(1, 1000);
    pair.is_cut = true;
    pair.run_for(seconds(5));
    assert_eq!(pair.seen.suspects, 0);
    pair.agent.probe(pair.now);
    pair.run_for(seconds(4));
    assert_eq!(pair.seen.suspects, 1, "after three seconds, not fifteen");

    let mut pair = Pair::open(1, 1000);
    pair.agent.probe(pair.now);
    pair.run_for(MOMENT);
    assert_eq!((pair.seen.suspects, pair.seen.rtts.len()), (0, 1));
}
