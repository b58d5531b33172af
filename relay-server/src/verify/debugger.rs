//! Why is my signature refused? Tries what usually went wrong and says which of it explains the
//! signature.

use super::{
    Credentials, Refusal, Rule, Scheme, Secret, SignedRequest, Verified, Verifier, presets,
    rule::KeyEncoding,
};

/// What the debugger found out.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// The request verifies.
    Valid(Verified),
    /// It does not: the reason, and what to try, best first.
    Invalid {
        /// The reason.
        reason: String,
        /// What to try.
        advice: Vec<String>,
    },
}

/// Verifies a request and, when it is refused, looks for the change that makes it pass.
pub fn examine(
    scheme: &Scheme,
    credentials: &Credentials,
    request: &SignedRequest,
    now_unix_ms: u64,
) -> Finding {
    let case = Case {
        scheme,
        credentials,
        request,
    };
    let verifier = match Verifier::new(scheme.clone(), credentials.clone()) {
        Ok(verifier) => verifier,
        Err(error) => {
            return Finding::Invalid {
                reason: error.to_string(),
                advice: Vec::new(),
            };
        }
    };
    match verifier.verify(&request.as_request(), now_unix_ms) {
        Ok(verified) => Finding::Valid(verified),
        Err(refusal) => {
            let mut advice = case.explain(&refusal, &verifier);
            if advice.is_empty() {
                advice = case.other_presets();
            }
            if advice.is_empty() {
                advice.push(refusal.hint().to_owned());
            }
            Finding::Invalid {
                reason: refusal.to_string(),
                advice,
            }
        }
    }
}

struct Case<'a> {
    scheme: &'a Scheme,
    credentials: &'a Credentials,
    request: &'a SignedRequest,
}

impl Case<'_> {
    fn explain(&self, refusal: &Refusal, verifier: &Verifier) -> Vec<String> {
        match refusal {
            Refusal::Stale { .. } | Refusal::Future { .. } => {
                let request = self.request.as_request();
                vec![match verifier.verify_at(&request, None) {
                    Ok(_) => {
                        "the signature itself is right; only the time is not: give the time of \
                              the request with --now, or check the relay's clock"
                            .to_owned()
                    }
                    Err(other) => format!("apart from its age, {other}"),
                }]
            }
            Refusal::Mismatch => self.why_mismatch(),
            _ => Vec::new(),
        }
    }

    fn why_mismatch(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (change, secret) in self.other_secrets() {
            if self.passes(self.scheme, &secret, self.request) {
                found.push(format!(
                    "it verifies when {change}: correct the stored secret"
                ));
            }
        }
        for (change, scheme) in self.other_key_encodings() {
            if self.passes(&scheme, self.credentials, self.request) {
                found.push(format!("it verifies when {change}"));
            }
        }
        for (change, body) in other_bodies(&self.request.body) {
            let request = SignedRequest {
                body,
                ..self.request.clone()
            };
            if self.passes(self.scheme, self.credentials, &request) {
                found.push(format!(
                    "it verifies when {change}: something changed the body"
                ));
            }
        }
        for url in other_urls(&self.request.url) {
            let request = SignedRequest {
                url: url.clone(),
                ..self.request.clone()
            };
            if self.passes(self.scheme, self.credentials, &request) {
                found.push(format!(
                    "it verifies with the URL {url}: correct the public URL"
                ));
            }
        }
        found
    }

    fn passes(&self, scheme: &Scheme, credentials: &Credentials, request: &SignedRequest) -> bool {
        Verifier::new(scheme.clone(), credentials.clone())
            .is_ok_and(|verifier| verifier.verify_at(&request.as_request(), None).is_ok())
    }

    fn other_secrets(&self) -> Vec<(&'static str, Credentials)> {
        let changed = |change: fn(&str) -> String| {
            let secrets =
                self.credentials.secrets.iter().map(|secret| {
                    Secret::from_text(change(&String::from_utf8_lossy(secret.expose())))
                });
            Credentials {
                secrets: secrets.collect(),
                ..self.credentials.clone()
            }
        };
        vec![
            (
                "blanks around the secret are removed",
                changed(|text| text.trim().to_owned()),
            ),
            (
                "quotes around the secret are removed",
                changed(|text| text.trim_matches(['"', '\'']).to_owned()),
            ),
            (
                "a newline is added to the secret",
                changed(|text| format!("{text}\n")),
            ),
            (
                "the secret's whsec_ prefix is removed",
                changed(|text| text.replacen("whsec_", "", 1)),
            ),
            ("the secret is in lower case", changed(str::to_lowercase)),
        ]
    }

    fn other_key_encodings(&self) -> Vec<(String, Scheme)> {
        let encodings = [
            ("taken as text", KeyEncoding::Utf8),
            ("decoded from base64", KeyEncoding::Base64Any),
            ("decoded from hex", KeyEncoding::Hex),
        ];
        let mut schemes = Vec::new();
        for rule in self.scheme.rules() {
            for (how, key) in encodings.iter().filter(|(_, key)| *key != rule.spec.key) {
                let mut spec = rule.spec.clone();
                spec.key = *key;
                if let Ok(rule) = Rule::compile(&spec) {
                    schemes.push((format!("the secret is {how}"), Scheme::Own(rule.into())));
                }
            }
        }
        schemes
    }

    /// Presets that would accept the request with the same secret.
    fn other_presets(&self) -> Vec<String> {
        presets()
            .filter(|preset| preset.rules.iter().all(|rule| rule.is_signature()))
            .filter(|preset| self.passes(&Scheme::Preset(preset), self.credentials, self.request))
            .map(|preset| {
                format!(
                    "it verifies with the preset `{}` ({})",
                    preset.name, preset.title
                )
            })
            .take(5)
            .collect()
    }
}

