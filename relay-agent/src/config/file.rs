//! agent.toml, and what is told about a mistake in it.

use std::{ops::Range, path::Path, path::PathBuf};

use serde::Deserialize;

use super::Transport;
use crate::{
    args::LogFormat,
    explain::{Code, Failure},
};

/// The keys of agent.toml. None is required here: flags and environment may give them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileConfig {
    /// Address of the relay.
    pub server: Option<String>,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
    /// What people call the agent.
    pub name: Option<String>,
    /// What carries sessions.
    pub transport: Option<Transport>,
    /// Sessions to have at the same time.
    pub connections: Option<u32>,
    /// Where id and journal are kept.
    pub data_dir: Option<PathBuf>,
    /// Whether outcomes are kept on disk.
    pub journal: Option<bool>,
    /// Time to finish when asked to stop.
    pub grace: Option<String>,
    /// Whether the token may travel unencrypted.
    pub allow_plain_http: Option<bool>,
    /// Level of the log.
    pub log_level: Option<String>,
    /// Form of the log.
    pub log_format: Option<LogFormat>,
    /// Certificates.
    pub tls: TlsTable,
    /// The way to the relay.
    pub proxy: ProxyTable,
    /// What goes where.
    pub forward: Vec<ForwardConfig>,
    /// Bounds.
    pub limits: LimitsTable,
    /// What supervisors ask.
    pub observability: ObservabilityTable,
}

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsTable {
    /// CA certificates to trust beside those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// The certificate shown to the relay.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
}

/// `[proxy]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyTable {
    /// The proxy, or `off`.
    pub url: Option<String>,
    /// Hosts that are reached without it.
    pub no_proxy: Option<String>,
    /// File that holds its password.
    pub password_file: Option<PathBuf>,
}

/// `[[forward]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardConfig {
    /// The destination that is served.
    pub destination: String,
    /// The URL or unix socket of the service.
    pub to: String,
    /// The Host header, unless it follows from `to`.
    pub host: Option<String>,
    /// Time the service has to answer.
    pub timeout: Option<String>,
    /// Forwards at the same time.
    pub concurrency: Option<u32>,
    /// CA certificates the service's must come from, instead of those that are trusted otherwise.
    pub ca_file: Option<PathBuf>,
    /// The certificate shown to the service.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Whether the service's certificate is not verified at all.
    pub insecure: Option<bool>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
    /// Body bytes one destination takes at once.
    pub window_bytes: Option<u64>,
    /// What services may be called at all.
    pub allow_targets: Option<Vec<String>>,
}

/// `[observability]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObservabilityTable {
    /// Address of `/livez`, `/readyz`, `/status` and `/metrics`, or `off`.
    pub listen: Option<String>,
    /// How long systemd waits for the first session.
    pub ready_within: Option<String>,
}

impl FileConfig {
    /// Reads the text of a file; `path` is only for messages.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with file, line and, for a misspelt key, the nearest one.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| explain(&error, text, path))
    }
}

fn explain(error: &toml::de::Error, text: &str, path: &Path) -> Failure {
    let place = match error.span() {
        Some(span) => place(text, span, path),
        None => path.display().to_string(),
    };
    let message = error.message();
    let Some((key, known)) = unknown_key(message) else {
        return Failure::new(Code::ConfigSyntax, format!("{place}: {message}"));
    };
    let failure = Failure::new(Code::ConfigKey, format!("{place}: there is no key `{key}`"));
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3);
    match nearest {
        Some((_, candidate)) => failure.fix(format!("did you mean `{candidate}`?")),
        None => failure.fix(format!("the keys here are {}", known.join(", "))),
    }
}

/// `path, line 3` and the line itself.
fn place(text: &str, span: Range<usize>, path: &Path) -> String {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    format!("{}, line {line}", path.display())
}

/// The names in serde's "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((key, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let failure = FileConfig::parse(text, Path::new("agent.toml")).unwrap_err();
        let shown = failure.to_string();
        for part in expected {
            assert!(shown.contains(part), "{part:?} is missing in {shown}");
        }
        assert_eq!(failure.code.exit().code(), 4);
    }

    #[test]
    fn mistakes_name_line_and_suggestion() {
        check(
            "server = \"https://a\"\n\ntokenfile = \"x\"\n",
            &[
                "E-CONFIG-KEY",
                "agent.toml, line 3",
                "`tokenfile`",
                "did you mean `token_file`?",
            ],
        );
        check(
            "[[forward]]\ndestination = \"a\"\nto = \"http://b\"\nconcurency = 3\n",
            &["line 4", "did you mean `concurrency`?"],
        );
        check(
            "[tls]\nsomething = 1\n",
            &["line 2", "the keys here are ca_file, client_cert_file"],
        );
        check("server = [", &["E-CONFIG-SYNTAX", "line 1"]);
        check(
            "[[forward]]\ndestination = \"a\"\n",
            &["E-CONFIG-SYNTAX", "missing field `to`"],
        );
        check(
            "journal = \"yes\"\n",
            &["E-CONFIG-SYNTAX", "line 1", "boolean"],
        );
    }

    #[test]
    fn empty_file_is_fine() {
        assert!(FileConfig::parse("", Path::new("agent.toml")).is_ok());
    }
}
