//! What each command asks of the API.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::ValueEnum;
use http::Method;
use serde_json::{Map, Value, json};

use super::{Failure, output::Show};
use crate::args::{
    AuditCommand, DeadLetterArgs, DeadLettersCommand, DeliveriesCommand, DestinationCommand,
    EraseCommand, EventsCommand, NewReplayArgs, NewSourceArgs, PageArgs, PolicyArgs,
    ReplaysCommand, RouteCommand, SecretArgs, SigningKeyCommand, SourceArgs, SourceCommand,
    TenantCommand, TestArgs, TokenCommand,
};

/// The largest file of a secret, key or rule that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// One request to the API and how to show its answer. Not `Debug`: it may hold a secret.
pub(super) struct Call {
    pub(super) method: Method,
    /// Below `/api/v1`, percent-encoded.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Value>,
    /// The caller's name for what is made, so that asking twice makes one.
    pub(super) idempotency_key: Option<String>,
    pub(super) show: Show,
}

impl Call {
    pub(super) fn new(method: Method, path: &[&str], show: Show) -> Self {
        let path = path.iter().map(|segment| format!("/{}", encode(segment)));
        Self {
            method,
            path: path.collect(),
            query: Vec::new(),
            body: None,
            idempotency_key: None,
            show,
        }
    }

    pub(super) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path, Show::Item)
    }

    fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path, Show::Deleted)
    }

    pub(super) fn post(path: &[&str], body: Value) -> Self {
        let mut call = Self::new(Method::POST, path, Show::Item);
        call.body = Some(body);
        call
    }

    fn patch(path: &[&str], body: Value) -> Self {
        let mut call = Self::post(path, body);
        call.method = Method::PATCH;
        call
    }

    fn list(path: &[&str], page: PageArgs, show: Show) -> Self {
        Self::new(Method::GET, path, show)
            .with("limit", page.limit.map(|limit| limit.to_string()))
            .with("cursor", page.cursor)
    }

    pub(super) fn with(mut self, name: &'static str, value: Option<String>) -> Self {
        self.query.extend(value.map(|value| (name, value)));
        self
    }
}

/// Percent-encodes all but what is plain in every part of a URL.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

pub(super) fn tenant(command: TenantCommand) -> Result<Call, Failure> {
    Ok(match command {
        TenantCommand::Create { name } => Call::post(&["tenants"], json!({ "name": name })),
        TenantCommand::List(page) => Call::list(&["tenants"], page, Show::Tenants),
        TenantCommand::Get { tenant } => Call::get(&["tenants", &tenant]),
        TenantCommand::Update {
            tenant,
            rate_per_second,
            share,
        } => {
            let quota = object([
                ("ingest_per_second", limit(share.ingest_per_second)),
                ("event_bytes_max", limit(share.event_bytes_max)),
                ("stored_events_max", limit(share.stored_events_max)),
                ("stored_bytes_max", limit(share.stored_bytes_max)),
            ]);
            let retention = object([
                ("age_s", limit(share.keep_s)),
                ("events_max", limit(share.keep_events)),
                ("bytes_max", limit(share.keep_bytes)),
                ("dead_age_s", limit(share.keep_dead_s)),
                ("pending_age_s", limit(share.keep_pending_s)),
            ]);
            let some = |fields: Map<String, Value>| (!fields.is_empty()).then(|| fields.into());
            let body = object([
                ("rate_per_second", limit(rate_per_second)),
                ("quota", some(quota)),
                ("retention", some(retention)),
            ]);
            Call::patch(&["tenants", &tenant], body.into())
        }
        TenantCommand::Delete { tenant } => Call::delete(&["tenants", &tenant]),
    })
}

