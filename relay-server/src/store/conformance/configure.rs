//! Settings.

use super::{STRANGER, Stage, TENANT};
use crate::{
    clock::Timestamp,
    store::{Put, Resource, ResourceKind},
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
