//! The document is the code's, complete, and well-formed.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::*;

#[test]
fn the_document_is_up_to_date() {
    let text = format!("{:#}\n", super::super::openapi::document());
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os("HOOKFERRY_WRITE_DOCS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "docs/openapi.json differs from the code; run \
         `HOOKFERRY_WRITE_DOCS=1 cargo test -p relay-server the_document_is_up_to_date`"
    );
}

#[test]
fn nothing_is_served_that_the_table_does_not_name() {
    let api = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/api");
    for entry in fs::read_dir(api).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // The table itself, what is not of the API proper, and what agents ask on the other door.
        if path.is_dir() || ["table.rs", "mod.rs", "agents.rs"].contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut calls = text.split(".route(").skip(1);
        let serves = calls.any(|rest| rest.trim_start().starts_with('"'));
        assert!(!serves, "{name}: add it to endpoints.rs");
    }
    let own = include_str!("../mod.rs");
    let below = |rest: &str| rest.trim_start().starts_with("\"/api/v1");
    assert!(
        !own.split(".route(").any(below),
        "mod.rs serves nothing below /api/v1 itself"
    );
}

#[test]
fn operations_have_names_of_their_own_and_references_lead_somewhere() {
    let document = super::super::openapi::document();
    let mut names = BTreeSet::new();
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            let name = text(operation, "operationId");
            assert!(name.contains('.') && names.insert(name.clone()), "{name}");
            assert!(
                !operation["responses"].as_object().unwrap().is_empty(),
                "{name}"
            );
        }
    }
    let mut unresolved = Vec::new();
    references(&document, &mut |reference| {
        if document.pointer(&reference[1..]).is_none() {
            unresolved.push(reference.to_owned());
        }
    });
    assert!(unresolved.is_empty(), "{unresolved:?}");
}

fn references(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                visit(reference);
            }
            fields.values().for_each(|field| references(field, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, visit)),
        _ => {}
    }
}

#[tokio::test]
async fn document_and_page_are_served_without_a_token_and_load_nothing_else() {
    let api = Api::new().await;
    let served = api.raw("", Method::GET, "/api/openapi.json", "").await;
    let served: Value = serde_json::from_slice(served.body()).unwrap();
    assert_eq!(served, super::super::openapi::document());
    let page = api.raw("", Method::GET, "/api/", "").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    let html = String::from_utf8(page.into_body()).unwrap();
    assert!(!html.contains("://") && !html.contains("style=") && !html.contains("onclick"));
    for path in ["/api/page.js", "/api/page.css"] {
        assert!(html.contains(path));
        assert_eq!(api.raw("", Method::GET, path, "").await.status(), 200);
    }
}
