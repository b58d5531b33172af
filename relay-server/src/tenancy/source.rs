//! Sources: public URLs, and what is required of a request that arrives there.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use protocol::id::{SourceId, TenantId};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    Invalid, IpRange, Name, Revision, SyncSettings,
    secrets::{NoRandomness, Sealed},
};
use crate::{
    clock::Timestamp,
    verify::{
        Credentials, KeySource, PreloadedKeys, Preset, PublicKey, Rule, RuleSpec, Scheme, Secret,
        SignError, Verifier, preset,
    },
};

/// The largest body a source takes unless it says otherwise, in bytes.
pub const BODY_BYTES_DEFAULT: u64 = 5 * 1024 * 1024;

/// The largest body a source can be set to take, in bytes.
pub const BODY_BYTES_MAX: u64 = 26 * 1024 * 1024;

const DEDUPE_WINDOW_DEFAULT: Duration = Duration::from_hours(72);
const DEDUPE_WINDOW_MAX: Duration = Duration::from_hours(30 * 24);
const RATE_MAX: u32 = 1_000_000;
const LIST_MAX: usize = 256;
const VARS_MAX: usize = 32;
const TEXT_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(BODY_BYTES_MAX <= protocol::limits::BODY_BYTES_MAX);

/// The random part of a source's URL: 128 bits in lower-case base 32.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourceKey(String);

impl SourceKey {
    /// Characters of a key.
    pub const CHARS: usize = 26;

    /// A new random key.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`]: make no source then.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 16];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| NoRandomness)?;
        let bits = u128::from_be_bytes(bytes);
        let digit = |index: usize| {
            let five = (bits >> (5 * (Self::CHARS - 1 - index))) & 31;
            char::from(b"abcdefghijklmnopqrstuvwxyz234567"[five as usize])
        };
        Ok(Self((0..Self::CHARS).map(digit).collect()))
    }

    /// The text in the URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a stored key.
    pub(super) fn from_stored(text: String) -> Self {
        Self(text)
    }
}

/// One public ingress URL of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its id.
    pub id: SourceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    pub name: Name,
    /// When it changed.
    pub revision: Revision,
    /// The random part of its URL: `/in/{key}`.
    pub key: SourceKey,
    /// What people chose.
    pub settings: SourceSettings,
    /// The provider's secrets, oldest first; any of them is taken.
    pub secrets: Vec<SourceSecret>,
}

impl Source {
    /// Whether its secret is still to come, in a handshake. Until then it takes no events.
    pub fn awaits_handshake(&self) -> bool {
        self.secrets.is_empty() && self.settings.secret_may_arrive()
    }
}

/// A provider's secret at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSecret {
    /// The encrypted secret.
    pub sealed: Sealed,
    /// When it was added.
    pub added_at: Timestamp,
    /// Whether the provider brought it, in a handshake: then its owner may have to show it to the
    /// provider and has nowhere else to read it.
    pub by_handshake: bool,
}

/// What people choose about a source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSettings {
    /// Whether it takes requests. A disabled source answers like an unknown one.
    pub enabled: bool,
    /// How requests are verified.
    pub scheme: SchemeChoice,
    /// Settings that the scheme names, such as PayPal's webhook id.
    pub vars: BTreeMap<String, String>,
    /// The provider's public keys or certificates.
    pub public_keys: Vec<String>,
    /// The methods it takes, if not those of its provider.
    pub methods: Option<Vec<String>>,
    /// The largest body, in bytes.
    pub body_bytes_max: u64,
    /// How repeats are recognised.
    pub dedupe: Dedupe,
    /// The addresses it takes requests from; any if empty.
    pub ip_allow: Vec<IpRange>,
    /// The most requests a second, if limited.
    pub rate_per_second: Option<u32>,
    /// Whether its providers wait for the service's own answer, and how.
    pub sync: Option<SyncSettings>,
}

