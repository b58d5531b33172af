//! The keys that encrypt secrets at rest, for operators: by name, never themselves.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;

use super::{Answer, ApiState, auth::Operator, complete, pages::List};
use crate::problem::{Code, Problem};

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct KeyView {
    /// A digest that names the key and tells nothing of it.
    id: String,
    /// Whether it encrypts what is stored from now on.
    newest: bool,
    /// How many secrets need it.
    secrets: usize,
}

fn view(state: &ApiState) -> List<KeyView> {
    let keys = state.tenancy.secret_keys().into_iter().enumerate();
    let keys = keys.map(|(place, (id, secrets))| KeyView {
        id,
        newest: place == 0,
        secrets,
    });
    List::whole(keys.collect())
}

pub(super) async fn list(
    _: Operator,
    State(state): State<ApiState>,
) -> Result<Answer<List<KeyView>>, Problem> {
    Ok(Answer::ok(view(&state)))
}

/// What came of a change of keys.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Reloaded {
    /// Secrets that were encrypted anew.
    resealed: usize,
    /// Secrets that do not open and stay as they are.
    left: usize,
    #[serde(flatten)]
    keys: List<KeyView>,
}

/// Reads the keys again from where they came at the start, and encrypts with the newest what was
/// encrypted with another.
pub(super) async fn reload(
    _: Operator,
    State(state): State<ApiState>,
) -> Result<Answer<Reloaded>, Problem> {
    let key = state.key_source.read();
    let key = key.map_err(|error| Problem::new(Code::SecretKey).detail(error.to_string()))?;
    let tenancy = Arc::clone(&state.tenancy);
    let done = complete(async move { tenancy.take_key(key).await }).await?;
    Ok(Answer::ok(Reloaded {
        resealed: done.resealed,
        left: done.left,
        keys: view(&state),
    }))
}
