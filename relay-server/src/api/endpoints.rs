//! Every endpoint: path, name, summary, handler.

use super::{
    audit_log, dead_letters, deliveries, destinations, erasures, events, explain, health, replays,
    route_test, routes, secret_keys, signing_keys, sources, table::Table, tenants, test_events,
    tokens,
};

/// Every endpoint below `/api/v1`. A new one is one more line here.
pub(super) fn table() -> Table {
    Table::default()
        .get(
            "/version",
            "version.show",
            "Which relay this is",
            health::version,
        )
        .merge(sources_table())
        .merge(destinations_table())
        .merge(routes_and_tokens_table())
        .merge(events_table())
        .merge(replays_table())
        .merge(operators_table())
}

fn sources_table() -> Table {
    Table::default()
        .get("/sources", "sources.list", "List sources", sources::list)
        .post(
            "/sources",
            "sources.create",
            "Create a source",
            sources::create,
        )
        .get(
            "/sources/{source}",
            "sources.show",
            "Show a source with its URL",
            sources::show,
        )
        .put(
            "/sources/{source}",
            "sources.put",
            "Declare a source by name: it is created, changed, or left alone",
            sources::put,
        )
        .patch(
            "/sources/{source}",
            "sources.update",
            "Change a source",
            sources::update,
        )
        .delete(
            "/sources/{source}",
            "sources.delete",
            "Delete a source with its routes",
            sources::delete,
        )
        .post(
            "/sources/{source}/rotate-secret",
            "sources.rotate_secret",
            "Add a secret to a source",
            sources::rotate_secret,
        )
        .post(
            "/sources/{source}/test",
            "sources.test",
            "Make a test event, signed as the provider would",
            test_events::send,
        )
        .get(
            "/sources/{source}/handshake-secret",
            "sources.handshake_secret",
            "Show the secret that a handshake brought",
            sources::handshake_secret,
        )
}

fn destinations_table() -> Table {
    Table::default()
        .get(
            "/destinations",
            "destinations.list",
            "List destinations",
            destinations::list,
        )
        .post(
            "/destinations",
            "destinations.create",
            "Create a destination",
            destinations::create,
        )
        .get(
            "/destinations/{destination}",
            "destinations.show",
            "Show a destination and how it is doing",
            destinations::show,
        )
        .put(
            "/destinations/{destination}",
            "destinations.put",
            "Declare a destination by name: it is created, changed, or left alone",
            destinations::put,
        )
        .patch(
            "/destinations/{destination}",
            "destinations.update",
            "Change how deliveries are made",
            destinations::update,
        )
        .delete(
            "/destinations/{destination}",
            "destinations.delete",
            "Delete a destination with its routes, and cancel what it is owed",
            destinations::delete,
        )
        .get(
            "/destinations/{destination}/signing-keys",
            "destinations.signing_keys",
            "Show the keys that a destination signs with",
            signing_keys::show,
        )
        .post(
            "/destinations/{destination}/signing-keys/rotate",
            "destinations.rotate_signing_key",
            "Make a new signing key",
            signing_keys::rotate,
        )
        .post(
            "/destinations/{destination}/pause",
            "destinations.pause",
            "Hand nothing out for a while",
            destinations::pause,
        )
        .post(
            "/destinations/{destination}/resume",
            "destinations.resume",
            "Go on handing out",
            destinations::resume,
        )
}

fn routes_and_tokens_table() -> Table {
    Table::default()
        .get("/routes", "routes.list", "List routes", routes::list)
        .post(
            "/routes",
            "routes.create",
            "Connect a source to a destination",
            routes::create,
        )
        .get(
            "/routes/{route}",
            "routes.show",
            "Show a route",
            routes::show,
        )
        .put(
            "/routes/{route}",
            "routes.put",
            "Declare a route by name: it is created, changed, or left alone",
            routes::put,
        )
        .patch(
            "/routes/{route}",
            "routes.update",
            "Change a route's filter",
            routes::update,
        )
        .delete(
            "/routes/{route}",
            "routes.delete",
            "Delete a route",
            routes::delete,
        )
        .post(
            "/routes/{route}/test",
            "routes.test",
            "Try a filter on an event or a request; changes nothing",
            route_test::test,
        )
        .get("/tokens", "tokens.list", "List tokens", tokens::list)
        .post(
            "/tokens",
            "tokens.create",
            "Create a token, which is shown this once",
            tokens::create,
        )
        .get(
            "/tokens/{token}",
            "tokens.show",
            "Show a token without its text",
            tokens::show,
        )
        .post(
            "/tokens/{token}/rotate",
            "tokens.rotate",
            "Give a token a new text, which is shown this once",
            tokens::rotate,
        )
        .delete(
            "/tokens/{token}",
            "tokens.delete",
            "Revoke a token",
            tokens::delete,
        )
}

