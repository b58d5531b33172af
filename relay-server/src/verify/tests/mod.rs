//! Stories of verification over the shipped presets.

use protocol::frame::Headers;

mod cost;
mod debugging;
mod documents;
mod handshakes;
mod properties;
mod refresh;
mod special;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> Headers {
    let owned = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    Headers(pairs.iter().map(|(n, v)| (owned(n), owned(v))).collect())
}

fn verifier(name: &str, secrets: &[&str]) -> Verifier {
    let credentials = Credentials {
        secrets: secrets
            .iter()
            .map(|&secret| Secret::from_text(secret))
            .collect(),
        ..Credentials::default()
    };
    Verifier::new(Scheme::Preset(preset(name).unwrap()), credentials).unwrap()
}

fn check(
    name: &str,
    secrets: &[&str],
    pairs: &[(&str, &str)],
    body: &[u8],
    now_s: u64,
) -> Result<Verified, Refusal> {
    let headers = headers(pairs);
    let request = Request {
        method: "POST",
        url: "https://relay.test/in/k",
        headers: &headers,
        body,
    };
    verifier(name, secrets).verify(&request, now_s * 1000)
}

#[test]
fn github_example_of_the_documentation() {
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let header = [("x-hub-signature-256", signature)];
    let secret = "It's a Secret to Everybody";
    let found = check("github", &["old", secret], &header, b"Hello, World!", 0);
    assert_eq!(
        found,
        Ok(Verified {
            credential: Some(1)
        })
    );
    assert_eq!(
        check("github", &[secret], &header, b"Hello, World.", 0),
        Err(Refusal::Mismatch)
    );
    assert_eq!(
        check("github", &["other"], &header, b"Hello, World!", 0),
        Err(Refusal::Mismatch)
    );
    assert!(matches!(
        check("github", &[secret], &[], b"Hello, World!", 0),
        Err(Refusal::Missing { .. })
    ));
}

const VECTORS: &[u8] = include_bytes!("../testdata/vectors.json");

#[test]
fn vectors_pass_by_their_own_rules() {
    let report = vectors::run(VECTORS, false).unwrap();
    assert!(report.mismatches.is_empty(), "{report}");
    assert_eq!(
        (report.passed, report.exceptions.len()),
        (261, 0),
        "{report}"
    );
}

/// The exceptions are records of generic senders, which use a rule of their own, and the one that a
/// preset refuses on purpose.
#[test]
fn vectors_pass_by_the_presets() {
    let report = vectors::run(VECTORS, true).unwrap();
    assert!(report.mismatches.is_empty(), "{report}");
    assert_eq!(
        (report.passed, report.exceptions.len()),
        (261, 33),
        "{report}"
    );
    let stricter = report
        .exceptions
        .iter()
        .filter(|(_, why)| why.contains("stricter"));
    let stricter: Vec<_> = stricter.map(|(id, _)| id.as_str()).collect();
    assert_eq!(stricter, ["box-7-10y-early"]);
}
