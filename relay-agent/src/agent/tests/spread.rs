//! Several links at a time: to different relays, while one is in doubt, and what goes from one to another.

use super::*;
use scripted::Connection;

/// Keeps two sessions for a destination with a window of eight.
fn two(relay: &Relay, service: &Service) -> Config {
    let lanes = vec![("ci".to_owned(), lane(service, 4))];
    Config {
        connections: 2,
        ..config(relay, Serve::Destinations(lanes))
    }
}

async fn deliver(link: &mut Connection, service: &mut Service, number: u128) {
    link.offer(sample::offer(number, 1)).await;
    service.next().await;
    let receipt = link.receipt().await;
    assert_eq!(receipt.delivery, sample::offer(number, 1).delivery);
    link.confirm(&receipt).await;
}

async fn renewed(link: &mut Connection) -> Vec<protocol::frame::Held> {
    link.wait(|output| match output {
        RelayOutput::Renew(held) => Some(held),
        _ => None,
    })
    .await
}

/// What a destination is granted in Hello.
fn granted(hello: Box<protocol::frame::Hello>) -> u64 {
    hello.destinations[0].deliveries
}

#[tokio::test]
async fn sessions_are_spread_over_relays_and_share_the_window() {
    let (relay, mut service) = (Relay::start().await, Service::start(200).await);
    let agent = Running::start(two(&relay, &service)).await;
    let mut first = relay.accept().await;
    assert_eq!(granted(first.welcome_as(Some("a")).await), 8);

    let mut twin = relay.accept().await;
    assert_eq!(granted(twin.welcome_as(Some("a")).await), 4);
    assert!(twin.end().await, "left without Bye");

    let mut second = relay.accept().await;
    second.welcome_as(Some("b")).await;
    deliver(&mut first, &mut service, 1).await;
    deliver(&mut second, &mut service, 2).await;
    deliver(&mut first, &mut service, 3).await;
    let (result, ..) = tokio::join!(agent.end(), first.end(), second.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn where_there_is_one_relay_it_gets_all_sessions_in_the_end() {
    let (relay, mut service) = (Relay::start().await, Service::start(200).await);
    let agent = Running::start(two(&relay, &service)).await;
    let mut first = relay.accept().await;
    first.welcome_as(Some("a")).await;
    for _ in 0..4 {
        let mut twin = relay.accept().await;
        twin.welcome_as(Some("a")).await;
        assert!(twin.end().await, "left without Bye");
    }
    let mut second = relay.accept().await;
    second.welcome_as(Some("a")).await;
    deliver(&mut second, &mut service, 1).await;
    deliver(&mut first, &mut service, 2).await;
    let (result, ..) = tokio::join!(agent.end(), first.end(), second.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn what_a_lost_link_had_in_hand_goes_on_over_the_other() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let agent = Running::start(two(&relay, &service)).await;
    let mut first = relay.accept().await;
    first.welcome_as(Some("a")).await;
    let mut second = relay.accept().await;
    second.welcome_as(Some("b")).await;
    first.offer(sample::offer(1, 1)).await;
    service.next().await;
    drop(first);

    let held = renewed(&mut second).await;
    assert_eq!(held[0].lease, sample::offer(1, 1).lease);
    let mut third = relay.accept().await;
    assert_eq!(third.welcome_as(Some("a")).await.holding, []);
    service.answer(1);
    let receipt = second.receipt().await;
    assert_eq!(receipt.delivery, sample::offer(1, 1).delivery);
    second.confirm(&receipt).await;
    assert!(service.is_quiet());
    let (result, ..) = tokio::join!(agent.end(), second.end(), third.end());
    assert_eq!(result, Ok(()));
}

/// Takes as long as an unanswered heartbeat may: three seconds.
#[tokio::test]
async fn a_link_that_speaks_again_too_late_is_left() {
    let (relay, mut service) = (Relay::start().await, Service::held(200).await);
    let agent = Running::start(ci(&relay, &service)).await;
    let mut old = relay.accept().await;
    old.welcome().await;
    old.offer(sample::offer(1, 1)).await;
    service.next().await;

    // Nobody reads the first connection until the second has said Hello.
    let mut new = relay.accept().await;
    let hello = new.hello().await;
    assert_eq!(hello.holding.len(), 1);
    assert_eq!(hello.replaces.len(), 1);
    // It answers the heartbeats that waited, but the relay may have ended that session already.
    renewed(&mut old).await;
    new.let_in(&hello, None).await;
    service.answer(1);
    let (first, second) = tokio::join!(old.receipt(), new.receipt());
    assert_eq!((status(&first), &first), (Some(200), &second));
    old.confirm(&first).await;
    new.confirm(&second).await;
    assert!(old.end().await, "left without Bye");
    service.answer(1);
    deliver(&mut new, &mut service, 2).await;
    let (result, _) = tokio::join!(agent.end(), new.end());
    assert_eq!(result, Ok(()));
}
