//! Batches whose items are signed one by one.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::Refusal;

/// The items of a top-level array, each as it was written.
pub(in super::super) fn items<'b>(
    body: &'b [u8],
    array: &str,
    items_max: usize,
) -> Result<Vec<&'b RawValue>, Refusal> {
    let what = || format!("json:/{array}");
    let fields: HashMap<String, &RawValue> = serde_json::from_slice(body)
        .map_err(|_| Refusal::malformed("body", "it is not a JSON object"))?;
    let raw = fields.get(array).ok_or_else(|| Refusal::missing(what()))?;
    let items: Vec<&RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| Refusal::malformed(what(), "expected a list"))?;
    if items.len() > items_max {
        return Err(Refusal::malformed(what(), "too many items"));
    }
    Ok(items)
}
