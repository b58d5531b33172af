//! The type bytes. A number is never reused: 0x01 to 0x3f are said by relays, 0x41 to 0x7f by agents;
//! from 0x31 and 0x71 on they are not frames but what carries frames over HTTP requests.

pub(crate) const WELCOME: u8 = 0x01;
pub(crate) const OFFER: u8 = 0x02;
pub(crate) const CHUNK: u8 = 0x03;
pub(crate) const CONFIRM: u8 = 0x04;
pub(crate) const CANCEL: u8 = 0x05;
pub(crate) const RELAY_PING: u8 = 0x06;
pub(crate) const RELAY_PONG: u8 = 0x07;
pub(crate) const RESPONSE_CREDIT: u8 = 0x08;
pub(crate) const DRAIN: u8 = 0x09;
pub(crate) const REFUSE: u8 = 0x0a;

pub(crate) const HELLO: u8 = 0x41;
pub(crate) const CREDIT: u8 = 0x42;
pub(crate) const RECEIPT: u8 = 0x43;
pub(crate) const RESPONSE_CHUNK: u8 = 0x44;
pub(crate) const RENEW: u8 = 0x45;
pub(crate) const RELEASE: u8 = 0x46;
pub(crate) const AGENT_PING: u8 = 0x47;
pub(crate) const AGENT_PONG: u8 = 0x48;
pub(crate) const BYE: u8 = 0x49;

pub(crate) const OPENED: u8 = 0x31;
pub(crate) const TAKEN: u8 = 0x32;
pub(crate) const DOWN: u8 = 0x33;
pub(crate) const GONE: u8 = 0x34;

pub(crate) const OPEN: u8 = 0x71;
pub(crate) const UP: u8 = 0x72;
pub(crate) const POLL: u8 = 0x73;
