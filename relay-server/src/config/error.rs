//! What is wrong with a configuration, where, and what would be right.

use std::{io, ops::Range, path::PathBuf};

use protocol::code::Code;

/// A configuration that cannot be used. The program ends with exit code 4.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A place in the file is wrong.
    #[error("{path}:{line}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What kind of mistake it is.
        code: Code,
        /// What is wrong, in words.
        why: String,
    },
    /// A variable or flag is wrong.
    #[error("{place}: {why}")]
    Setting {
        /// How the operator wrote it: `HOOKFERRY_LISTEN` or `--listen`.
        place: String,
        /// What is wrong, in words.
        why: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Together(String),
}

impl ConfigError {
    /// Its code in the catalogue.
    pub fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::ConfigFile,
            Self::File { code, .. } => *code,
            Self::Setting { .. } | Self::Together(_) => Code::ConfigValue,
        }
    }
}

/// The line that an error is about, from 1.
pub(super) fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start.min(text.len()));
    let before = text.as_bytes().get(..start).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Which mistake of a file a TOML error is.
pub(super) fn code_of(error: &toml::de::Error) -> Code {
    match error.message().starts_with("unknown field") {
        true => Code::ConfigKey,
        false => Code::ConfigSyntax,
    }
}

/// Words for a TOML error; an unknown key gets the one that was probably meant.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let message = error.message();
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(wrong) = words
        .next()
        .filter(|_| message.starts_with("unknown field"))
    else {
        return message.trim_end().to_owned();
    };
    let likely = words
        .map(|known| (strsim::jaro_winkler(wrong, known), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match likely {
        Some((_, known)) => format!("unknown key `{wrong}`; did you mean `{known}`?"),
        None => format!("unknown key `{wrong}`; `relay-server config show` lists all keys"),
    }
}
