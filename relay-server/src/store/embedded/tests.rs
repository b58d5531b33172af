//! The embedded store against the conformance suite and against faults.

use std::sync::Arc;

use super::{Embedded, EmbeddedConfig};
use crate::store::conformance::{Backend, Open, Stage};

/// Small enough that every bound is met.
fn config(path: &std::path::Path) -> EmbeddedConfig {
    EmbeddedConfig {
        segment_bytes: 64 * 1024,
        free_bytes_min: 0,
        event_bytes_max: 500,
        window: 16,
        ordered_hold: std::time::Duration::ZERO,
        ..EmbeddedConfig::new(path)
    }
}

fn open(tune: fn(&std::path::Path) -> EmbeddedConfig) -> Open {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    Box::new(move |clock, due| {
        let directory = directory.clone();
        Box::pin(async move {
            let config = tune(directory.path());
            Backend::of(Embedded::open(config, clock, due).unwrap())
        })
    })
}

/// Room for everything in memory.
fn roomy(path: &std::path::Path) -> EmbeddedConfig {
    EmbeddedConfig {
        event_bytes_max: 1 << 20,
        window: 1000,
        ..config(path)
    }
}

mod in_memory {
    use super::*;
    crate::store_conformance!(Stage::set(open(roomy), false).await);
}

mod beyond_memory {
    use super::*;
    crate::store_conformance!(Stage::set(open(config), false).await);
}

mod restarting {
    use super::*;
    crate::store_conformance!(Stage::set(open(config), true).await);
}

/// The lists are made anew from the journal at every start.
fn forgetful(path: &std::path::Path) -> EmbeddedConfig {
    super::projection::remove(&path.join("projection.db"));
    config(path)
}

mod rebuilding {
    use super::*;
    crate::store_conformance!(Stage::set(open(forgetful), true).await);
}

mod faults;
