//! Tenants see nothing of each other: every operation of the document, with every kind of credential
//! of one tenant, against everything of another. Whatever names a thing of the other tenant must be
//! answered exactly like what does not exist, and must change nothing.

use super::*;

/// Things of a tenant by the names of parameters: id, and name if it has one.
struct Things(Vec<(&'static str, String, String)>);

impl Things {
    fn of(&self, parameter: &str) -> Option<&(&'static str, String, String)> {
        self.0.iter().find(|(name, ..)| *name == parameter)
    }
}

/// What does not exist.
fn nothing() -> Things {
    let id = |kind: &str| format!("{kind}_00000000000000000000000001");
    Things(vec![
        ("tenant", id("ten"), "nobody".to_owned()),
        ("source", id("src"), "nobodys-source".to_owned()),
        ("destination", id("dst"), "nobodys-destination".to_owned()),
        ("route", id("rte"), "nobodys-route".to_owned()),
        ("token", id("tok"), "nobodys-token".to_owned()),
        ("event", id("evt"), id("evt")),
        ("delivery", id("dlv"), id("dlv")),
        ("replay", id("rpl"), id("rpl")),
        ("actor", id("tok"), id("tok")),
        ("resource", id("src"), id("src")),
    ])
}

/// A tenant with one of everything, under names that no other tenant uses.
async fn victim(api: &Api) -> (String, Things) {
    let other = api.customer("hidden-tenant").await;
    let token = &other.token;
    let new = json!({ "name": "hidden-source", "preset": "stripe", "secret": "whsec_hidden" });
    let source = text(&api.create(token, "/sources", new).await, "id");
    let new = json!({ "name": "hidden-destination", "old_signatures": "add" });
    let destination = text(&api.create(token, "/destinations", new).await, "id");
    let new = json!({ "name": "hidden-route", "source": source, "destination": destination });
    let route = text(&api.create(token, "/routes", new).await, "id");
    let new = json!({ "name": "hidden-token", "kind": "agent" });
    let agent = text(&api.create(token, "/tokens", new).await, "id");
    let (event, delivery) = api.accept(&other.tenant, &source, &destination).await;
    let new = json!({ "dead_letters": {} });
    let replay = Api::expect(api.call(token, Method::POST, "/replays", new).await, 202);
    let replay = text(&replay, "id");
    let things = Things(vec![
        ("tenant", other.tenant.clone(), "hidden-tenant".to_owned()),
        ("source", source.clone(), "hidden-source".to_owned()),
        ("destination", destination, "hidden-destination".to_owned()),
        ("route", route, "hidden-route".to_owned()),
        ("token", agent.clone(), "hidden-token".to_owned()),
        ("event", event.clone(), event),
        ("delivery", delivery.clone(), delivery),
        ("replay", replay.clone(), replay),
        ("actor", agent.clone(), agent),
        ("resource", source.clone(), source),
    ]);
    (other.token, things)
}

/// Every kind of credential that a tenant can have, and worse ones.
async fn credentials(api: &Api) -> Vec<(&'static str, String)> {
    let acme = api.customer("acme").await;
    let mut all = vec![
        ("nothing", String::new()),
        ("nonsense", "hf_api_x".to_owned()),
    ];
    for (name, kind, scope) in [
        ("connect", "agent", "connect"),
        ("listen", "agent", "listen"),
        ("ingest", "ingest", "ingest"),
        ("revoked", "api", "tenant"),
    ] {
        let new = json!({ "name": name, "kind": kind, "scopes": [scope] });
        let created = api.create(&acme.token, "/tokens", new).await;
        all.push((name, text(&created, "token")));
    }
    let revoked = api.call(&acme.token, Method::DELETE, "/tokens/revoked", Value::Null);
    Api::expect(revoked.await, 204);
    all.push(("api", acme.token));
    all
}

/// A request in two forms: naming something of the other tenant, and naming nothing.
struct Pair {
    foreign: (String, Value),
    nothing: (String, Value),
}

/// Every way in which an operation can name something.
fn pairs(path: &str, operation: &Value, body: &Value, foreign: &Things) -> Vec<Pair> {
    let nothing = nothing();
    let parameters = operation["parameters"].as_array().unwrap();
    let of = |place: &str| -> Vec<String> {
        let those = parameters.iter().filter(|it| it["in"] == place);
        those.map(|it| text(it, "name")).collect()
    };
    let mut pairs = Vec::new();
    let in_path = of("path");
    // A thing of one's own under the path, and foreign ones elsewhere, is covered by its absence.
    let fill = |things: &Things, by_name: bool| {
        let mut filled = path.to_owned();
        for name in &in_path {
            let (_, id, called) = things.of(name).unwrap_or_else(|| {
                panic!("{path}: say in `nothing` and `victim` what {{{name}}} is")
            });
            let value = if by_name { called } else { id };
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        filled
    };
    if !in_path.is_empty() {
        // A declaration under a name is about a thing of one's own.
        let by_names = match text(operation, "operationId").ends_with(".put") {
            true => vec![false],
            false => vec![false, true],
        };
        for by_name in by_names {
            pairs.push(Pair {
                foreign: (fill(foreign, by_name), body.clone()),
                nothing: (fill(&nothing, by_name), body.clone()),
            });
        }
    }
    for name in of("query") {
        let (Some((_, id, called)), Some((_, no_id, no_name))) =
            (foreign.of(&name), nothing.of(&name))
        else {
            continue;
        };
        for (value, no_value) in [(id, no_id), (called, no_name)] {
            pairs.push(Pair {
                foreign: (
                    format!("{}?{name}={value}", fill(foreign, false)),
                    body.clone(),
                ),
                nothing: (
                    format!("{}?{name}={no_value}", fill(&nothing, false)),
                    body.clone(),
                ),
            });
        }
    }
    for name in body.as_object().into_iter().flat_map(|body| body.keys()) {
        let (Some(foreign_thing), Some(no_thing)) = (foreign.of(name), nothing.of(name)) else {
            continue;
        };
        let with = |id: &str| {
            let mut body = body.clone();
            body[name] = id.into();
            body
        };
        pairs.push(Pair {
            foreign: (fill(foreign, false), with(&foreign_thing.1)),
            nothing: (fill(&nothing, false), with(&no_thing.1)),
        });
    }
    pairs
}

/// An answer without what differs from one request to the next, and without what was asked for.
async fn answer(
    api: &Api,
    token: &str,
    method: &Method,
    asked: &(String, Value),
    things: &Things,
) -> String {
    let (path, body) = asked;
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let response = api.raw(token, method.clone(), path, &body).await;
    let mut headers = response.headers().clone();
    headers.remove("x-request-id");
    headers.remove("content-length");
    let mut shown = format!(
        "{} {headers:?} {}",
        response.status(),
        String::from_utf8_lossy(response.body())
    );
    for (_, id, name) in &things.0 {
        shown = shown.replace(id, "ASKED").replace(name, "ASKED");
    }
    shown
}

/// Everything that is stored of a tenant.
async fn state(api: &Api, token: &str, tenant: &str) -> String {
    let tenant: TenantId = tenant.parse().unwrap();
    let settings = api.store.load().await.unwrap();
    let settings: Vec<_> = settings
        .iter()
        .filter(|it| it.tenant == Some(tenant))
        .collect();
    let mut state = format!("{settings:?}");
    for path in ["/events", "/deliveries", "/replays", "/audit-log"] {
        state.push_str(&api.get(token, path).await.to_string());
    }
    state
}

#[tokio::test]
async fn nobody_reads_or_changes_what_belongs_to_another_tenant() {
    let api = Api::new().await;
    let (owner, foreign) = victim(&api).await;
    let tenant = &foreign.of("tenant").unwrap().1;
    let credentials = credentials(&api).await;
    let before = state(&api, &owner, tenant).await;
    let examples = super::audit::examples();
    let document = super::super::openapi::document();
    let (mut asked, mut shown_to_owner) = (0, 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let id = text(operation, "operationId");
            let example = examples.iter().find(|(example, ..)| *example == id);
            let body = example.map_or(Value::Null, |(.., body)| body.clone());
            for pair in pairs(path, operation, &body, &foreign) {
                for (kind, token) in &credentials {
                    let one = answer(&api, token, &method, &pair.foreign, &foreign).await;
                    let other = answer(&api, token, &method, &pair.nothing, &nothing()).await;
                    assert_eq!(one, other, "{id} with {kind}: {:?}", pair.foreign);
                    asked += 1;
                }
                if method == Method::GET {
                    let theirs = answer(&api, &owner, &method, &pair.foreign, &foreign).await;
                    let nobodys = answer(&api, &owner, &method, &pair.nothing, &nothing()).await;
                    shown_to_owner += usize::from(theirs != nobodys);
                }
            }
        }
    }
    assert_eq!(
        state(&api, &owner, tenant).await,
        before,
        "nothing was changed"
    );
    assert!(asked > 500, "only {asked} questions");
    assert!(
        shown_to_owner > 20,
        "the owner sees a difference: {shown_to_owner}"
    );
}

#[tokio::test]
async fn lists_show_nothing_of_another_tenant() {
    let api = Api::new().await;
    let (_, foreign) = victim(&api).await;
    let credentials = credentials(&api).await;
    let document = super::super::openapi::document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        if methods.get("get").is_none() || path.contains('{') {
            continue;
        }
        for (kind, token) in &credentials {
            let response = api.raw(token, Method::GET, path, "").await;
            let body = String::from_utf8_lossy(response.body());
            for (_, id, name) in &foreign.0 {
                assert!(
                    !body.contains(id) && !body.contains(name),
                    "{path} with {kind}"
                );
            }
        }
    }
}