pub(super) fn source(command: SourceCommand) -> Result<Call, Failure> {
    Ok(match command {
        SourceCommand::Create(new) => create_source(new)?,
        SourceCommand::List(page) => Call::list(&["sources"], page, Show::Sources),
        SourceCommand::Get { source } => Call::get(&["sources", &source]),
        SourceCommand::Update {
            source,
            settings,
            enable,
            disable,
        } => {
            let mut body = source_settings(settings)?;
            if enable || disable {
                body.insert("enabled".to_owned(), enable.into());
            }
            Call::patch(&["sources", &source], body.into())
        }
        SourceCommand::RotateSecret {
            source,
            secret,
            drop_old,
        } => {
            let secrets = read_secrets(&secret)?;
            let [secret] = secrets.as_slice() else {
                return Err(Failure::Plain(
                    "name the one new secret with --secret-file or --secret-stdin".to_owned(),
                ));
            };
            let body = json!({ "secret": secret, "drop_old": drop_old });
            Call::post(&["sources", &source, "rotate-secret"], body)
        }
        SourceCommand::Test { source, test } => {
            Call::post(&["sources", &source, "test"], test_event(test)?)
        }
        SourceCommand::HandshakeSecret { source } => {
            let mut call = Call::get(&["sources", &source, "handshake-secret"]);
            call.show = Show::HandshakeSecret;
            call
        }
        SourceCommand::Delete { source } => Call::delete(&["sources", &source]),
    })
}

fn create_source(new: NewSourceArgs) -> Result<Call, Failure> {
    let mut body = source_settings(new.settings)?;
    body.insert("name".to_owned(), new.name.into());
    let secrets = read_secrets(&new.secret)?;
    if !secrets.is_empty() {
        body.insert("secrets".to_owned(), secrets.into());
    }
    Ok(Call::post(&["sources"], body.into()))
}

fn test_event(args: TestArgs) -> Result<Value, Failure> {
    let mut body = request_body(args.data.as_deref(), &args.headers)?;
    let mut set = |name: &str, value: Option<String>| {
        body.extend(value.map(|value| (name.to_owned(), value.into())));
    };
    set("type", args.event);
    set("content_type", args.content_type);
    set("method", args.method);
    set("path", args.path);
    Ok(body.into())
}

/// Body and header fields of a request to make or try.
fn request_body(data: Option<&str>, fields: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    if let Some(bytes) = data.map(read_data).transpose()? {
        let (name, text) = match String::from_utf8(bytes) {
            Ok(text) => ("body", text),
            Err(binary) => ("body_base64", BASE64_STANDARD.encode(binary.as_bytes())),
        };
        body.insert(name.to_owned(), text.into());
    }
    let mut headers = Map::new();
    for field in fields {
        let (name, value) = field.split_once(':').ok_or_else(|| {
            Failure::Plain(format!("--header {field}: write it as \"NAME: VALUE\""))
        })?;
        headers.insert(name.trim().to_owned(), value.trim().into());
    }
    if !headers.is_empty() {
        body.insert("headers".to_owned(), headers.into());
    }
    Ok(body)
}

/// The body of a test: the text itself, or what a file or the standard input holds.
fn read_data(data: &str) -> Result<Vec<u8>, Failure> {
    match data.strip_prefix('@') {
        Some(path) => read_file(Path::new(path)),
        None if data == "-" => read_file(Path::new("-")),
        None => Ok(data.as_bytes().to_vec()),
    }
}

