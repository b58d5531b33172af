//! What a door lets in.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dashmap::{DashMap, Entry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Header fields of one request.
pub(super) const HEADERS_MAX: usize = 100;

/// The head of one request, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How long to wait after accepting failed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections a door takes.
#[derive(Debug, Clone, Copy)]
pub struct DoorLimits {
    /// In all.
    pub connections_max: usize,
    /// From one address; loopback is exempt, since a proxy on the same machine speaks for everyone.
    pub connections_per_ip_max: usize,
}

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct DoorTimeouts {
    /// From the connection to the first byte.
    pub first_byte: Duration,
    /// For the TLS handshake.
    pub tls_handshake: Duration,
    /// For the head of a request; also how long a connection may idle.
    pub head: Duration,
    /// For which it may take nothing of what is written to it.
    pub stall: Duration,
}

impl Default for DoorTimeouts {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            tls_handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            stall: Duration::from_secs(30),
        }
    }
}

/// Counts connections.
#[derive(Debug)]
pub(super) struct Connections {
    all: Arc<Semaphore>,
    by_ip: DashMap<IpAddr, usize>,
    per_ip_max: usize,
}

/// A connection that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    ip: IpAddr,
    connections: Arc<Connections>,
    _one_of_all: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(limits: DoorLimits) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(limits.connections_max)),
            by_ip: DashMap::new(),
            per_ip_max: limits.connections_per_ip_max,
        })
    }

    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<Admission> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut count = self.by_ip.entry(ip).or_insert(0);
        if *count >= self.per_ip_max && !ip.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Admission {
            ip,
            connections: Arc::clone(self),
            _one_of_all: permit,
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.connections.by_ip.entry(self.ip) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let connections = Connections::new(DoorLimits {
            connections_max: 3,
            connections_per_ip_max: 2,
        });

        let first = connections.admit(ip(1)).unwrap();
        let _second = connections.admit(ip(1)).unwrap();
        assert!(connections.admit(ip(1)).is_none());
        let _other = connections.admit(ip(2)).unwrap();
        assert!(connections.admit(ip(3)).is_none(), "full");

        drop(first);
        assert!(connections.admit(ip(1)).is_some());
        assert_eq!(
            connections.by_ip.len(),
            2,
            "addresses without connections are forgotten"
        );
    }
}
