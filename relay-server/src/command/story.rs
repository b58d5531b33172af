//! An event's explanation for people: what happened, line by line, and what is so now.

use protocol::code::wrapped;
use serde_json::Value;

use super::output::{plain, text};

/// How wide the times are: `10:15:30.123`.
const TIME_WIDTH: usize = 12;

/// How wide the longest words for what happened are: `quarantined`.
const WHAT_WIDTH: usize = 11;

/// Everything that is told, within a width.
pub(super) fn story(explanation: &Value, width: usize) -> String {
    let mut out = head(explanation);
    let mut day = String::new();
    let entries = explanation.get("timeline").and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        let at = entry.get("at").map_or_else(|| "now".to_owned(), plain);
        let time = match at.split_once('T') {
            None => at.as_str(),
            Some((date, time)) => {
                if date != day {
                    date.clone_into(&mut day);
                    out.push_str(&format!("\n{day} (UTC)\n"));
                }
                time.trim_end_matches('Z')
            }
        };
        let what = text(entry, "what");
        let margin = TIME_WIDTH + WHAT_WIDTH + 4;
        let told = wrapped(&text(entry, "text"), width.saturating_sub(margin));
        for (row, line) in told.lines().enumerate() {
            let (time, what) = if row == 0 {
                (time, what.as_str())
            } else {
                ("", "")
            };
            let line = format!("{time:TIME_WIDTH$}  {what:WHAT_WIDTH$}  {line}");
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

/// What it is, and where its deliveries stand.
fn head(explanation: &Value) -> String {
    let mut out = format!("event: {}\n", text(explanation, "event"));
    if explanation.get("type").is_some_and(Value::is_string) {
        out.push_str(&format!("type: {}\n", text(explanation, "type")));
    }
    let deliveries = explanation.get("deliveries").and_then(Value::as_array);
    for delivery in deliveries.into_iter().flatten() {
        let name = match delivery.get("destination_name") {
            Some(Value::String(_)) => text(delivery, "destination_name"),
            _ => text(delivery, "destination"),
        };
        out.push_str(&format!(
            "delivery: {} to {name}, {}\n",
            text(delivery, "id"),
            text(delivery, "state"),
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_fits_its_width() {
        let explanation = json!({
            "event": "evt_1",
            "type": "invoice.paid",
            "deliveries": [{ "id": "dlv_1", "destination_name": "billing", "state": "retry" }],
            "timeline": [
                { "at": "2026-01-31T23:59:59.000Z", "what": "received", "text": "POST /\u{1b}[2J" },
                { "at": "2026-02-01T00:00:01.500Z", "what": "attempt",
                  "text": "1 to billing by box: answered 503 after 12 ms" },
                { "what": "waits", "text": "billing: its next attempt is due" },
            ],
        });
        let expected = "\
event: evt_1
type: invoice.paid
delivery: dlv_1 to billing, retry

2026-01-31 (UTC)
23:59:59.000  received     POST /\\u{1b}[2J

2026-02-01 (UTC)
00:00:01.500  attempt      1 to billing by box:
                           answered 503 after 12
                           ms
now           waits        billing: its next
                           attempt is due
";
        assert_eq!(story(&explanation, 48), expected);
    }
}
