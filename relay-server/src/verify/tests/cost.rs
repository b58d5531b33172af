//! What verification costs beside the bare MAC of the same bytes.

use std::{hint::black_box, time::Instant};

use ring::hmac;

use super::{
    super::{Credentials, Request, Scheme, Verifier, preset},
    headers,
};

/// Run with `cargo test --release -p relay-server verification_cost -- --ignored --nocapture`. The
/// bound is 2; ring is optimised in every profile, our own code only in release.
#[test]
#[ignore = "a measurement; run it alone and in release"]
#[expect(clippy::print_stderr, reason = "its output is the measurement")]
fn verification_cost() {
    const ROUNDS: usize = 20_000;
    let body = vec![b'x'; 1024];
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec_secret");
    let signature = hex::encode(hmac::sign(&key, &[b"1760000000.", &body[..]].concat()));
    let header = format!("t=1760000000,v1={signature}");
    let headers = headers(&[
        ("Host", "h"),
        ("Content-Type", "application/json"),
        ("Stripe-Signature", &header),
    ]);
    let scheme = Scheme::Preset(preset("stripe").unwrap());
    let verifier = Verifier::new(scheme, Credentials::secret("whsec_secret")).unwrap();
    let request = Request {
        method: "POST",
        url: "https://r.test/in/k",
        headers: &headers,
        body: &body,
    };

    // The best of several runs: what else the machine does only adds.
    let best = |work: &dyn Fn()| {
        let runs = (0..7).map(|_| {
            let start = Instant::now();
            (0..ROUNDS).for_each(|_| work());
            start.elapsed()
        });
        runs.min().unwrap()
    };
    let bare = best(&|| {
        black_box(hmac::sign(&key, black_box(&body)));
    });
    let whole = best(&|| {
        assert!(black_box(verifier.verify(black_box(&request), 1_760_000_000_000)).is_ok());
    });
    let ratio = whole.as_secs_f64() / bare.as_secs_f64();
    let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6 / ROUNDS as f64;
    eprintln!(
        "1 KiB: bare HMAC-SHA256 {:.2} us, verify {:.2} us, ratio {ratio:.2}",
        micros(bare),
        micros(whole)
    );
    if !cfg!(debug_assertions) {
        assert!(ratio <= 2.0, "{ratio}");
    }
}
