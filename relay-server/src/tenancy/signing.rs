//! What becomes of old signatures, and the keys that destinations sign with themselves.
//!
//! A key is made here, shown to its owner on demand, and encrypted at rest. During a rotation two of
//! them sign side by side, so that services can change over at their leisure.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use protocol::{
    frame::Headers,
    id::{DestinationId, EventId, TenantId},
};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Destination, Invalid, SecretKey, Source, Tenancy, TenancyError,
    change::Change,
    secrets::{NoRandomness, Place, Sealed},
    service::own_destination,
    sync,
};
use crate::clock::Timestamp;

/// Bytes of a fresh key.
const KEY_BYTES: usize = 32;

/// Keys that sign side by side.
const KEYS_MAX: usize = 2;

/// How every key begins, as Standard Webhooks prescribes.
const PREFIX: &str = "whsec_";

/// How long the old key goes on signing after a rotation, unless its owner says otherwise.
pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);

/// How long it can go on at most.
pub const OVERLAP_MAX: Duration = Duration::from_hours(30 * 24);

/// What becomes of the signature that an event came with.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OldSignatures {
    /// It is delivered as it came.
    #[default]
    Keep,
    /// Every attempt is signed anew with the source's scheme and newest secret, for services that
    /// check the provider's time.
    Refresh,
    /// Every attempt also carries Standard Webhooks headers, signed with the destination's own key.
    Add,
}

/// A destination's key at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The encrypted key, in the form its owner sees.
    pub sealed: Sealed,
    /// When it was made.
    pub added_at: Timestamp,
    /// When it stops signing, if a newer one has taken its place.
    pub until: Option<Timestamp>,
}

/// A key in the form its owner sees: `whsec_` and base64. Overwritten when dropped; never shown by
/// accident.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKeyText(Zeroizing<String>);

impl SigningKeyText {
    /// A fresh random key.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`]: make no key then.
    pub(super) fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new()
            .fill(&mut *bytes)
            .map_err(|_| NoRandomness)?;
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(*bytes));
        Ok(Self(Zeroizing::new(format!("{PREFIX}{}", *encoded))))
    }

    /// The key, for its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn to_key(&self) -> Option<hmac::Key> {
        let encoded = self.0.strip_prefix(PREFIX)?;
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(encoded).ok()?);
        Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }
}

impl fmt::Debug for SigningKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeyText(..)")
    }
}

/// Where the keys of a destination belong.
pub(super) fn place(destination: &Destination) -> Place<'static> {
    Place {
        tenant: destination.tenant,
        resource: destination.id.as_u128(),
        field: "signing_key",
    }
}

impl Destination {
    /// Whether it signs with a key of its own and has none yet.
    pub(super) fn lacks_signing_key(&self) -> bool {
        self.policy.old_signatures == OldSignatures::Add && self.signing_keys.is_empty()
    }

    /// Makes a key that signs from now on; the one before goes on until `overlap` has passed.
    pub(super) fn add_signing_key(
        &mut self,
        key: &SecretKey,
        now: Timestamp,
        overlap: Duration,
    ) -> Result<SigningKeyText, NoRandomness> {
        let text = SigningKeyText::generate()?;
        let sealed = key.seal(place(self), text.expose().as_bytes())?;
        let until = now.after(overlap);
        for old in &mut self.signing_keys {
            old.until = Some(old.until.map_or(until, |earlier| earlier.min(until)));
        }
        self.signing_keys
            .retain(|old| old.until.is_none_or(|until| until > now));
        let surplus = (self.signing_keys.len() + 1).saturating_sub(KEYS_MAX);
        self.signing_keys.drain(..surplus);
        self.signing_keys.push(SigningKey {
            sealed,
            added_at: now,
            until: None,
        });
        Ok(text)
    }

    /// Decrypts its keys, newest first.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if a stored key does not open.
    pub(super) fn open_signing_keys(
        &self,
        key: &SecretKey,
    ) -> Result<Vec<(SigningKey, SigningKeyText)>, Invalid> {
        let open = |stored: &SigningKey| {
            let invalid = |why: &dyn fmt::Display| Invalid::new("signing_key", why);
            let bytes = key.open(place(self), &stored.sealed);
            let bytes = bytes.map_err(|error| invalid(&error))?;
            let text = String::from_utf8(bytes.to_vec());
            let text = text.map_err(|_| invalid(&"the stored key is not text"))?;
            Ok((stored.clone(), SigningKeyText(Zeroizing::new(text))))
        };
        self.signing_keys.iter().rev().map(open).collect()
    }
}

