//! Links between agents and the relay: each brings frames in order, some late; some bring nothing.

use std::collections::{BTreeMap, VecDeque};

use protocol::frame::{ToAgent, ToRelay};

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LinkId(pub(super) u64);

/// What travels.
#[derive(Debug)]
pub(super) enum Packet<T> {
    Frame(T),
    /// The other end has closed.
    Gone,
}

/// One direction, with when everything arrives.
#[derive(Debug)]
pub(super) struct Way<T> {
    packets: VecDeque<(u64, Packet<T>)>,
    last: u64,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) agent: usize,
    pub(super) to_agent: Way<ToAgent>,
    pub(super) to_relay: Way<ToRelay>,
    /// How long a packet takes, in milliseconds.
    pub(super) delay_ms: u64,
    /// Nothing arrives any more, and nobody is told.
    pub(super) is_silent: bool,
}

impl<T> Default for Way<T> {
    fn default() -> Self {
        Self {
            packets: VecDeque::new(),
            last: 0,
        }
    }
}

impl<T> Way<T> {
    pub(super) fn send(&mut self, packet: Packet<T>, arrives: u64) {
        self.last = self.last.max(arrives);
        self.packets.push_back((self.last, packet));
    }

    pub(super) fn next_wake(&self) -> Option<u64> {
        self.packets.front().map(|(at, _)| *at)
    }

    pub(super) fn take(&mut self, now: u64) -> Option<Packet<T>> {
        let packet = self.packets.pop_front_if(|(at, _)| *at <= now)?;
        Some(packet.1)
    }

    fn clear(&mut self) {
        self.packets.clear();
    }
}

impl Link {
    pub(super) fn new(agent: usize, delay_ms: u64) -> Self {
        Self {
            agent,
            to_agent: Way::default(),
            to_relay: Way::default(),
            delay_ms,
            is_silent: false,
        }
    }

    /// What is on its way is lost, and so is all that follows.
    pub(super) fn fall_silent(&mut self) {
        self.is_silent = true;
        self.to_agent.clear();
        self.to_relay.clear();
    }

    /// The same, and both ends are told.
    pub(super) fn break_off(&mut self, now: u64) {
        self.fall_silent();
        self.to_agent.send(Packet::Gone, now);
        self.to_relay.send(Packet::Gone, now);
    }
}

/// The earliest arrival over all links.
pub(super) fn next_arrival(links: &BTreeMap<LinkId, Link>) -> Option<u64> {
    let ways = links
        .values()
        .flat_map(|link| [link.to_agent.next_wake(), link.to_relay.next_wake()]);
    ways.flatten().min()
}
