//! Rules across parts.

use std::net::SocketAddr;

use protocol::limits::HEARTBEAT_INTERVAL;

use super::{Config, ConfigError};
use crate::tenancy::{BODY_BYTES_MAX, Invalid, IpRange};

const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

impl Config {
    /// Checks what no single value shows.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Together`] says which settings do not go together and what to do.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_doors().map_err(ConfigError::Together)?;
        self.check_urls().map_err(ConfigError::Together)?;
        self.check_names().map_err(ConfigError::Together)?;
        self.check_sizes().map_err(ConfigError::Together)
    }

    fn check_doors(&self) -> Result<(), String> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let (there, missing) = match self.tls_cert {
                Some(_) => ("tls_cert", "tls_key"),
                None => ("tls_key", "tls_cert"),
            };
            return Err(format!(
                "{there} is set without {missing}; set both or neither"
            ));
        }
        let exposed = |addr: SocketAddr| !addr.ip().to_canonical().is_loopback();
        if exposed(self.listen) && self.tls_cert.is_none() && !self.allow_plain_http {
            return Err(format!(
                "listen = {} lets other hosts connect without encryption; set tls_cert and tls_key, or \
                 allow_plain_http = true if a proxy in front of the relay does TLS, or listen on 127.0.0.1",
                self.listen
            ));
        }
        if exposed(self.admin_listen) && !self.allow_plain_http {
            return Err(format!(
                "admin_listen = {} lets other hosts send tokens without encryption; set allow_plain_http = true \
                 if the network between is yours alone, or listen on 127.0.0.1",
                self.admin_listen
            ));
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(format!(
                "listen and admin_listen are both {}; give them different ports",
                self.listen
            ));
        }
        for range in &self.trusted_proxies {
            range
                .parse::<IpRange>()
                .map_err(|error| format!("trusted_proxies: {error}"))?;
        }
        Ok(())
    }

    fn check_urls(&self) -> Result<(), String> {
        let Some(text) = &self.public_url else {
            return Ok(());
        };
        let right = text.parse::<http::Uri>().ok().filter(|url| {
            let scheme = url.scheme_str();
            url.authority().is_some()
                && (scheme == Some("https") || scheme == Some("http"))
                && url.query().is_none()
        });
        match right {
            Some(_) => Ok(()),
            None => Err(format!(
                "public_url = {text:?} is not a URL such as https://hooks.example.com"
            )),
        }
    }

    fn check_names(&self) -> Result<(), String> {
        let is_usable = |name: &String| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match &self.node_name {
            Some(name) if !is_usable(name) => Err(format!(
                "node_name = {name:?} must have 1 to 64 characters of ASCII, without spaces"
            )),
            _ => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        let limits = &self.limits;
        if limits.connections_max == 0 || limits.connections_per_ip_max == 0 {
            return Err(
                "limits.connections_max and limits.connections_per_ip_max must be at least 1"
                    .to_owned(),
            );
        }
        if limits.held_requests_max == 0 {
            return Err("limits.held_requests_max must be at least 1".to_owned());
        }
        if !(1..=BODY_BYTES_MAX).contains(&limits.body_bytes_max) {
            return Err(format!(
                "limits.body_bytes_max must be 1 to {BODY_BYTES_MAX} (26 MiB)"
            ));
        }
        if limits.body_bytes_in_flight_max < limits.body_bytes_max {
            return Err("limits.body_bytes_in_flight_max must be at least limits.body_bytes_max, or the largest body could never come in".to_owned());
        }
        if usize::try_from(limits.body_bytes_in_flight_max).is_err() {
            return Err(
                "limits.body_bytes_in_flight_max is more than this machine can address".to_owned(),
            );
        }
        let segment = self.store.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment) {
            return Err(format!(
                "store.segment_bytes must be {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            ));
        }
        let invalid = |invalid: Invalid| Err(format!("{}: {}", invalid.field, invalid.why));
        let tenancy = self.tenancy();
        if let Err(error) = tenancy.keep.check().and_then(|()| tenancy.quota.check()) {
            return invalid(error);
        }
        if !(1..=3_600).contains(&self.retention.sweep_s) {
            return Err("retention.sweep_s must be 1 to 3600".to_owned());
        }
        if !(1..=HEARTBEAT_INTERVAL.as_secs()).contains(&self.session.heartbeat_s) {
            return Err(
                "session.heartbeat_s must be 1 to 15: leases outlast three of them".to_owned(),
            );
        }
        if self.session.grace_s > 3_600 {
            return Err(
                "session.grace_s must be at most 3600: others wait for what it reserves".to_owned(),
            );
        }
        if self.session.listen_expiry_s > 7 * 24 * 3_600 {
            return Err("session.listen_expiry_s must be at most 7 days".to_owned());
        }
        Ok(())
    }
}
