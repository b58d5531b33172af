use std::{collections::BTreeSet, sync::Arc, time::Duration};

use protocol::{
    frame::Headers,
    id::{AgentId, DeliveryId, EventId},
};
use serde_json::json;

use super::*;
use crate::{
    clock::{Clock as _, ManualClock},
    lifecycle::{DeliveryState, Event, RouteDecision, Verification, filter::Filter},
    store::{
        DeliveryFilter, DestinationKey, Due, Events as _, NewDelivery, NewEvent, Queries as _,
        Settings as _, memory::Memory,
    },
    verify::Secret,
};

const START: Timestamp = Timestamp(1_700_000_000_000);

struct World {
    clock: Arc<ManualClock>,
    store: Arc<Memory>,
    tenancy: Arc<Tenancy>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let store = Memory::new(clock.clone(), Arc::new(Due::default()));
        Self::over(clock, store).await
    }

    async fn over(clock: Arc<ManualClock>, store: Arc<Memory>) -> Self {
        let key = SecretKey::from_bytes(&[1; 32]);
        let config = TenancyConfig::default();
        let opened = Tenancy::open(store.clone(), store.clone(), key, clock.clone(), config);
        let tenancy = Arc::new(opened.await.unwrap());
        Self {
            clock,
            store,
            tenancy,
        }
    }

    /// The same store after a restart.
    async fn restart(&self) -> Self {
        Self::over(Arc::clone(&self.clock), Arc::clone(&self.store)).await
    }

    async fn tenant(&self, name: &str) -> TenantId {
        self.tenancy.create_tenant(name).await.unwrap().id
    }

    async fn source(&self, tenant: TenantId, name: &str) -> Arc<Source> {
        let new = stripe(name, &["whsec_one"]);
        self.tenancy.create_source(tenant, new).await.unwrap()
    }

    async fn destination(&self, tenant: TenantId, name: &str) -> Arc<Destination> {
        let policy = DestinationPolicy::default();
        self.tenancy
            .create_destination(tenant, name, policy)
            .await
            .unwrap()
    }

    async fn agent_token(&self, tenant: TenantId, scopes: &[Scope]) -> Arc<Token> {
        let new = NewToken {
            name: format!("token-{}", scopes.len()),
            kind: TokenKind::Agent,
            scopes: scopes.to_vec(),
            destinations: None,
            expires_at: None,
            ip_allow: Vec::new(),
        };
        let created = self.tenancy.create_token(Some(tenant), new).await;
        created.unwrap().0
    }

    /// An event of a source.
    fn event(&self, source: &Source) -> Event {
        Event {
            id: EventId::from_u128(crate::ids::fresh(self.clock.now())),
            tenant: source.tenant,
            source: source.id,
            received_at: self.clock.now(),
            method: "POST".to_owned(),
            target: String::new(),
            headers: Headers::default(),
            body: bytes::Bytes::from_static(b"{}"),
            verification: Verification {
                rule: "none".to_owned(),
                secret: None,
            },
            event_type: None,
            provider_id: None,
            remote: None,
        }
    }

    /// Accepts an event that is owed to a destination.
    async fn owe(&self, source: &Source, destination: protocol::id::DestinationId) -> DeliveryId {
        let id = DeliveryId::from_u128(crate::ids::fresh(self.clock.now()));
        let new = NewEvent {
            waited_for: None,
            event: self.event(source),
            decisions: Vec::new(),
            dedupe_window: Duration::ZERO,
            deliveries: vec![NewDelivery {
                id,
                destination,
                order: None,
            }],
        };
        self.store.append(new).await.unwrap();
        id
    }

    async fn state_of(&self, tenant: TenantId, delivery: DeliveryId) -> DeliveryState {
        let filter = DeliveryFilter::default();
        let page = self.store.deliveries(tenant, &filter, None, 250).await;
        let rows = page.unwrap().rows;
        rows.iter().find(|row| row.id == delivery).unwrap().state
    }
}

