//! Processes that die, disks that fill up, services that fail: nothing accepted is lost.

use std::time::Duration;

use hookferry_tests::{
    Agent, Answer, Network, Relay, Request, Service, disk::SmallDisk, eventually,
};
use serde_json::json;

#[tokio::test]
async fn a_relay_killed_before_delivery_delivers_after_its_restart() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("stripe").await;
    let body = "x".repeat(10_000);
    let request = journey
        .post()
        .body(body.clone())
        .stripe(&journey.source.secret);
    let event = relay.provider().send(&request).await.accepted();
    relay.kill9();

    relay.restart().await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let received = service.next().await;
    assert_eq!((received.event(), received.attempt()), (event.clone(), 1));
    assert_eq!(received.body, body.as_bytes());
    journey.tenant.delivery_is(&event, "delivered").await;
}

#[tokio::test]
async fn a_relay_killed_during_a_replay_takes_the_outcome_afterwards() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(200).held());
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), event);

    relay.kill9();
    service.release();
    relay.restart().await;
    journey.tenant.delivery_is(&event, "delivered").await;
    assert_eq!(service.count(), 1, "work that was done is not done again");
}

#[tokio::test]
async fn an_agent_killed_during_a_replay_is_followed_by_the_next() {
    let relay = Relay::plan().set("session-grace-s", 1).start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(200).held());
    let mut first = Agent::run(&relay, &journey, &service.url());
    let event = relay
        .provider()
        .send(&journey.post().body("{}"))
        .await
        .accepted();
    let received = service.next().await;
    assert_eq!((received.event(), received.attempt()), (event.clone(), 1));
    first.kill9();

    let _second = Agent::run(&relay, &journey, &service.url());
    let received = service.next().await;
    assert_eq!((received.event(), received.attempt()), (event.clone(), 2));
    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["lost", "answered"]);
}

#[tokio::test]
async fn a_killed_agent_that_comes_back_goes_on() {
    let relay = Relay::plan().set("session-grace-s", 2).start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(200).held());
    let mut agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    agent.kill9();
    agent.restart();
    assert_eq!(service.next().await.event(), event);
    journey.tenant.delivery_is(&event, "delivered").await;
}

#[tokio::test]
async fn a_service_that_fails_three_times_gets_it_a_fourth_time() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    for status in [500, 502, 400] {
        service.answer(Answer::status(status));
    }
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay
        .provider()
        .send(&journey.post().body("once more"))
        .await
        .accepted();

    for attempt in 1..=4 {
        let received = service.next().await;
        assert_eq!(
            (received.event(), received.attempt()),
            (event.clone(), attempt)
        );
        assert_eq!(received.body, b"once more");
    }
    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    let seen: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt["number"].as_u64(), attempt["status"].as_u64()))
        .collect();
    let expected = [(1, 500), (2, 502), (3, 400), (4, 200)];
    assert_eq!(
        seen,
        expected.map(|(number, status)| (Some(number), Some(status)))
    );
    assert_eq!(
        attempts[0]["response_start"]["value"],
        "the service says 500"
    );
}

#[tokio::test]
async fn a_service_that_is_away_gets_it_when_it_is_back() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let addr = service.addr();
    drop(service);
    let journey = relay.journey("none").await;
    let _agent = Agent::run(&relay, &journey, &format!("http://{addr}"));
    let event = relay.provider().send(&journey.post()).await.accepted();
    let attempts = eventually("a failed attempt", async || {
        let attempts = journey.tenant.attempts(&event).await;
        (!attempts.is_empty()).then_some(attempts)
    })
    .await;
    assert_eq!(attempts[0]["outcome"], "failed", "{attempts:?}");

    let mut service = Service::start_at(addr).await;
    assert_eq!(service.next().await.event(), event);
    journey.tenant.delivery_is(&event, "delivered").await;
}

