//! Events signed by the providers' own libraries are accepted and arrive as they were.

use hookferry_tests::{Agent, Journey, Relay, Service, python};
use serde_json::json;

async fn check(preset: &str, library: &str) {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let journey = Journey::create(&relay.api(), preset, json!({})).await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let bodies = [
        r#"{"id":"evt_1","type":"invoice.paid","data":{"object":{"amount":1250}}}"#,
        "{\n  \"id\" : \"evt_2\",\r\n  \"name\": \"Zoë \u{1f680} \\u00e9\" , \"n\": 1.0e2\n}\n",
        "{}",
    ];
    for body in bodies {
        let mut request = journey.post().below("/a?b=2&a=1").body(body);
        for (name, value) in python::sign(library, &journey.source.secret, body.as_bytes()) {
            request = request.header(&name, value);
        }
        let event = relay.provider().send(&request).await.accepted();
        let received = service.next().await;
        assert_eq!(
            (received.event(), received.body.as_slice()),
            (event, body.as_bytes())
        );

        let altered = request.body(body.replacen('{', "{ ", 1));
        relay
            .provider()
            .send(&altered)
            .await
            .refused(403, "E-SIGNATURE");
    }
}

#[tokio::test]
async fn the_stripe_library_signs_what_the_relay_accepts() {
    check("stripe", "stripe").await;
}

#[tokio::test]
async fn the_standard_webhooks_library_signs_what_the_relay_accepts() {
    check("standard-webhooks", "standardwebhooks").await;
}
