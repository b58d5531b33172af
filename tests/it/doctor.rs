//! `relay-agent doctor` names the hop that is broken, and disturbs nothing.

use std::net::SocketAddr;

use hookferry_tests::{
    Agent, Relay, Service,
    agent::Plan,
    certificate::Certificate,
    ports,
    proxy::{Proxy, Upgrades},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A token that looks like one.
const TOKEN: &str = "hf_agent_nonsense";

/// Everything on the way to the relay, in order.
const LINK: [&str; 9] = [
    "dns",
    "tcp",
    "proxy",
    "tls",
    "relay",
    "clock",
    "token",
    "destinations",
    "websocket",
];

/// Runs `doctor`; gives its report and its exit code.
async fn examine(plan: Plan, token: &str) -> (Value, i32) {
    let mut doctor = plan.doctor();
    let exit = doctor.exit_code().await;
    let (stdout, stderr) = (doctor.stdout(), doctor.stderr());
    assert!(!stdout.contains(token) && !stderr.contains(token));
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}"));
    assert_eq!(report["exit_code"], exit, "{report:#}");
    (report, exit)
}

fn find<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("{name} is missing in {report:#}"))
}

/// Runs `doctor`; the first thing that failed must be this one, and what needs it must not be guessed.
async fn names(plan: Plan, token: &str, hop: &str, code: &str, exit: i32) -> Value {
    let (report, found) = examine(plan, token).await;
    let checks = report["checks"].as_array().unwrap();
    let first = checks.iter().find(|check| check["state"] == "fail");
    let first = first.unwrap_or_else(|| panic!("nothing failed: {report:#}"));
    assert_eq!(first["check"], hop, "{report:#}");
    assert_eq!(
        (first["code"].as_str(), found),
        (Some(code), exit),
        "{first:#}"
    );
    for text in ["seen", "fix"] {
        assert!(!first[text].as_str().unwrap().is_empty(), "{first:#}");
    }
    if ["dns", "tcp", "proxy", "tls", "relay"].contains(&hop) {
        for behind in LINK.iter().skip_while(|name| **name != hop).skip(1) {
            assert_eq!(find(&report, behind)["state"], "skipped", "{report:#}");
        }
    }
    first.clone()
}

fn nowhere(server: &str) -> Plan {
    Agent::anywhere(server, TOKEN)
}

#[tokio::test]
async fn names_that_do_not_resolve() {
    let plan = nowhere("https://relay.invalid").trusting(Certificate::generate().authority());
    names(plan, TOKEN, "dns", "E-DNS", 5).await;
}

#[tokio::test]
async fn a_refused_connection() {
    let plan = nowhere(&format!("http://{}", ports::free()));
    names(plan, TOKEN, "tcp", "E-CONNECT", 5).await;
}

#[tokio::test]
async fn a_proxy_that_wants_a_password() {
    let relay = Relay::start().await;
    let proxy = Proxy::connect_with("jo", "s3cret").await;
    let plan = nowhere(&relay.url()).through(&format!("http://{}", proxy.addr()), None);
    names(plan, TOKEN, "proxy", "E-PROXY-AUTH", 5).await;
}

#[tokio::test]
async fn an_unknown_authority() {
    let relay = Relay::plan().tls(Certificate::generate()).start().await;
    let plan = nowhere(&relay.url()).trusting(Certificate::generate().authority());
    let check = names(plan, TOKEN, "tls", "E-TLS-ISSUER", 5).await;
    assert_eq!(check["facts"]["is_public_ca"], false, "{check:#}");
    assert!(
        check["seen"].as_str().unwrap().contains("signed by"),
        "{check:#}"
    );
}

#[tokio::test]
async fn an_expired_certificate() {
    let certificate = Certificate::expired();
    let relay = Relay::plan().tls(certificate.clone()).start().await;
    let plan = nowhere(&relay.url()).trusting(certificate.authority());
    let check = names(plan, TOKEN, "tls", "E-TLS-EXPIRED", 5).await;
    assert!(
        check["seen"].as_str().unwrap().contains("2021-01-01"),
        "{check:#}"
    );
}

