//! Logs: one line an event, text for people and JSON for machines, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogFormat;

/// A log level that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{level}` is no log level: {detail}; try `info`, `debug` or `relay_server=debug`")]
pub struct InvalidLevel {
    level: String,
    detail: String,
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// The level is not one.
pub fn init(level: &str, format: LogFormat) -> Result<(), InvalidLevel> {
    let filter = EnvFilter::try_new(level).map_err(|error| InvalidLevel {
        level: level.to_owned(),
        detail: error.to_string(),
    })?;
    let is_text = match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start in one process, as in tests, keeps the first one's logs.
    let _ = if is_text {
        builder.with_ansi(io::stderr().is_terminal()).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init()
    };
    Ok(())
}
