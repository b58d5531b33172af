//! Hook0: the signature header lists the headers it covers.

use super::{
    super::{
        Bound, Refusal, Request, Verified,
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
        (Some(signature), Some(names)) => {
            let values = names.split(' ').map(|name| {
                let value = request.header(name)?;
                value.ok_or_else(|| Refusal::missing(format!("signed header {name}")))
            });
            let values = values.collect::<Result<Vec<_>, _>>()?.join(&b'.');
            let head = [time.as_bytes(), names.as_bytes(), &values].join(&b'.');
            (head, signature)
        }
        _ => (time.as_bytes().to_vec(), v0.unwrap_or_default()),
    };
    let signature = decode(signature, Encoding::Hex)
        .ok_or_else(|| Refusal::malformed(what(), "expected a signature in hex"))?;
    by_mac(bound, &[&head, b".", request.body], &[signature])
}