fn stripe(name: &str, secrets: &[&str]) -> NewSource {
    NewSource {
        name: name.to_owned(),
        settings: SourceSettings::new(SchemeChoice::Preset("stripe".to_owned())),
        secrets: secrets
            .iter()
            .map(|&text| Secret::from_text(text))
            .collect(),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_source_is_found_by_its_key_with_its_routes_and_secrets() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let to = [
        world.destination(tenant, "a").await,
        world.destination(tenant, "b").await,
    ];
    for destination in &to {
        let route = world
            .tenancy
            .create_route(tenant, None, source.id, destination.id, None);
        route.await.unwrap();
    }
    let again = world
        .tenancy
        .create_route(tenant, Some("again"), source.id, to[0].id, None);
    again.await.unwrap();

    for world in [world.restart().await, world] {
        let directory = world.tenancy.directory();
        let live = directory.source_by_key(source.key.as_str()).unwrap();
        assert!(live.verifier.is_ok());
        assert!(live.takes("POST") && !live.takes("GET"));
        let found: BTreeSet<_> = live.routing.destinations().into_iter().collect();
        assert_eq!(found, BTreeSet::from([to[0].id, to[1].id]));
        assert_eq!(live.routing.destinations().len(), 2, "each once");
        assert!(
            directory
                .source_by_key("aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .is_none()
        );
    }
}

#[tokio::test]
async fn secrets_rotate_and_do_not_open_for_another_tenant() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let count = |source: &Source| source.secrets.len();

    let rotate = |text, drop_old| {
        world
            .tenancy
            .rotate_secret(tenant, source.id, Secret::from_text(text), drop_old)
    };
    assert_eq!(count(&rotate("whsec_two", false).await.unwrap()), 2);
    assert!(matches!(
        rotate(" ", false).await,
        Err(TenancyError::Invalid(_))
    ));
    assert_eq!(count(&rotate("whsec_three", true).await.unwrap()), 1);

    // Somebody who can write the database moves a ciphertext to a source of another tenant.
    let other = world.tenant("evil").await;
    let thief = world.source(other, "stripe").await;
    let resources = world.store.load().await.unwrap();
    let document = |id: u128| resources.iter().find(|it| it.id == id).unwrap();
    let stolen = document(source.id.as_u128()).document.clone();
    let mut target = document(thief.id.as_u128()).clone();
    target.document = stolen.replace(source.key.as_str(), thief.key.as_str());
    let version = target.version;
    world.store.put(target, Some(version)).await.unwrap();

    let after = world.restart().await;
    let directory = after.tenancy.directory();
    assert!(directory.source(other, thief.id).unwrap().verifier.is_err());
    assert!(
        directory
            .source(tenant, source.id)
            .unwrap()
            .verifier
            .is_ok()
    );
}

#[tokio::test]
async fn rules_across_resources_hold() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let other = world.tenant("other").await;
    let source = world.source(tenant, "stripe").await;
    let destination = world.destination(tenant, "billing").await;
    let tenancy = &world.tenancy;

    let taken = tenancy
        .create_source(tenant, stripe("stripe", &["x"]))
        .await;
    assert!(matches!(taken, Err(TenancyError::NameTaken { .. })));
    let unsigned = tenancy.create_source(tenant, stripe("two", &[])).await;
    assert!(matches!(unsigned, Err(TenancyError::Invalid(_))));
    let foreign = tenancy
        .create_route(other, None, source.id, destination.id, None)
        .await;
    assert!(matches!(foreign, Err(TenancyError::NotFound("source"))));
    let stale = tenancy
        .update_source(tenant, source.id, Some(9), |_| {})
        .await;
    assert!(matches!(stale, Err(TenancyError::Conflict(_))));
    let used = tenancy.delete_tenant(tenant).await;
    assert!(matches!(used, Err(TenancyError::Conflict(_))));
    assert!(tenancy.delete_source(other, source.id, None).await.is_err());
    assert!(
        tenancy
            .delete_destination(other, destination.id, None)
            .await
            .is_err()
    );
    assert!(
        world.source(other, "stripe").await.id != source.id,
        "names belong to tenants"
    );
}

#[tokio::test]
async fn deleting_a_destination_cancels_what_it_is_owed() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let destination = world.destination(tenant, "billing").await;
    let route = world
        .tenancy
        .create_route(tenant, None, source.id, destination.id, None);
    route.await.unwrap();
    let before = world.owe(&source, destination.id).await;

    world
        .tenancy
        .delete_destination(tenant, destination.id, None)
        .await
        .unwrap();
    assert_eq!(
        world.state_of(tenant, before).await,
        DeliveryState::Cancelled
    );
    assert_eq!(world.tenancy.directory().routes(tenant).count(), 0);
    let live = world.tenancy.directory().source(tenant, source.id).cloned();
    assert!(live.unwrap().routing.destinations().is_empty());

    // A request that was already past the directory: the next start finishes it.
    let late = world.owe(&source, destination.id).await;
    world.restart().await;
    assert_eq!(world.state_of(tenant, late).await, DeliveryState::Cancelled);
}