#[tokio::test]
async fn what_came_while_the_agent_was_away_is_delivered_when_it_returns() {
    let relay = Relay::start().await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let mut agent = Agent::run(&relay, &journey, &service.url());
    let post = |number: usize| journey.post().body(number.to_string());
    relay.provider().send(&post(0)).await.accepted();
    service.wait_for(1).await;
    agent.terminate().await;
    assert_eq!(agent.exit_code().await, 0);

    let mut connection = relay.provider().connect().await.unwrap();
    for number in 1..=500 {
        connection.send(&post(number)).await.unwrap().accepted();
    }
    assert_eq!(service.count(), 1);
    agent.restart();
    journey.tenant.settled().await;
    let mut numbers: Vec<usize> = service.inspect(|received| {
        let number =
            |one: &hookferry_tests::Received| String::from_utf8_lossy(&one.body).parse().unwrap();
        received.iter().map(number).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (0..=500).collect::<Vec<_>>(), "each once");
}

#[tokio::test]
async fn a_cut_link_duplicates_nothing() {
    let relay = Relay::start().await;
    let network = Network::start(relay.public()).await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(200).held());
    let _agent = Agent::plan(&relay, &journey, &service.url())
        .server(&network.url())
        .run();
    let event = relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    network.cut();
    service.release();
    network.restore();
    journey.tenant.delivery_is(&event, "delivered").await;
    let next = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(
        service.next().await.event(),
        next,
        "the first one was not replayed again"
    );
}

#[tokio::test]
async fn a_silent_link_is_replaced() {
    let relay = Relay::plan().set("session-heartbeat-s", 2).start().await;
    let network = Network::start(relay.public()).await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let _agent = Agent::plan(&relay, &journey, &service.url())
        .server(&network.url())
        .run();
    let before = relay.provider().send(&journey.post()).await.accepted();
    assert_eq!(service.next().await.event(), before);

    network.black_hole();
    let during = relay.provider().send(&journey.post()).await.accepted();
    network.restore();
    assert_eq!(service.next().await.event(), during);
    journey.tenant.delivery_is(&during, "delivered").await;
}

#[tokio::test]
async fn a_full_disk_refuses_events_and_settles_what_it_has() {
    let Some(disk) = SmallDisk::mount(48) else {
        return;
    };
    let mut relay = Relay::plan()
        .data_dir(&disk.path().join("data"))
        .set("store-disk-watermark-bytes", 8 << 20)
        .set("store-segment-bytes", 1 << 20)
        .start()
        .await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let provider = relay.provider();
    let post = || journey.post().body(vec![7; 100_000]);
    service.answer(Answer::status(200).held());
    let mut agent = Agent::run(&relay, &journey, &service.url());
    let held = provider.send(&post()).await.accepted();
    service.wait_for(1).await;

    // Below the watermark: nothing new, but everything else goes on.
    disk.fill_up_to(4 << 20);
    let mut accepted = vec![held.clone()];
    let reply = eventually("a refusal", async || {
        let reply = provider.send(&post()).await;
        if reply.status == 200 {
            accepted.push(reply.accepted());
            return None;
        }
        Some(reply)
    })
    .await;
    reply.refused(503, "E-STORE-FULL");
    assert!(!reply.headers.text("retry-after").is_empty(), "{reply:?}");
    for event in accepted.iter().filter(|event| **event != held) {
        journey.tenant.delivery_is(event, "delivered").await;
    }

    // No byte left: what was done is still settled.
    disk.fill_up_to(0);
    assert_eq!(provider.send(&post()).await.status, 503);
    service.release();
    agent.terminate().await;
    assert_eq!(
        agent.exit_code().await,
        0,
        "it waits until its report is confirmed"
    );
    agent.restart();
    disk.free();
    let last = eventually("events to be taken again", async || {
        let reply = provider.send(&post()).await;
        (reply.status == 200).then(|| reply.accepted())
    })
    .await;
    for event in accepted.iter().chain([&last]) {
        journey.tenant.delivery_is(event, "delivered").await;
        assert_eq!(journey.tenant.attempts(event).await.len(), 1);
    }

    relay.kill9();
    relay.restart().await;
    for event in accepted.iter().chain([&last]) {
        journey.tenant.delivery_is(event, "delivered").await;
    }
    assert_eq!(service.count(), accepted.len() + 1);
}