fn source_settings(args: SourceArgs) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        body.extend(value.map(|value| (name.to_owned(), value)));
    };
    set("preset", args.preset.map(Value::from));
    if let Some(path) = &args.rule {
        let rule = serde_json::from_str(&read_text(path)?)
            .map_err(|error| Failure::Plain(format!("{}: {error}", path.display())))?;
        set("rule", Some(rule));
    }
    if !args.vars.is_empty() {
        let mut vars = Map::new();
        for var in &args.vars {
            let (name, value) = var
                .split_once('=')
                .ok_or_else(|| Failure::Plain(format!("--var {var}: write it as NAME=VALUE")))?;
            vars.insert(name.to_owned(), value.into());
        }
        set("vars", Some(vars.into()));
    }
    let keys = args.public_key_file.iter().map(|path| read_text(path));
    set("public_keys", list(keys.collect::<Result<_, _>>()?));
    set("methods", list(args.methods));
    set("body_bytes_max", args.body_bytes_max.map(Value::from));
    let mut dedupe = Map::new();
    let mut set_dedupe = |name: &str, value: Option<Value>| {
        dedupe.extend(value.map(|value| (name.to_owned(), value)));
    };
    set_dedupe("window_s", args.dedupe_window_s.map(Value::from));
    set_dedupe("body_hash", args.dedupe_body_hash.map(Value::from));
    set_dedupe("header", args.dedupe_header.map(Value::from));
    set("dedupe", (!dedupe.is_empty()).then(|| dedupe.into()));
    set("ip_allow", list(args.ip_allow));
    set("rate_per_second", args.rate_per_second.map(Value::from));
    let mut sync = object([
        ("destination", args.sync_destination.map(Value::from)),
        ("timeout_ms", args.sync_timeout_ms.map(Value::from)),
        (
            "on_timeout",
            args.sync_on_timeout.map(|what| name_of(what).into()),
        ),
    ]);
    if let Some(path) = &args.sync_answer {
        let answer: Value = serde_json::from_str(&read_text(path)?)
            .map_err(|error| Failure::Plain(format!("{}: {error}", path.display())))?;
        sync.insert("answer".to_owned(), answer);
    }
    if args.sync || !sync.is_empty() {
        set("sync", Some(sync.into()));
    }
    if args.no_sync {
        set("sync", Some(Value::Null));
    }
    Ok(body)
}

pub(super) fn destination(command: DestinationCommand) -> Result<Call, Failure> {
    Ok(match command {
        DestinationCommand::Create { name, policy } => {
            let mut body = policy_body(policy);
            body.insert("name".to_owned(), name.into());
            Call::post(&["destinations"], body.into())
        }
        DestinationCommand::Update {
            destination,
            policy,
        } => Call::patch(&["destinations", &destination], policy_body(policy).into()),
        DestinationCommand::List(page) => Call::list(&["destinations"], page, Show::Destinations),
        DestinationCommand::Get { destination } => Call::get(&["destinations", &destination]),
        DestinationCommand::SigningKey(command) => signing_key(command),
        DestinationCommand::Pause {
            destination,
            until,
            reason,
        } => {
            let body = object([
                ("until", until.map(Value::from)),
                ("reason", reason.map(Value::from)),
            ]);
            Call::post(&["destinations", &destination, "pause"], body.into())
        }
        DestinationCommand::Resume { destination } => {
            Call::post(&["destinations", &destination, "resume"], json!({}))
        }
        DestinationCommand::Delete { destination } => Call::delete(&["destinations", &destination]),
    })
}

fn policy_body(args: PolicyArgs) -> Map<String, Value> {
    let window_ms = args
        .retry_window_s
        .map(|seconds| seconds.saturating_mul(1_000));
    let retry = object([
        ("window_ms", window_ms.map(Value::from)),
        ("base_ms", args.retry_base_ms.map(Value::from)),
        ("attempts_max", args.attempts_max.map(Value::from)),
        ("schedule_ms", list(args.retry_schedule_ms)),
    ]);
    let status = object([
        ("deliver", list(args.status_deliver)),
        ("retry", list(args.status_retry)),
        ("dead", list(args.status_dead)),
    ]);
    let some = |object: Map<String, Value>| (!object.is_empty()).then(|| object.into());
    let breaker = object([
        ("failures", args.breaker_failures.map(Value::from)),
        ("error_percent", args.breaker_error_percent.map(Value::from)),
    ]);
    let age_max_ms = args.age_max_s.map(|age| age.saturating_mul(1_000));
    let maintenance = match &args.maintenance[..] {
        [none] if none == "none" => Some(json!([])),
        _ => list(args.maintenance),
    };
    object([
        ("timeout_ms", args.timeout_ms.map(Value::from)),
        ("retry", some(retry)),
        ("status", some(status)),
        (
            "old_signatures",
            args.old_signatures.map(|what| name_of(what).into()),
        ),
        ("in_flight_max", limit(args.in_flight_max)),
        ("rate_per_second", limit(args.rate_per_second)),
        ("age_max_ms", limit(age_max_ms)),
        ("maintenance", maintenance),
        ("breaker", some(breaker)),
    ])
}

