//! The services that events are forwarded to: connected to as for a call, with the same list of what may
//! be called, and left again. Nothing is sent, so that no service is called by mistake.

use jiff::Timestamp;

use super::{
    certificate::Certificate,
    check::{Check, Hop},
};
use crate::{
    config::Lane,
    explain::Failure,
    forward::{self, AllowTargets},
    tls::Tls,
};

/// Connects to a service.
pub(super) async fn check(
    destination: &str,
    lane: &Lane,
    general: Option<&Tls>,
    allow: &AllowTargets,
) -> Check {
    let tried = format!("connect to {} for {destination}", lane.target);
    let tls = match lane.target.is_tls() {
        true => Tls::of_service(destination, &lane.tls, general),
        false => Ok(None),
    };
    let tls = match tls {
        Ok(tls) => tls.map(|tls| tls.watched()),
        Err(failure) => return Check::failed(Hop::Target, tried, &failure).subject(destination),
    };
    let (tls, witness) = tls.unzip();
    let connected = forward::reach(lane, tls, allow.clone()).await;
    let certificate = witness.and_then(|witness| witness.shown());
    let certificate = certificate.and_then(|shown| Certificate::read(shown.chain.first()?));
    let mut check = match connected {
        Ok(stream) => {
            let version = stream.tls_version();
            let seen = version.map_or("accepted".to_owned(), |it| format!("accepted, {it}"));
            Check::ok(Hop::Target, tried, seen).fact("version", version)
        }
        Err(error) => {
            let failure = Failure::new(error.code(), error.to_string());
            Check::failed(Hop::Target, tried, &failure)
        }
    };
    if let Some(certificate) = certificate {
        check = with_certificate(check, &certificate);
    }
    if lane.is_insecure() {
        check = check.warn(
            "its certificate is NOT verified (insecure = true): whoever is in between can read and \
             answer events",
            "give the CA of the service with ca_file instead",
        );
    }
    check
        .subject(destination)
        .fact("target", lane.target.to_string())
}

fn with_certificate(mut check: Check, certificate: &Certificate) -> Check {
    let left = certificate.not_after.duration_since(Timestamp::now());
    check.seen = format!(
        "{}; certificate of {}, signed by {}, valid until {}",
        check.seen,
        certificate.subject,
        certificate.issuer,
        certificate.not_after.strftime("%Y-%m-%d"),
    );
    if check.code.is_none() && left.as_hours() < 14 * 24 {
        let seen = format!("it ends in {} days", left.as_hours() / 24);
        check = check.warn(&seen, "have the certificate renewed");
    }
    check
        .fact("issuer", certificate.issuer.clone())
        .fact("not_after", certificate.not_after.to_string())
}
