//! Keys that live at the provider: which addresses are trusted, and who brings the keys.

use std::collections::BTreeMap;

use super::public_key::PublicKey;

/// An https address that passed a rule's pin. Only verification makes them, so that whoever fetches
/// one can trust its host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyUrl(String);

impl KeyUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes `https://host/path` on the default port whose host and path pass the pin: no
    /// user info, no port, no query, no fragment, plain ASCII.
    pub(super) fn pinned(url: &str, pin: fn(host: &str, path: &str) -> bool) -> Option<Self> {
        let rest = url.strip_prefix("https://")?;
        let (host, path) = rest.split_at(rest.find('/')?);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
        let safe =
            url.len() <= 512 && rest.bytes().all(plain) && !path.contains("..") && pin(host, path);
        safe.then(|| Self(url.to_owned()))
    }
}

/// Brings public keys by address. Verification never does I/O: an implementation answers from what
/// it holds, and whoever gets [`super::Refusal::KeyUnavailable`] may fetch the key and verify again.
///
/// A fetching implementation must use https only, follow no redirect, bound size and time, and
/// remember failures as well as keys.
pub trait KeySource: Send + Sync {
    /// The keys published at this address; `None` when they are not at hand.
    fn keys(&self, url: &KeyUrl) -> Option<Vec<PublicKey>>;
}

/// Keys put there by the operator, for networks without egress and for tests.
#[derive(Debug, Clone, Default)]
pub struct PreloadedKeys(BTreeMap<String, Vec<PublicKey>>);

impl PreloadedKeys {
    /// Adds a key under the address the provider publishes it at.
    pub fn insert(&mut self, url: impl Into<String>, key: PublicKey) {
        self.0.entry(url.into()).or_default().push(key);
    }
}

impl KeySource for PreloadedKeys {
    fn keys(&self, url: &KeyUrl) -> Option<Vec<PublicKey>> {
        self.0.get(url.as_str()).cloned()
    }
}

/// Amazon SNS: `sns.<region>.amazonaws.com` (also `.cn`), a `.pem`.
pub(super) fn sns_pin(host: &str, path: &str) -> bool {
    let host = host.strip_suffix(".cn").unwrap_or(host);
    let region = host
        .strip_prefix("sns.")
        .and_then(|rest| rest.strip_suffix(".amazonaws.com"));
    region.is_some_and(|region| region.len() >= 3 && !region.contains('.'))
        && path.ends_with(".pem")
}

/// PayPal: a certificate of its API hosts.
pub(super) fn paypal_pin(host: &str, path: &str) -> bool {
    matches!(host, "api.paypal.com" | "api.sandbox.paypal.com")
        && path.starts_with("/v1/notifications/certs/")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One of any number of addresses that passed a pin.
    pub(crate) fn url(number: usize) -> KeyUrl {
        let url = format!("https://sns.us-east-1.amazonaws.com/{number}.pem");
        KeyUrl::pinned(&url, sns_pin).unwrap()
    }

    #[test]
    fn only_the_providers_own_addresses_are_trusted() {
        let sns = |url: &str| KeyUrl::pinned(url, sns_pin).is_some();
        assert!(sns(
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem"
        ));
        assert!(sns("https://sns.cn-north-1.amazonaws.com.cn/x.pem"));
        for forged in [
            "http://sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com.evil.test/x.pem",
            "https://evil.test/sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com@evil.test/x.pem",
            "https://sns.us-east-1.amazonaws.com:8443/x.pem",
            "https://sns.a.b.amazonaws.com/x.pem",
            "https://bucket.s3.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com/x.pem?y=.pem",
            "https://sns.us-east-1.amazonaws.com/x.txt",
            "https://sns.us-east-1.amazonaws.com/../x.pem",
            "https://sns.us-east-1.amazonaws.com",
        ] {
            assert!(!sns(forged), "{forged}");
        }
        let paypal = |url: &str| KeyUrl::pinned(url, paypal_pin).is_some();
        assert!(paypal(
            "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594"
        ));
        assert!(!paypal(
            "https://api.paypal.com.evil.test/v1/notifications/certs/C"
        ));
        assert!(!paypal("https://api.paypal.com/other"));
    }
}
