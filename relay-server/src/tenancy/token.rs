//! Credentials of agents and people: 256 random bits with a kind in front, so that secret scanners
//! recognise them, and a checksum behind, so that a typing error is refused without a look-up.

use std::{fmt, net::IpAddr, str::FromStr};

use protocol::id::{TenantId, TokenId};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::{IpRange, Name, Revision, secrets::NoRandomness};
use crate::clock::Timestamp;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Random characters of a token: 43 of 62 kinds are 256 bits.
const RANDOM_CHARS: usize = 43;

/// Characters of the checksum: 62^6 exceeds 2^32.
const CHECKSUM_CHARS: usize = 6;

/// Who a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An agent.
    Agent,
    /// The API and the command line.
    Api,
    /// Whoever posts events to the API.
    Ingest,
}

impl TokenKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Api, Self::Ingest];

    /// The name inside the token and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Api => "api",
            Self::Ingest => "ingest",
        }
    }

    /// The scopes that make sense for it.
    pub fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Agent => &[Scope::Connect, Scope::Listen],
            Self::Api => &[Scope::Tenant, Scope::Operator],
            Self::Ingest => &[Scope::Ingest],
        }
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TokenKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(())
    }
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Serve destinations.
    Connect,
    /// Ask for an expiring destination of its own.
    Listen,
    /// Everything within its tenant.
    Tenant,
    /// Everything in every tenant, and the tenants themselves.
    Operator,
    /// Post events.
    Ingest,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [
        Self::Connect,
        Self::Listen,
        Self::Tenant,
        Self::Operator,
        Self::Ingest,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Listen => "listen",
            Self::Tenant => "tenant",
            Self::Operator => "operator",
            Self::Ingest => "ingest",
        }
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or(())
    }
}

/// The text of a token. It is shown once, to whoever creates it, and then only its hash is known.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(Zeroizing<String>);

/// A text that cannot be a token: of no kind, of another length, or mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token: expected hf_agent_..., hf_api_... or hf_ingest_..., copied completely")]
pub struct InvalidToken;

impl TokenText {
    /// A new random token.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`]: make no token then.
    pub fn generate(kind: TokenKind) -> Result<Self, NoRandomness> {
        let mut text = Zeroizing::new(format!("hf_{kind}_"));
        let wanted = text.len() + RANDOM_CHARS;
        // Reserved at once, so that growing leaves no copies behind.
        text.reserve(RANDOM_CHARS + CHECKSUM_CHARS);
        let random = SystemRandom::new();
        while text.len() < wanted {
            let mut byte = [0];
            random.fill(&mut byte).map_err(|_| NoRandomness)?;
            // 248 = 4 x 62: what is above would favour the first characters.
            if byte[0] < 248 {
                text.push(char::from(ALPHABET[usize::from(byte[0] % 62)]));
            }
        }
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Ok(Self(text))
    }

    /// The text itself, to hand it over.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The kind that its beginning names.
    pub fn kind(&self) -> TokenKind {
        let kind = self.0.split('_').nth(1).and_then(|kind| kind.parse().ok());
        kind.unwrap_or(TokenKind::Agent)
    }

