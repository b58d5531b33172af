//! Requests that are repeated because their answer was lost: with an `Idempotency-Key` they are made
//! once, and the repeat gets the first one's answer.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use protocol::id::TokenId;
use ring::digest;

use crate::{
    clock::Timestamp,
    problem::{Code, Problem},
};

/// The header field with the key.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header field of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How long a key is remembered.
const REMEMBERED: Duration = Duration::from_hours(24);

/// Keys that are remembered for one token; the oldest go first.
const KEYS_MAX: usize = 1_000;

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// The longest answer that is remembered, in bytes. Of a longer one only that it was given.
const ANSWER_BYTES_MAX: usize = 32 * 1024;

/// What was asked with which keys. In memory: a restart forgets it.
#[derive(Default)]
pub(super) struct Remembered(Mutex<HashMap<TokenId, VecDeque<Entry>>>);

struct Entry {
    key: String,
    request: [u8; 32],
    at: Timestamp,
    answer: Option<Given>,
}

/// An answer that was given.
#[derive(Clone)]
struct Given {
    status: StatusCode,
    headers: HeaderMap,
    /// None if it was too long to keep.
    body: Option<Bytes>,
}

/// A request that is made for the first time; say what came of it, or that it did not.
pub(super) struct Place<'r> {
    remembered: &'r Remembered,
    token: TokenId,
    key: String,
    is_done: bool,
}

impl Remembered {
    /// Takes a place for a request, unless it was made before.
    ///
    /// # Errors
    ///
    /// The answer: the first one's again, or why there is none.
    pub(super) fn enter(
        &self,
        token: TokenId,
        key: &HeaderValue,
        request: [u8; 32],
        now: Timestamp,
    ) -> Result<Place<'_>, Box<Response>> {
        let key = key.to_str().unwrap_or_default();
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let why = format!("Idempotency-Key: must be 1 to {KEY_BYTES_MAX} plain characters");
            return Err(Box::new(Problem::new(Code::Request).detail(why).into()));
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = all.entry(token).or_default();
        while entries
            .front()
            .is_some_and(|entry| now >= entry.at.after(REMEMBERED))
        {
            entries.pop_front();
        }
        if let Some(entry) = entries.iter().find(|entry| entry.key == key) {
            return Err(Box::new(entry.answer(request)));
        }
        if entries.len() >= KEYS_MAX {
            entries.pop_front();
        }
        entries.push_back(Entry {
            key: key.to_owned(),
            request,
            at: now,
            answer: None,
        });
        Ok(Place {
            remembered: self,
            token,
            key: key.to_owned(),
            is_done: false,
        })
    }
}

impl Entry {
    fn answer(&self, request: [u8; 32]) -> Response {
        if self.request != request {
            return Problem::new(Code::Idempotency).into();
        }
        let Some(given) = &self.answer else {
            let why = "the first request with this Idempotency-Key is still being answered";
            let problem = Problem::new(Code::Conflict).detail(why);
            return problem.retry_after(Duration::from_secs(1)).into();
        };
        let Some(body) = &given.body else {
            let why = "the request was made before; its answer was too long to be kept";
            return Problem::new(Code::Conflict).detail(why).into();
        };
        let mut response = Response::new(Body::from(body.clone()));
        *response.status_mut() = given.status;
        *response.headers_mut() = given.headers.clone();
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl Place<'_> {
    /// Remembers an answer. One that may change by itself is not kept, so that it can be tried again.
    pub(super) fn done(mut self, status: StatusCode, headers: &HeaderMap, body: &Bytes) {
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return;
        }
        self.is_done = true;
        let mut headers = headers.clone();
        headers.remove(header::CONTENT_LENGTH);
        let given = Given {
            status,
            headers,
            body: (body.len() <= ANSWER_BYTES_MAX).then(|| body.clone()),
        };
        self.with_entries(|entries, key| {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.key == *key) {
                entry.answer = Some(given);
            }
        });
    }

    fn with_entries(&self, change: impl FnOnce(&mut VecDeque<Entry>, &String)) {
        let mut all = self
            .remembered
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = all.get_mut(&self.token) {
            change(entries, &self.key);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.with_entries(|entries, key| entries.retain(|entry| entry.key != *key));
        }
    }
}

/// What tells one request from another.
pub(super) fn fingerprint(method: &str, target: &str, body: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [method.as_bytes(), target.as_bytes(), body] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}