fn signing_key(command: SigningKeyCommand) -> Call {
    let mut call = match command {
        SigningKeyCommand::Show { destination } => {
            Call::get(&["destinations", &destination, "signing-keys"])
        }
        SigningKeyCommand::Rotate {
            destination,
            overlap_s,
        } => {
            let body = object([("overlap_s", overlap_s.map(Value::from))]);
            let path = ["destinations", &destination, "signing-keys", "rotate"];
            Call::post(&path, body.into())
        }
    };
    call.show = Show::SigningKeys;
    call
}

/// What a choice is called, on the command line and in the API.
fn name_of(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Zero takes a limit away.
fn limit<T: Into<Value> + Default + PartialEq>(number: Option<T>) -> Option<Value> {
    let limit = |number: T| match number == T::default() {
        true => Value::Null,
        false => number.into(),
    };
    number.map(limit)
}

fn list<T: Into<Value>>(items: Vec<T>) -> Option<Value> {
    (!items.is_empty()).then(|| Value::from(items))
}

/// The fields that have a value.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let given = |(name, value): (&str, Option<Value>)| Some((name.to_owned(), value?));
    fields.into_iter().filter_map(given).collect()
}

pub(super) fn route(command: RouteCommand) -> Result<Call, Failure> {
    Ok(match command {
        RouteCommand::Create {
            name,
            source,
            destination,
            filter,
        } => {
            let mut body = json!({ "source": source, "destination": destination });
            if let Some(filter) = filter {
                body["filter"] = read_filter(&filter)?;
            }
            if let Some(name) = name {
                body["name"] = name.into();
            }
            Call::post(&["routes"], body)
        }
        RouteCommand::List(page) => Call::list(&["routes"], page, Show::Routes),
        RouteCommand::Get { route } => Call::get(&["routes", &route]),
        RouteCommand::Update {
            route,
            filter,
            no_filter: _,
        } => {
            let filter = filter.map(|filter| read_filter(&filter)).transpose()?;
            let mut call = Call::post(&["routes", &route], json!({ "filter": filter }));
            call.method = Method::PATCH;
            call
        }
        RouteCommand::Test {
            route,
            event: Some(event),
            filter,
            ..
        } => {
            let mut body = Map::new();
            body.insert("event".to_owned(), event.into());
            test_route(&route, body, filter)?
        }
        RouteCommand::Test {
            route,
            event: None,
            data,
            headers,
            method,
            path,
            event_type,
            filter,
        } => {
            let mut request = request_body(data.as_deref(), &headers)?;
            let texts = [("method", method), ("path", path), ("type", event_type)];
            for (name, text) in texts {
                request.extend(text.map(|text| (name.to_owned(), text.into())));
            }
            let mut body = Map::new();
            body.insert("request".to_owned(), request.into());
            test_route(&route, body, filter)?
        }
        RouteCommand::Delete { route } => Call::delete(&["routes", &route]),
    })
}

fn test_route(
    route: &str,
    mut body: Map<String, Value>,
    filter: Option<String>,
) -> Result<Call, Failure> {
    if let Some(filter) = filter {
        body.insert("filter".to_owned(), read_filter(&filter)?);
    }
    let mut call = Call::post(&["routes", route, "test"], body.into());
    call.show = Show::RouteTest;
    Ok(call)
}

fn read_filter(text: &str) -> Result<Value, Failure> {
    serde_json::from_slice(&read_data(text)?)
        .map_err(|error| Failure::Plain(format!("--filter: it is no JSON: {error}")))
}