#[tokio::test]
async fn a_skewed_clock() {
    let relay = relay_of_another_time().await;
    let plan = nowhere(&format!("http://{relay}"));
    let check = names(plan, TOKEN, "clock", "E-CLOCK", 1).await;
    assert!(
        check["seen"].as_str().unwrap().contains("ahead"),
        "{check:#}"
    );
}

/// Answers every request as a relay whose clock stands still.
async fn relay_of_another_time() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 8192];
                let _ = stream.read(&mut head).await;
                let body = r#"{"code":"E-UNAUTHORISED","status":401}"#;
                let answer = format!(
                    "HTTP/1.1 401 Unauthorized\r\ndate: Sat, 01 Feb 2020 00:00:00 GMT\r\n\
                     hookferry-code: E-UNAUTHORISED\r\ncontent-type: application/problem+json\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_blocked_upgrade() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    for upgrades in [
        Upgrades::Refused(403),
        Upgrades::Dropped,
        Upgrades::Stripped,
    ] {
        let middlebox = Proxy::middlebox(relay.public(), upgrades).await;
        let plan = Agent::anywhere(&format!("http://{}", middlebox.addr()), &journey.token);
        names(plan, &journey.token, "websocket", "E-UPGRADE", 5).await;
    }
}

#[tokio::test]
async fn a_wrong_token() {
    let relay = Relay::start().await;
    names(nowhere(&relay.url()), TOKEN, "token", "E-UNAUTHORISED", 3).await;

    // One of another kind.
    let plan = Agent::anywhere(&relay.url(), relay.token());
    let check = names(plan, relay.token(), "token", "E-FORBIDDEN", 3).await;
    assert!(
        check["seen"].as_str().unwrap().contains("hf_api_"),
        "{check:#}"
    );
}

#[tokio::test]
async fn a_revoked_token() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    journey.tenant.api.delete("/tokens/agents").await;
    let plan = Agent::anywhere(&relay.url(), &journey.token);
    names(plan, &journey.token, "token", "E-TOKEN-REVOKED", 3).await;
}

#[tokio::test]
async fn a_target_that_is_refused() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let closed = format!("http://{}", ports::free());
    let plan = Agent::plan(&relay, &journey, &closed);
    let check = names(plan, &journey.token, "target", "E-TARGET-CONNECT", 1).await;
    assert_eq!(check["subject"], journey.destination.as_str());

    // By the agent's own list, although something listens there.
    let service = Service::start().await;
    let port = service.url().rsplit_once(':').unwrap().1.to_owned();
    let to = format!("http://localhost:{}", port.trim_end_matches('/'));
    let plan =
        Agent::plan(&relay, &journey, &to).table("[limits]\nallow_targets = [\"10.0.0.0/8\"]");
    names(plan, &journey.token, "target", "E-TARGET-REFUSED", 1).await;
    assert_eq!(service.count(), 0);
}

#[tokio::test]
async fn a_sound_way_takes_nothing_and_calls_nobody() {
    let certificate = Certificate::generate();
    let relay = Relay::plan().tls(certificate.clone()).start().await;
    let service = Service::start().await;
    let journey = relay.journey("none").await;
    let event = relay.provider().send(&journey.post()).await.accepted();

    let plan = Agent::plan(&relay, &journey, &service.url()).trusting(certificate.authority());
    let (report, exit) = examine(plan, &journey.token).await;
    assert_eq!(
        (&report["state"], exit),
        (&Value::from("warn"), 0),
        "{report:#}"
    );
    for name in [
        "relay",
        "clock",
        "token",
        "destinations",
        "websocket",
        "target",
    ] {
        assert_eq!(find(&report, name)["state"], "ok", "{report:#}");
    }
    // A private authority is no secret, and the token's file is open to all in this harness.
    assert_eq!(find(&report, "tls")["state"], "warn", "{report:#}");
    assert_eq!(find(&report, "secrets")["state"], "warn", "{report:#}");
    assert_eq!(journey.tenant.delivery(&event).await["state"], "pending");
    assert!(journey.tenant.attempts(&event).await.is_empty());
    assert_eq!(service.count(), 0);
}
