//! Settings.

use protocol::id::TenantId;

use super::{STRANGER, Stage, TENANT};
use crate::{
    clock::Timestamp,
    store::{AuditFilter, AuditRecord, Put, Resource, ResourceKind},
};

fn source(id: u128, name: &str) -> Resource {
    Resource {
        kind: ResourceKind::Source,
        id,
        tenant: Some(TENANT),
        name: name.to_owned(),
        document: format!("{{\"id\":{id}}}"),
        version: 0,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    }
}

/// Created, changed, listed in order of creation, removed, remembered as removed.
pub async fn a_resource_is_stored_replaced_and_removed(stage: &mut Stage) {
    let settings = stage.store.settings.clone();
    let later = source(1, "later");
    assert_eq!(
        settings.put(source(2, "first"), None).await,
        Ok(Put::Stored(1))
    );
    assert_eq!(settings.put(later, None).await, Ok(Put::Stored(1)));
    stage.clock.advance(std::time::Duration::from_secs(1));
    let changed = source(2, "renamed");
    assert_eq!(settings.put(changed, Some(1)).await, Ok(Put::Stored(2)));

    stage.pause().await;
    let settings = stage.store.settings.clone();
    let all = settings.load().await.unwrap();
    let listed: Vec<_> = all
        .iter()
        .map(|it| (it.id, it.name.as_str(), it.version))
        .collect();
    assert_eq!(listed, [(2, "renamed", 2), (1, "later", 1)]);
    assert!(all[0].updated_at > all[0].created_at);

    let kind = ResourceKind::Source;
    assert_eq!(settings.remove(kind, 2).await, Ok(true));
    assert_eq!(settings.remove(kind, 2).await, Ok(false));
    assert_eq!(settings.remove(ResourceKind::Route, 1).await, Ok(false));
    stage.pause().await;
    let settings = stage.store.settings.clone();
    assert_eq!(settings.load().await.unwrap().len(), 1);
    assert_eq!(settings.removed(kind).await, Ok(vec![(2, Some(TENANT))]));
    let back = settings.put(source(2, "back"), None).await;
    assert_eq!(back, Ok(Put::Conflict { current: None }));
}

/// One name, one living resource of a kind and tenant.
pub async fn names_are_unique_among_the_living(stage: &mut Stage) {
    let settings = stage.store.settings.clone();
    let foreign = Resource {
        tenant: Some(STRANGER),
        ..source(3, "shop")
    };
    let operators = Resource {
        tenant: None,
        ..source(4, "shop")
    };
    let also_operators = Resource {
        tenant: None,
        ..source(5, "shop")
    };
    assert_eq!(
        settings.put(source(1, "shop"), None).await,
        Ok(Put::Stored(1))
    );
    assert_eq!(
        settings.put(source(2, "shop"), None).await,
        Ok(Put::NameTaken)
    );
    assert_eq!(settings.put(foreign, None).await, Ok(Put::Stored(1)));
    assert_eq!(settings.put(operators, None).await, Ok(Put::Stored(1)));
    assert_eq!(settings.put(also_operators, None).await, Ok(Put::NameTaken));
    assert_eq!(
        settings.put(source(2, "bar"), None).await,
        Ok(Put::Stored(1))
    );
    assert_eq!(
        settings.put(source(2, "shop"), Some(1)).await,
        Ok(Put::NameTaken)
    );

    let kind = ResourceKind::Source;
    assert_eq!(settings.remove(kind, 1).await, Ok(true));
    assert_eq!(
        settings.put(source(2, "shop"), Some(1)).await,
        Ok(Put::Stored(2))
    );
}

/// Who changes what somebody else changed is told.
pub async fn a_stale_change_conflicts(stage: &mut Stage) {
    let settings = stage.store.settings.clone();
    settings.put(source(1, "a"), None).await.unwrap();
    settings.put(source(1, "b"), Some(1)).await.unwrap();
    for (expected, id, current) in [
        (Some(1), 1, Some(2)),
        (None, 1, Some(2)),
        (Some(1), 9, None),
    ] {
        let put = settings.put(source(id, "c"), expected).await;
        assert_eq!(put, Ok(Put::Conflict { current }), "{expected:?} {id}");
    }
}