pub(super) fn token(command: TokenCommand) -> Result<Call, Failure> {
    Ok(match command {
        TokenCommand::Create {
            name,
            kind,
            scopes,
            destinations,
            expires_at,
            ip_allow,
            write_to,
        } => {
            let mut body = json!({ "name": name, "kind": kind, "scopes": scopes });
            if !destinations.is_empty() {
                body["destinations"] = destinations.into();
            }
            if let Some(time) = expires_at {
                body["expires_at"] = time.into();
            }
            if !ip_allow.is_empty() {
                body["ip_allow"] = ip_allow.into();
            }
            let mut call = Call::post(&["tokens"], body);
            call.show = Show::NewToken(write_to);
            call
        }
        TokenCommand::Rotate {
            token,
            overlap_s,
            write_to,
        } => {
            let body = object([("overlap_s", overlap_s.map(Value::from))]);
            let mut call = Call::post(&["tokens", &token, "rotate"], body.into());
            call.show = Show::NewToken(write_to);
            call
        }
        TokenCommand::List(page) => Call::list(&["tokens"], page, Show::Tokens),
        TokenCommand::Get { token } => Call::get(&["tokens", &token]),
        TokenCommand::Delete { token } => Call::delete(&["tokens", &token]),
    })
}

pub(super) fn events(command: EventsCommand) -> Result<Call, Failure> {
    Ok(match command {
        EventsCommand::List {
            source,
            destination,
            state,
            unrouted,
            event_type,
            since,
            until,
            page,
        } => Call::list(&["events"], page, Show::Events)
            .with("source", source)
            .with("destination", destination)
            .with("state", state)
            .with("unrouted", unrouted.then(|| "true".to_owned()))
            .with("type", event_type)
            .with("since", since)
            .with("until", until),
        EventsCommand::Get { event, raw: false } => Call::get(&["events", &event]),
        EventsCommand::Get { event, raw: true } => {
            Call::new(Method::GET, &["events", &event, "body"], Show::Raw)
        }
        EventsCommand::Explain { event } => {
            Call::new(Method::GET, &["events", &event, "explain"], Show::Story)
        }
        EventsCommand::Replay { event, destination } => {
            let body = match destination {
                Some(destination) => json!({ "destination": destination }),
                None => json!({}),
            };
            let mut call = Call::post(&["events", &event, "replay"], body);
            call.show = Show::Replayed;
            call
        }
    })
}

pub(super) fn deliveries(command: DeliveriesCommand) -> Result<Call, Failure> {
    Ok(match command {
        DeliveriesCommand::List {
            dead,
            state,
            destination,
            event,
            replay,
            page,
        } => Call::list(&["deliveries"], page, Show::Deliveries)
            .with("replay", replay)
            .with("state", state.or_else(|| dead.then(|| "dead".to_owned())))
            .with("destination", destination)
            .with("event", event),
        DeliveriesCommand::Attempts { delivery } => Call::new(
            Method::GET,
            &["deliveries", &delivery, "attempts"],
            Show::Attempts,
        ),
        DeliveriesCommand::Cancel { delivery } => {
            Call::post(&["deliveries", &delivery, "cancel"], json!({}))
        }
    })
}

pub(super) fn dead_letters(command: DeadLettersCommand) -> Result<Call, Failure> {
    Ok(match command {
        DeadLettersCommand::List { which, page } => {
            let call = Call::list(&["dead-letters"], page, Show::DeadLetters);
            dead_letter_choice(which)
                .into_iter()
                .fold(call, |call, (name, value)| call.with(name, Some(value)))
        }
        DeadLettersCommand::Get { delivery } => Call::get(&["dead-letters", &delivery]),
    })
}

/// The fields of a choice that are given.
fn dead_letter_choice(which: DeadLetterArgs) -> Vec<(&'static str, String)> {
    let last = which.last.map(|last| {
        let is_status = last.starts_with(|first: char| first.is_ascii_digit());
        (if is_status { "status" } else { "failure" }, last)
    });
    let fields = [
        ("source", which.source),
        ("destination", which.destination),
        ("event", which.event),
        ("type", which.event_type),
        ("reason", which.reason),
        ("since", which.since),
        ("until", which.until),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, it)| Some((name, it?)));
    given.chain(last).collect()
}

