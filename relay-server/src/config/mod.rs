//! What the operator configured: read from file, environment and flags at one place, checked, and
//! handed on as one struct a module. Nobody else reads the environment.
//!
//! One rule: the flag `--foo-bar`, the variable `HOOKFERRY_FOO_BAR` and the key `foo_bar` are the
//! same setting, and win over each other in this order; what nobody sets has its default.

mod keys;

mod load;

mod check;

mod error;

pub use error::ConfigError;
pub use keys::{KEYS, Key, Shape};
pub use load::{DEFAULT_PATH, Loaded, Origin, Overrides};

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::tenancy::{BODY_BYTES_MAX, IpRange, Keep, KeySource, Quota, TenancyConfig};

/// The variable that may hold the keys themselves, for platforms that hand secrets over in the
/// environment.
pub const SECRET_KEY_VARIABLE: &str = "HOOKFERRY_SECRET_KEY";

/// Everything the operator can choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where providers and agents connect.
    pub listen: SocketAddr,
    /// Where the API and health are.
    pub admin_listen: SocketAddr,
    /// What providers see, if not `listen`: scheme, host and perhaps a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// What agents and logs call this relay, if not host name and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Where everything durable is.
    pub data_dir: PathBuf,
    /// The key that encrypts providers' secrets, if not `secret_key` in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whether to start although stored secrets need a key that is lost.
    pub allow_lost_secrets: bool,
    /// Providers' public keys for networks without a way out; none if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_dir: Option<PathBuf>,
    /// The certificate chain of the public listener, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of that certificate, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Whether listeners other hosts can reach may speak plain HTTP.
    pub allow_plain_http: bool,
    /// Proxies in front of the relay, whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// What is logged: a level, or directives such as `info,relay_server::session=debug`.
    pub log_level: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// What the doors let in.
    pub limits: LimitsConfig,
    /// How events are kept.
    pub store: StoreConfig,
    /// How long and how much is kept of tenants without a choice of their own.
    pub retention: RetentionConfig,
    /// How much tenants may bring that have no quota of their own.
    pub quota: QuotaConfig,
    /// How agents are treated.
    pub session: SessionConfig,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What the doors let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections to the public listener.
    pub connections_max: usize,
    /// Connections from one address to the public listener; loopback is exempt.
    pub connections_per_ip_max: usize,
    /// The largest body any source may take, in bytes.
    pub body_bytes_max: u64,
    /// Body bytes of all requests that are being received, together.
    pub body_bytes_in_flight_max: u64,
    /// Requests that may be held until their services answer (sync mode), in all. A tenant may have
    /// half of them, a source a quarter.
    pub held_requests_max: usize,
}

/// How events are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The size of one file of the journal, in bytes.
    pub segment_bytes: u64,
    /// How much of the disk stays free: below it events are refused and deliveries go on, in bytes.
    pub disk_watermark_bytes: u64,
    /// Bodies of waiting events that are kept in memory, in bytes.
    pub event_memory_bytes: u64,
}

/// How long and how much is kept. 0 events or bytes: all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// How long an event is kept once its deliveries have ended, in seconds.
    pub age_s: u64,
    /// How many of a tenant's newest events are kept.
    pub events_max: u64,
    /// How many bytes of a tenant's newest events are kept.
    pub bytes_max: u64,
    /// How long dead letters are kept at least, in seconds.
    pub dead_age_s: u64,
    /// When a delivery that is still owed ends as expired, in seconds.
    pub pending_age_s: u64,
    /// How often is looked for what goes, in seconds.
    pub sweep_s: u64,
}

/// How much a tenant may bring. 0: no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaConfig {
    /// Requests to all sources of a tenant, a second.
    pub ingest_per_second: u32,
    /// The largest body of an event, in bytes.
    pub event_bytes_max: u64,
    /// Events of a tenant that are stored.
    pub stored_events_max: u64,
    /// Bytes of events of a tenant that are stored.
    pub stored_bytes_max: u64,
}

