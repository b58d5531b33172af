//! Providers that sign a text of their own making: Contentful, Plivo (third version), Hygraph.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    super::{
        Bound, Refusal, Request, SignError, SignedRequest, Verified,
        credentials::Key,
        request::pairs,
        rule::{Encoding, TimeUnit},
        signatures::{SIGNATURES_MAX, decode},
        time::{fresh, unix_ms},
    },
    by_mac, text_header,
};

/// Headers Contentful may list.
const HEADERS_MAX: usize = 64;

/// Contentful: method, path encoded once more, the listed headers sorted, body.
pub(in super::super) fn contentful(
    bound: &Bound,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let names = contentful_names(request)?;
    let time_header = "x-contentful-timestamp";
    if names.len() > HEADERS_MAX || !names.iter().any(|name| name == time_header) {
        return Err(Refusal::malformed(
            "header:x-contentful-signed-headers",
            "it must list x-contentful-timestamp and at most 64 headers",
        ));
    }
    let then = unix_ms(text_header(request, time_header)?, TimeUnit::Millis)
        .ok_or_else(|| Refusal::malformed(format!("header:{time_header}"), "expected ms"))?;
    if let (Some(now), Some(tolerance_s)) = (now, bound.rule.spec.tolerance) {
        fresh(
            then - i128::from(now),
            (tolerance_s.max(0.0) * 1000.0) as u64,
            true,
        )?;
    }
    let head = contentful_head(request, &names)?;
    let signature = text_header(request, "x-contentful-signature")?;
    let signature = decode(signature, Encoding::Hex)
        .ok_or_else(|| Refusal::malformed("header:x-contentful-signature", "expected hex"))?;
    by_mac(bound, &[head.as_bytes(), request.body], &[signature])
}

