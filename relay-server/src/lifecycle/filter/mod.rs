//! Filters: which events a route takes, as data.
//!
//! A filter is a JSON document whose shape is the request's: conditions on the method, the path, the
//! query, header fields, the event's type, the source's name and a JSON body (docs/filters.md). It is
//! checked when it is saved ([`Filter::parse`]). For an event, the places that any of a source's
//! filters look at are picked out once ([`Shape::pick`]); then every filter is tested against them.
//! Total and bounded: by the limits below, and by [`VALUES_MAX`] on the side of the event.

mod condition;

mod parse;

mod picked;

mod number;

mod query;

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

use self::condition::Condition;
pub use self::{
    parse::{Fault, InvalidFilter},
    picked::{BodyView, Picked, Shape, Subject},
};

/// A filter as text, in bytes.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;

/// Objects and lists within each other in a filter.
pub const DEPTH_MAX: usize = 16;

/// Fields, operators and the values of `$in` and `$nin` in a filter.
pub const TERMS_MAX: usize = 256;

/// Values of one body at the places that filters look at. A body with more counts as no JSON.
pub const VALUES_MAX: usize = 20_000;

/// A checked filter.
#[derive(Clone)]
pub struct Filter {
    document: Value,
    root: Condition,
    /// Where in the document each term stands, as JSON pointers.
    places: Vec<Box<str>>,
    terms: usize,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Filter {
    /// Checks a document.
    ///
    /// # Errors
    ///
    /// [`InvalidFilter`] names every place that is wrong; refuse to save it.
    pub fn parse(document: &Value) -> Result<Self, InvalidFilter> {
        parse::parse(document)
    }

    /// The document it was made from.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// How many terms it has: what testing it may cost.
    pub fn terms(&self) -> usize {
        self.terms
    }

    /// Whether an event passes.
    ///
    /// # Errors
    ///
    /// The JSON pointer of a term that it does not meet, in the filter's document.
    pub fn test(&self, event: &Picked<'_>) -> Result<(), &str> {
        match self.root.unmet(Some(event)) {
            None => Ok(()),
            Some(term) => Err(self.places.get(term).map_or("", |place| place)),
        }
    }
}
