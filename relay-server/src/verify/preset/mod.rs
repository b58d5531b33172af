//! Providers that ship with the relay: rules, dedupe ids, answers and set-up hints, as data.

use std::sync::LazyLock;

use serde::Deserialize;

use super::{
    handshake::{Handshake, handshake},
    request::Request,
    rule::{Kind, Rule, RuleSpec},
    template::{Part, Place, Scope, Template},
};

/// Longest dedupe id and event type kept, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Everything the relay knows about one provider.
#[derive(Debug)]
pub struct Preset {
    /// What sources are configured with.
    pub name: &'static str,
    /// Other names taken for it.
    pub aliases: Vec<&'static str>,
    /// For people.
    pub title: &'static str,
    /// Where the facts come from, in one line.
    pub provenance: &'static str,
    /// Any of these rules that the credentials fit accepts a request.
    pub rules: Vec<Rule>,
    /// What to answer an accepted event with, beyond what the relay says itself.
    pub accepted: Accepted,
    /// What to answer a bad signature with: 403, or 401 where the provider demands it.
    pub refused_status: u16,
    /// Methods an event may use.
    pub methods: Vec<&'static str>,
    /// Challenges answered at the edge.
    pub handshakes: Vec<&'static Handshake>,
    /// How long the provider waits for an answer, in seconds, where known.
    pub timeout_s: Option<u64>,
    /// Where to paste the URL and where to find the secret.
    pub setup: &'static str,
    /// When the provider reads the service's own answer, which an asynchronous relay can't give.
    pub response_note: Option<&'static str>,
    /// What suits the provider when it waits for the service's own answer, where that is known.
    pub sync: Option<SyncDefaults>,
    pub(super) event_id: Vec<Template>,
    pub(super) event_type: Vec<Template>,
    pub(super) json_field: Option<&'static str>,
}

/// The answer to an accepted event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Status.
    pub status: u16,
    /// Content type of the body.
    #[serde(default)]
    pub content_type: Option<String>,
    /// `None`: the relay's own body. An empty text: no body at all.
    #[serde(default)]
    pub body: Option<String>,
}

impl Default for Accepted {
    fn default() -> Self {
        Self {
            status: 200,
            content_type: None,
            body: None,
        }
    }
}

/// What suits a provider that waits for the service's own answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncDefaults {
    /// How long it waits, with something in reserve.
    pub timeout_ms: u64,
    /// The status that it understands as "taken, but no answer now".
    pub status: u16,
    /// Header fields of that answer.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(default)]
    pub body: String,
}

/// A preset as it stands in the data file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: &'static str,
    #[serde(default)]
    aliases: Vec<&'static str>,
    title: &'static str,
    provenance: &'static str,
    rules: Vec<RuleSpec>,
    #[serde(default)]
    event_id: Vec<String>,
    #[serde(default)]
    event_type: Vec<String>,
    #[serde(default)]
    json_field: Option<&'static str>,
    #[serde(default)]
    accepted: Accepted,
    #[serde(default)]
    refused_status: Option<u16>,
    #[serde(default)]
    methods: Vec<&'static str>,
    #[serde(default)]
    handshakes: Vec<String>,
    #[serde(default)]
    timeout_s: Option<u64>,
    // Borrowed texts must hold no JSON escapes; owned ones may.
    setup: String,
    #[serde(default)]
    response_note: Option<String>,
    #[serde(default)]
    sync: Option<SyncDefaults>,
}

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    load(include_str!("presets.json")).unwrap_or_else(|error| panic!("presets.json: {error}"))
});

fn load(data: &'static str) -> Result<Vec<Preset>, String> {
    let records: Vec<Record> = serde_json::from_str(data).map_err(|error| error.to_string())?;
    records.into_iter().map(Preset::from_record).collect()
}

/// The preset of this name or alias.
pub fn preset(name: &str) -> Option<&'static Preset> {
    match PRESETS.binary_search_by(|preset| preset.name.cmp(name)) {
        Ok(index) => PRESETS.get(index),
        Err(_) => PRESETS.iter().find(|preset| preset.aliases.contains(&name)),
    }
}

/// The name most like a mistyped one, if any is.
pub fn closest(name: &str) -> Option<&'static str> {
    let names = PRESETS.iter().map(|preset| preset.name);
    let scored = names.map(|known| (strsim::jaro_winkler(known, name), known));
    let best = scored.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (best.0 > 0.8).then_some(best.1)
}

/// All presets, sorted by name.
pub fn presets() -> impl ExactSizeIterator<Item = &'static Preset> {
    PRESETS.iter()
}