impl SourceSettings {
    /// The defaults for a scheme.
    pub fn new(scheme: SchemeChoice) -> Self {
        Self {
            enabled: true,
            scheme,
            vars: BTreeMap::new(),
            public_keys: Vec::new(),
            methods: None,
            body_bytes_max: BODY_BYTES_DEFAULT,
            dedupe: Dedupe::default(),
            ip_allow: Vec::new(),
            rate_per_second: None,
            sync: None,
        }
    }

    /// The methods it takes: its own list, or its provider's, or POST.
    pub fn methods(&self) -> Vec<String> {
        if let Some(methods) = &self.methods {
            return methods.clone();
        }
        let methods = self
            .preset()
            .map_or(&["POST"][..], |preset| &preset.methods);
        methods.iter().map(|&method| method.to_owned()).collect()
    }

    /// The preset, if it uses one that exists.
    pub fn preset(&self) -> Option<&'static Preset> {
        match &self.scheme {
            SchemeChoice::Preset(name) => preset(name),
            SchemeChoice::Own(_) => None,
        }
    }

    /// Whether the provider may send the secret itself, so that there need be none at first.
    fn secret_may_arrive(&self) -> bool {
        self.preset().is_some_and(Preset::brings_secret)
    }

    /// Whether requests from an address are taken.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.ip_allow.is_empty() || self.ip_allow.iter().any(|range| range.contains(ip))
    }

    /// Checks the settings together with the secrets.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field; refuse to save the source.
    pub fn check(&self, secrets: Vec<Secret>) -> Result<(), Invalid> {
        self.check_limits()?;
        self.dedupe.check()?;
        if let Some(sync) = &self.sync {
            sync.check(self.preset())?;
        }
        if secrets.is_empty() && self.secret_may_arrive() {
            return self.credentials(secrets).map(drop);
        }
        let verifier = self.verifier(secrets, &ProviderKeys::default());
        verifier.map(drop)
    }

    /// Whether its requests can be signed again. A source that awaits its secret can, if any of its
    /// rules could.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if the settings do not work at all.
    pub(super) fn check_refresh(
        &self,
        secrets: Vec<Secret>,
    ) -> Result<Result<(), SignError>, Invalid> {
        if secrets.is_empty() && self.secret_may_arrive() {
            return Ok(self.scheme.compile()?.check_refresh());
        }
        let verifier = self.verifier(secrets, &ProviderKeys::default())?;
        Ok(verifier.check_refresh())
    }

    fn check_limits(&self) -> Result<(), Invalid> {
        if !(1..=BODY_BYTES_MAX).contains(&self.body_bytes_max) {
            let why = format!("must be 1 to {BODY_BYTES_MAX} bytes (26 MiB)");
            return Err(Invalid::new("body_bytes_max", why));
        }
        if self
            .rate_per_second
            .is_some_and(|rate| !(1..=RATE_MAX).contains(&rate))
        {
            let why = format!("must be 1 to {RATE_MAX}, or absent for no limit");
            return Err(Invalid::new("rate_per_second", why));
        }
        if self.ip_allow.len() > LIST_MAX {
            return Err(Invalid::new(
                "ip_allow",
                format!("at most {LIST_MAX} ranges"),
            ));
        }
        if let Some(methods) = &self.methods {
            let is_method = |text: &String| {
                text.len() <= 32 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase())
            };
            if methods.is_empty() || methods.len() > 16 || !methods.iter().all(is_method) {
                let why = "name 1 to 16 methods in capitals, such as POST";
                return Err(Invalid::new("methods", why));
            }
        }
        let too_long = |text: &String| text.len() > TEXT_BYTES_MAX;
        if self.vars.len() > VARS_MAX || self.vars.values().any(too_long) {
            let why = format!("at most {VARS_MAX}, of at most {TEXT_BYTES_MAX} bytes each");
            return Err(Invalid::new("vars", why));
        }
        if self.public_keys.len() > VARS_MAX || self.public_keys.iter().any(too_long) {
            let why = format!("at most {VARS_MAX}, of at most {TEXT_BYTES_MAX} bytes each");
            return Err(Invalid::new("public_keys", why));
        }
        Ok(())
    }

    /// Joins scheme and credentials.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field that cannot work.
    pub(super) fn verifier(
        &self,
        secrets: Vec<Secret>,
        keys: &ProviderKeys,
    ) -> Result<Verifier, Invalid> {
        let scheme = self.scheme.compile()?;
        let credentials = self.credentials(secrets)?;
        Verifier::with_keys(scheme, credentials, keys.source())
            .map_err(|error| Invalid::new("secret", error))
    }

    /// The secrets with what belongs to them.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if a public key cannot be read.
    pub(super) fn credentials(&self, secrets: Vec<Secret>) -> Result<Credentials, Invalid> {
        let keys = self.public_keys.iter().map(|text| PublicKey::parse(text));
        Ok(Credentials {
            secrets,
            vars: self.vars.clone(),
            public_keys: keys
                .collect::<Result<_, _>>()
                .map_err(|error| Invalid::new("public_keys", error))?,
        })
    }
}

