//! `relay-server apply`: makes sources, destinations and routes be as a file declares them, and shows
//! what that changes. Applying the same file again changes nothing.

use std::path::Path;

use http::Method;
use serde_json::{Map, Value, json};
use toml::Table;

use super::{
    Failure,
    calls::{Call, read_text},
    client,
    output::{Show, plain},
    print, tell,
};
use crate::{
    args::{ApplyArgs, Connection, Output},
    problem::Code,
};

/// What a file may declare, in the order in which it is made: routes need the others.
const KINDS: [(&str, &str); 3] = [
    ("sources", "source"),
    ("destinations", "destination"),
    ("routes", "route"),
];

/// Fields that say how something is doing rather than how it is meant to be.
const UNSTABLE: &[&str] = &[
    "id",
    "url",
    "state",
    "version",
    "created_at",
    "updated_at",
    "depth",
    "flow",
    "paused",
    "source",
    "destination",
    "listener",
];

/// One thing that a file declares.
struct Declared {
    kinds: &'static str,
    kind: &'static str,
    name: String,
    body: Value,
}

/// What is done about it.
struct Step {
    kind: &'static str,
    name: String,
    change: &'static str,
    /// Field, before, after.
    fields: Vec<(String, Value, Value)>,
}

pub(super) async fn run(args: ApplyArgs) -> Result<(), Failure> {
    let all = read(&args.file)?;
    let mut steps = Vec::new();
    for declared in &all {
        let step = apply(&args.connection, declared, args.dry_run, &all).await?;
        if args.connection.output == Output::Text {
            print(text(&step).as_bytes())?;
        }
        steps.push(step);
    }
    match args.connection.output {
        Output::Text => {
            let changed = steps.iter().filter(|step| step.change != "same").count();
            let verb = if args.dry_run {
                "would change"
            } else {
                "changed"
            };
            tell(&format!("{changed} of {} {verb}.\n", steps.len()));
            Ok(())
        }
        Output::Json => {
            let data: Vec<_> = steps.iter().map(document).collect();
            print(format!("{:#}\n", json!({ "data": data })).as_bytes())
        }
        Output::Ndjson => {
            let lines = steps.iter().map(|step| format!("{}\n", document(step)));
            print(lines.collect::<String>().as_bytes())
        }
    }
}

/// Reads a file of declarations, and the secrets it names.
fn read(path: &Path) -> Result<Vec<Declared>, Failure> {
    let wrong = |why: String| Failure::Plain(format!("{}: {why}", path.display()));
    let table: Table = read_text(path)?
        .parse()
        .map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    for key in table.keys() {
        if !KINDS.iter().any(|(kinds, _)| kinds == key) {
            let why = format!("unknown key `{key}`; it declares sources, destinations and routes");
            return Err(wrong(why));
        }
    }
    let mut all = Vec::new();
    for (kinds, kind) in KINDS {
        let Some(declared) = table.get(kinds) else {
            continue;
        };
        let declared = declared
            .as_table()
            .ok_or_else(|| wrong(format!("`{kinds}` is no table; write [{kinds}.NAME]")))?;
        for (name, fields) in declared {
            let at = |why: &str| wrong(format!("[{kinds}.{name}]: {why}"));
            let mut fields = fields
                .as_table()
                .cloned()
                .ok_or_else(|| at("is no table"))?;
            let secrets = secrets(path, &mut fields).map_err(|why| at(&why))?;
            let mut body = serde_json::to_value(fields).map_err(|_| at("has no form in JSON"))?;
            if let (Some(secrets), Some(body)) = (secrets, body.as_object_mut()) {
                body.insert("secrets".to_owned(), secrets.into());
            }
            all.push(Declared {
                kinds,
                kind,
                name: name.clone(),
                body,
            });
        }
    }
    Ok(all)
}

