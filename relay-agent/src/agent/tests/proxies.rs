//! The way to the relay leads through a proxy; the way to the service never does.

use super::*;
use crate::{
    config::{ProxyConfig, ProxyOrigin},
    link::proxy::sample::{PASSWORD, SampleProxy, USER_INFO},
};

fn through(url: String, relay: &str) -> LinkConfig {
    LinkConfig {
        server: relay.parse().unwrap(),
        token: Token::parse(TOKEN).unwrap(),
        name: "test".to_owned(),
        proxy: Some(ProxyConfig {
            proxy: url.parse().unwrap(),
            origin: ProxyOrigin::Variable("HTTPS_PROXY"),
        }),
        client_certificate: None,
        transport: Transport::WebSocket,
    }
}

/// Delivers an event; `asked` is what the proxy was asked for, once.
async fn delivers(relay: Relay, mut proxy: SampleProxy, link: LinkConfig, asked: &str) {
    let mut service = Service::start(200).await;
    let mut config = ci(&relay, &service);
    config.link = link;
    assert!(!format!("{config:?}").contains(PASSWORD));
    let agent = Running::start(config).await;
    let link = tokio::time::timeout(Duration::from_secs(30), relay.accept()).await;
    let mut link = link.expect("the proxy led to no relay");
    link.welcome().await;
    link.offer(sample::offer(1, 1)).await;
    service.next().await;
    let receipt = link.receipt().await;
    assert_eq!(status(&receipt), Some(200));
    link.confirm(&receipt).await;
    let (result, _) = tokio::join!(agent.end(), link.end());
    assert_eq!(result, Ok(()));

    assert_eq!(proxy.asked().await, asked);
    assert!(proxy.is_quiet(), "the call to the service used the proxy");
}

#[tokio::test]
async fn connect_carries_plain_web_sockets_too() {
    let relay = Relay::start().await;
    let proxy = SampleProxy::http(relay.address(), None).await;
    let url = format!("http://{USER_INFO}@{}", proxy.address);
    let link = through(url, "ws://relay.test:8080");
    delivers(relay, proxy, link, "CONNECT relay.test:8080 HTTP/1.1").await;
}

#[tokio::test]
async fn socks_proxies_resolve_the_name_if_they_are_asked_to() {
    let relay = Relay::start().await;
    let proxy = SampleProxy::socks(relay.address()).await;
    let url = format!("socks5h://{USER_INFO}@{}", proxy.address);
    let link = through(url, "ws://relay.test");
    delivers(relay, proxy, link, "relay.test:80").await;

    let relay = Relay::start().await;
    let proxy = SampleProxy::socks(relay.address()).await;
    let url = format!("socks5://{USER_INFO}@{}", proxy.address);
    let link = through(url, "ws://127.0.0.9:81");
    delivers(relay, proxy, link, "127.0.0.9:81").await;
}
