//! What is logged, and how: to the standard error, as text or as JSON, at a level that can change.

use std::{ffi::OsString, io::IsTerminal};

use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    prelude::*,
    reload,
};

use crate::{
    args::{Color, LogFormat},
    config::{Environment, LogConfig},
};

/// The log, once it was started.
#[derive(Debug, Clone)]
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
}

impl Logs {
    /// Starts to log. Once a process.
    pub fn start(config: &LogConfig, environment: &impl Environment) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let is_text = match config.format {
            LogFormat::Auto => is_terminal,
            LogFormat::Text => true,
            LogFormat::Json => false,
        };
        let (filter, handle) = reload::Layer::new(targets(config.level));
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false);
        let registry = tracing_subscriber::registry();
        if is_text {
            let is_colored = wants_color(config.color, is_terminal, environment);
            let layer = layer.with_ansi(is_colored);
            registry.with(layer.with_filter(filter)).init();
        } else {
            let layer = layer.json().flatten_event(true);
            registry.with(layer.with_filter(filter)).init();
        }
        Self { filter: handle }
    }

    /// Logs at another level from now on.
    pub fn set_level(&self, level: tracing::Level) {
        // It only fails once nothing is logged any more.
        let _ = self.filter.reload(targets(level));
    }
}

fn targets(level: tracing::Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(level)))
        .with_target("relay_agent", level)
        // Our own line says what was wrong with a certificate.
        .with_target("rustls_platform_verifier", LevelFilter::OFF)
}

/// Whether to colour what goes to a stream: as told, else as the conventions of terminals have it.
pub fn wants_color(color: Color, is_terminal: bool, environment: &impl Environment) -> bool {
    let is_set = |name: &str| environment.variable(name).is_some_and(|value| value != "0");
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if environment.variable("NO_COLOR").is_some() => false,
        Color::Auto if is_set("CLICOLOR_FORCE") => true,
        Color::Auto if environment.variable("TERM") == Some(OsString::from("dumb")) => false,
        Color::Auto => is_terminal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Variables(&'static [(&'static str, &'static str)]);

    impl Environment for Variables {
        fn variable(&self, name: &str) -> Option<OsString> {
            let found = self.0.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| value.into())
        }
        fn host_name(&self) -> Option<String> {
            None
        }
        fn standard_input(&self) -> std::io::Result<String> {
            Ok(String::new())
        }
    }

    #[test]
    fn colour_is_as_told_or_as_the_conventions_have_it() {
        type Case = (Color, bool, &'static [(&'static str, &'static str)], bool);
        let cases: [Case; 9] = [
            (Color::Auto, true, &[], true),
            (Color::Auto, false, &[], false),
            (Color::Auto, true, &[("NO_COLOR", "1")], false),
            (Color::Auto, true, &[("TERM", "dumb")], false),
            (Color::Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (Color::Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (
                Color::Auto,
                true,
                &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")],
                false,
            ),
            (Color::Always, false, &[("NO_COLOR", "1")], true),
            (Color::Never, true, &[("CLICOLOR_FORCE", "1")], false),
        ];
        for (color, is_terminal, variables, expected) in cases {
            let found = wants_color(color, is_terminal, &Variables(variables));
            assert_eq!(found, expected, "{color:?} {is_terminal} {variables:?}");
        }
    }
}