/// Signs the events of one destination, as Standard Webhooks prescribes.
pub struct Signer {
    /// Newest first, with when each stops.
    keys: Vec<(hmac::Key, Option<Timestamp>)>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer with the keys of a destination.
    pub(super) fn new(destination: &Destination, key: &SecretKey) -> Result<Self, Invalid> {
        let opened = destination.open_signing_keys(key)?;
        let keys = opened.iter().map(|(stored, text)| {
            let key = text.to_key();
            key.map(|key| (key, stored.until))
                .ok_or_else(|| Invalid::new("signing_key", "the stored key is not base64"))
        });
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
        })
    }

    /// Puts the three headers in, in place of any that came. The id is that of the event, so every
    /// attempt has the same; every key that is valid signs.
    pub fn sign(&self, headers: &mut Headers, event: EventId, now: Timestamp, body: &[u8]) {
        let (id, seconds) = (event.to_string(), (now.0 / 1000).to_string());
        let valid = self
            .keys
            .iter()
            .filter(|(_, until)| until.is_none_or(|until| until > now));
        let signatures = valid.map(|(key, _)| {
            let mut context = hmac::Context::with_key(key);
            for piece in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
                context.update(piece);
            }
            format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
        });
        let signatures = signatures.collect::<Vec<_>>().join(" ");
        let ours = [
            ("webhook-id", id),
            ("webhook-timestamp", seconds),
            ("webhook-signature", signatures),
        ];
        headers.0.retain(|(name, _)| {
            !ours
                .iter()
                .any(|(ours, _)| name.eq_ignore_ascii_case(ours.as_bytes()))
        });
        headers
            .0
            .extend(ours.map(|(name, value)| (Bytes::from(name), Bytes::from(value))));
    }
}

impl Tenancy {
    /// Makes a new signing key for a destination; the one it has goes on signing beside it until
    /// `overlap` has passed.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`].
    pub async fn rotate_signing_key(
        &self,
        tenant: TenantId,
        id: DestinationId,
        overlap: Duration,
    ) -> Result<Arc<Destination>, TenancyError> {
        if overlap > OVERLAP_MAX {
            return Err(Invalid::new("overlap_s", "must be at most 30 days").into());
        }
        let mut change = Change::begin(self).await?;
        let mut destination = own_destination(&change, tenant, id)?;
        destination.add_signing_key(&self.key.load(), self.clock.now(), overlap)?;
        let version = destination.revision.version;
        change.put(destination, Some(version)).await
    }

    /// The signing keys of a destination that are valid now, newest first, for its owner.
    ///
    /// # Errors
    ///
    /// `Invalid` if one no longer opens.
    pub fn signing_keys(
        &self,
        destination: &Destination,
    ) -> Result<Vec<(SigningKey, SigningKeyText)>, TenancyError> {
        let now = self.clock.now();
        let mut keys = destination.open_signing_keys(&self.key.load())?;
        keys.retain(|(key, _)| key.until.is_none_or(|until| until > now));
        Ok(keys)
    }

    /// Gives a destination that is to sign its first key.
    pub(super) fn give_signing_key(
        &self,
        destination: &mut Destination,
    ) -> Result<(), NoRandomness> {
        if destination.lacks_signing_key() {
            destination.add_signing_key(&self.key.load(), self.clock.now(), Duration::ZERO)?;
        }
        Ok(())
    }

    /// Refuses a source whose requests cannot be signed again, if one of its destinations, or the one
    /// it is about to be connected to, asks for that.
    pub(super) fn check_refresh(
        &self,
        change: &Change<'_>,
        source: &Source,
        also: Option<&Destination>,
    ) -> Result<(), TenancyError> {
        let records = change.records();
        let routes = records.routes.values();
        let routed = routes
            .filter(|route| route.source == source.id)
            .filter_map(|route| records.destinations.get(&route.destination));
        let refreshed = routed
            .map(AsRef::as_ref)
            .chain(also)
            .find(|it| it.policy.old_signatures == OldSignatures::Refresh);
        let Some(destination) = refreshed else {
            return Ok(());
        };
        let secrets = self.open_secrets(source)?;
        let checked = source.settings.check_refresh(secrets)?;
        checked.map_err(|error| {
            let why = format!(
                "the destination `{}` refreshes signatures, but those of the source `{}` cannot be made again: {error}; let the destination `keep` them or `add` its own",
                destination.name, source.name
            );
            Invalid::new("old_signatures", why).into()
        })
    }

