//! A network of its own for an agent: what happens to a link and its addresses really happens.
//!
//! Two cables lead into it. Over one the agent reaches the relay, over the other its service, so that
//! the first can be pulled.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
};

use crate::note;

/// Where its addresses are taken from: a network for tests of devices (RFC 2544), routed nowhere.
const NETWORK: [u8; 2] = [198, 18];

/// A network namespace, removed when dropped.
pub struct Namespace {
    name: String,
    third: u8,
    moves: AtomicU8,
}

/// A cable into it: the last byte of its network, and the letter of its interfaces.
#[derive(Clone, Copy)]
struct Cable {
    first: u8,
    letter: char,
}

const UPLINK: Cable = Cable {
    first: 0,
    letter: 'u',
};

const LAN: Cable = Cable {
    first: 128,
    letter: 'l',
};

impl Namespace {
    /// `None`, and a word why, where the test may not make one.
    pub fn create() -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mine = std::process::id().wrapping_mul(7) as u8;
        // Another test run may use the same.
        let third = (0..=u8::MAX).map(|step| mine.wrapping_add(count).wrapping_add(step));
        let third = third.into_iter().find(|third| is_free(*third))?;
        let namespace = Self {
            name: format!("hookferry-{}-{count}", std::process::id()),
            third,
            moves: AtomicU8::new(0),
        };
        let made = namespace
            .make()
            .inspect_err(|error| note(&format!("NOT TESTED: links that go. {error}")));
        made.ok()?;
        Some(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the relay must listen to be reached from inside.
    pub fn relay_ip(&self) -> IpAddr {
        self.address(UPLINK, 1)
    }

    /// Where the service must listen to be reached from inside.
    pub fn service_ip(&self) -> IpAddr {
        self.address(LAN, 1)
    }

    /// Pulls the cable to the relay.
    pub fn pull(&self) {
        ip(&format!("link set {} down", self.outer(UPLINK))).unwrap();
    }

    /// Plugs it in again.
    pub fn plug(&self) {
        ip(&format!("link set {} up", self.outer(UPLINK))).unwrap();
    }

    /// Gives the agent's end of that cable another address.
    pub fn change_address(&self) {
        let moves = self.moves.fetch_add(1, Ordering::Relaxed);
        let (old, new) = (2 + moves, 3 + moves);
        let device = self.inner(UPLINK);
        for (verb, last) in [("del", old), ("add", new)] {
            let address = self.address(UPLINK, last);
            let command = format!("-n {} addr {verb} {address}/25 dev {device}", self.name);
            ip(&command).unwrap();
        }
    }

    fn make(&self) -> Result<(), String> {
        let name = &self.name;
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        for cable in [UPLINK, LAN] {
            let (outer, inner) = (self.outer(cable), self.inner(cable));
            ip(&format!(
                "link add {outer} type veth peer name {inner} netns {name}"
            ))?;
            ip(&format!(
                "addr add {}/25 dev {outer}",
                self.address(cable, 1)
            ))?;
            ip(&format!("link set {outer} up"))?;
            let inside = self.address(cable, 2);
            ip(&format!("-n {name} addr add {inside}/25 dev {inner}"))?;
            ip(&format!("-n {name} link set {inner} up"))?;
        }
        Ok(())
    }

    fn address(&self, cable: Cable, last: u8) -> IpAddr {
        let [a, b] = NETWORK;
        Ipv4Addr::new(a, b, self.third, cable.first + last).into()
    }

    fn outer(&self, cable: Cable) -> String {
        format!("hf{}{}o", self.third, cable.letter)
    }

    fn inner(&self, cable: Cable) -> String {
        format!("hf{}{}i", self.third, cable.letter)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cables go with their other ends; processes inside may still be ending.
        for cable in [UPLINK, LAN] {
            let _ = ip(&format!("link del {}", self.outer(cable)));
        }
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// If this cannot be asked, nothing can be made either, and that says why.
fn is_free(third: u8) -> bool {
    let [a, b] = NETWORK;
    let found = ip(&format!("-o addr show to {a}.{b}.{third}.0/24"));
    found.unwrap_or_default().trim().is_empty()
}

/// Runs one command of iproute2; what it printed, or why it failed.
fn ip(command: &str) -> Result<String, String> {
    let ran = Command::new("ip").args(command.split(' ')).output();
    match ran {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(format!(
            "Network namespaces need root: ip {command}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("They need `ip` of iproute2: {error}")),
    }
}
