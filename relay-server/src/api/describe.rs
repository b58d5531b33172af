//! What the API says of itself, read off the handlers' types: parameters, bodies, answers. A handler
//! that cannot be described does not compile into the table, so no endpoint stays undocumented.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use axum::extract::{Path, State};
use http::{Method, StatusCode};
use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{
    Answer, ApiState, OneOfTwo,
    auth::{InTenant, Operator, OwnerOfTokens},
    conditions::IfMatch,
    extract::{Body, Params},
    replays::IdempotencyKey,
};
use crate::problem::Problem;

/// Where named schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// One operation as it is being described.
pub(super) struct Describing<'g> {
    generators: &'g mut Generators,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    problems: BTreeSet<u16>,
    is_public: bool,
}

/// What makes schemas: what comes in may leave fields out, what goes out has them all.
pub(super) struct Generators {
    input: SchemaGenerator,
    output: SchemaGenerator,
}

impl Generators {
    pub(super) fn new() -> Self {
        let generator = |contract| {
            let settings = SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = SCHEMAS.into();
                settings.meta_schema = None;
                settings.contract = contract;
            });
            settings.into_generator()
        };
        Self {
            input: generator(Contract::Deserialize),
            output: generator(Contract::Serialize),
        }
    }

    /// All named schemas; one that differs between what comes in and what goes out has two names.
    /// The second value renames references in what comes in.
    pub(super) fn into_schemas(mut self) -> (Map<String, Value>, BTreeMap<String, String>) {
        let mut schemas = self.output.take_definitions(true);
        let inputs = self.input.take_definitions(true);
        let mut renamed = BTreeMap::new();
        for (name, schema) in &inputs {
            if schemas.get(name).is_some_and(|other| other != schema) {
                let reference = |name: &str| format!("#{SCHEMAS}/{name}");
                renamed.insert(reference(name), reference(&format!("{name}Input")));
            }
        }
        for (name, mut schema) in inputs {
            rename(&mut schema, &renamed);
            let is_renamed = renamed.contains_key(&format!("#{SCHEMAS}/{name}"));
            schemas.insert(
                if is_renamed {
                    format!("{name}Input")
                } else {
                    name
                },
                schema,
            );
        }
        (schemas, renamed)
    }
}

/// Follows renamed schemas.
pub(super) fn rename(value: &mut Value, renamed: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(reference) if name == "$ref" => {
                        if let Some(new) = renamed.get(reference) {
                            reference.clone_from(new);
                        }
                    }
                    other => rename(other, renamed),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}

impl<'g> Describing<'g> {
    pub(super) fn new(generators: &'g mut Generators) -> Self {
        Self {
            generators,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            problems: BTreeSet::new(),
            is_public: true,
        }
    }

    /// Adds what every request of a method may carry.
    pub(super) fn method(&mut self, method: &Method) {
        if *method == Method::POST {
            self.parameter(json!({
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "Makes a repeat of the same request harmless: it gets the first one's answer.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" }
            }));
            self.refuses(&[400, 409, 413, 422]);
        }
    }

    /// The operation's part of the document, the path's parameters aside. The body apart, because
    /// its schemas may be renamed.
    pub(super) fn finish(self) -> Described {
        let mut answers = Map::new();
        for (status, answer) in self.answers {
            answers.insert(status.to_string(), answer);
        }
        for status in self.problems {
            let problem = json!({ "$ref": "#/components/responses/Problem" });
            answers.entry(status.to_string()).or_insert(problem);
        }
        Described {
            parameters: self.parameters,
            body: self.body,
            answers,
            is_public: self.is_public,
        }
    }

    fn refuses(&mut self, statuses: &[u16]) {
        self.problems.extend(statuses);
    }

    fn parameter(&mut self, parameter: Value) {
        if !self
            .parameters
            .iter()
            .any(|other| other["name"] == parameter["name"])
        {
            self.parameters.push(parameter);
        }
    }

    fn answer(&mut self, status: u16, content_type: &str, schema: Value, what: &str) {
        let content = json!({ content_type: { "schema": schema } });
        let answer = json!({ "description": what, "content": content });
        self.answers.insert(status, answer);
    }

    fn json_answer<T: JsonSchema>(&mut self, status: u16, what: &str) {
        let schema = self.generators.output.subschema_for::<T>();
        self.answer(status, "application/json", schema.into(), what);
    }

    fn needs_token(&mut self) {
        self.is_public = false;
        self.refuses(&[401, 403, 500, 503]);
    }

    fn takes_tenant(&mut self) {
        self.parameter(json!({
            "name": "tenant", "in": "query", "required": false,
            "description": "The tenant by id or name; operators' tokens need it, others have their own.",
            "schema": { "type": "string" }
        }));
        self.refuses(&[400, 404]);
    }
}

/// What is known of an operation.
pub(super) struct Described {
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    pub(super) answers: Map<String, Value>,
    pub(super) is_public: bool,
}