/// Takes out the names of files that hold secrets, and reads them. They never stand in the file itself.
fn secrets(path: &Path, fields: &mut Table) -> Result<Option<Vec<String>>, String> {
    if fields.contains_key("secret") || fields.contains_key("secrets") {
        return Err(
            "name files with secret_file or secret_files; secrets do not belong in this one"
                .to_owned(),
        );
    }
    let named = match (fields.remove("secret_file"), fields.remove("secret_files")) {
        (None, None) => return Ok(None),
        (Some(one), None) => vec![one],
        (None, Some(toml::Value::Array(many))) => many,
        _ => return Err("give secret_file, or a list secret_files".to_owned()),
    };
    let beside = path.parent().unwrap_or(Path::new(""));
    let read = |name: toml::Value| {
        let name = name
            .as_str()
            .ok_or("a file of a secret has a name")?
            .to_owned();
        let text = read_text(&beside.join(&name)).map_err(|error| error.to_string())?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    };
    named
        .into_iter()
        .map(read)
        .collect::<Result<_, String>>()
        .map(Some)
}

async fn apply(
    connection: &Connection,
    declared: &Declared,
    dry_run: bool,
    all: &[Declared],
) -> Result<Step, Failure> {
    let path = [declared.kinds, &declared.name];
    let before = match client::send(connection, &Call::get(&path)).await {
        Ok(answer) => Some(value(&answer)?),
        Err(Failure::Coded {
            code: Code::NotFound,
            ..
        }) => None,
        Err(failure) => return Err(failure),
    };
    let mut call = Call::new(Method::PUT, &path, Show::Item);
    call.body = Some(declared.body.clone());
    let call = call.with("dry_run", dry_run.then(|| "true".to_owned()));
    let after = match client::send(connection, &call).await {
        Ok(answer) => value(&answer)?,
        // What it connects would be made by the same file.
        Err(Failure::Coded {
            code: Code::Invalid,
            ..
        }) if dry_run && leads_to(declared, all) => declared.body.clone(),
        Err(Failure::Coded { code, text }) => {
            let text = format!("{} {}: {text}", declared.kind, declared.name);
            return Err(Failure::Coded { code, text });
        }
        Err(failure) => return Err(failure),
    };
    let fields = before.as_ref().map(|before| differences(before, &after));
    Ok(Step {
        kind: declared.kind,
        name: declared.name.clone(),
        change: match &fields {
            None => "created",
            Some(fields) if fields.is_empty() => "same",
            Some(_) => "changed",
        },
        fields: fields.unwrap_or_default(),
    })
}

/// Whether a route leads from or to something that the same file declares.
fn leads_to(route: &Declared, all: &[Declared]) -> bool {
    let names = |field: &str| route.body.get(field).and_then(Value::as_str);
    route.kind == "route"
        && all
            .iter()
            .any(|other| names(other.kind) == Some(other.name.as_str()))
}

fn value(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer)
        .map_err(|error| Failure::Plain(format!("the relay's answer is not JSON: {error}")))
}

fn differences(before: &Value, after: &Value) -> Vec<(String, Value, Value)> {
    let empty = Map::new();
    let of = |value: &'_ Value| value.as_object().cloned().unwrap_or_else(|| empty.clone());
    let (before, after) = (of(before), of(after));
    let mut names: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    let null = Value::Null;
    names
        .into_iter()
        .filter(|name| !UNSTABLE.contains(&name.as_str()))
        .filter_map(|name| {
            let was = before.get(&name).unwrap_or(&null).clone();
            let is = after.get(&name).unwrap_or(&null).clone();
            (was != is).then_some((name, was, is))
        })
        .collect()
}

fn text(step: &Step) -> String {
    let sign = match step.change {
        "created" => '+',
        "changed" => '~',
        _ => '=',
    };
    let mut text = format!("{sign} {} {}\n", step.kind, step.name);
    for (name, was, is) in &step.fields {
        text.push_str(&format!("    {name}: {} -> {}\n", plain(was), plain(is)));
    }
    text
}

fn document(step: &Step) -> Value {
    let fields = step
        .fields
        .iter()
        .map(|(name, was, is)| (name.clone(), json!({ "before": was, "after": is })));
    json!({
        "kind": step.kind,
        "name": step.name,
        "change": step.change,
        "fields": fields.collect::<Map<_, _>>(),
    })
}
