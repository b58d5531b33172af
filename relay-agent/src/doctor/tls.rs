//! The fourth hop: TLS with the relay. Names who signed the certificate, and says when that is nobody
//! the public knows: then TLS is intercepted on the way, or the relay has a CA of its own.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Way,
    certificate::Certificate,
    check::{Check, Hop, Step},
};
use crate::{link::DialError, net, tls::Shown};

/// A certificate that ends sooner is worth a warning.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Speaks TLS, if the URL of the relay says so.
pub(super) async fn check(way: &Way, stream: net::Stream) -> Step<net::Stream> {
    let server = &way.link.server;
    if !server.tls {
        return Step::on(without(way), stream);
    }
    let tried = format!("speak TLS with {}", server.host);
    let secured = way.dialer.secure(stream).await;
    let shown = way.witness.as_ref().and_then(|witness| witness.shown());
    match secured {
        Ok(stream) => {
            let version = stream.tls_version().unwrap_or("TLS");
            let check = Check::ok(Hop::Tls, tried, version).fact("version", version);
            Step::on(accepted(check, shown.as_ref(), Timestamp::now()), stream)
        }
        Err(error) => Step::stop(refused(tried, &error, shown.as_ref())),
    }
}

fn without(way: &Way) -> Check {
    let server = &way.link.server;
    let check = Check::ok(Hop::Tls, "", "").fact("version", Value::Null);
    if server.is_loopback() && way.link.proxy.is_none() {
        return Check::skipped(
            Hop::Tls,
            "the relay is on this machine and is reached by plain http",
        );
    }
    check.warn(
        "the relay is reached by plain http: everybody on the way can read the token and the events",
        "use https:// in `server`, and a certificate on the relay or on what stands before it",
    )
}

/// A certificate that was accepted: is it what it seems?
fn accepted(check: Check, shown: Option<&Shown>, now: Timestamp) -> Check {
    let Some((shown, own)) = shown.and_then(|shown| Some((shown, read(shown)?))) else {
        return check;
    };
    let is_public = shown.is_public();
    let mut check = with_facts(check, shown, &own, is_public);
    let trust = if is_public == Some(true) {
        "the public CA "
    } else {
        ""
    };
    check.seen = format!(
        "{}; certificate of {}, signed by {trust}{}, valid until {}",
        check.seen,
        own.subject,
        own.issuer,
        day(own.not_after)
    );
    if is_public == Some(false) {
        check = check.warn(
            &format!(
                "this machine trusts that CA ({}), but it is none that the public knows: either TLS \
                 is intercepted on the way, for instance by a proxy of your network, or the relay \
                 has a private CA",
                root(shown).unwrap_or(own.issuer)
            ),
            &format!(
                "nothing, if you know that CA; whoever has its key can read token and events. To find \
                 out, compare with the relay's operator the SHA-256 of the certificate: {}",
                own.fingerprint
            ),
        );
    }
    let left = own.not_after.duration_since(now);
    if left < ENDS_SOON {
        let seen = format!("it ends in {} days", left.as_hours() / 24);
        check = check.warn(&seen, "have the certificate renewed");
    }
    check
}

/// A certificate that was not accepted, or none at all.
fn refused(tried: String, error: &DialError, shown: Option<&Shown>) -> Check {
    let mut check = Check::failed(Hop::Tls, tried, &error.failure());
    if let Some((shown, own)) = shown.and_then(|shown| Some((shown, read(shown)?))) {
        check = with_facts(check, shown, &own, shown.is_public());
        check.seen = format!(
            "{}; certificate of {}, signed by {}, valid from {} until {}; this machine's clock says {}",
            check.seen,
            own.subject,
            root(shown).unwrap_or(own.issuer),
            day(own.not_before),
            day(own.not_after),
            day(Timestamp::now()),
        );
    }
    check
}

fn with_facts(check: Check, shown: &Shown, own: &Certificate, is_public: Option<bool>) -> Check {
    let chain = shown.chain.iter().filter_map(|der| Certificate::read(der));
    let chain: Vec<_> = chain
        .map(|certificate| {
            json!({
                "subject": certificate.subject,
                "issuer": certificate.issuer,
                "not_before": certificate.not_before.to_string(),
                "not_after": certificate.not_after.to_string(),
                "sha256": certificate.fingerprint,
            })
        })
        .collect();
    check
        .fact("issuer", own.issuer.clone())
        .fact("is_public_ca", is_public)
        .fact("not_after", own.not_after.to_string())
        .fact("chain", chain)
}

fn read(shown: &Shown) -> Option<Certificate> {
    Certificate::read(shown.chain.first()?)
}

/// Who signed the last certificate that was shown.
fn root(shown: &Shown) -> Option<String> {
    let last = Certificate::read(shown.chain.last()?)?;
    Some(last.issuer)
}

fn day(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d").to_string()
}
