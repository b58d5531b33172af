//! `docs/providers.md` is made from the presets; this test says when it no longer is.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::super::{
    Preset, presets,
    rule::{Check, Kind},
};

const HEAD: &str = "\
# Providers

Made from the presets in `relay-server/src/verify/preset/presets.json`; do not edit. After a change run
`HOOKFERRY_WRITE_DOCS=1 cargo test -p relay-server providers_page`.

A source names one of these, or brings a rule of its own. *Covered* is what the provider's signature
proves; whatever is not covered could be changed by somebody who holds one valid request. Requests
with a covered timestamp are refused when they are too old, and when they lie in the future.

| preset | provider | check | covered | not covered | age | dedupe by id | bad signature | provider waits | handshakes | facts from |
|---|---|---|---|---|---|---|---|---|---|---|
";

#[test]
fn providers_page_is_up_to_date() {
    let page = page();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/providers.md");
    if std::env::var_os("HOOKFERRY_WRITE_DOCS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &page).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == page,
        "docs/providers.md differs from the presets; its first line of text says how to renew it"
    );
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for preset in presets() {
        let row = [
            format!("`{}`", preset.name),
            preset.title.to_owned(),
            check(preset),
            list(preset.covered()),
            not_covered(preset),
            age(preset),
            (if preset.has_event_id() { "yes" } else { "no" }).to_owned(),
            preset.refused_status.to_string(),
            preset
                .timeout_s
                .map(|s| format!("{s} s"))
                .unwrap_or_default(),
            list(
                preset
                    .handshakes
                    .iter()
                    .map(|handshake| handshake.id.clone())
                    .collect(),
            ),
            preset.provenance.to_owned(),
        ];
        writeln!(
            page,
            "| {} |",
            row.map(|cell| cell.replace('|', "\\|")).join(" | ")
        )
        .unwrap();
    }
    page.push_str("\n## Set-up\n\n");
    for preset in presets() {
        write!(page, "- **`{}`** {}", preset.name, preset.setup).unwrap();
        if let Some(note) = preset.response_note {
            write!(page, " The provider reads the service's answer: {note}.").unwrap();
        }
        if preset.aliases.is_empty() {
            page.push('\n');
        } else {
            writeln!(page, " Also: {}.", preset.aliases.join(", ")).unwrap();
        }
    }
    page
}

fn list(mut parts: Vec<String>) -> String {
    parts.dedup();
    parts.join(", ")
}

fn check(preset: &Preset) -> String {
    let rule = &preset.rules[0].spec;
    let hash = rule
        .hash
        .map(|hash| format!("{hash:?}").to_uppercase().replace("SHA", "SHA-"));
    let hash = hash.unwrap_or_default();
    match rule.kind {
        Kind::Hmac => format!("HMAC-{hash}"),
        Kind::Hash => format!("{hash} with the secret"),
        Kind::Token => "token".to_owned(),
        Kind::Basic => "basic authentication".to_owned(),
        Kind::Ed25519 => "Ed25519".to_owned(),
        Kind::EcdsaP256Sha256 => "ECDSA P-256".to_owned(),
        Kind::RsaSha256 => "RSA SHA-256".to_owned(),
        Kind::RsaSha1 => "RSA SHA-1".to_owned(),
        Kind::Jwt => format!("JWT {}", rule.algs.join(", ")),
        Kind::HttpSig => "RFC 9421 signature".to_owned(),
        Kind::Sns => "RSA, Amazon's certificate".to_owned(),
        Kind::Hook0 | Kind::Contentful | Kind::PlivoV3 | Kind::Hygraph => "HMAC-SHA-256".to_owned(),
        Kind::None => "none".to_owned(),
    }
}

fn not_covered(preset: &Preset) -> String {
    let covered = preset.covered();
    let has = |part: &str| covered.iter().any(|covered| covered.contains(part));
    if covered.is_empty() {
        return "everything: only the sender is checked".to_owned();
    }
    let mut parts = Vec::new();
    if !preset.covers_body() {
        let some = ["form", "JSON", "CRC-32"].iter().any(|part| has(part));
        parts.push(if some { "the rest of the body" } else { "body" });
    }
    if !has("URL") && !has("path") && !has("components") {
        parts.push("URL");
    }
    parts.push("other headers");
    parts.join(", ")
}

fn age(preset: &Preset) -> String {
    let rule = &preset.rules[0];
    let seconds = match &rule.check {
        Check::Signed(signed) => {
            let timestamp = signed.timestamp.as_ref();
            timestamp
                .and_then(|timestamp| timestamp.tolerance_ms)
                .map(|ms| ms / 1000)
        }
        Check::Jwt { .. } if rule.spec.require_claims.iter().any(|claim| claim == "exp") => {
            return "by its exp".to_owned();
        }
        Check::Jwt { .. } => rule.spec.max_age,
        _ => rule.spec.tolerance.map(|seconds| seconds as u64),
    };
    seconds.map_or_else(|| "any".to_owned(), |seconds| format!("{seconds} s"))
}