    /// Checks every source of a destination that changes.
    pub(super) fn check_sources_of(
        &self,
        change: &Change<'_>,
        destination: &Destination,
    ) -> Result<(), TenancyError> {
        let records = change.records();
        let routes = records.routes.values();
        let sources = routes
            .filter(|route| route.destination == destination.id)
            .filter_map(|route| records.sources.get(&route.source));
        for source in sources {
            self.check_refresh(change, source, Some(destination))?;
            sync::check_routes(change, source, Some(destination))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        tenancy::{DestinationPolicy, Revision},
        verify::{Credentials, Request, Scheme, Secret, Verifier, preset},
    };

    const NOW: Timestamp = Timestamp(1_760_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    fn destination() -> Destination {
        Destination {
            id: DestinationId::from_u128(1),
            tenant: TenantId::from_u128(2),
            name: "billing".parse().unwrap(),
            revision: Revision::default(),
            policy: DestinationPolicy {
                old_signatures: OldSignatures::Add,
                ..DestinationPolicy::default()
            },
            paused: None,
            expiring: None,
            signing_keys: Vec::new(),
        }
    }

    fn secret_key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn signed(destination: &Destination, at: Timestamp) -> Headers {
        let signer = Signer::new(destination, &secret_key()).unwrap();
        let mut headers = Headers(vec![
            ("Webhook-Id".into(), "forged".into()),
            ("x-own".into(), "1".into()),
        ]);
        signer.sign(&mut headers, EventId::from_u128(3), at, b"{ }");
        headers
    }

    fn accepts(key: &SigningKeyText, headers: &Headers, at: Timestamp) -> bool {
        let scheme = Scheme::Preset(preset("standard-webhooks").unwrap());
        let credentials = Credentials {
            secrets: vec![Secret::from_text(key.expose())],
            ..Credentials::default()
        };
        let request = Request {
            method: "POST",
            url: "https://service.test/",
            headers,
            body: b"{ }",
        };
        let verifier = Verifier::new(scheme, credentials).unwrap();
        verifier.verify(&request, at.0).is_ok()
    }

    #[test]
    fn what_is_signed_is_accepted_and_replaces_what_came() {
        let mut destination = destination();
        assert!(destination.lacks_signing_key());
        let key = destination
            .add_signing_key(&secret_key(), NOW, HOUR)
            .unwrap();
        assert!(!destination.lacks_signing_key());
        let headers = signed(&destination, NOW);

        assert_eq!(headers.0.len(), 4);
        let event = EventId::from_u128(3).to_string();
        assert_eq!(headers.get("webhook-id"), Some(event.as_bytes()));
        assert!(accepts(&key, &headers, NOW));
        assert!(
            !accepts(&key, &headers, NOW.after(HOUR)),
            "the time is covered"
        );
        let again = signed(&destination, NOW.after(HOUR));
        assert_eq!(again.get("webhook-id"), Some(event.as_bytes()));
        assert!(accepts(&key, &again, NOW.after(HOUR)));
    }

    #[test]
    fn two_keys_sign_until_the_old_one_ends() {
        let mut destination = destination();
        let secret_key = secret_key();
        let mut rotate = |at, overlap| {
            destination
                .add_signing_key(&secret_key, at, overlap)
                .unwrap()
        };
        let old = rotate(NOW, HOUR);
        let new = rotate(NOW, HOUR);
        let both = signed(&destination, NOW);
        assert!(accepts(&old, &both, NOW) && accepts(&new, &both, NOW));
        let later = NOW.after(HOUR);
        let one = signed(&destination, later);
        assert!(!accepts(&old, &one, later) && accepts(&new, &one, later));

        let mut rotate = |at, overlap| {
            destination
                .add_signing_key(&secret_key, at, overlap)
                .unwrap()
        };
        let third = rotate(NOW, HOUR);
        let fourth = rotate(NOW, Duration::ZERO);
        assert_eq!(
            destination.signing_keys.len(),
            1,
            "the others ended at once"
        );
        let last = signed(&destination, NOW);
        assert!(!accepts(&third, &last, NOW) && accepts(&fourth, &last, NOW));
    }

    #[test]
    fn keys_open_only_where_they_belong() {
        let mut destination = destination();
        let key = destination
            .add_signing_key(&secret_key(), NOW, HOUR)
            .unwrap();
        let opened = destination.open_signing_keys(&secret_key()).unwrap();
        assert_eq!(opened[0].1, key);
        assert!(!format!("{destination:?} {key:?}").contains(&key.expose()[PREFIX.len()..]));

        let mut other = destination.clone();
        other.id = DestinationId::from_u128(9);
        assert!(other.open_signing_keys(&secret_key()).is_err());
        assert!(Signer::new(&destination, &SecretKey::from_bytes(&[8; 32])).is_err());
    }
}
