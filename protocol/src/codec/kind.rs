//! The type bytes. A number is never reused: 0x01 to 0x3f are said by relays, 0x41 to 0x7f by agents.

pub(super) const WELCOME: u8 = 0x01;
pub(super) const OFFER: u8 = 0x02;
pub(super) const CHUNK: u8 = 0x03;
pub(super) const CONFIRM: u8 = 0x04;
pub(super) const CANCEL: u8 = 0x05;
pub(super) const RELAY_PING: u8 = 0x06;
pub(super) const RELAY_PONG: u8 = 0x07;
pub(super) const RESPONSE_CREDIT: u8 = 0x08;
pub(super) const DRAIN: u8 = 0x09;
pub(super) const REFUSE: u8 = 0x0a;

pub(super) const HELLO: u8 = 0x41;
pub(super) const CREDIT: u8 = 0x42;
pub(super) const RECEIPT: u8 = 0x43;
pub(super) const RESPONSE_CHUNK: u8 = 0x44;
pub(super) const RENEW: u8 = 0x45;
pub(super) const RELEASE: u8 = 0x46;
pub(super) const AGENT_PING: u8 = 0x47;
pub(super) const AGENT_PONG: u8 = 0x48;
pub(super) const BYE: u8 = 0x49;