    /// What is stored, and looked up by.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl FromStr for TokenText {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (kind, rest) = text
            .strip_prefix("hf_")
            .and_then(|rest| rest.split_once('_'))
            .ok_or(InvalidToken)?;
        let _: TokenKind = kind.parse().map_err(|()| InvalidToken)?;
        let plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plain || rest.len() != RANDOM_CHARS + CHECKSUM_CHARS {
            return Err(InvalidToken);
        }
        let (body, given) = text.split_at(text.len() - CHECKSUM_CHARS);
        if checksum(body) != given {
            return Err(InvalidToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenText(hf_{}_..)", self.kind())
    }
}

/// CRC-32 (IEEE, as in zip) of what precedes it, as six base-62 digits.
fn checksum(body: &str) -> String {
    let crc = !body.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    let mut digits = [b'0'; CHECKSUM_CHARS];
    let mut rest = crc;
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

/// The SHA-256 of a token. 256 random bits need no slow hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(text: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// As stored.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// From what was stored; `None` if it is no hash.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Compares in constant time.
    pub fn is(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// A credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Whose it is; none for an operator's.
    pub tenant: Option<TenantId>,
    /// What people call it.
    pub name: Name,
    /// When it changed.
    pub revision: Revision,
    /// Who it is for.
    pub kind: TokenKind,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The destinations it may serve; all of its tenant's if none are named.
    pub destinations: Option<Vec<Name>>,
    /// From when on it is worthless.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked. It is remembered for a while, so that who still has it can be told.
    pub revoked_at: Option<Timestamp>,
    /// The addresses it may be used from; any if empty.
    pub ip_allow: Vec<IpRange>,
    /// What it is recognised by.
    pub hash: TokenHash,
    /// What it was recognised by before it was rotated, and until when it still is.
    pub previous: Option<(TokenHash, Timestamp)>,
}

impl Token {
    /// Whether a text with this hash stands for it. Compares in constant time.
    pub fn is_shown_by(&self, hash: &TokenHash, now: Timestamp) -> bool {
        let is_previous = self
            .previous
            .is_some_and(|(previous, until)| previous.is(hash) && now < until);
        self.hash.is(hash) || is_previous
    }

    /// Whether it may be used from an address; one that is not known is none that is allowed.
    pub fn may_come_from(&self, remote: Option<IpAddr>) -> bool {
        let is_allowed = |ip| self.ip_allow.iter().any(|range| range.contains(ip));
        self.ip_allow.is_empty() || remote.is_some_and(is_allowed)
    }

    /// Whether it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether it may serve a destination of its tenant.
    pub fn may_serve(&self, destination: &Name) -> bool {
        self.may(Scope::Connect)
            && self
                .destinations
                .as_ref()
                .is_none_or(|names| names.contains(destination))
    }

    /// Revokes it. Its name is free for another one.
    pub(super) fn revoke(&mut self, now: Timestamp) {
        self.revoked_at = Some(now);
        if let Ok(name) = self.id.to_string().parse() {
            self.name = name;
        }
    }

    /// Whether it has expired.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_have_their_form_and_read_back() {
        for kind in TokenKind::ALL {
            let token = TokenText::generate(kind).unwrap();
            let text = token.expose();

            assert!(text.starts_with(&format!("hf_{kind}_")));
            assert_eq!(text.len(), 3 + kind.as_str().len() + 1 + 49);
            assert_eq!(text.parse(), Ok(token.clone()));
            assert_eq!(token.kind(), kind);
            assert_ne!(token, TokenText::generate(kind).unwrap());
            assert!(!format!("{token:?} {:?}", token.hash()).contains(&text[15..]));
        }
    }

    #[test]
    fn the_checksum_is_the_crc_of_zip() {
        // The check value of CRC-32/ISO-HDLC, 0xCBF43926, in base 62.
        assert_eq!(checksum("123456789"), "3jZRME");
    }

    #[test]
    fn a_mistyped_token_is_refused() {
        let token = TokenText::generate(TokenKind::Agent).unwrap();
        let text = token.expose();
        for position in 0..text.len() {
            let mut wrong = text.to_owned().into_bytes();
            wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<TokenText>(), Err(InvalidToken), "{position}");
        }
        for wrong in [
            "",
            "hf_",
            "hf_agent_",
            "hf_root_x",
            &text[1..],
            &format!("{text}0"),
        ] {
            assert_eq!(wrong.parse::<TokenText>(), Err(InvalidToken));
        }
    }

    #[test]
    fn a_restricted_token_serves_what_it_names() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let mut token = Token {
            id: TokenId::from_u128(1),
            tenant: Some(TenantId::from_u128(1)),
            name: name("laptop"),
            revision: Revision::default(),
            kind: TokenKind::Agent,
            scopes: vec![Scope::Connect],
            destinations: Some(vec![name("billing")]),
            expires_at: Some(Timestamp(10)),
            revoked_at: None,
            ip_allow: vec!["192.0.2.0/24".parse().unwrap()],
            hash: TokenHash::of("x"),
            previous: Some((TokenHash::of("w"), Timestamp(5))),
        };
        assert!(token.may_serve(&name("billing")) && !token.may_serve(&name("orders")));
        let shows = |text, at| token.is_shown_by(&TokenHash::of(text), Timestamp(at));
        assert!(shows("x", 9) && shows("w", 4) && !shows("w", 5) && !shows("v", 4));
        let from = |ip: &str| token.may_come_from(Some(ip.parse().unwrap()));
        assert!(from("192.0.2.7") && !from("192.0.3.7") && !token.may_come_from(None));
        assert!(!token.is_expired(Timestamp(9)) && token.is_expired(Timestamp(10)));
        token.destinations = None;
        assert!(token.may_serve(&name("orders")));
        token.scopes = vec![Scope::Listen];
        assert!(!token.may_serve(&name("orders")));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<TokenText>();
        }
    }
}
