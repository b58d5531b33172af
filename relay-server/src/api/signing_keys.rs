//! The keys a destination signs with itself. They are made here, so their owner has to read them here.

use std::{sync::Arc, time::Duration};

use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};

use super::{Answer, ApiState, auth::InTenant, complete, destinations, extract::Body};
use crate::{
    problem::Problem,
    tenancy::{Destination, OVERLAP_DEFAULT},
};

/// All keys that are valid. Not `Debug`: keys are secrets.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct KeyList {
    /// Newest first.
    data: Vec<KeyView>,
}

#[derive(Serialize, schemars::JsonSchema)]
struct KeyView {
    key: String,
    added_at: String,
    /// When it stops signing, if a newer one has taken its place.
    until: Option<String>,
}

fn list(state: &ApiState, destination: &Destination) -> Result<Answer<KeyList>, Problem> {
    let keys = state.tenancy.signing_keys(destination);
    let keys = keys.map_err(|error| Problem::from(&error))?;
    let view =
        |(stored, text): &(crate::tenancy::SigningKey, crate::tenancy::SigningKeyText)| KeyView {
            key: text.expose().to_owned(),
            added_at: stored.added_at.to_string(),
            until: stored.until.map(|until| until.to_string()),
        };
    Ok(Answer::ok(KeyList {
        data: keys.iter().map(view).collect(),
    }))
}

pub(super) async fn show(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
) -> Result<Answer<KeyList>, Problem> {
    let destination = destinations::find(&state, tenant, &destination)?;
    list(&state, &destination)
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the key it has goes on signing beside the new one.
    overlap_s: Option<u64>,
}

pub(super) async fn rotate(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(destination): Path<String>,
    Body(rotation): Body<Rotation>,
) -> Result<Answer<KeyList>, Problem> {
    let id = destinations::find(&state, tenant, &destination)?.id;
    let overlap = rotation
        .overlap_s
        .map_or(OVERLAP_DEFAULT, Duration::from_secs);
    let tenancy = Arc::clone(&state.tenancy);
    let rotate = async move { tenancy.rotate_signing_key(tenant, id, overlap).await };
    list(&state, &*complete(rotate).await?)
}