/// Where public keys come from that live at the provider. None are at hand unless somebody brings
/// them.
#[derive(Clone)]
pub struct ProviderKeys(Arc<dyn KeySource>);

impl ProviderKeys {
    /// Keys from a source of them.
    pub fn new(source: Arc<dyn KeySource>) -> Self {
        Self(source)
    }

    fn source(&self) -> Arc<dyn KeySource> {
        Arc::clone(&self.0)
    }
}

impl Default for ProviderKeys {
    fn default() -> Self {
        Self(Arc::new(PreloadedKeys::default()))
    }
}

impl fmt::Debug for ProviderKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProviderKeys")
    }
}

/// How the requests of a source are verified. To check nothing is a choice too, the preset `none`.
#[derive(Debug, Clone, PartialEq)]
pub enum SchemeChoice {
    /// By the name of a provider.
    Preset(String),
    /// By a rule of one's own.
    Own(Box<RuleSpec>),
}

impl SchemeChoice {
    /// The name by which verified events record it.
    pub fn label(&self) -> &str {
        match self {
            Self::Preset(name) => name,
            Self::Own(_) => "own",
        }
    }

    fn compile(&self) -> Result<Scheme, Invalid> {
        match self {
            Self::Preset(name) => {
                let found = preset(name).ok_or_else(|| Invalid::new("preset", unknown(name)))?;
                Ok(Scheme::Preset(found))
            }
            Self::Own(spec) => {
                let rule = Rule::compile(spec).map_err(|error| Invalid::new("rule", error))?;
                Ok(Scheme::Own(rule.into()))
            }
        }
    }
}

/// Names the preset that was probably meant.
fn unknown(name: &str) -> String {
    let shown: String = name.chars().take(64).collect();
    let nearest = crate::verify::presets()
        .map(|preset| (strsim::jaro_winkler(&shown, preset.name), preset.name))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match nearest {
        Some((likeness, nearest)) if likeness > 0.8 => {
            format!("no provider is called `{shown}`; did you mean `{nearest}`?")
        }
        _ => format!("no provider is called `{shown}`"),
    }
}

/// How repeats of an event are recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// How long a provider's id is remembered.
    pub window: Duration,
    /// Whether equal bodies count as repeats where the provider sends no id.
    pub body_hash: bool,
    /// The request header that carries the id, if not where the provider puts it.
    pub header: Option<String>,
}

impl Default for Dedupe {
    fn default() -> Self {
        Self {
            window: DEDUPE_WINDOW_DEFAULT,
            body_hash: false,
            header: None,
        }
    }
}