#[tokio::test]
async fn a_damaged_event_is_never_delivered_altered() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let marker = "these bytes will rot on the disk";
    let damaged = relay
        .provider()
        .send(&journey.post().body(marker.repeat(3)))
        .await
        .accepted();
    let sound = relay
        .provider()
        .send(&journey.post().body("sound"))
        .await
        .accepted();
    // The list knows it apart from the bytes that will be damaged.
    assert_eq!(journey.tenant.delivery(&damaged).await["state"], "pending");
    relay.kill9();
    assert_eq!(
        rot(&relay.data_dir(), marker.as_bytes()),
        1,
        "the body is in one place"
    );

    relay.restart().await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    assert_eq!(service.next().await.event(), sound);
    journey.tenant.delivery_is(&sound, "delivered").await;
    journey.tenant.delivery_is(&damaged, "quarantined").await;
    assert_eq!(service.count(), 1);
}

/// Flips one bit in the first occurrence of `marker` in each file below a directory; returns how many
/// files had one.
fn rot(directory: &std::path::Path, marker: &[u8]) -> usize {
    let mut changed = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            changed += rot(&path, marker);
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes
            .windows(marker.len())
            .position(|window| window == marker);
        if let Some(position) = found {
            bytes[position] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    changed
}

#[tokio::test]
async fn a_draining_relay_loses_nothing() {
    let mut relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    service.answer(Answer::status(200).held());
    let provider = relay.provider();
    let event = provider.send(&journey.post()).await.accepted();
    service.next().await;

    relay.terminate().await;
    eventually("the relay to take no more", async || {
        let reply = provider.try_send(&Request::post(&journey.source)).await;
        reply.is_none_or(|reply| reply.status != 200).then_some(())
    })
    .await;
    service.release();
    assert_eq!(relay.exit_code().await, 0);

    relay.restart().await;
    journey.tenant.delivery_is(&event, "delivered").await;
    journey.tenant.settled().await;
    let times =
        service.inspect(|received| received.iter().filter(|one| one.event() == event).count());
    assert_eq!(times, 1);
}

#[tokio::test]
async fn a_draining_agent_finishes_what_it_has() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let mut agent = Agent::run(&relay, &journey, &service.url());
    service.answer(Answer::status(200).held());
    let event = relay.provider().send(&journey.post()).await.accepted();
    service.next().await;

    agent.terminate().await;
    let later = relay.provider().send(&journey.post()).await.accepted();
    service.release();
    assert_eq!(agent.exit_code().await, 0);
    journey.tenant.delivery_is(&event, "delivered").await;
    assert_eq!(journey.tenant.attempts(&event).await.len(), 1);

    agent.restart();
    journey.tenant.delivery_is(&later, "delivered").await;
}

#[tokio::test]
async fn a_service_may_ask_for_time() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    service.answer(Answer::status(503).header("Retry-After", "2"));
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();

    let first = service.next().await;
    let second = service.next().await;
    let waited = second.at - first.at;
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
    journey.tenant.delivery_is(&event, "delivered").await;
}

#[tokio::test]
async fn a_service_that_is_too_slow_is_not_waited_for() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = relay.journey("none").await;
    let api = &journey.tenant.api;
    api.patch("/destinations/billing", json!({ "timeout_ms": 200 }))
        .await;
    service.answer(Answer::status(200).held());
    let _agent = Agent::run(&relay, &journey, &service.url());
    let event = relay.provider().send(&journey.post()).await.accepted();

    assert_eq!(service.next().await.attempt(), 1);
    assert_eq!(service.next().await.attempt(), 2);
    journey.tenant.delivery_is(&event, "delivered").await;
    let attempts = journey.tenant.attempts(&event).await;
    assert_eq!(attempts[0]["failure"], "timeout", "{attempts:?}");
}
