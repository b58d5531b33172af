//! Plausible requests for tests and demos: what a provider would send, but for the signature.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Preset, SignedRequest,
    rule::Check,
    template::{Part, Place, Template},
};

/// The kind of event that a test is when nobody says, and no sample is known.
pub const TYPE_DEFAULT: &str = "test";

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A body of a provider, without id and type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    preset: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    body: Map<String, Value>,
    #[serde(default)]
    form: Option<String>,
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("samples.json"))
        .unwrap_or_else(|error| panic!("samples.json: {error}"))
});

impl Preset {
    /// Makes a request look like one of this provider: gives it a body of this type of event unless
    /// it has one, and puts the id and the type where the provider has them. A body that the caller
    /// gave stays as it is, byte for byte. Sign it afterwards.
    pub fn dress(&self, request: &mut SignedRequest, event_type: Option<&str>, id: &str) {
        let own_body = !request.body.is_empty();
        let known = |sample: &&Sample| {
            sample.preset == self.name && event_type.is_none_or(|it| it == sample.event_type)
        };
        let sample = SAMPLES.iter().find(known);
        let event_type = event_type
            .or(sample.map(|sample| sample.event_type.as_str()))
            .unwrap_or(TYPE_DEFAULT);
        if !own_body {
            self.give_body(request, sample, event_type, id);
        }
        self.fill(request, self.event_type.first(), own_body, |part| {
            split(event_type, part)
        });
        self.fill(request, self.event_id.first(), own_body, |_| {
            Some(id.to_owned())
        });
    }

    fn give_body(
        &self,
        request: &mut SignedRequest,
        sample: Option<&Sample>,
        event_type: &str,
        id: &str,
    ) {
        let form = sample.and_then(|sample| sample.form.clone());
        let (body, content_type) = match form {
            Some(form) => (form, FORM),
            None if self.reads_forms() => ("test=true".to_owned(), FORM),
            None => match sample {
                Some(sample) => (Value::Object(sample.body.clone()).to_string(), JSON),
                None => (body_without_preset(event_type, id), JSON),
            },
        };
        request.body = body.into_bytes();
        if request.headers.get("content-type").is_none() {
            request.set_header("content-type", content_type);
        }
    }

    /// Fills the places of a template that are still empty; of the body only if it is not the
    /// caller's own.
    fn fill(
        &self,
        request: &mut SignedRequest,
        template: Option<&Template>,
        own_body: bool,
        value: impl Fn(Hole<'_>) -> Option<String>,
    ) {
        let parts = template.map_or(&[][..], |template| &template.0);
        for (index, part) in parts.iter().enumerate() {
            let Part::From(place) = part else { continue };
            let in_body = matches!(place, Place::Json(..) | Place::Form(_));
            let is_empty = matches!(
                place.value(&request.as_request(), self.json_field),
                Ok(None)
            );
            if !is_empty || (in_body && own_body) {
                continue;
            }
            if let Some(value) = value(Hole { parts, index }) {
                // What cannot be put there is not needed for a signature, and a test may lack it.
                let _ = request.put(place, &value);
            }
        }
    }

    /// Whether its signature is over the fields of a form.
    fn reads_forms(&self) -> bool {
        let Some(Check::Signed(signed)) = self.rules.first().map(|rule| &rule.check) else {
            return false;
        };
        let of_form = |part: &Part| {
            matches!(
                part,
                Part::From(Place::Form(_)) | Part::FormSorted | Part::FormSortedDedup
            )
        };
        let in_form = |place: &Place| matches!(place, Place::Form(_));
        signed.content.0.iter().any(of_form) || signed.places.iter().any(in_form)
    }
}

/// The body of a test where nothing is known of the provider.
pub fn body_without_preset(event_type: &str, id: &str) -> String {
    json!({ "id": id, "type": event_type, "test": true }).to_string()
}

/// One hole of a template.
struct Hole<'a> {
    parts: &'a [Part],
    index: usize,
}

/// What of a text stands in a hole: `task.added` has two for `{resource}.{action}`.
fn split(text: &str, hole: Hole<'_>) -> Option<String> {
    let mut rest = text;
    for (index, part) in hole.parts.iter().enumerate() {
        if let Part::Text(text) = part {
            rest = rest
                .strip_prefix(std::str::from_utf8(text).ok()?)
                .unwrap_or(rest);
            continue;
        }
        let end = match hole.parts.get(index + 1) {
            Some(Part::Text(next)) => rest.find(std::str::from_utf8(next).ok()?),
            _ => None,
        };
        let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
        if index == hole.index {
            return Some(piece.to_owned()).filter(|piece| !piece.is_empty());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{
        super::{preset, presets},
        *,
    };

    fn dressed(name: &str, event_type: Option<&str>, body: &str) -> SignedRequest {
        let mut request = SignedRequest {
            method: "POST".to_owned(),
            url: "https://relay.test/in/k".to_owned(),
            body: body.as_bytes().to_vec(),
            ..SignedRequest::default()
        };
        preset(name)
            .unwrap()
            .dress(&mut request, event_type, "id_1");
        request
    }

    #[test]
    fn samples_belong_to_presets_and_say_so() {
        for sample in SAMPLES.iter() {
            let request = dressed(&sample.preset, Some(&sample.event_type), "");
            let preset = preset(&sample.preset).unwrap();
            let found = preset.event_type(&request.as_request());
            if !preset.event_type.is_empty() {
                assert_eq!(found.as_ref(), Some(&sample.event_type), "{}", preset.name);
            }
        }
    }

    #[test]
    fn id_and_type_stand_where_the_provider_puts_them() {
        let found = |name, event_type| {
            let request = dressed(name, event_type, "");
            let preset = preset(name).unwrap();
            let seen = request.as_request();
            (preset.event_type(&seen), preset.event_id(&seen))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            found("stripe", None),
            (some("charge.succeeded"), some("id_1"))
        );
        assert_eq!(found("stripe", Some("x.y")), (some("x.y"), some("id_1")));
        assert_eq!(found("github", None), (some("push"), some("id_1")));
        assert_eq!(found("asana", Some("task.added")).0, some("task.added"));
        assert_eq!(found("slack", None), (some("message"), some("id_1")));
    }

    #[test]
    fn every_preset_shows_the_type_it_was_given() {
        let lacks = presets().filter(|preset| {
            let request = dressed(preset.name, Some("thing.made"), "");
            let found = preset.event_type(&request.as_request());
            !preset.event_type.is_empty() && found.as_deref() != Some("thing.made")
        });
        let lacks: Vec<_> = lacks.map(|preset| preset.name).collect();
        assert!(lacks.is_empty(), "{lacks:?}");
    }

    #[test]
    fn a_body_of_ones_own_stays_as_it_is() {
        let request = dressed("stripe", Some("x"), "{ }\n");
        assert_eq!(request.body, b"{ }\n");
        let request = dressed("github", Some("x"), "raw");
        assert_eq!(request.body, b"raw");
        assert_eq!(request.headers.get("X-GitHub-Event"), Some(&b"x"[..]));
    }
}