fn other_bodies(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut bodies = vec![
        ("a newline is added to the body", [body, b"\n"].concat()),
        ("CR LF is added to the body", [body, b"\r\n"].concat()),
        (
            "blanks around the body are removed",
            body.trim_ascii().to_vec(),
        ),
    ];
    if let Ok(text) = std::str::from_utf8(body) {
        let unix = text.replace("\r\n", "\n");
        bodies.push((
            "line ends are CR LF",
            unix.replace('\n', "\r\n").into_bytes(),
        ));
        bodies.push(("line ends are LF", unix.into_bytes()));
        bodies.push((
            "slashes are escaped as in `\\/`",
            text.replace('/', "\\/").into_bytes(),
        ));
        bodies.push((
            "escaped slashes are plain",
            text.replace("\\/", "/").into_bytes(),
        ));
        let compact = respace(text, "");
        bodies.push((
            "the JSON is written without blanks",
            compact.clone().into_bytes(),
        ));
        bodies.push((
            "the JSON has a blank after `:` and `,`",
            respace(&compact, " ").into_bytes(),
        ));
    }
    bodies.retain(|(_, changed)| changed != body);
    bodies
}

/// JSON with all blanks outside strings removed, and `blank` after each separator.
fn respace(text: &str, blank: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for character in text.chars() {
        if quoted || !character.is_ascii_whitespace() {
            spaced.push(character);
        }
        if !quoted && matches!(character, ',' | ':') {
            spaced.push_str(blank);
        }
        if character == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && character == '\\' && !escaped;
    }
    spaced
}

fn other_urls(url: &str) -> Vec<String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mark = if query.is_empty() { "" } else { "?" };
    let mut urls = vec![
        format!("{base}/{mark}{query}"),
        format!("{}{mark}{query}", base.trim_end_matches('/')),
        base.to_owned(),
        url.replacen("https://", "http://", 1),
        url.replacen("http://", "https://", 1),
        url.replacen("://www.", "://", 1),
    ];
    urls.retain(|changed| changed != url);
    urls.dedup();
    urls
}