impl Dedupe {
    fn check(&self) -> Result<(), Invalid> {
        if self.window > DEDUPE_WINDOW_MAX {
            return Err(Invalid::new("dedupe.window_s", "must be at most 30 days"));
        }
        if let Some(header) = &self.header
            && http::HeaderName::from_bytes(header.as_bytes()).is_err()
        {
            return Err(Invalid::new("dedupe.header", "is no header name"));
        }
        Ok(())
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset_named(name: &str) -> SourceSettings {
        SourceSettings::new(SchemeChoice::Preset(name.to_owned()))
    }

    #[track_caller]
    fn check(settings: &SourceSettings, secrets: &[&str], expected: Result<(), &str>) {
        let secrets = secrets
            .iter()
            .map(|&text| Secret::from_text(text))
            .collect();
        let outcome = settings
            .check(secrets)
            .map_err(|invalid| invalid.field.into_owned());
        assert_eq!(outcome, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_key_is_128_bits_in_base_32() {
        let key = SourceKey::generate().unwrap();

        assert_eq!(key.as_str().len(), SourceKey::CHARS);
        assert!(
            key.as_str()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
        );
        assert_ne!(key, SourceKey::generate().unwrap());
    }

    #[test]
    fn a_scheme_that_needs_a_secret_gets_one() {
        check(&preset_named("stripe"), &["whsec_abc"], Ok(()));
        check(&preset_named("stripe"), &["whsec_abc", "whsec_def"], Ok(()));
        check(&preset_named("stripe"), &[], Err("secret"));
        check(&preset_named("stripe"), &[""], Err("secret"));
        check(&preset_named("stripe"), &["  \n"], Err("secret"));
        check(&preset_named("none"), &[], Ok(()));
        check(&preset_named("strpe"), &["x"], Err("preset"));
    }

    #[test]
    fn a_secret_that_arrives_in_a_handshake_may_be_missing_at_first() {
        check(&preset_named("asana"), &[], Ok(()));
        check(&preset_named("notion"), &[], Ok(()));
        check(&preset_named("asana"), &["known"], Ok(()));
        check(&preset_named("asana"), &[" "], Err("secret"));
        let mut settings = preset_named("asana");
        settings.public_keys = vec!["nonsense!".into()];
        check(&settings, &[], Err("public_keys"));
    }

    #[test]
    fn a_misspelt_preset_gets_a_suggestion() {
        let invalid = preset_named("stirpe").check(Vec::new()).unwrap_err();
        assert!(invalid.why.contains("did you mean `stripe`"), "{invalid}");
    }

    #[test]
    fn limits_are_limited() {
        let none = preset_named("none");
        let with = |change: fn(&mut SourceSettings)| {
            let mut settings = none.clone();
            change(&mut settings);
            settings
        };
        check(&with(|s| s.body_bytes_max = BODY_BYTES_MAX), &[], Ok(()));
        check(
            &with(|s| s.body_bytes_max = BODY_BYTES_MAX + 1),
            &[],
            Err("body_bytes_max"),
        );
        check(&with(|s| s.body_bytes_max = 0), &[], Err("body_bytes_max"));
        check(
            &with(|s| s.rate_per_second = Some(0)),
            &[],
            Err("rate_per_second"),
        );
        check(&with(|s| s.methods = Some(vec!["PUT".into()])), &[], Ok(()));
        check(&with(|s| s.methods = Some(vec![])), &[], Err("methods"));
        check(
            &with(|s| s.methods = Some(vec!["post".into()])),
            &[],
            Err("methods"),
        );
        check(
            &with(|s| s.dedupe.header = Some("x y".into())),
            &[],
            Err("dedupe.header"),
        );
        check(
            &with(|s| s.dedupe.window = Duration::MAX),
            &[],
            Err("dedupe.window_s"),
        );
        check(
            &with(|s| s.public_keys = vec!["nonsense!".into()]),
            &[],
            Err("public_keys"),
        );
    }
}
