//! The document that describes the API (OpenAPI 3.1), made from the table, and a page that shows it.

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Map, Value, json};

use super::{
    describe::{Describing, Generators, problem_schema, rename},
    endpoints,
    table::{BASE, Operation},
};

/// What the page may load: itself, and nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The document. The same for every relay of a version.
pub(super) fn document() -> Value {
    let mut generators = Generators::new();
    let described: Vec<_> = endpoints::table()
        .operations()
        .iter()
        .map(|operation| {
            let mut describing = Describing::new(&mut generators);
            (operation.describe)(&mut describing);
            describing.method(&operation.method);
            (operation.clone(), describing.finish())
        })
        .collect();
    let (mut schemas, renamed) = generators.into_schemas();
    schemas.insert("Problem".to_owned(), problem_schema().into());
    let mut paths = Map::new();
    for (operation, mut described) in described {
        let mut parameters = path_parameters(&operation);
        parameters.append(&mut described.parameters);
        let mut entry = json!({
            "operationId": operation.id,
            "summary": operation.summary,
            "tags": [operation.id.split('.').next()],
            "parameters": parameters,
            "responses": described.answers,
        });
        if let Some(mut body) = described.body {
            rename(&mut body, &renamed);
            entry["requestBody"] = body;
        }
        if described.is_public {
            entry["security"] = json!([]);
        }
        let path = paths
            .entry(format!("{BASE}{}", operation.path))
            .or_insert(json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = entry;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hookferry",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a relay is asked and told. Conventions: docs/API.md.",
            "license": { "name": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of kind api: hf_api_..."
                }
            },
            "responses": {
                "Problem": {
                    "description": "It was not done; the code says why.",
                    "content": {
                        "application/problem+json": {
                            "schema": { "$ref": "#/components/schemas/Problem" }
                        }
                    }
                }
            },
            "schemas": schemas
        }
    })
}

fn path_parameters(operation: &Operation) -> Vec<Value> {
    let names = operation.path.split('/').filter_map(|part| {
        part.strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
    });
    names
        .map(|name| {
            json!({
                "name": name, "in": "path", "required": true,
                "description": "Its id, or its name if it has one.",
                "schema": { "type": "string", "minLength": 1 }
            })
        })
        .collect()
}

pub(super) async fn show() -> Response {
    file("application/json", DOCUMENT.as_str())
}

pub(super) async fn page() -> Response {
    let mut response = file("text/html; charset=utf-8", include_str!("page/index.html"));
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::REFERRER_POLICY, "no-referrer");
    response
}

pub(super) async fn script() -> Response {
    file(
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let fixed = HeaderValue::from_static;
    let headers = [
        (header::CONTENT_TYPE, fixed(content_type)),
        (header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        (header::CACHE_CONTROL, fixed("no-cache")),
    ];
    (headers, text).into_response()
}
