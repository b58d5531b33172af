//! What goes in comes out: method, target, header fields and body, byte for byte.

use hookferry_tests::{Agent, Journey, Received, Relay, Request, Service, sign};

/// A relay with a source that checks nothing, an agent and a service below a path.
struct Stage {
    relay: Relay,
    service: Service,
    journey: Journey,
    _agent: Agent,
}

impl Stage {
    async fn new() -> Self {
        let relay = Relay::start().await;
        let service = Service::start().await;
        let journey = relay.journey("none").await;
        let agent = Agent::run(&relay, &journey, &format!("{}/hooks/", service.url()));
        Self {
            relay,
            service,
            journey,
            _agent: agent,
        }
    }

    async fn deliver(&mut self, request: &Request) -> Received {
        let event = self.relay.provider().send(request).await.accepted();
        let received = self.service.next().await;
        assert_eq!(received.event(), event);
        received
    }
}

#[tokio::test]
async fn bodies_arrive_unchanged() {
    let mut stage = Stage::new().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let not_utf8 = b"{\"name\":\"caf\xe9 \xff\xfe\"}".to_vec();
    let large: Vec<u8> = (0..3 * 1024 * 1024_u32)
        .map(|index| (index * 31 % 251) as u8)
        .collect();
    let looks_chunked = b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec();
    for body in [
        every_byte,
        not_utf8,
        vec![0],
        b"\r\n".to_vec(),
        looks_chunked,
        large,
    ] {
        for request in [stage.journey.post(), stage.journey.post().chunked(60_000)] {
            let received = stage.deliver(&request.body(body.clone())).await;
            assert_eq!(received.body.len(), body.len());
            assert_eq!(sign::digest(&received.body), sign::digest(&body));
            assert_eq!(
                received.headers.text("content-length"),
                body.len().to_string()
            );
            assert_eq!(received.headers.get("transfer-encoding"), None);
        }
    }
}

#[tokio::test]
async fn targets_arrive_unchanged() {
    let mut stage = Stage::new().await;
    for rest in [
        "",
        "/",
        "/a//b/%41%2fc;x=1/",
        "?",
        "?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b",
        "/eu/orders?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b",
        "?+%+=&&?/?..#".strip_suffix('#').unwrap_or_default(),
        "/in/x?y=/in/z",
        "/...",
        "/a|b^c\"{}~!$&'()*,@:",
    ] {
        let received = stage.deliver(&stage.journey.post().below(rest)).await;
        assert_eq!(received.target, format!("/hooks{rest}"), "{rest}");
    }
}

#[tokio::test]
async fn methods_and_empty_bodies_arrive_unchanged() {
    let mut stage = Stage::new().await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let received = stage.deliver(&stage.journey.post().method(method)).await;
        assert_eq!((received.method.as_str(), received.body.len()), (method, 0));
        assert_eq!(received.headers.text("content-length"), "0");
    }
    let received = stage.deliver(&stage.journey.post().method("GET")).await;
    assert_eq!((received.method.as_str(), received.body.len()), ("GET", 0));
    assert_eq!(received.headers.get("content-length"), None);
}

#[tokio::test]
async fn header_fields_arrive_unchanged() {
    let mut stage = Stage::new().await;
    let request = stage
        .journey
        .post()
        .header("X-Twice", "first, with comma")
        .header("X-Other", "between")
        .header("x-twice", "second")
        .header("X-Latin", b"caf\xe9 \x80\xff")
        .header("X-Empty", "")
        .header("X-Tab", "a\tb")
        .header("Content-Type", "application/json; charset=\"utf-8\"")
        .header("Content-Encoding", "gzip")
        .header("User-Agent", "Provider/1.0 (odd; agent)")
        .header("Accept", "*/*")
        .header("Accept-Encoding", "gzip, identity")
        .header("Authorization", "Basic Zm9vOmJhcg==")
        .header("Cookie", "a=1")
        .header("Cookie", "b=2")
        .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("Via", "1.1 somebody");
    let received = stage.deliver(&request.body("not really gzip")).await;

    let twice: Vec<_> = received.headers.all("X-Twice").collect();
    assert_eq!(twice, [b"first, with comma".as_slice(), b"second"]);
    let cookies: Vec<_> = received.headers.all("Cookie").collect();
    assert_eq!(cookies, [b"a=1", b"b=2"]);
    for (name, value) in [
        ("X-Latin", b"caf\xe9 \x80\xff".as_slice()),
        ("X-Empty", b""),
        ("X-Tab", b"a\tb"),
        ("Content-Type", b"application/json; charset=\"utf-8\""),
        ("Content-Encoding", b"gzip"),
        ("User-Agent", b"Provider/1.0 (odd; agent)"),
        ("Accept", b"*/*"),
        ("Accept-Encoding", b"gzip, identity"),
        ("Authorization", b"Basic Zm9vOmJhcg=="),
        ("Date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Via", b"1.1 somebody"),
    ] {
        let values: Vec<_> = received.headers.all(name).collect();
        assert_eq!(values, [value], "{name}");
    }
    assert_eq!(received.body, b"not really gzip");
}

#[tokio::test]
async fn fields_of_one_hop_end_there_and_ours_cannot_be_forged() {
    let mut stage = Stage::new().await;
    let request = stage
        .journey
        .post()
        .header("Host", "relay.example.com")
        .header("Connection", "X-Secret-Hop, keep-alive")
        .header("X-Secret-Hop", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers")
        .header("hookferry-event-id", "evt_forged")
        .header("Hookferry-Attempt", "99")
        .header("hookferry-admin", "true")
        .header("X-Forwarded-For", "192.0.2.99")
        .header("X-Forwarded-Host", "forged.example.com")
        .header("X-Forwarded-Proto", "gopher")
        .header("X-Forwarded-User", "root");
    let received = stage.deliver(&request.body("{}")).await;

    let headers = &received.headers;
    for gone in [
        "X-Secret-Hop",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "hookferry-admin",
        "X-Forwarded-User",
    ] {
        assert_eq!(headers.get(gone), None, "{gone}");
    }
    let only = |name: &str| {
        let values: Vec<_> = headers.all(name).collect();
        assert_eq!(values.len(), 1, "{name}: {headers:?}");
        headers.text(name)
    };
    assert_eq!(only("Host"), stage.service.addr().to_string());
    assert_eq!(received.attempt(), 1);
    assert_eq!(only("hookferry-attempt"), "1");
    assert_eq!(only("X-Forwarded-For"), "127.0.0.1");
    assert_eq!(only("X-Forwarded-Proto"), "http");
    assert_eq!(only("X-Forwarded-Host"), stage.relay.public().to_string());
}

#[tokio::test]
async fn what_is_stored_is_what_came() {
    let stage = Stage::new().await;
    let body = b"\x00\xff binary \r\n".to_vec();
    let request = stage
        .journey
        .post()
        .below("/p?q=%20")
        .header("X-Odd", b"\xe9")
        .body(body.clone());
    let event = stage.relay.provider().send(&request).await.accepted();

    let api = &stage.journey.tenant.api;
    let stored = api
        .call("GET", &format!("/events/{event}/body"), None)
        .await;
    assert_eq!(stored.body, body);
    let shown = api.get(&format!("/events/{event}")).await;
    assert_eq!(shown["target"], "/p?q=%20");
    let fields = shown["headers"].as_array().unwrap();
    let odd = fields
        .iter()
        .find(|field| field["name"] == "x-odd")
        .unwrap();
    assert_eq!(odd["value_base64"], "6Q==");
}
