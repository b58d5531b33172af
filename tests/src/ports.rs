//! Ports that stay ours while a process that listens on them is killed and started again.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which systems take ports for outgoing connections: one of those could take
/// the place of a process that is being restarted.
const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;

/// An address of this machine where nothing listens, given out once per test run.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test runs at the same time should not look at the same ports.
    let offset = u32::from(LAST - FIRST) * (std::process::id() % 97) / 97;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u32::from(FIRST) + (offset + step) % u32::from(LAST - FIRST);
        let port = u16::try_from(port).unwrap_or(FIRST);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}