impl Preset {
    fn from_record(record: Record) -> Result<Self, String> {
        let name = record.name;
        let templates = |texts: &[String]| {
            let parsed = texts.iter().map(|text| Template::parse(text));
            parsed
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| format!("{name}: {e}"))
        };
        let rules = record.rules.iter().map(Rule::compile);
        let handshakes = record
            .handshakes
            .iter()
            .map(|id| handshake(id).ok_or_else(|| format!("{name}: no handshake {id}")));
        Ok(Self {
            rules: rules
                .collect::<Result<_, _>>()
                .map_err(|e| format!("{name}: {e}"))?,
            handshakes: handshakes.collect::<Result<_, _>>()?,
            event_id: templates(&record.event_id)?,
            event_type: templates(&record.event_type)?,
            name,
            aliases: record.aliases,
            title: record.title,
            provenance: record.provenance,
            accepted: record.accepted,
            refused_status: record.refused_status.unwrap_or(403),
            methods: match record.methods.is_empty() {
                true => vec!["POST"],
                false => record.methods,
            },
            timeout_s: record.timeout_s,
            setup: record.setup.leak(),
            response_note: record.response_note.map(|note| &*note.leak()),
            json_field: record.json_field,
            sync: record.sync,
        })
    }

    /// The id by which the provider names this event on every retry, if it has one.
    pub fn event_id(&self, request: &Request<'_>) -> Option<String> {
        self.first(&self.event_id, request)
    }

    /// The provider's name for the kind of event, if it has one.
    pub fn event_type(&self, request: &Request<'_>) -> Option<String> {
        self.first(&self.event_type, request)
    }

    /// The first template whose every hole the request fills.
    fn first(&self, templates: &[Template], request: &Request<'_>) -> Option<String> {
        let scope = Scope {
            request,
            url: request.url,
            timestamp: None,
            secret: None,
            json_field: self.json_field,
            missing_as_empty: false,
        };
        templates.iter().find_map(|template| {
            let text = String::from_utf8(template.render(&scope).ok()?).ok()?;
            let fits = !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
            (fits && !text.contains(char::is_control)).then_some(text)
        })
    }

    /// Whether a challenge may come with this method, which events need not take.
    pub fn challenges_with(&self, method: &str) -> bool {
        self.handshakes
            .iter()
            .any(|handshake| handshake.method() == method)
    }

    /// Whether the provider may send the secret itself, in a handshake.
    pub fn brings_secret(&self) -> bool {
        self.handshakes
            .iter()
            .any(|handshake| handshake.brings_secret())
    }

    /// Whether the provider gives events an id that survives retries.
    pub fn has_event_id(&self) -> bool {
        !self.event_id.is_empty()
    }

    /// What a valid signature proves: the parts of the request it covers.
    pub fn covered(&self) -> Vec<String> {
        self.rules.first().map(covered).unwrap_or_default()
    }

    /// Whether every byte of the body is covered.
    pub fn covers_body(&self) -> bool {
        self.covered().iter().any(|part| part == "body")
    }
}

/// Names of what a rule covers, for documentation.
fn covered(rule: &Rule) -> Vec<String> {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    match rule.spec.kind {
        Kind::None | Kind::Token | Kind::Basic => Vec::new(),
        Kind::Sns => names(&["JSON fields Message, MessageId, Subject, Timestamp, TopicArn, Type"]),
        Kind::Hook0 => names(&["body", "timestamp", "headers it lists"]),
        Kind::Contentful => names(&["body", "method", "path and query", "headers it lists"]),
        Kind::PlivoV3 => names(&["URL", "form fields", "nonce"]),
        Kind::Hygraph => names(&["body", "environment", "timestamp"]),
        Kind::HttpSig => names(&["body (by Content-Digest)", "components it lists", "body"]),
        Kind::Jwt => {
            let mut parts = vec!["claims".to_owned()];
            parts.extend(rule.spec.body_hash.is_some().then(|| "body".to_owned()));
            parts.extend(rule.spec.url_hash.is_some().then(|| "URL".to_owned()));
            parts
        }
        _ => match &rule.check {
            super::rule::Check::Signed(signed) => {
                signed.content.0.iter().filter_map(part_name).collect()
            }
            _ => Vec::new(),
        },
    }
}

fn part_name(part: &Part) -> Option<String> {
    Some(match part {
        Part::Text(_) | Part::Secret | Part::Var(_) => return None,
        Part::Body | Part::BodyMd5Base64 | Part::BodySha256Raw | Part::BodySha256Hex => {
            "body".to_owned()
        }
        Part::Timestamp => "timestamp".to_owned(),
        Part::Method => "method".to_owned(),
        Part::Url => "URL".to_owned(),
        Part::UrlNoQuery => "URL without query".to_owned(),
        Part::Path => "path".to_owned(),
        Part::Crc32 => "CRC-32 of the body".to_owned(),
        Part::FormSortedDedup | Part::FormSorted => "form fields".to_owned(),
        Part::QuerySorted => "query".to_owned(),
        Part::From(Place::Header(name)) => format!("header {name}"),
        Part::From(Place::Query(name)) => format!("query {name}"),
        Part::From(Place::Form(name)) => format!("form field {name}"),
        Part::From(Place::Json(_, pointer)) => {
            // Adyen signs fields of each item of its list.
            let in_item = pointer.strip_prefix("/notificationItems/0/NotificationRequestItem");
            format!("JSON {}", in_item.unwrap_or(pointer))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_compiles_and_names_are_unique() {
        let presets = load(include_str!("presets.json")).unwrap();
        let mut names: Vec<_> = presets.iter().map(|preset| preset.name).collect();
        assert!(names.is_sorted());
        names.extend(presets.iter().flat_map(|preset| preset.aliases.clone()));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(presets.len() >= 154, "{}", presets.len());
        for preset in &presets {
            assert!(!preset.rules.is_empty() && !preset.provenance.is_empty());
            assert!(preset.provenance.lines().count() == 1, "{}", preset.name);
        }
    }
}
