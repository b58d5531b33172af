//! Hook0: the signature header lists the headers it covers.

use super::{
    super::{
        Bound, Refusal, Request, SignError, SignedRequest, Verified,
        credentials::Key,
        rule::{Encoding, TimeUnit},
        signatures::decode,
        time::{fresh, unix_ms},
    },
    by_mac, text_header,
};

const HEADER: &str = "X-Hook0-Signature";

/// Seconds, unless the rule says otherwise.
const TOLERANCE_S: f64 = 300.0;

pub(in super::super) fn hook0(
    bound: &Bound,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let value = text_header(request, HEADER)?;
    let what = || format!("header:{HEADER}");
    let mut fields = [("t", None), ("h", None), ("v1", None), ("v0", None)];
    for (key, value) in value.split(',').filter_map(|item| item.split_once('=')) {
        if let Some((_, slot)) = fields.iter_mut().find(|(name, _)| *name == key) {
            if slot.is_some_and(|known| known != value) {
                return Err(Refusal::Duplicate { what: what() });
            }
            *slot = Some(value);
        }
    }
    let [(_, time), (_, names), (_, v1), (_, v0)] = fields;
    let time = time.ok_or_else(|| Refusal::missing(format!("{} t=", what())))?;
    let then = unix_ms(time, TimeUnit::Seconds)
        .ok_or_else(|| Refusal::malformed(what(), "its time is not in Unix seconds"))?;
    if let Some(now) = now {
        let tolerance_ms = bound.rule.spec.tolerance.unwrap_or(TOLERANCE_S).max(0.0) * 1000.0;
        fresh(then - i128::from(now), tolerance_ms as u64, true)?;
    }
    let (head, signature) = match (v1, names) {
        (Some(signature), Some(names)) => (listed_head(request, time, names)?, signature),
        _ => (time.as_bytes().to_vec(), v0.unwrap_or_default()),
    };
    let signature = decode(signature, Encoding::Hex)
        .ok_or_else(|| Refusal::malformed(what(), "expected a signature in hex"))?;
    by_mac(bound, &[&head, b".", request.body], &[signature])
}

/// What is signed before the body when the signature lists headers.
fn listed_head(request: &Request<'_>, time: &str, names: &str) -> Result<Vec<u8>, Refusal> {
    let values = names.split(' ').map(|name| {
        let value = request.header(name)?;
        value.ok_or_else(|| Refusal::missing(format!("signed header {name}")))
    });
    let values = values.collect::<Result<Vec<_>, _>>()?.join(&b'.');
    Ok([time.as_bytes(), names.as_bytes(), &values].join(&b'.'))
}

/// Signs as Hook0 does, covering the headers that an earlier signature listed.
pub(in super::super) fn sign_hook0(
    key: &Key,
    request: &mut SignedRequest,
    now_unix_ms: u64,
) -> Result<(), SignError> {
    let time = (now_unix_ms / 1000).to_string();
    let old = request.headers.get(HEADER).unwrap_or_default();
    let names = String::from_utf8_lossy(old);
    let names = names.split(',').find_map(|item| item.strip_prefix("h="));
    let (head, covers, version) = match names {
        Some(names) => {
            let head = listed_head(&request.as_request(), &time, names);
            let head = head.map_err(|_| SignError::Unsupported)?;
            (head, format!("h={names},"), "v1")
        }
        None => (time.as_bytes().to_vec(), String::new(), "v0"),
    };
    let tag = hex::encode(key.mac(&[&head, b".", &request.body]));
    request.set_header(HEADER, &format!("t={time},{covers}{version}={tag}"));
    Ok(())
}
