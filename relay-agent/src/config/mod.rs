//! What the agent was told, from flags, environment and file, checked once and read by nobody else.
//!
//! Flags win over the environment, the environment over the file, the file over the default.

mod file;

mod load;

mod network;

pub(crate) mod proxy;

pub(crate) mod value;

pub use file::{FileConfig, ForwardConfig};
pub use load::{
    Environment, Inspected, Loaded, Process, Reach, Setting, TokenOrigin, status_address,
};
pub use network::Network;
pub use proxy::{Credentials, Proxy, ProxyKind};
pub use value::{ServerUrl, Token, parse_duration};

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use http::HeaderValue;
use protocol::session::Window;

use crate::{
    args::{Color, LogFormat},
    explain::Failure,
    forward::{AllowTargets, Target},
    tls::Tls,
};

/// Forwards at the same time per destination, unless configured.
pub const CONCURRENCY_DEFAULT: u32 = 16;

/// Largest concurrency of one destination: twice it must fit the protocol's window.
pub const CONCURRENCY_MAX: u32 = (protocol::limits::WINDOW_DELIVERIES_MAX / 2) as u32;

/// Body bytes one destination takes at once, unless configured.
pub const WINDOW_BYTES_DEFAULT: u64 = 8 * 1024 * 1024;

/// Time the service has to answer, unless configured; the relay may allow less.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Most sessions of one agent.
pub const CONNECTIONS_MAX: u32 = 8;

/// Time to finish what is in hand when asked to stop, unless configured.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(20);

/// How long systemd waits for the first session, unless configured: less than its usual 90 s.
pub const READY_WITHIN_DEFAULT: Duration = Duration::from_secs(60);

/// Where the local listener is, unless configured.
pub const LISTENER_DEFAULT: &str = "127.0.0.1:9091";

/// Everything an agent needs to know.
#[derive(Debug)]
pub struct Config {
    /// How to reach the relay.
    pub link: LinkConfig,
    /// CA certificates to trust beside those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// What is served.
    pub serve: Serve,
    /// What may be called at all.
    pub allow_targets: AllowTargets,
    /// Sessions to have at the same time, on different relays if there are several.
    pub connections: u32,
    /// Where id and journal are kept.
    pub data: DataConfig,
    /// Where `/livez`, `/readyz`, `/status` and `/metrics` are answered, if anywhere.
    pub status: Option<SocketAddr>,
    /// When systemd is told that the agent is ready, even if there is no session yet.
    pub ready_within: Duration,
    /// Time to finish what is in hand when asked to stop.
    pub grace: Duration,
    /// How `run` logs.
    pub log: LogConfig,
}

/// How to reach the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where it is.
    pub server: ServerUrl,
    /// What opens a session.
    pub token: Token,
    /// What people call this agent.
    pub name: String,
    /// What leads to it, unless it is reached directly.
    pub proxy: Option<ProxyConfig>,
    /// The certificate this agent shows, if the relay (or what stands before it) asks for one.
    pub client_certificate: Option<CertificateFiles>,
    /// What carries sessions.
    pub transport: Transport,
}

/// What carries sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A WebSocket, and requests where none gets through.
    #[default]
    Auto,
    /// A WebSocket only.
    #[value(name = "websocket")]
    WebSocket,
    /// Requests only.
    Poll,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::WebSocket => "websocket",
            Self::Poll => "poll",
        })
    }
}

impl LinkConfig {
    /// Whether anything on the way to the relay speaks TLS.
    pub fn needs_tls(&self) -> bool {
        self.server.tls || self.proxy.as_ref().is_some_and(|via| via.proxy.is_tls())
    }

    /// What is spoken to the relay itself: it may ask for this agent's certificate.
    ///
    /// # Errors
    ///
    /// The certificate or its key cannot be used: the configuration is wrong.
    pub fn tls_to_relay(&self, tls: Option<&Tls>) -> Result<Option<Tls>, Failure> {
        match (tls, &self.client_certificate) {
            (Some(tls), Some(files)) => tls.with_client_certificate("tls.", files).map(Some),
            _ => Ok(tls.cloned()),
        }
    }
}

/// The proxy that leads to the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The proxy.
    pub proxy: Proxy,
    /// Who named it: advice differs.
    pub origin: ProxyOrigin,
}

/// Who named a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyOrigin {
    /// The command line.
    Flag,
    /// agent.toml.
    File,
    /// A variable of the environment.
    Variable(&'static str),
}

impl ProxyOrigin {
    /// What people set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "--proxy",
            Self::File => "[proxy] url",
            Self::Variable(name) => name,
        }
    }
}

/// A certificate and its key, each in a PEM file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those between it and its CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What is served: the only source of URLs the agent ever calls.
#[derive(Debug, Clone)]
pub enum Serve {
    /// Named destinations.
    Destinations(Vec<(String, Lane)>),
    /// An expiring destination of our own, for some sources.
    Listen {
        /// Their names; `*` stands for all.
        sources: Vec<String>,
        /// Which of their events; the relay checks and applies it.
        filter: Option<serde_json::Value>,
        /// Where its events go.
        lane: Box<Lane>,
    },
}

impl Serve {
    /// Everything that is called, with the destination it stands for; that of `listen` has no name yet.
    pub fn lanes(&self) -> impl Iterator<Item = (&str, &Lane)> {
        let (named, own) = match self {
            Self::Destinations(lanes) => (lanes.as_slice(), None),
            Self::Listen { lane, .. } => (Default::default(), Some(("listen", lane.as_ref()))),
        };
        let named = named.iter().map(|(name, lane)| (name.as_str(), lane));
        named.chain(own)
    }
}

/// Where the events of one destination go, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The service.
    pub target: Target,
    /// The Host header, unless it follows from the target.
    pub host: Option<HeaderValue>,
    /// How TLS is spoken with it, if its target says so.
    pub tls: ServiceTls,
    /// Forwards at the same time.
    pub concurrency: u32,
    /// Time the service has to answer; the relay may allow less.
    pub timeout: Duration,
    /// Body bytes taken at once.
    pub window_bytes: u64,
}

/// How TLS is spoken with one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTls {
    /// Which certificates it may have.
    pub trust: Trust,
    /// The certificate this agent shows, if the service asks for one.
    pub client_certificate: Option<CertificateFiles>,
}

/// Which certificates a service may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those the relay may have: of the operating system, and of `tls.ca_file`.
    #[default]
    System,
    /// Those that lead to a certificate of this file, and no others.
    Only(PathBuf),
    /// Any: nothing is verified.
    Anybody,
}

impl Lane {
    /// Whether whoever answers is taken for the service.
    pub fn is_insecure(&self) -> bool {
        self.tls.trust == Trust::Anybody
    }

    /// What may be offered at once: enough that the next delivery is there when one ends.
    pub fn window(&self) -> Window {
        Window {
            deliveries: u64::from(self.concurrency) * 2,
            bytes: self.window_bytes,
        }
    }
}

/// Where id and journal are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataConfig {
    /// Nowhere: a new agent each time.
    Memory,
    /// In a directory.
    Directory {
        /// The directory; it belongs to one process at a time.
        path: PathBuf,
        /// Whether outcomes are kept there too.
        journal: bool,
    },
}

/// How `run` logs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The least important level that is logged.
    pub level: tracing::Level,
    /// The form.
    pub format: LogFormat,
    /// Whether it is coloured.
    pub color: Color,
}
