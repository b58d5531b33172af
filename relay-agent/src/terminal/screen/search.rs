//! Which events a search finds.

use super::record::{Record, Standing};

/// A search: words that must all be found. `status:5xx`, `source:x`, `type:x`, `path:x`, `id:x`, `header:x`
/// and `body:x` look at one part; any other word is looked for in all of them but headers and body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Search {
    terms: Vec<(Part, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    Status,
    Source,
    Type,
    Path,
    Id,
    Header,
    Body,
}

const PARTS: [(&str, Part); 7] = [
    ("status:", Part::Status),
    ("source:", Part::Source),
    ("type:", Part::Type),
    ("path:", Part::Path),
    ("id:", Part::Id),
    ("header:", Part::Header),
    ("body:", Part::Body),
];

impl Search {
    pub(super) fn parse(text: &str) -> Self {
        let terms = text.split_whitespace().map(|word| {
            let word = word.to_lowercase();
            let found = PARTS
                .iter()
                .find_map(|(prefix, part)| Some((*part, word.strip_prefix(prefix)?.to_owned())));
            found.unwrap_or((Part::Any, word))
        });
        Self {
            terms: terms.filter(|(_, word)| !word.is_empty()).collect(),
        }
    }

    pub(super) fn finds(&self, record: &Record) -> bool {
        self.terms
            .iter()
            .all(|(part, word)| finds(record, *part, word))
    }
}

fn finds(record: &Record, part: Part, word: &str) -> bool {
    let offer = &record.offer;
    let has = |text: &str| text.to_lowercase().contains(word);
    let has_bytes = |bytes: &[u8]| has(&String::from_utf8_lossy(bytes));
    match part {
        Part::Status => is_status(record.standing(), word),
        Part::Source => has(&offer.source),
        Part::Type => offer.event_type.as_deref().is_some_and(has),
        Part::Path => has(&offer.request.target),
        Part::Id => has(&offer.event.to_string()),
        Part::Header => {
            let mut fields = offer.request.headers.0.iter();
            fields.any(|(name, value)| has_bytes(name) || has_bytes(value))
        }
        Part::Body => record.body.as_deref().is_some_and(has_bytes),
        Part::Any => {
            let parts = [Part::Status, Part::Source, Part::Type, Part::Path, Part::Id];
            has(&offer.request.method) || parts.into_iter().any(|part| finds(record, part, word))
        }
    }
}

/// `200`, `5xx`, `err`, or `...` for what runs.
fn is_status(standing: Standing, word: &str) -> bool {
    match standing {
        Standing::Running => word == "...",
        Standing::Failed => word == "err",
        Standing::Answered(status) => {
            let class = status / 100;
            word == status.to_string() || word == format!("{class}xx")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::record, *};

    #[test]
    fn words_must_all_be_found() {
        let record = record(1, Some(502));
        for found in [
            "",
            "type:",
            "push",
            "PUSH",
            "github",
            "502",
            "5xx",
            "status:5xx",
            "source:git type:push",
            "post",
            "path:/a?",
            "path:a=1",
            "id:evt_",
            "header:x-github",
            "header:abc",
            "body:\"zen\"",
        ] {
            assert!(Search::parse(found).finds(&record), "{found}");
        }
        for missed in [
            "zen",
            "abc",
            "status:502x",
            "status:200",
            "err",
            "push stripe",
            "body:push",
        ] {
            assert!(!Search::parse(missed).finds(&record), "{missed}");
        }
    }
}