#[tokio::test]
async fn tokens_open_until_they_expire_or_are_revoked() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let create = |kind, scopes, owner| {
        let new = NewToken {
            name: "t".to_owned(),
            kind,
            scopes,
            destinations: None,
            expires_at: Some(START.after(Duration::from_secs(60))),
            ip_allow: Vec::new(),
        };
        world.tenancy.create_token(owner, new)
    };
    let wrong = [
        create(TokenKind::Agent, vec![Scope::Operator], Some(tenant)).await,
        create(TokenKind::Agent, vec![Scope::Connect], None).await,
        create(TokenKind::Api, vec![Scope::Operator], Some(tenant)).await,
        create(TokenKind::Ingest, vec![Scope::Tenant], Some(tenant)).await,
    ];
    assert!(wrong.iter().all(Result::is_err));

    let mut changes = world.tenancy.changes();
    let (token, text) = create(TokenKind::Agent, vec![], Some(tenant))
        .await
        .unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let open = |text: &str, at| {
        world
            .tenancy
            .directory()
            .authenticate(text, at)
            .map(|it| it.id)
    };
    assert_eq!(open(text.expose(), START), Ok(token.id));
    let unknown = TokenText::generate(TokenKind::Agent).unwrap();
    assert_eq!(open(unknown.expose(), START), Err(TokenRefusal::Unknown));
    assert_eq!(open("hf_agent_x", START), Err(TokenRefusal::Malformed));
    let later = START.after(Duration::from_secs(60));
    assert_eq!(open(text.expose(), later), Err(TokenRefusal::Expired));

    world
        .tenancy
        .delete_token(Some(tenant), token.id)
        .await
        .unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(open(text.expose(), START), Err(TokenRefusal::Revoked));

    // What is stored opens nothing.
    let (_, text) = create(TokenKind::Agent, vec![], Some(tenant))
        .await
        .unwrap();
    let stored = format!("{:?}", world.store.load().await.unwrap());
    assert!(!stored.contains(text.expose()));
}

#[tokio::test]
async fn revoked_tokens_are_remembered_within_bounds() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let mut texts = Vec::new();
    for _ in 0..102 {
        let new = NewToken {
            name: "same".to_owned(),
            kind: TokenKind::Agent,
            scopes: Vec::new(),
            destinations: None,
            expires_at: None,
            ip_allow: Vec::new(),
        };
        let created = world.tenancy.create_token(Some(tenant), new).await;
        let (token, text) = created.unwrap();
        world.clock.advance(Duration::from_millis(1));
        let revoked = world.tenancy.delete_token(Some(tenant), token.id).await;
        revoked.unwrap();
        let again = world.tenancy.delete_token(Some(tenant), token.id).await;
        assert!(matches!(again, Err(TenancyError::NotFound(_))));
        texts.push(text);
    }
    let world = world.restart().await;
    let directory = world.tenancy.directory();
    let refusals: Vec<_> = texts
        .iter()
        .map(|text| directory.authenticate(text.expose(), START).unwrap_err())
        .collect();
    assert_eq!(refusals[..2], [TokenRefusal::Unknown; 2]);
    assert_eq!(refusals[2..], [TokenRefusal::Revoked; 100]);
    assert_eq!(directory.tokens(Some(tenant)).count(), 0);
}

#[tokio::test]
async fn the_first_operator_token_is_made_once() {
    let world = World::new().await;
    let text = create_operator_token(&*world.store, "operator", START)
        .await
        .unwrap();
    let again = create_operator_token(&*world.store, "operator", START).await;
    assert!(matches!(again, Err(TenancyError::NameTaken { .. })));

    let world = world.restart().await;
    let token = world
        .tenancy
        .directory()
        .authenticate(text.expose(), START)
        .unwrap();
    assert!(token.may(Scope::Operator) && token.tenant.is_none());
}

