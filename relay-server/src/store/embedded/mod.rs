//! The embedded store: a journal and its projection.

mod journal;