/// How agents are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// How often either end asks whether the other is alive, in seconds; three unanswered are death.
    pub heartbeat_s: u64,
    /// How long a cut session keeps its deliveries for the agent's return, in seconds.
    pub grace_s: u64,
    /// How long the destination of a `listen` outlives its last session, in seconds.
    pub listen_expiry_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            public_url: None,
            node_name: None,
            data_dir: PathBuf::from("/var/lib/hookferry"),
            key_file: None,
            allow_lost_secrets: false,
            keys_dir: None,
            tls_cert: None,
            tls_key: None,
            allow_plain_http: false,
            trusted_proxies: Vec::new(),
            log_level: "info".to_owned(),
            log_format: LogFormat::Auto,
            limits: LimitsConfig::default(),
            store: StoreConfig::default(),
            retention: RetentionConfig::default(),
            quota: QuotaConfig::default(),
            session: SessionConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_ip_max: 64,
            body_bytes_max: BODY_BYTES_MAX,
            body_bytes_in_flight_max: 128 * 1024 * 1024,
            held_requests_max: 4096,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            disk_watermark_bytes: 256 * 1024 * 1024,
            event_memory_bytes: 256 * 1024 * 1024,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        const DAY_S: u64 = 24 * 3600;
        Self {
            age_s: 30 * DAY_S,
            events_max: 0,
            bytes_max: 0,
            dead_age_s: 90 * DAY_S,
            pending_age_s: 90 * DAY_S,
            sweep_s: 60,
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            heartbeat_s: protocol::limits::HEARTBEAT_INTERVAL.as_secs(),
            grace_s: protocol::limits::GRACE.as_secs(),
            listen_expiry_s: TenancyConfig::default().listen_expiry.as_secs(),
        }
    }
}

impl Config {
    /// What providers are told, without a final slash.
    pub fn public_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if self.tls_cert.is_some() => format!("https://{}", self.listen),
            None => format!("http://{}", self.listen),
        }
    }

    /// What tells this relay from others: the name that was chosen for it, else host name and port.
    pub fn node_name(&self, port: u16) -> String {
        if let Some(name) = &self.node_name {
            return name.clone();
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = name.or_else(|| std::env::var("HOSTNAME").ok());
        let name = name.map(|name| name.trim().to_owned());
        let name = name.filter(|name| !name.is_empty());
        format!("{}:{port}", name.as_deref().unwrap_or("relay"))
    }

    /// Where the key for providers' secrets is: where the operator says, else among systemd's
    /// credentials, else in the data directory.
    pub fn key_file(&self) -> PathBuf {
        if let Some(path) = &self.key_file {
            return path.clone();
        }
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(|directory| PathBuf::from(directory).join("secret_key"))
            .filter(|path| path.exists());
        credential.unwrap_or_else(|| self.data_dir.join("secret_key"))
    }

    /// Where the keys for providers' secrets are: in the variable `HOOKFERRY_SECRET_KEY` if it is set,
    /// else in [`Self::key_file`].
    pub fn key_source(&self) -> KeySource {
        match std::env::var_os(SECRET_KEY_VARIABLE).filter(|text| !text.is_empty()) {
            Some(_) => KeySource::Variable(SECRET_KEY_VARIABLE),
            None => KeySource::File(self.key_file()),
        }
    }

    /// The part of [`crate::tenancy`].
    pub fn tenancy(&self) -> TenancyConfig {
        TenancyConfig {
            listen_expiry: Duration::from_secs(self.session.listen_expiry_s),
            quota: self.quota(),
            keep: self.keep(),
            ..TenancyConfig::default()
        }
    }

    fn quota(&self) -> Quota {
        let limit = |most: u64| (most > 0).then_some(most);
        let quota = &self.quota;
        Quota {
            ingest_per_second: Some(quota.ingest_per_second).filter(|most| *most > 0),
            event_bytes_max: limit(quota.event_bytes_max),
            stored_events_max: limit(quota.stored_events_max),
            stored_bytes_max: limit(quota.stored_bytes_max),
        }
    }

    fn keep(&self) -> Keep {
        let limit = |most: u64| (most > 0).then_some(most);
        let retention = &self.retention;
        Keep {
            age: Some(Duration::from_secs(retention.age_s)),
            events_max: limit(retention.events_max),
            bytes_max: limit(retention.bytes_max),
            dead_age: Some(Duration::from_secs(retention.dead_age_s)),
            pending_age: Some(Duration::from_secs(retention.pending_age_s)),
        }
    }

    /// The proxies that are believed. Empty if none are well-formed, which `check` rules out.
    pub fn trusted_proxies(&self) -> Vec<IpRange> {
        let ranges = self.trusted_proxies.iter();
        ranges.filter_map(|range| range.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests;
