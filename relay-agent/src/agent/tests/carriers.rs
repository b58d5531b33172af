//! What carries sessions: WebSockets, single requests where none gets through, and back.

use super::*;
use scripted::{Connection, Middlebox, Upgrades};

fn behind(middlebox: &Middlebox, service: &Service, transport: Transport) -> Config {
    let mut config = ci_at(&middlebox.url(), service);
    config.link.transport = transport;
    config
}

/// An agent that tries a WebSocket again soon.
async fn hasty(config: Config) -> Running {
    let mut agent = Agent::bind(config, Box::new(Log::default())).await.unwrap();
    agent
        .parts
        .sessions
        .choice
        .hasten(Duration::from_millis(300));
    Running::of(agent)
}

/// Delivers one event over a link that was welcomed.
async fn deliver(link: &mut Connection, service: &mut Service, number: u128) {
    link.offer(sample::offer(number, 1)).await;
    service.next().await;
    let receipt = link.receipt().await;
    assert_eq!(receipt.delivery, sample::offer(number, 1).delivery);
    assert_eq!(status(&receipt), Some(200));
    link.confirm(&receipt).await;
}

#[tokio::test]
async fn requests_do_where_upgrades_do_not_get_through() {
    for upgrades in [
        Upgrades::Answered(400),
        Upgrades::Answered(401),
        Upgrades::Answered(503),
        Upgrades::Answered(200),
        Upgrades::Dropped,
        // Something has taken the upgrade out of the request.
        Upgrades::Refused(426, "E-REQUEST"),
    ] {
        let mut relay = Middlebox::start(upgrades).await;
        let mut service = Service::start(200).await;
        let agent = Running::start(behind(&relay, &service, Transport::Auto)).await;
        let mut link = relay.accept().await;
        assert!(link.is_polled(), "{upgrades:?}");
        link.welcome().await;
        deliver(&mut link, &mut service, 1).await;
        let (result, said_bye) = tokio::join!(agent.end(), link.end());
        assert_eq!((result, said_bye), (Ok(()), true), "{upgrades:?}");
    }
}

