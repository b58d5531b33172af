//! Changes under a condition (RFC 9110, 13.1): only if nobody else was faster.

use axum::{extract::FromRequestParts, http::request::Parts};
use http::header;
use serde::Deserialize;

use super::{Answer, ApiState, OneOfTwo, extract::bad};
use crate::{
    problem::{Code, Problem},
    tenancy::{PutOptions, Written},
};

/// The version that `If-Match` names, if it names one.
#[derive(Debug, Clone, Copy)]
pub(super) struct IfMatch(Option<u64>);

impl FromRequestParts<ApiState> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        let Some(field) = parts.headers.get(header::IF_MATCH) else {
            return Ok(Self(None));
        };
        let text = field.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let version = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let version = version.and_then(|version| version.parse().ok());
        match version {
            Some(version) => Ok(Self(Some(version))),
            None => Err(bad("If-Match", "is no ETag that the relay gave out")),
        }
    }
}

impl IfMatch {
    /// What a change expects: what the field says, or what the body does.
    pub(super) fn or(self, version: Option<u64>) -> Option<u64> {
        self.0.or(version)
    }

    /// The answer to a change that somebody else was faster with.
    pub(super) fn refused(self, problem: Problem) -> Problem {
        match self.0 {
            Some(_) if problem.code == Code::Conflict => Problem {
                code: Code::Precondition,
                ..problem
            },
            _ => problem,
        }
    }
}

/// How a declaration is to be taken.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutParams {
    /// Only say what would come of it.
    #[serde(default)]
    dry_run: bool,
    /// Read by [`super::auth`].
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

impl PutParams {
    pub(super) fn options(&self, if_match: IfMatch) -> PutOptions {
        PutOptions {
            expected: if_match.0,
            dry_run: self.dry_run,
        }
    }
}

/// The answer to a declaration: 201 if it was missing, else 200.
pub(super) type Declared<T> = OneOfTwo<T, 201, 200>;

/// Shows what a declaration did.
pub(super) fn declared<R, T>(
    written: &Written<R>,
    options: PutOptions,
    version: impl Fn(&R) -> u64,
    view: impl FnOnce(&R) -> T,
) -> Declared<T> {
    match written {
        Written::Created(record) => {
            let answer = Answer::<T, 201>::created(view(record));
            OneOfTwo::One(answer.version(version(record)).unchanged(options.dry_run))
        }
        Written::Changed(record) => {
            let answer = Answer::ok(view(record)).version(version(record));
            OneOfTwo::Other(answer.unchanged(options.dry_run))
        }
        Written::Same(record) => {
            let answer = Answer::ok(view(record)).version(version(record));
            OneOfTwo::Other(answer.unchanged(true))
        }
    }
}

/// The name that a declaration is about: that of the path, or of what has the id there. A body that
/// says otherwise is refused.
pub(super) fn name_of(path: String, body: Option<&str>) -> Result<String, Problem> {
    match body {
        Some(name) if name != path => Err(bad("name", "is another one than in the path")),
        _ => Ok(path),
    }
}