/// What came, and what became of it.
fn events_table() -> Table {
    Table::default()
        .get("/events", "events.list", "List events", events::list)
        .get(
            "/events/{event}",
            "events.show",
            "Show an event",
            events::show,
        )
        .get(
            "/events/{event}/body",
            "events.body",
            "Download an event's body",
            events::body,
        )
        .get(
            "/events/{event}/explain",
            "events.explain",
            "Tell what happened to an event and why it waits",
            explain::show,
        )
        .post(
            "/events/{event}/replay",
            "events.replay",
            "Deliver an event again",
            events::replay,
        )
        .get(
            "/deliveries",
            "deliveries.list",
            "List deliveries",
            deliveries::list,
        )
        .get(
            "/deliveries/{delivery}/attempts",
            "deliveries.attempts",
            "Show what came of each attempt",
            deliveries::attempts,
        )
        .post(
            "/deliveries/{delivery}/cancel",
            "deliveries.cancel",
            "End a delivery that is still owed",
            deliveries::cancel,
        )
        .get(
            "/erasures",
            "erasures.list",
            "List what was erased, and by whose wish",
            erasures::list,
        )
        .post(
            "/erasures",
            "erasures.create",
            "Erase events for good",
            erasures::create,
        )
        .get(
            "/audit-log",
            "audit_log.list",
            "List who did what",
            audit_log::list,
        )
        .get(
            "/audit-log/export",
            "audit_log.export",
            "Download who did what, one JSON document a line",
            audit_log::export,
        )
}

/// What was given up, and many events delivered again.
fn replays_table() -> Table {
    Table::default()
        .get(
            "/dead-letters",
            "dead_letters.list",
            "List what policy gave up",
            dead_letters::list,
        )
        .get(
            "/dead-letters/{delivery}",
            "dead_letters.show",
            "Show a dead letter and what was tried",
            dead_letters::show,
        )
        .get("/replays", "replays.list", "List replays", replays::list)
        .post(
            "/replays",
            "replays.create",
            "Deliver again what is named or matches; counts only, with `dry_run`",
            replays::create,
        )
        .get(
            "/replays/{replay}",
            "replays.show",
            "Show a replay and how far it is",
            replays::show,
        )
        .post(
            "/replays/{replay}/pause",
            "replays.pause",
            "Make no more deliveries for now",
            replays::pause,
        )
        .post(
            "/replays/{replay}/resume",
            "replays.resume",
            "Go on with a replay",
            replays::resume,
        )
        .post(
            "/replays/{replay}/cancel",
            "replays.cancel",
            "Make no more deliveries, and end those that are owed",
            replays::cancel,
        )
}

/// What operators manage.
fn operators_table() -> Table {
    Table::default()
        .get("/tenants", "tenants.list", "List tenants", tenants::list)
        .post(
            "/tenants",
            "tenants.create",
            "Create a tenant",
            tenants::create,
        )
        .get(
            "/tenants/{tenant}",
            "tenants.show",
            "Show a tenant",
            tenants::show,
        )
        .patch(
            "/tenants/{tenant}",
            "tenants.update",
            "Change a tenant's limits",
            tenants::update,
        )
        .delete(
            "/tenants/{tenant}",
            "tenants.delete",
            "Delete an empty tenant",
            tenants::delete,
        )
        .get(
            "/secret-keys",
            "secret_keys.list",
            "List the keys that encrypt secrets at rest, by name",
            secret_keys::list,
        )
        .post(
            "/secret-keys/reload",
            "secret_keys.reload",
            "Read the keys again, and encrypt everything with the newest",
            secret_keys::reload,
        )
}