#[tokio::test]
async fn another_key_takes_over_and_a_missing_one_is_noticed() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let policy = DestinationPolicy {
        old_signatures: OldSignatures::Add,
        ..DestinationPolicy::default()
    };
    let created = world.tenancy.create_destination(tenant, "billing", policy);
    let destination = created.await.unwrap();
    let shown = world.tenancy.signing_keys(&destination).unwrap()[0]
        .1
        .clone();
    let key = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|byte| byte.repeat(32)).collect();
        SecretKey::parse(lines.join("\n").as_bytes()).unwrap()
    };
    let needed = |world: &World| -> Vec<usize> {
        let keys = world.tenancy.secret_keys().into_iter();
        keys.map(|(_, secrets)| secrets).collect()
    };
    assert_eq!(needed(&world), [2]);

    let before = world.store.load().await.unwrap();
    let missing = check_key(&*world.store, &key(&["02"])).await;
    assert!(matches!(
        missing,
        Err(CheckKeyError::Missing(MissingKey { count: 2, .. }))
    ));
    let refused = world.tenancy.take_key(key(&["02"])).await;
    assert!(
        matches!(refused, Err(TenancyError::Invalid(_))),
        "{refused:?}"
    );
    assert_eq!(world.store.load().await.unwrap(), before, "nothing changed");

    check_key(&*world.store, &key(&["02", "01"])).await.unwrap();
    let done = world.tenancy.take_key(key(&["02", "01"])).await.unwrap();
    assert_eq!(
        done,
        Rekeyed {
            resealed: 2,
            left: 0
        }
    );
    assert_eq!(needed(&world), [2, 0]);
    let again = world.tenancy.reseal().await.unwrap();
    assert_eq!(again, Rekeyed::default());

    // The old key is not needed any more, and nothing was lost.
    world.tenancy.take_key(key(&["02"])).await.unwrap();
    check_key(&*world.store, &key(&["02"])).await.unwrap();
    let directory = Arc::clone(&world.tenancy.directory());
    let source = &directory.source(tenant, source.id).unwrap().source;
    let secrets = world.tenancy.open_secrets(source).unwrap();
    assert_eq!(secrets[0].expose(), b"whsec_one");
    let destination = directory.destination(tenant, destination.id).unwrap();
    assert_eq!(world.tenancy.signing_keys(destination).unwrap()[0].1, shown);
}

#[tokio::test]
async fn a_listener_gets_a_destination_that_ends_with_it() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    world.source(tenant, "github").await;
    let token = world
        .agent_token(tenant, &[Scope::Connect, Scope::Listen])
        .await;
    let agent = AgentId::from_u128(7);
    let listen = |sources: &[&str]| {
        let sources: Vec<String> = sources.iter().map(|&it| it.to_owned()).collect();
        let (tenancy, token) = (Arc::clone(&world.tenancy), Arc::clone(&token));
        async move { tenancy.open_listen(&token, agent, &sources, None).await }
    };

    let all = listen(&["*"]).await.unwrap();
    assert_eq!(all.sources.len(), 2);
    let one = listen(&["stripe"]).await.unwrap();
    assert_eq!(
        one.destination.id, all.destination.id,
        "the same installation, the same queue"
    );
    assert_eq!(one.sources[0].routing.destinations(), [one.destination.id]);
    let unwanted = world
        .tenancy
        .directory()
        .source_by_name(tenant, &name("github"))
        .cloned();
    assert!(unwanted.unwrap().routing.destinations().is_empty());
    assert!(listen(&["nope"]).await.is_err());
    let id = one.destination.id;
    let key = DestinationKey {
        tenant,
        destination: id,
    };

    let due = || world.tenancy.listeners_to_expire(world.clock.now());
    world.tenancy.listener_left(id);
    world.clock.advance(Duration::from_hours(1));
    assert!(due().is_empty(), "one of its two sessions is still there");
    world.tenancy.listener_left(id);
    world.clock.advance(Duration::from_secs(599));
    assert!(due().is_empty());
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(due(), [key]);

    let back = listen(&["stripe"]).await.unwrap();
    world.tenancy.expire_listen(key).await.unwrap();
    assert!(
        world.tenancy.directory().destination(tenant, id).is_some(),
        "it came back in time"
    );
    world.tenancy.listener_left(back.destination.id);

    // A restart forgets sessions, not listeners.
    let owed = world.owe(&source, id).await;
    let world = world.restart().await;
    world.clock.advance(Duration::from_mins(10));
    let due = world.tenancy.listeners_to_expire(world.clock.now());
    assert_eq!(due, [key]);
    world.tenancy.expire_listen(key).await.unwrap();
    assert_eq!(world.state_of(tenant, owed).await, DeliveryState::Expired);
    assert!(world.tenancy.directory().destination(tenant, id).is_none());
    assert_eq!(world.tenancy.directory().routes(tenant).count(), 0);
    assert!(
        world
            .tenancy
            .listeners_to_expire(world.clock.now())
            .is_empty()
    );
}

