//! Requests that are no requests: too slow, too long, ambiguous. The named answer or none at all,
//! nothing delivered, nothing leaked.

use hookferry_tests::{
    Request,
    sign::{self, now_s},
};

use crate::ingress::{REFUSED_BODY, Stage};

#[tokio::test]
async fn slow_bodies_and_silent_connections_end() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n",
        stage.journey.source.path
    );

    let slow_body = async {
        let mut connection = provider.connect().await.unwrap();
        connection
            .write(format!("{head}\r\nthe body of a refused ").as_bytes())
            .await
            .unwrap();
        connection
            .read()
            .await
            .unwrap()
            .unwrap()
            .refused(408, "E-TIMEOUT");
    };
    // No request, no answer: only the end.
    let slow_header = async {
        let mut connection = provider.connect().await.unwrap();
        connection.write(head.as_bytes()).await.unwrap();
        let reply = connection.read().await.unwrap_or_default();
        assert!(reply.is_none_or(|reply| reply.status == 408));
    };
    let silent = async {
        let mut connection = provider.connect().await.unwrap();
        assert!(connection.read().await.unwrap_or_default().is_none());
    };
    tokio::join!(slow_body, slow_header, silent);
    stage.nothing_came_through().await;
}

#[tokio::test]
async fn ambiguous_and_malformed_requests_are_refused() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();
    let path = stage.journey.source.path.clone();
    let signature = sign::stripe(&stage.journey.source.secret, now_s(), b"{}");
    let good = format!("Host: a\r\nStripe-Signature: {signature}\r\nContent-Length: 2\r\n");
    let cases: [(&str, String); 11] = [
        (
            "two hosts",
            format!("POST {path} HTTP/1.1\r\n{good}Host: b\r\n\r\n{{}}"),
        ),
        (
            "no host",
            format!(
                "POST {path} HTTP/1.1\r\nStripe-Signature: {signature}\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
        ),
        (
            "both lengths",
            format!(
                "POST {path} HTTP/1.1\r\n{good}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            ),
        ),
        (
            "another host in the target",
            format!("POST http://b{path} HTTP/1.1\r\n{good}\r\n{{}}"),
        ),
        (
            "different lengths",
            format!("POST {path} HTTP/1.1\r\n{good}Content-Length: 3\r\n\r\n{{}}"),
        ),
        (
            "NUL in a value",
            format!("POST {path} HTTP/1.1\r\n{good}X-Odd: a\0b\r\n\r\n{{}}"),
        ),
        (
            "space in a name",
            format!("POST {path} HTTP/1.1\r\n{good}X Odd: a\r\n\r\n{{}}"),
        ),
        (
            "folded line",
            format!("POST {path} HTTP/1.1\r\n{good}X-Odd: a\r\n b\r\n\r\n{{}}"),
        ),
        (
            "dot segment",
            format!("POST {path}/a/../b HTTP/1.1\r\n{good}\r\n{{}}"),
        ),
        (
            "encoded dot segment",
            format!("POST {path}/a/%2E%2e/b HTTP/1.1\r\n{good}\r\n{{}}"),
        ),
        ("no HTTP at all", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
    ];
    for (what, request) in cases {
        let reply = provider.raw(request.as_bytes()).await;
        let status = reply.as_ref().map(|reply| reply.status);
        assert_eq!(status, Some(400), "{what}: {reply:?}");
    }
    stage.nothing_came_through().await;
}

#[tokio::test]
async fn a_body_that_nobody_read_does_not_hide_the_next_head() {
    let stage = Stage::new().await;
    let path = stage.journey.source.path.clone();
    let signature = sign::stripe(&stage.journey.source.secret, now_s(), b"{}");
    let mut connection = stage.relay.provider().connect().await.unwrap();
    let unread = Request::new("POST", "/in/nowhere").body("A: b\r\n\r\n");
    connection
        .send(&unread)
        .await
        .unwrap()
        .refused(404, "E-SOURCE-UNKNOWN");

    let both = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nStripe-Signature: {signature}\r\nContent-Length: 2\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    let _ = connection.write(both.as_bytes()).await;
    let reply = connection.read().await.unwrap_or_default();
    assert!(
        reply.as_ref().is_none_or(|reply| reply.status == 400),
        "{reply:?}"
    );
    stage.nothing_came_through().await;
}

#[tokio::test]
async fn heads_over_the_limit_are_refused() {
    let stage = Stage::new().await;
    let provider = stage.relay.provider();

    let long = stage
        .signed(REFUSED_BODY)
        .header("X-Long", "x".repeat(40_000));
    assert_eq!(provider.send(&long).await.status, 431);
    let mut many = stage.signed(REFUSED_BODY);
    for number in 0..120 {
        many = many.header(&format!("X-{number}"), "x");
    }
    assert_eq!(provider.send(&many).await.status, 431);
    stage.nothing_came_through().await;
}