/// What a handler takes.
pub(super) trait Part {
    fn describe(to: &mut Describing<'_>);
}

impl Part for State<ApiState> {
    fn describe(_: &mut Describing<'_>) {}
}

impl<T> Part for Path<T> {
    fn describe(to: &mut Describing<'_>) {
        to.refuses(&[404]);
    }
}

impl Part for InTenant {
    fn describe(to: &mut Describing<'_>) {
        to.needs_token();
        to.takes_tenant();
    }
}

impl Part for OwnerOfTokens {
    fn describe(to: &mut Describing<'_>) {
        to.needs_token();
        to.takes_tenant();
    }
}

impl Part for Operator {
    fn describe(to: &mut Describing<'_>) {
        to.needs_token();
    }
}

impl<T: JsonSchema> Part for Params<T> {
    fn describe(to: &mut Describing<'_>) {
        let schema = T::json_schema(&mut to.generators.input).to_value();
        let required = schema.get("required").cloned().unwrap_or(json!([]));
        let fields = schema.get("properties").and_then(Value::as_object);
        for (name, field) in fields.into_iter().flatten() {
            let mut field = field.clone();
            let description = field
                .as_object_mut()
                .and_then(|field| field.remove("description"));
            not_null(&mut field);
            let is_required = required
                .as_array()
                .is_some_and(|all| all.contains(&json!(name)));
            let mut parameter = json!({
                "name": name, "in": "query", "required": is_required, "schema": field
            });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            to.parameter(parameter);
        }
        to.refuses(&[400]);
    }
}

/// A query has no `null`: what is optional is left out.
fn not_null(schema: &mut Value) {
    if let Some(types) = schema.get_mut("type")
        && let Some([one, null]) = types.as_array().map(Vec::as_slice)
        && null == "null"
    {
        *types = one.clone();
    }
}

impl Part for IdempotencyKey {
    fn describe(to: &mut Describing<'_>) {
        // The parameter is that of every POST.
        to.refuses(&[400, 422]);
    }
}

impl Part for IfMatch {
    fn describe(to: &mut Describing<'_>) {
        to.parameter(json!({
            "name": "If-Match", "in": "header", "required": false,
            "description": "The ETag that the change is based on; 412 if it is another one by now.",
            "schema": { "type": "string" }
        }));
        to.refuses(&[400, 409, 412]);
    }
}

impl<T: JsonSchema> Part for Body<T> {
    fn describe(to: &mut Describing<'_>) {
        let schema = to.generators.input.subschema_for::<T>();
        let whole = T::json_schema(&mut to.generators.input);
        let is_required = whole.get("required").is_some();
        to.body = Some(json!({
            "required": is_required,
            "content": { "application/json": { "schema": schema } }
        }));
        to.refuses(&[400, 408, 409, 413, 422]);
    }
}

/// What a handler answers.
pub(super) trait Outcome {
    fn describe(to: &mut Describing<'_>);
}

impl<O: Outcome> Outcome for Result<O, Problem> {
    fn describe(to: &mut Describing<'_>) {
        O::describe(to);
    }
}

impl<T: JsonSchema, const STATUS: u16> Outcome for Answer<T, STATUS> {
    fn describe(to: &mut Describing<'_>) {
        let what = match STATUS {
            201 => "It was created.",
            202 => "It was accepted.",
            _ => "What was asked for.",
        };
        to.json_answer::<T>(STATUS, what);
    }
}

impl<T: JsonSchema, const ONE: u16, const OTHER: u16> Outcome for OneOfTwo<T, ONE, OTHER> {
    fn describe(to: &mut Describing<'_>) {
        Answer::<T, ONE>::describe(to);
        Answer::<T, OTHER>::describe(to);
    }
}

impl Outcome for StatusCode {
    fn describe(to: &mut Describing<'_>) {
        to.answers
            .insert(204, json!({ "description": "It was done." }));
    }
}

/// Answers that are not one JSON document.
macro_rules! raw {
    ($($answer:ty: $type:literal $schema:tt $what:literal;)+) => {$(
        impl Outcome for $answer {
            fn describe(to: &mut Describing<'_>) {
                to.answer(200, $type, json!($schema), $what);
            }
        }
    )+};
}

raw! {
    super::events::RawBody: "application/octet-stream" {} "The body, byte for byte.";
    super::audit_log::Export: "application/x-ndjson" { "type": "string" } "A JSON document a line.";
}

/// A handler whose types describe it.
pub(super) trait Describe<Parts> {
    fn describe(to: &mut Describing<'_>);
}

macro_rules! describe {
    ($($part:ident)*) => {
        impl<F, Answering, Answered, $($part),*> Describe<($($part,)*)> for F
        where
            F: Fn($($part),*) -> Answering,
            Answering: Future<Output = Answered>,
            Answered: Outcome,
            $($part: Part,)*
        {
            fn describe(to: &mut Describing<'_>) {
                $($part::describe(to);)*
                Answered::describe(to);
            }
        }
    };
}

describe!();
describe!(A);
describe!(A B);
describe!(A B C);
describe!(A B C D);
describe!(A B C D E);
describe!(A B C D E G);

/// The schema of an answer that is a problem, with the closed list of codes.
pub(super) fn problem_schema() -> Schema {
    use crate::problem::Code;
    use protocol::code::Area;
    let codes = Code::ALL.iter().filter(|code| code.area() == Area::Answer);
    let codes: Vec<_> = codes.map(|code| code.as_str()).collect();
    schemars::json_schema!({
        "type": "object",
        "description": "What is answered instead of success (RFC 9457).",
        "required": ["type", "title", "status", "code"],
        "additionalProperties": false,
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string", "description": "The meaning of the code, in a few words." },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "code": { "type": "string", "enum": codes, "description": "A stable name; docs/errors.md explains each." },
            "detail": { "type": "string", "description": "The particulars, for people." },
            "errors": {
                "type": "array",
                "description": "What is wrong at which places of the request's document.",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail"],
                    "properties": { "pointer": { "type": "string" }, "detail": { "type": "string" } }
                }
            }
        }
    })
}
