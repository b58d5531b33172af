//! `relay-agent listen` in a terminal.

use hookferry_tests::{Agent, Answer, Relay, Service, terminal::Terminal};

/// The alternate screen is left.
const LEFT: &str = "\u{1b}[?1049l";

#[tokio::test]
async fn the_screen_shows_events_replays_them_and_gives_the_terminal_back() {
    let relay = Relay::start().await;
    let mut laptop = Service::start().await;
    let journey = relay.journey("none").await;
    let mut terminal = Terminal::new(160, 24);
    let port = laptop.addr().port().to_string();
    let mut agent =
        Agent::anywhere(&relay.url(), &journey.token).listen_in(&terminal, &port, "shop");
    terminal.shows("/in/").await;
    assert!(!terminal.is_as_shells_want_it());

    let request = journey.post().below("/orders/17?card=4242").body("hello");
    let event = relay.provider().send(&request).await.accepted();
    assert_eq!(laptop.next().await.event(), event);
    terminal.shows(&event).await;
    assert!(!terminal.shown().contains("4242"), "a query in the list");

    terminal.press("r");
    let replayed = laptop.next().await;
    assert_eq!(
        (replayed.event(), replayed.body),
        (event, b"hello".to_vec())
    );
    terminal.shows("×2").await;
    terminal.press("\r");
    terminal.shows("card=4242").await;

    terminal.press("q");
    assert_eq!(agent.exit_code().await, 0);
    terminal
        .shows("1 events, 1 calls delivered, 0 failed")
        .await;
    assert!(terminal.shown().contains(LEFT));
    assert!(terminal.is_as_shells_want_it());
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back_too() {
    let relay = Relay::start().await;
    let mut laptop = Service::start().await;
    let journey = relay.journey("none").await;
    let terminal = Terminal::new(80, 24);
    let port = laptop.addr().port().to_string();
    let mut agent =
        Agent::anywhere(&relay.url(), &journey.token).listen_in(&terminal, &port, "shop");
    terminal.shows("/in/").await;
    laptop.answer(Answer::status(200).held());
    relay.provider().send(&journey.post()).await.accepted();
    laptop.next().await;

    // The first asks to finish what is in hand, which takes for ever; the second does not wait.
    agent.terminate().await;
    terminal.shows("stopping").await;
    agent.terminate().await;
    assert_eq!(agent.exit_code().await, 1);
    assert!(terminal.shown().contains(LEFT));
    assert!(terminal.is_as_shells_want_it());
}

#[tokio::test]
async fn a_relay_that_refuses_is_told_on_a_terminal_that_is_whole_again() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let terminal = Terminal::new(80, 24);
    let mut agent =
        Agent::anywhere(&relay.url(), &journey.token).listen_in(&terminal, "1", "nobody");
    assert_eq!(agent.exit_code().await, 4);
    assert!(agent.stderr().contains("E-UNKNOWN-SOURCE"));
    assert!(terminal.is_as_shells_want_it());
}
