//! Test events: of people and scripts over the API, of agents over the public listener.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::{Path, State};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiState, OneOfTwo,
    auth::{AgentCaller, InTenant},
    extract::Body,
    sources,
};
use crate::{
    ingress::TestEvent,
    problem::{Code, Problem},
    tenancy::{LiveSource, Token},
};

/// A test event to make; what is left out looks like the provider's own.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewTest {
    /// By id or name; for agents only, as the API has it in the path.
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
    content_type: Option<String>,
    headers: BTreeMap<String, String>,
    method: Option<String>,
    path: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct TestView {
    /// The id of the event; of a repeat, that of the first.
    id: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Whether it repeats an event that was accepted before, and so is not delivered again.
    duplicate: bool,
    /// How many destinations it goes to.
    destinations: usize,
}

impl NewTest {
    fn read(self) -> Result<TestEvent, Problem> {
        let body = match (self.body, self.body_base64) {
            (None, None) => None,
            (Some(text), None) => Some(Bytes::from(text)),
            (None, Some(text)) => {
                let bytes = BASE64_STANDARD.decode(text);
                Some(bytes.map_err(|_| bad("body_base64 is not base64"))?.into())
            }
            (Some(_), Some(_)) => return Err(bad("give body or body_base64, not both")),
        };
        Ok(TestEvent {
            event_type: self.event_type,
            body,
            content_type: self.content_type,
            headers: self.headers.into_iter().collect(),
            method: self.method,
            path: self.path,
        })
    }
}

fn bad(detail: &'static str) -> Problem {
    Problem::new(Code::Request).detail(detail)
}

pub(super) async fn send(
    InTenant(tenant): InTenant,
    State(state): State<ApiState>,
    Path(source): Path<String>,
    Body(test): Body<NewTest>,
) -> Result<OneOfTwo<TestView, 202, 200>, Problem> {
    if test.source.is_some() {
        return Err(bad("the source is named by the path, not by the body"));
    }
    let live = sources::find(&state, tenant, &source)?;
    make(&state, &live, test).await
}

async fn make(
    state: &ApiState,
    live: &LiveSource,
    test: NewTest,
) -> Result<OneOfTwo<TestView, 202, 200>, Problem> {
    let accepted = state.ingress.send_test(live, test.read()?).await?;
    let is_repeat = accepted.duplicate;
    let view = TestView {
        id: accepted.id.to_string(),
        event_type: accepted.event_type,
        duplicate: accepted.duplicate,
        destinations: accepted.destinations,
    };
    Ok(if is_repeat {
        OneOfTwo::Other(Answer::ok(view))
    } else {
        OneOfTwo::One(Answer::accepted(view))
    })
}

/// Answers `POST /agent/v1/send` of the public listener.
pub(super) async fn send_as_agent(
    AgentCaller { tenant, token }: AgentCaller,
    State(state): State<ApiState>,
    Body(mut test): Body<NewTest>,
) -> Result<OneOfTwo<TestView, 202, 200>, Problem> {
    let source = test.source.take().ok_or_else(|| bad("name the source"))?;
    let live = sources::find(&state, tenant, &source)?;
    check_reach(&state, &live, &token)?;
    make(&state, &live, test).await
}

/// A token that is bound to some destinations makes no events for others.
fn check_reach(state: &ApiState, live: &Arc<LiveSource>, token: &Token) -> Result<(), Problem> {
    let Some(own) = &token.destinations else {
        return Ok(());
    };
    let directory = state.tenancy.directory();
    let reaches = |id| {
        let destination = directory.destination(live.source.tenant, id);
        destination.is_some_and(|destination| own.contains(&destination.name))
    };
    if live.routing.destinations().into_iter().all(reaches) {
        return Ok(());
    }
    let why = "the source has routes to destinations that the token is not for";
    Err(Problem::new(Code::Forbidden).detail(why))
}