pub(super) fn replays(command: ReplaysCommand) -> Result<Call, Failure> {
    let change = |replay: &str, what| Call::post(&["replays", replay, what], json!({}));
    Ok(match command {
        ReplaysCommand::Create(new) => create_replay(*new),
        ReplaysCommand::List(page) => Call::list(&["replays"], page, Show::Replays),
        ReplaysCommand::Get { replay } => Call::get(&["replays", &replay]),
        ReplaysCommand::Pause { replay } => change(&replay, "pause"),
        ReplaysCommand::Resume { replay } => change(&replay, "resume"),
        ReplaysCommand::Cancel { replay } => change(&replay, "cancel"),
    })
}

fn create_replay(new: NewReplayArgs) -> Call {
    let mut choice: Map<String, Value> = dead_letter_choice(new.which)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    choice.extend(new.state.map(|state| ("state".to_owned(), state.into())));
    let mut body = object([
        ("to", new.to.map(Value::from)),
        ("rate_per_second", new.rate.map(Value::from)),
        ("dry_run", new.dry_run.then(|| true.into())),
    ]);
    let name = match (new.events, new.dead_letters) {
        (true, _) => "events",
        (_, true) => "dead_letters",
        // A choice beside ids is for the relay to refuse.
        _ if choice.is_empty() => "",
        _ => "events",
    };
    if !new.ids.is_empty() {
        body.insert("ids".to_owned(), new.ids.into());
    }
    if !name.is_empty() {
        body.insert(name.to_owned(), choice.into());
    }
    let mut call = Call::post(&["replays"], body.into());
    call.idempotency_key = new.idempotency_key;
    call
}

pub(super) fn audit(command: AuditCommand) -> Call {
    let (call, filter) = match command {
        AuditCommand::List { filter, page } => {
            (Call::list(&["audit-log"], page, Show::Audit), filter)
        }
        AuditCommand::Export { filter } => {
            let path = ["audit-log", "export"];
            (Call::new(Method::GET, &path, Show::Raw), filter)
        }
    };
    call.with("actor", filter.actor)
        .with("action", filter.action)
        .with("resource", filter.resource)
        .with("since", filter.since)
        .with("until", filter.until)
}

pub(super) fn erase(command: EraseCommand) -> Result<Call, Failure> {
    let erase = |what: &str, which: Value| Call::post(&["erasures"], json!({ what: which }));
    Ok(match command {
        EraseCommand::Event { event } => erase("event", event.into()),
        EraseCommand::Matching { filter } => erase("filter", read_filter(&filter)?),
        EraseCommand::Everything { tenant_name } => erase("everything", tenant_name.into()),
        EraseCommand::List => Call::new(Method::GET, &["erasures"], Show::Erasures),
    })
}

fn read_secrets(args: &SecretArgs) -> Result<Vec<String>, Failure> {
    let stdin = PathBuf::from("-");
    let files = args.secret_file.iter();
    files
        .chain(args.secret_stdin.then_some(&stdin))
        .map(|path| {
            let mut secret = read_text(path)?;
            if secret.ends_with('\n') {
                secret.pop();
            }
            if secret.ends_with('\r') {
                secret.pop();
            }
            Ok(secret)
        })
        .collect()
}

/// Reads a small text file; `-` is standard input.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_file(path)?)
        .map_err(|_| Failure::Plain(format!("cannot read {}: it is no text", path.display())))
}

/// Reads a small file; `-` is standard input.
fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Plain(format!("cannot read {}: {error}", path.display()))
    };
    let mut content = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut content)
    } else {
        let file = fs::File::open(path).map_err(|error| failed(&error))?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)
    };
    let bytes = read.map_err(|error| failed(&error))?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(failed(&format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(content)
}