#[tokio::test]
async fn listening_needs_its_scope() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    world.source(tenant, "stripe").await;
    let token = world.agent_token(tenant, &[Scope::Connect]).await;
    let agent = AgentId::from_u128(7);
    let outcome = world
        .tenancy
        .open_listen(&token, agent, &["*".to_owned()], None)
        .await;
    assert!(matches!(outcome, Err(TenancyError::Forbidden(_))));
}

fn filter(document: serde_json::Value) -> Filter {
    Filter::parse(&document).unwrap()
}

#[tokio::test]
async fn a_filter_decides_from_when_it_is_saved() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let [all, some] = [
        world.destination(tenant, "all").await.id,
        world.destination(tenant, "some").await.id,
    ];
    let create = |to, filter| {
        world
            .tenancy
            .create_route(tenant, None, source.id, to, filter)
    };
    create(all, None).await.unwrap();
    let gets = filter(json!({ "method": "GET" }));
    let route = create(some, Some(gets)).await.unwrap();

    let event = world.event(&source);
    let world = world.restart().await;
    let routed = || {
        let directory = world.tenancy.directory();
        directory.source(tenant, source.id).unwrap().route(&event)
    };
    let before = routed();
    assert_eq!(before.destinations, [all]);
    // Routes made in one millisecond have no order.
    let unmet = |decision: &RouteDecision| decision.unmet.clone();
    let (mine, others): (Vec<_>, Vec<_>) =
        before.decisions.iter().partition(|it| it.route == route.id);
    assert_eq!(
        mine.into_iter().map(unmet).collect::<Vec<_>>(),
        [Some("/method".to_owned())]
    );
    assert_eq!(others.into_iter().map(unmet).collect::<Vec<_>>(), [None]);

    let update = |expected, filter| {
        let update = world
            .tenancy
            .update_route(tenant, route.id, expected, filter);
        async move { update.await.map(|route| route.revision.version) }
    };
    let posts = filter(json!({ "method": "POST", "body": { "$exist": true } }));
    assert_eq!(update(Some(1), Some(posts)).await.unwrap(), 2);
    assert_eq!(routed().destinations.len(), 2);
    let stale = update(Some(1), None).await;
    assert!(matches!(stale, Err(TenancyError::Conflict(_))));
}

#[tokio::test]
async fn the_filters_of_a_source_are_bounded_together() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let [one, other] = [
        world.source(tenant, "one").await.id,
        world.source(tenant, "other").await.id,
    ];
    let destination = world.destination(tenant, "billing").await.id;
    let wide = || filter(json!({ "type": { "$in": vec!["x"; 249] } }));
    let create = |name: &'static str, source, filter| {
        world
            .tenancy
            .create_route(tenant, Some(name), source, destination, filter)
    };
    for name in ["a", "b", "c", "d"] {
        create(name, one, Some(wide())).await.unwrap();
    }
    let small = || Some(filter(json!({ "type": "x" })));
    let refused = create("e", one, small()).await.unwrap_err();
    assert!(refused.to_string().contains("terms"), "{refused}");
    create("e", other, Some(wide())).await.unwrap();
    let free = create("f", one, None).await.unwrap();
    assert!(
        world
            .tenancy
            .update_route(tenant, free.id, None, small())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_listener_may_filter() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let token = world.agent_token(tenant, &[Scope::Listen]).await;
    let listen = |filter: Option<serde_json::Value>| {
        let (tenancy, token) = (Arc::clone(&world.tenancy), Arc::clone(&token));
        let agent = AgentId::from_u128(7);
        async move {
            tenancy
                .open_listen(&token, agent, &["*".to_owned()], filter.as_ref())
                .await
        }
    };
    let event = world.event(&source);
    let hears = |listener: &Listener| !listener.sources[0].route(&event).destinations.is_empty();

    assert!(!hears(
        &listen(Some(json!({ "method": "GET" }))).await.unwrap()
    ));
    assert!(hears(
        &listen(Some(json!({ "method": "POST" }))).await.unwrap()
    ));
    assert!(hears(&listen(None).await.unwrap()));
    let refused = listen(Some(json!({ "methd": "GET" }))).await.unwrap_err();
    assert!(matches!(refused, TenancyError::Filter(_)), "{refused}");
}

#[tokio::test]
async fn unchanged_sources_are_not_prepared_again() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let source = world.source(tenant, "stripe").await;
    let live = || {
        world
            .tenancy
            .directory()
            .source(tenant, source.id)
            .cloned()
            .unwrap()
    };
    let before = live();
    world.destination(tenant, "billing").await;
    assert!(Arc::ptr_eq(&before, &live()));

    let update = world
        .tenancy
        .update_source(tenant, source.id, Some(1), |settings| {
            settings.enabled = false;
        });
    assert_eq!(update.await.unwrap().revision.version, 2);
    assert!(!live().source.settings.enabled);
}

