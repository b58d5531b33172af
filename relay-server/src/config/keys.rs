//! Every key by name, for flags, environment and help.

/// How the text of a flag or variable becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// Texts with commas in between.
    List,
}

/// One thing the operator can set.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The name in the file, with the table in front: `limits.connections_max`.
    pub name: &'static str,
    /// What values look like.
    pub shape: Shape,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// What it is for.
    pub help: &'static str,
}

impl Key {
    /// The flag, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!(
            "HOOKFERRY_{}",
            self.name.replace('.', "_").to_ascii_uppercase()
        )
    }
}

const fn key(name: &'static str, shape: Shape, value: &'static str, help: &'static str) -> Key {
    Key {
        name,
        shape,
        value,
        help,
    }
}

/// Every key, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key(
        "listen",
        Shape::Text,
        "ADDR",
        "Where providers and agents connect [default: 127.0.0.1:8080]",
    ),
    key(
        "admin_listen",
        Shape::Text,
        "ADDR",
        "Where API and health are [default: 127.0.0.1:9090]",
    ),
    key(
        "public_url",
        Shape::Text,
        "URL",
        "What providers see, such as https://hooks.example.com [default: from the listener]",
    ),
    key(
        "node_name",
        Shape::Text,
        "NAME",
        "What agents call this relay, to tell it from others [default: host name and port]",
    ),
    key(
        "data_dir",
        Shape::Text,
        "DIR",
        "Where everything durable is [default: /var/lib/hookferry]",
    ),
    key(
        "key_file",
        Shape::Text,
        "FILE",
        "The key that encrypts providers' secrets [default: secret_key in the data directory]",
    ),
    key(
        "allow_lost_secrets",
        Shape::Switch,
        "BOOL",
        "Start although stored secrets need a key that is lost; their sources answer 503",
    ),
    key(
        "keys_dir",
        Shape::Text,
        "DIR",
        "Providers' public keys in *.json, for networks without a way out [default: none]",
    ),
    key(
        "tls_cert",
        Shape::Text,
        "FILE",
        "Certificate chain of the public listener, in PEM",
    ),
    key(
        "tls_key",
        Shape::Text,
        "FILE",
        "Private key of that certificate, in PEM",
    ),
    key(
        "allow_plain_http",
        Shape::Switch,
        "BOOL",
        "Speak plain HTTP to other hosts, behind a proxy that does TLS",
    ),
    key(
        "trusted_proxies",
        Shape::List,
        "RANGES",
        "Proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8",
    ),
    key(
        "log_level",
        Shape::Text,
        "LEVEL",
        "error, warn, info, debug, trace, or directives [default: info]",
    ),
    key(
        "log_format",
        Shape::Text,
        "FORMAT",
        "auto, text or json [default: auto]",
    ),
    key(
        "limits.connections_max",
        Shape::Number,
        "N",
        "Connections to the public listener [default: 4096]",
    ),
    key(
        "limits.connections_per_ip_max",
        Shape::Number,
        "N",
        "Connections from one address, loopback aside [default: 64]",
    ),
    key(
        "limits.body_bytes_max",
        Shape::Number,
        "BYTES",
        "Largest body any source may take [default: 26 MiB]",
    ),
    key(
        "limits.body_bytes_in_flight_max",
        Shape::Number,
        "BYTES",
        "Body bytes being received, together [default: 128 MiB]",
    ),
    key(
        "limits.held_requests_max",
        Shape::Number,
        "N",
        "Requests that wait for their services' answers, together [default: 4096]",
    ),
    key(
        "store.segment_bytes",
        Shape::Number,
        "BYTES",
        "Size of one file of the journal [default: 64 MiB]",
    ),
    key(
        "store.disk_watermark_bytes",
        Shape::Number,
        "BYTES",
        "Free space below which events are refused [default: 256 MiB]",
    ),
    key(
        "store.event_memory_bytes",
        Shape::Number,
        "BYTES",
        "Bodies of waiting events kept in memory [default: 256 MiB]",
    ),
    key(
        "retention.age_s",
        Shape::Number,
        "SECONDS",
        "How long an event is kept once its deliveries have ended [default: 2592000, 30 days]",
    ),
    key(
        "retention.events_max",
        Shape::Number,
        "N",
        "A tenant's newest events that are kept; 0 keeps all [default: 0]",
    ),
    key(
        "retention.bytes_max",
        Shape::Number,
        "BYTES",
        "Bytes of a tenant's newest events that are kept; 0 keeps all [default: 0]",
    ),
    key(
        "retention.dead_age_s",
        Shape::Number,
        "SECONDS",
        "How long dead letters are kept at least [default: 7776000, 90 days]",
    ),
    key(
        "retention.pending_age_s",
        Shape::Number,
        "SECONDS",
        "When what is still owed ends as expired [default: 7776000, 90 days]",
    ),
    key(
        "retention.sweep_s",
        Shape::Number,
        "SECONDS",
        "How often is looked for what goes [default: 60]",
    ),
    key(
        "quota.ingest_per_second",
        Shape::Number,
        "N",
        "Requests to all sources of a tenant, a second; 0 for no limit [default: 0]",
    ),
    key(
        "quota.event_bytes_max",
        Shape::Number,
        "BYTES",
        "Largest body of an event of a tenant; 0 for no limit [default: 0]",
    ),
    key(
        "quota.stored_events_max",
        Shape::Number,
        "N",
        "Events of a tenant that are stored; 0 for no limit [default: 0]",
    ),
    key(
        "quota.stored_bytes_max",
        Shape::Number,
        "BYTES",
        "Bytes of events of a tenant that are stored; 0 for no limit [default: 0]",
    ),
    key(
        "session.heartbeat_s",
        Shape::Number,
        "SECONDS",
        "How often agents are asked whether they are alive [default: 15]",
    ),
    key(
        "session.grace_s",
        Shape::Number,
        "SECONDS",
        "How long a cut session keeps its deliveries [default: 30]",
    ),
    key(
        "session.listen_expiry_s",
        Shape::Number,
        "SECONDS",
        "How long the destination of a `listen` outlives it [default: 600]",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_key() {
        let documentation = include_str!("../../../docs/OPERATIONS.md");
        for key in KEYS {
            let row = format!("| `{}` |", key.name);
            assert!(documentation.contains(&row), "OPERATIONS.md lacks {row}");
        }
    }
}