/// The headers that are covered, sorted.
fn contentful_names(request: &Request<'_>) -> Result<Vec<String>, Refusal> {
    let names = text_header(request, "x-contentful-signed-headers")?;
    let mut names: Vec<_> = names
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// What Contentful signs before the body. `names` are sorted.
fn contentful_head(request: &Request<'_>, names: &[String]) -> Result<String, Refusal> {
    let mut lines = Vec::with_capacity(names.len());
    for name in names {
        lines.push(format!("{name}:{}", text_header(request, name)?.trim()));
    }
    let path = match request.query() {
        "" => request.path().to_owned(),
        query => format!("{}?{}", request.path(), percent(query, b"-._~!'()*")),
    };
    let path = percent(&path, b";,/?:@&=+$-_.!~*'()#");
    Ok(format!("{}\n{path}\n{}\n", request.method, lines.join(";")))
}

/// Signs as Contentful does, covering the headers that an earlier signature listed, else its own two.
pub(in super::super) fn sign_contentful(
    key: &Key,
    request: &mut SignedRequest,
    now_unix_ms: u64,
) -> Result<(), SignError> {
    const LIST: &str = "x-contentful-signed-headers";
    const TIME: &str = "x-contentful-timestamp";
    if request.headers.get(LIST).is_none() {
        request.set_header(LIST, &format!("{LIST},{TIME}"));
    }
    request.set_header(TIME, &now_unix_ms.to_string());
    let names = contentful_names(&request.as_request());
    let head = names.and_then(|names| contentful_head(&request.as_request(), &names));
    let head = head.map_err(|_| SignError::Unsupported)?;
    let tag = hex::encode(key.mac(&[head.as_bytes(), &request.body]));
    request.set_header("x-contentful-signature", &tag);
    Ok(())
}

/// Percent-encodes all but letters, digits and `kept`, as JavaScript does.
fn percent(text: &str, kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Plivo: URL with its query sorted, form fields sorted, nonce.
pub(in super::super) fn plivo_v3(
    bound: &Bound,
    request: &Request<'_>,
) -> Result<Verified, Refusal> {
    let nonce = text_header(request, "X-Plivo-Signature-V3-Nonce")?;
    let signatures: Vec<_> = text_header(request, "X-Plivo-Signature-V3")?
        .split(',')
        .take(SIGNATURES_MAX)
        .filter_map(|text| decode(text.trim(), Encoding::Base64))
        .collect();
    if signatures.is_empty() {
        return Err(Refusal::malformed(
            "header:X-Plivo-Signature-V3",
            "expected base64",
        ));
    }
    let text = plivo_text(request);
    by_mac(bound, &[&text, b".", nonce.as_bytes()], &signatures)
}

/// What Plivo signs before the nonce.
fn plivo_text(request: &Request<'_>) -> Vec<u8> {
    let mut query: Vec<_> = pairs(request.query().as_bytes()).collect();
    query.sort();
    let query: Vec<_> = query
        .iter()
        .map(|(name, value)| [&name[..], value].join(&b'='))
        .collect();
    let mut form: Vec<_> = match request.is_form() && request.method != "GET" {
        true => pairs(request.body).collect(),
        false => Vec::new(),
    };
    form.sort();
    let mut text = request.url_no_query().as_bytes().to_vec();
    if !query.is_empty() || !form.is_empty() {
        text.push(b'?');
    }
    text.extend(query.join(&b'&'));
    if !query.is_empty() && !form.is_empty() {
        text.push(b'.');
    }
    for (name, value) in &form {
        text.extend_from_slice(name);
        text.extend_from_slice(value);
    }
    text
}

/// Signs as Plivo does.
pub(in super::super) fn sign_plivo_v3(key: &Key, request: &mut SignedRequest, now_unix_ms: u64) {
    let nonce = format!("test{now_unix_ms}");
    let text = plivo_text(&request.as_request());
    let tag = BASE64_STANDARD.encode(key.mac(&[&text, b".", nonce.as_bytes()]));
    request.set_header("X-Plivo-Signature-V3-Nonce", &nonce);
    request.set_header("X-Plivo-Signature-V3", &tag);
}

/// Hygraph: a JSON envelope with the body as a text in it.
pub(in super::super) fn hygraph(
    bound: &Bound,
    request: &Request<'_>,
    now: Option<u64>,
) -> Result<Verified, Refusal> {
    let what = "header:gcms-signature";
    let header = text_header(request, "gcms-signature")?;
    let field = |wanted: &str| {
        let items = header
            .split(',')
            .filter_map(|item| item.trim().split_once('='));
        let mut values = items
            .filter(|(key, _)| *key == wanted)
            .map(|(_, value)| value);
        let first = values.next();
        match values.next() {
            None => first.ok_or_else(|| Refusal::missing(format!("{what} {wanted}="))),
            Some(_) => Err(Refusal::Duplicate {
                what: what.to_owned(),
            }),
        }
    };
    let (environment, time) = (field("env")?, field("t")?);
    // Sent by JavaScript in milliseconds; older senders used seconds.
    let unit = if time.len() > 11 {
        TimeUnit::Millis
    } else {
        TimeUnit::Seconds
    };
    let then =
        unix_ms(time, unit).ok_or_else(|| Refusal::malformed(what, "its time is no number"))?;
    if let (Some(now), Some(tolerance_s)) = (now, bound.rule.spec.tolerance) {
        fresh(
            then - i128::from(now),
            (tolerance_s.max(0.0) * 1000.0) as u64,
            true,
        )?;
    }
    let text = hygraph_text(request.body, environment, time)
        .ok_or_else(|| Refusal::malformed("body", "it is not UTF-8"))?;
    let signature = decode(field("sign")?, Encoding::Base64)
        .ok_or_else(|| Refusal::malformed(what, "expected a signature in base64"))?;
    by_mac(bound, &[text.as_bytes()], &[signature])
}

/// What Hygraph signs; `None` if the body is no text.
fn hygraph_text(body: &[u8], environment: &str, time: &str) -> Option<String> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (body, environment) = (quoted(std::str::from_utf8(body).ok()?), quoted(environment));
    Some(format!(
        "{{\"Body\":{body},\"EnvironmentName\":{environment},\"TimeStamp\":{time}}}"
    ))
}

/// Signs as Hygraph does, in the environment that an earlier signature names. The body has to be text.
pub(in super::super) fn sign_hygraph(
    key: &Key,
    request: &mut SignedRequest,
    now_unix_ms: u64,
) -> Result<(), SignError> {
    let time = now_unix_ms.to_string();
    let old = request.headers.get("gcms-signature").unwrap_or_default();
    let old = String::from_utf8_lossy(old).into_owned();
    let environment = old
        .split(',')
        .find_map(|item| item.trim().strip_prefix("env="))
        .unwrap_or("master");
    let text = hygraph_text(&request.body, environment, &time).ok_or(SignError::NeedsText)?;
    let tag = BASE64_STANDARD.encode(key.mac(&[text.as_bytes()]));
    request.set_header(
        "gcms-signature",
        &format!("sign={tag}, env={environment}, t={time}"),
    );
    Ok(())
}