#[tokio::test]
async fn signatures_that_cannot_be_made_again_are_not_promised() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let own = |preset: &str, secrets: &[&str], public_keys: &[&str]| {
        let mut settings = SourceSettings::new(SchemeChoice::Preset(preset.to_owned()));
        settings.public_keys = public_keys.iter().map(|&text| text.to_owned()).collect();
        NewSource {
            name: preset.to_owned(),
            settings,
            ..stripe(preset, secrets)
        }
    };
    let key = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let create = |new| world.tenancy.create_source(tenant, new);
    let discord = create(own("discord-interactions", &[], &[key]))
        .await
        .unwrap();
    let mailgun = create(own("mailgun", &["x"], &[])).await.unwrap();
    let asana = create(own("asana", &[], &[])).await.unwrap();
    let shop = create(stripe("shop", &["whsec_one"])).await.unwrap();
    let to = world.destination(tenant, "billing").await.id;
    let refresh = |on: bool| {
        let wanted = [OldSignatures::Keep, OldSignatures::Refresh][usize::from(on)];
        world
            .tenancy
            .update_destination(tenant, to, None, move |it| it.old_signatures = wanted)
    };
    let route = |source: &Source| {
        world
            .tenancy
            .create_route(tenant, None, source.id, to, None)
    };
    let field = |error: TenancyError| match error {
        TenancyError::Invalid(invalid) => format!("{}: {}", invalid.field, invalid.why),
        other => panic!("{other}"),
    };

    refresh(true).await.unwrap();
    for source in [&discord, &mailgun] {
        let why = field(route(source).await.unwrap_err());
        assert!(
            why.starts_with("old_signatures: the destination `billing`"),
            "{why}"
        );
        assert!(
            why.contains(source.name.as_str()) && why.contains("`keep`"),
            "{why}"
        );
    }
    route(&asana).await.unwrap();
    route(&shop).await.unwrap();
    let other = |settings: &mut SourceSettings| {
        settings.scheme = SchemeChoice::Preset("mailgun".to_owned());
    };
    let changed = world
        .tenancy
        .update_source(tenant, shop.id, None, other)
        .await;
    assert!(field(changed.unwrap_err()).contains("`shop`"));

    refresh(false).await.unwrap();
    route(&discord).await.unwrap();
    let why = field(refresh(true).await.unwrap_err());
    assert!(
        why.contains("`discord-interactions`") && why.contains("private key"),
        "{why}"
    );
}

#[tokio::test]
async fn a_destination_that_signs_has_a_key_and_keeps_it() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let id = world.destination(tenant, "billing").await.id;
    let tenancy = &world.tenancy;
    assert!(tenancy.directory().signer(tenant, id).is_none());
    let change =
        |wanted| tenancy.update_destination(tenant, id, None, move |it| it.old_signatures = wanted);
    let signing = change(OldSignatures::Add).await.unwrap();
    let first = tenancy.signing_keys(&signing).unwrap().remove(0).1;
    assert!(tenancy.directory().signer(tenant, id).is_some());
    assert!(
        tenancy
            .directory()
            .signer(world.tenant("other").await, id)
            .is_none()
    );

    let hour = Duration::from_hours(1);
    let rotated = tenancy.rotate_signing_key(tenant, id, hour).await.unwrap();
    let keys = tenancy.signing_keys(&rotated).unwrap();
    assert_eq!((keys.len(), &keys[1].1), (2, &first));
    assert_eq!(keys[1].0.until, Some(START.after(hour)));
    change(OldSignatures::Keep).await.unwrap();
    let again = change(OldSignatures::Add).await.unwrap();
    assert_eq!(
        tenancy.signing_keys(&again).unwrap(),
        keys,
        "switching makes no new key"
    );

    world.clock.advance(hour);
    let after = world.restart().await;
    let kept = after.tenancy.signing_keys(&again).unwrap();
    assert_eq!(kept, keys[..1]);
    assert!(after.tenancy.directory().signer(tenant, id).is_some());
    let too_long = tenancy
        .rotate_signing_key(tenant, id, OVERLAP_MAX + hour)
        .await;
    assert!(matches!(too_long, Err(TenancyError::Invalid(_))));
}
