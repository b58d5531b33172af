//! What no rule expresses: a module for each.

use super::{
    Bound, Refusal, Request, Verified, Verifier,
    template::{Place, Template},
};

macro_rules! todo_later { ($($name:ident($($a:ident: $t:ty),*)),+ $(,)?) => { $(pub(super) fn $name($($a: $t),*) -> Result<Verified, Refusal> { $(let _ = $a;)* Err(Refusal::Mismatch) })+ } }
todo_later!(
    jwt(v: &Verifier, b: &Bound, from: &Place, aud: Option<&Template>, r: &Request<'_>, now: Option<u64>),
    http_signature(v: &Verifier, b: &Bound, r: &Request<'_>, now: Option<u64>),
    sns(v: &Verifier, r: &Request<'_>),
    hook0(b: &Bound, r: &Request<'_>, now: Option<u64>),
    contentful(b: &Bound, r: &Request<'_>, now: Option<u64>),
    plivo_v3(b: &Bound, r: &Request<'_>),
    hygraph(b: &Bound, r: &Request<'_>, now: Option<u64>),
);
pub(super) fn gunzip(_: &[u8]) -> Option<Vec<u8>> {
    None
}

/// The items of a top-level array, each as it was written.
pub(super) fn items<'b>(
    body: &'b [u8],
    array: &str,
    items_max: usize,
) -> Result<Vec<&'b serde_json::value::RawValue>, Refusal> {
    let what = || format!("json:/{array}");
    let fields: std::collections::HashMap<String, &serde_json::value::RawValue> =
        serde_json::from_slice(body).map_err(|_| Refusal::malformed("body", "it is not JSON"))?;
    let raw = fields.get(array).ok_or_else(|| Refusal::missing(what()))?;
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| Refusal::malformed(what(), "expected a list"))?;
    if items.len() > items_max {
        return Err(Refusal::malformed(what(), "too many items"));
    }
    Ok(items)
}