/// Takes as long as a Welcome may: ten seconds.
#[tokio::test]
async fn a_websocket_that_is_starved_leads_to_requests() {
    let mut relay = Middlebox::start(Upgrades::Starved).await;
    let mut service = Service::start(200).await;
    let agent = Running::start(behind(&relay, &service, Transport::Auto)).await;
    let mut link = relay.accept().await;
    assert!(link.is_polled());
    link.welcome().await;
    deliver(&mut link, &mut service, 1).await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn what_the_relay_itself_answers_leads_nowhere_else() {
    for (status, code) in [(503, "E-SHUTTING-DOWN"), (429, "E-OVERLOADED")] {
        let mut relay = Middlebox::start(Upgrades::Refused(status, code)).await;
        let service = Service::start(200).await;
        let agent = Running::start(behind(&relay, &service, Transport::Auto)).await;
        for _ in 0..3 {
            assert_eq!(relay.asked().await, "/agent/v1/connect");
        }
        assert_eq!(agent.end().await, Ok(()));
    }
    for (status, code) in [(401, "E-UNAUTHORISED"), (403, "E-FORBIDDEN")] {
        let mut relay = Middlebox::start(Upgrades::Refused(status, code)).await;
        let service = Service::start(200).await;
        let agent = Running::start(behind(&relay, &service, Transport::Auto)).await;
        let failure = agent.result.await.unwrap().unwrap_err();
        assert_eq!(failure.code.exit().code(), 3);
        assert_eq!(relay.asked().await, "/agent/v1/connect");
        assert!(relay.is_quiet(), "{code} led elsewhere");
    }
}

#[tokio::test]
async fn the_relays_word_counts_more_than_what_is_in_between() {
    let relay = Middlebox::start(Upgrades::Answered(400)).await;
    relay.refuses_requests(401, "E-UNAUTHORISED");
    let service = Service::start(200).await;
    let agent = Running::start(behind(&relay, &service, Transport::Auto)).await;
    let failure = agent.result.await.unwrap().unwrap_err();
    assert_eq!(failure.code, Code::Unauthorised);
}

#[tokio::test]
async fn a_token_that_is_refused_in_between_ends_the_agent() {
    let mut relay = Middlebox::start(Upgrades::Dropped).await;
    let mut service = Service::start(200).await;
    let agent = Running::start(behind(&relay, &service, Transport::Poll)).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    deliver(&mut link, &mut service, 1).await;
    relay.refuses_requests(401, "E-TOKEN-REVOKED");
    let failure = agent.result.await.unwrap().unwrap_err();
    assert_eq!(failure.code.exit().code(), 3, "{failure}");
}

#[tokio::test]
async fn a_fixed_transport_is_kept() {
    let mut relay = Middlebox::start(Upgrades::Answered(400)).await;
    let service = Service::start(200).await;
    let agent = Running::start(behind(&relay, &service, Transport::WebSocket)).await;
    for _ in 0..3 {
        assert_eq!(relay.asked().await, "/agent/v1/connect");
    }
    assert_eq!(agent.end().await, Ok(()));

    let mut relay = Middlebox::start(Upgrades::Passed).await;
    let agent = Running::start(behind(&relay, &service, Transport::Poll)).await;
    let mut link = relay.accept().await;
    assert!(link.is_polled());
    link.welcome().await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn lost_answers_lose_and_repeat_nothing() {
    const EVENTS: u128 = 60;
    let mut relay = Middlebox::start(Upgrades::Dropped).await;
    relay.loses_one_of(3);
    let mut service = Service::start(200).await;
    let agent = Running::start(behind(&relay, &service, Transport::Poll)).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    let large = Bytes::from(vec![7; 600_000]);
    for number in 1..=EVENTS {
        let mut offer = sample::offer(number, 1);
        if number % 20 == 0 {
            offer = with_body(offer, large.clone());
        }
        link.offer(offer).await;
        let received = service.next().await;
        assert_eq!(
            received.body.len(),
            if number % 20 == 0 { 600_000 } else { 0 }
        );
        let receipt = link.receipt().await;
        assert_eq!(receipt.delivery, sample::offer(number, 1).delivery);
        link.confirm(&receipt).await;
    }
    assert!(service.is_quiet());
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!((result, said_bye), (Ok(()), true));
}

#[tokio::test]
async fn a_websocket_that_works_again_takes_over_beside_what_is_in_hand() {
    let mut relay = Middlebox::start(Upgrades::Answered(403)).await;
    let mut service = Service::held(200).await;
    let agent = hasty(behind(&relay, &service, Transport::Auto)).await;
    let mut old = relay.accept().await;
    assert!(old.is_polled());
    old.welcome().await;
    old.offer(sample::offer(1, 1)).await;
    service.next().await;

    relay.upgrades(Upgrades::Passed);
    let mut new = relay.accept().await;
    assert!(!new.is_polled());
    assert!(new.welcome().await.holding.is_empty());
    // What was in hand is finished where it was begun.
    service.answer(1);
    let receipt = old.receipt().await;
    old.confirm(&receipt).await;
    assert!(old.end().await, "left without Bye");
    service.answer(1);
    deliver(&mut new, &mut service, 2).await;
    let (result, _) = tokio::join!(agent.end(), new.end());
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_websocket_that_does_not_work_yet_disturbs_nothing() {
    let mut relay = Middlebox::start(Upgrades::Dropped).await;
    let mut service = Service::start(200).await;
    let agent = hasty(behind(&relay, &service, Transport::Auto)).await;
    let mut link = relay.accept().await;
    link.welcome().await;
    let mut tries = 0;
    while tries < 4 {
        tries += usize::from(relay.asked().await == "/agent/v1/connect");
    }
    deliver(&mut link, &mut service, 1).await;
    let (result, said_bye) = tokio::join!(agent.end(), link.end());
    assert_eq!((result, said_bye), (Ok(()), true));
}

#[tokio::test]
async fn the_fall_back_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut relay = Middlebox::start(Upgrades::Dropped).await;
    let mut service = Service::start(200).await;
    for (number, first) in [(1, "/agent/v1/connect"), (2, "/agent/v1/poll")] {
        let agent = Running::start(Config {
            data: DataConfig::Directory {
                path: PathBuf::from(directory.path()),
                journal: true,
            },
            ..behind(&relay, &service, Transport::Auto)
        })
        .await;
        assert_eq!(relay.asked().await, first);
        let mut link = relay.accept().await;
        link.welcome().await;
        deliver(&mut link, &mut service, number).await;
        let (result, _) = tokio::join!(agent.end(), link.end());
        assert_eq!(result, Ok(()));
        relay.forget_asked();
    }
}
