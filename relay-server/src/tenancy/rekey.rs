//! Another key for the secrets at rest: what is sealed with an older one is sealed anew, while the
//! relay serves. Until that is done both keys are needed, and nothing is lost by stopping half-way.

use std::{collections::BTreeMap, sync::Arc};

use tracing::warn;

use super::{
    Destination, Invalid, SecretKey, Source, Tenancy, TenancyError,
    change::Change,
    directory::{Records, secret_place},
    secrets::{Place, Sealed},
    signing,
};
use crate::store::{Settings, StoreError};

/// Records that are sealed anew under one lock, so that other changes get their turn.
const AT_A_TIME: usize = 100;

/// Stored secrets that no key of the relay opens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} stored secrets, the first of the {holder}, were encrypted with the key {key}, which is not \
     among the relay's keys ({known}); nothing was changed"
)]
pub struct MissingKey {
    /// The name of the key that is missing.
    pub key: String,
    /// How many secrets need it.
    pub count: usize,
    /// What one of them belongs to.
    pub holder: String,
    /// The names of the keys that are here.
    pub known: String,
}

/// Why it is not known that all secrets open, or known that they do not.
#[derive(Debug, thiserror::Error)]
pub enum CheckKeyError {
    /// The settings cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key is missing.
    #[error(transparent)]
    Missing(#[from] MissingKey),
}

/// Checks, without changing anything, that every stored secret was sealed with a key that is here.
///
/// # Errors
///
/// [`CheckKeyError`]: do not start with this key.
pub async fn check_key(settings: &dyn Settings, key: &SecretKey) -> Result<(), CheckKeyError> {
    let records = Records::read(&settings.load().await?)?;
    Ok(check_records(&records, key)?)
}

fn check_records(records: &Records, key: &SecretKey) -> Result<(), MissingKey> {
    let mut missing: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for (sealed, holder) in sealed(records) {
        let Some(id) = sealed.key_id() else { continue };
        if !key.ids().any(|known| known == id) {
            missing.entry(id).or_insert_with(|| (0, holder())).0 += 1;
        }
    }
    match missing.into_iter().next() {
        None => Ok(()),
        Some((id, (count, holder))) => Err(MissingKey {
            key: id.chars().take(16).collect(),
            count,
            holder,
            known: key.ids().collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Every stored secret, and words for what it belongs to.
fn sealed(records: &Records) -> impl Iterator<Item = (&Sealed, Box<dyn Fn() -> String + '_>)> {
    let sources = records.sources.values().flat_map(|source| {
        source.secrets.iter().map(move |secret| {
            let holder: Box<dyn Fn() -> String> = Box::new(|| format!("source {}", source.id));
            (&secret.sealed, holder)
        })
    });
    let destinations = records.destinations.values().flat_map(|destination| {
        destination.signing_keys.iter().map(move |key| {
            let holder: Box<dyn Fn() -> String> =
                Box::new(|| format!("destination {}", destination.id));
            (&key.sealed, holder)
        })
    });
    sources.chain(destinations)
}

/// What became of secrets that were sealed with an older key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rekeyed {
    /// Secrets that are sealed with the newest key now.
    pub resealed: usize,
    /// Secrets that could not be opened, and stay as they are.
    pub left: usize,
}

impl Tenancy {
    /// The names of the relay's keys, the one that seals first, each with how many secrets need it.
    pub fn secret_keys(&self) -> Vec<(String, usize)> {
        let directory = self.directory();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (sealed, _) in sealed(directory.records()) {
            if let Some(id) = sealed.key_id() {
                *counts.entry(id).or_default() += 1;
            }
        }
        let key = self.key.load();
        let with_count = |id: &str| (id.to_owned(), counts.get(id).copied().unwrap_or(0));
        key.ids().map(with_count).collect()
    }

    /// Uses other keys from now on, and seals with the newest what was sealed with another.
    ///
    /// # Errors
    ///
    /// `Invalid` if a stored secret needs a key that is not among them; nothing is changed then. After
    /// a failure of the store call it again: what is sealed anew already stays so.
    pub async fn take_key(&self, key: SecretKey) -> Result<Rekeyed, TenancyError> {
        check_records(self.directory().records(), &key)
            .map_err(|missing| Invalid::new("key", missing))?;
        self.key.store(Arc::new(key));
        self.reseal().await
    }

    /// Seals with the newest key what was sealed with an older one.
    ///
    /// # Errors
    ///
    /// See [`TenancyError`]; call it again.
    pub async fn reseal(&self) -> Result<Rekeyed, TenancyError> {
        let key = self.key.load_full();
        let mut total = Rekeyed::default();
        let directory = Arc::clone(&self.directory());
        let sources = directory.records().sources.values();
        let stale: Vec<_> = sources
            .filter(|source| source.secrets.iter().any(|it| is_stale(&it.sealed, &key)))
            .map(|source| (source.tenant, source.id))
            .collect();
        for batch in stale.chunks(AT_A_TIME) {
            let mut change = Change::begin(self).await?;
            for (tenant, id) in batch {
                // Deleted in between.
                let Ok(mut source) = self.own_source(&change, *tenant, *id) else {
                    continue;
                };
                let done = reseal_source(&mut source, &key)?;
                total.add(done, "source", &source.id);
                if done.resealed > 0 {
                    let version = source.revision.version;
                    change.put(source, Some(version)).await?;
                }
            }
        }
        let destinations = directory.records().destinations.values();
        let stale: Vec<_> = destinations
            .filter(|it| it.signing_keys.iter().any(|it| is_stale(&it.sealed, &key)))
            .map(|destination| (destination.tenant, destination.id))
            .collect();
        for batch in stale.chunks(AT_A_TIME) {
            let mut change = Change::begin(self).await?;
            for (tenant, id) in batch {
                let found = super::service::own_destination(&change, *tenant, *id);
                let Ok(mut destination) = found else { continue };
                let done = reseal_destination(&mut destination, &key)?;
                total.add(done, "destination", &destination.id);
                if done.resealed > 0 {
                    let version = destination.revision.version;
                    change.put(destination, Some(version)).await?;
                }
            }
        }
        Ok(total)
    }
}

impl Rekeyed {
    fn add(&mut self, other: Self, kind: &str, id: &dyn std::fmt::Display) {
        self.resealed += other.resealed;
        self.left += other.left;
        if other.left > 0 {
            warn!(kind, %id, "a stored secret does not open and stays as it is; give it a new one");
        }
    }
}

fn is_stale(sealed: &Sealed, key: &SecretKey) -> bool {
    sealed.key_id() != Some(key.id())
}

fn reseal_source(source: &mut Source, key: &SecretKey) -> Result<Rekeyed, TenancyError> {
    let place = secret_place(source);
    reseal(
        source.secrets.iter_mut().map(|it| &mut it.sealed),
        place,
        key,
    )
}

fn reseal_destination(
    destination: &mut Destination,
    key: &SecretKey,
) -> Result<Rekeyed, TenancyError> {
    let place = signing::place(destination);
    let keys = destination.signing_keys.iter_mut();
    reseal(keys.map(|it| &mut it.sealed), place, key)
}

fn reseal<'a>(
    all: impl Iterator<Item = &'a mut Sealed>,
    place: Place<'_>,
    key: &SecretKey,
) -> Result<Rekeyed, TenancyError> {
    let mut done = Rekeyed::default();
    for sealed in all.filter(|sealed| is_stale(sealed, key)) {
        match key.open(place, sealed) {
            Ok(secret) => {
                *sealed = key.seal(place, &secret)?;
                done.resealed += 1;
            }
            Err(_) => done.left += 1,
        }
    }
    Ok(done)
}