fn record(
    at: u64,
    tenant: Option<TenantId>,
    actor: &str,
    action: &str,
    resource: &str,
) -> AuditRecord {
    AuditRecord {
        at: Timestamp(at),
        tenant,
        actor: actor.to_owned(),
        actor_name: "laptop".to_owned(),
        operator: false,
        action: action.to_owned(),
        target: "/sources".to_owned(),
        resource: Some(resource.to_owned()),
        status: 201,
        remote: Some([192, 0, 2, 1].into()),
        request: "req_1".to_owned(),
    }
}

/// The audit log keeps what it was told, in order, and tells tenants apart.
pub async fn what_was_done_is_kept_and_found(stage: &mut Stage) {
    let records = [
        record(1, Some(TENANT), "tok_a", "sources.create", "src_1"),
        record(2, Some(STRANGER), "tok_b", "sources.create", "src_2"),
        record(3, None, "tok_c", "tenants.delete", "ten_1"),
        record(4, Some(TENANT), "tok_c", "sourcess.update", "src_1"),
        record(5, Some(TENANT), "tok_a", "sources.update", "src_1"),
    ];
    for record in &records {
        let settings = stage.store.settings.clone();
        settings.append_audit(record.clone()).await.unwrap();
    }
    stage.pause().await;
    let settings = stage.store.settings.clone();
    let all = AuditFilter::default();
    let kept = settings.audit(&all, None, 9).await.unwrap();
    let expected: Vec<_> = records.iter().rev().cloned().collect();
    assert_eq!(
        kept.iter().map(|(_, it)| it.clone()).collect::<Vec<_>>(),
        expected
    );
    let rest = settings.audit(&all, Some(kept[1].0), 2).await.unwrap();
    assert_eq!(rest, kept[2..4]);

    let filter = |tenant: Option<TenantId>, change: fn(&mut AuditFilter)| {
        let mut filter = AuditFilter {
            tenant,
            ..AuditFilter::default()
        };
        change(&mut filter);
        filter
    };
    let (own, strange) = (Some(TENANT), Some(STRANGER));
    let cases: [(AuditFilter, &[u64]); 7] = [
        (filter(own, |_| {}), &[5, 4, 1]),
        (filter(strange, |_| {}), &[2]),
        (filter(None, |it| it.actor = Some("tok_c".into())), &[4, 3]),
        (
            filter(own, |it| it.action = Some("sources".into())),
            &[5, 1],
        ),
        (
            filter(None, |it| it.action = Some("sources.update".into())),
            &[5],
        ),
        (
            filter(strange, |it| it.resource = Some("src_1".into())),
            &[],
        ),
        (
            filter(None, |it| {
                (it.since, it.until) = (Some(Timestamp(2)), Some(Timestamp(4)))
            }),
            &[3, 2],
        ),
    ];
    for (filter, expected) in cases {
        let found = settings.audit(&filter, None, 9).await.unwrap();
        let at: Vec<_> = found.iter().map(|(_, record)| record.at.0).collect();
        assert_eq!(at, expected, "{filter:?}");
    }
}

/// The last note of a token's use counts.
pub async fn the_last_use_of_a_token_is_kept(stage: &mut Stage) {
    let settings = stage.store.settings.clone();
    settings
        .note_token_uses(vec![(7, Timestamp(1)), (8, Timestamp(2))])
        .await
        .unwrap();
    settings
        .note_token_uses(vec![(7, Timestamp(3))])
        .await
        .unwrap();
    stage.pause().await;
    let settings = stage.store.settings.clone();
    let mut uses = settings.token_uses().await.unwrap();
    uses.sort_unstable();
    assert_eq!(uses, [(7, Timestamp(3)), (8, Timestamp(2))]);
}
