//! Keys that were fetched, and what is known of attempts to. Pure: the time is passed in.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::verify::{KeyUrl, PublicKey};

/// Addresses remembered.
const ENTRIES_MAX: usize = 64;

/// From this age on keys are fetched again while they are in use.
const FRESH: Duration = Duration::from_mins(30);

/// Up to this age keys are used when they cannot be fetched again.
const STALE_MAX: Duration = Duration::from_hours(24);

/// How long a failure stands before it is tried again.
const FAILURE_MEMORY: Duration = Duration::from_secs(20);

/// What to do about a key that is not at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// It is at hand after all.
    Have,
    /// Somebody is fetching it.
    Wait,
    /// Fetch it, and say how it went.
    Fetch,
    /// It was tried just now, or too many others are being fetched.
    No,
}

#[derive(Debug, Default)]
pub(super) struct KeyCache(HashMap<KeyUrl, Entry>);

#[derive(Debug)]
struct Entry {
    /// The keys, and since when.
    keys: Option<(Vec<PublicKey>, Instant)>,
    failed_at: Option<Instant>,
    fetching: bool,
    used_at: Instant,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            keys: None,
            failed_at: None,
            fetching: false,
            used_at: now,
        }
    }

    fn failed_lately(&self, now: Instant) -> bool {
        let age = self.failed_at.map(|at| now.saturating_duration_since(at));
        age.is_some_and(|age| age < FAILURE_MEMORY)
    }

    /// How old the keys are, if there are any that can be used.
    fn age(&self, now: Instant) -> Option<Duration> {
        let (_, since) = self.keys.as_ref()?;
        let age = now.saturating_duration_since(*since);
        (age < STALE_MAX).then_some(age)
    }
}

impl KeyCache {
    /// The keys of an address, if they are not too old.
    pub(super) fn keys(&mut self, url: &KeyUrl, now: Instant) -> Option<Vec<PublicKey>> {
        let entry = self.0.get_mut(url)?;
        entry.age(now)?;
        entry.used_at = now;
        entry.keys.as_ref().map(|(keys, _)| keys.clone())
    }

    /// What to do about an address. After [`Want::Fetch`] it counts as being fetched until
    /// [`Self::settle`] or [`Self::turned_away`].
    pub(super) fn want(&mut self, url: &KeyUrl, now: Instant) -> Want {
        if !self.0.contains_key(url) && !self.make_room() {
            return Want::No;
        }
        let entry = self.0.entry(url.clone()).or_insert_with(|| Entry::new(now));
        entry.used_at = now;
        if entry.age(now).is_some() {
            return Want::Have;
        }
        if entry.fetching {
            return Want::Wait;
        }
        if entry.failed_lately(now) {
            return Want::No;
        }
        entry.fetching = true;
        Want::Fetch
    }

    /// Forgets what is worth least: failures before keys, and of each the one unused for longest.
    fn make_room(&mut self) -> bool {
        if self.0.len() < ENTRIES_MAX {
            return true;
        }
        let idle = self.0.iter().filter(|(_, entry)| !entry.fetching);
        let least = idle.min_by_key(|(_, entry)| (entry.keys.is_some(), entry.used_at));
        let Some(url) = least.map(|(url, _)| url.clone()) else {
            return false;
        };
        self.0.remove(&url).is_some()
    }

    /// A fetch ended, with keys or without.
    pub(super) fn settle(&mut self, url: &KeyUrl, keys: Option<Vec<PublicKey>>, now: Instant) {
        let Some(entry) = self.0.get_mut(url) else {
            return;
        };
        entry.fetching = false;
        match keys {
            Some(keys) => {
                entry.keys = Some((keys, now));
                entry.failed_at = None;
            }
            None => entry.failed_at = Some(now),
        }
    }

    /// A fetch did not even begin.
    pub(super) fn turned_away(&mut self, url: &KeyUrl) {
        if let Some(entry) = self.0.get_mut(url) {
            entry.fetching = false;
        }
    }

    pub(super) fn is_fetching(&self, url: &KeyUrl) -> bool {
        self.0.get(url).is_some_and(|entry| entry.fetching)
    }

    /// Keys that are in use and no longer fresh: fetch them, and say how it went.
    pub(super) fn refresh(&mut self, now: Instant) -> Vec<KeyUrl> {
        let is_old = |entry: &Entry| {
            let in_use = now.saturating_duration_since(entry.used_at) < FRESH;
            let old = entry.age(now).is_some_and(|age| age >= FRESH);
            in_use && old && !entry.fetching && !entry.failed_lately(now)
        };
        let old = self.0.iter_mut().filter(|(_, entry)| is_old(entry));
        old.map(|(url, entry)| {
            entry.fetching = true;
            url.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::keys::tests::url;

    fn key() -> Vec<PublicKey> {
        vec![PublicKey::parse(&"ab".repeat(32)).unwrap()]
    }

    #[test]
    fn one_fetch_serves_all_who_wait() {
        let (mut cache, now) = (KeyCache::default(), Instant::now());
        let url = url(1);
        assert_eq!(cache.want(&url, now), Want::Fetch);
        assert_eq!(cache.want(&url, now), Want::Wait);
        assert!(cache.is_fetching(&url) && cache.keys(&url, now).is_none());

        cache.settle(&url, Some(key()), now);

        assert_eq!(cache.want(&url, now), Want::Have);
        assert_eq!(cache.keys(&url, now), Some(key()));
    }

    #[test]
    fn a_failure_is_remembered_for_a_while() {
        let (mut cache, now) = (KeyCache::default(), Instant::now());
        let url = url(1);
        assert_eq!(cache.want(&url, now), Want::Fetch);
        cache.settle(&url, None, now);
        assert_eq!(cache.want(&url, now), Want::No);
        assert_eq!(cache.want(&url, now + FAILURE_MEMORY), Want::Fetch);
        cache.turned_away(&url);
        assert_eq!(cache.want(&url, now + FAILURE_MEMORY), Want::Fetch);
    }

    #[test]
    fn used_keys_are_refreshed_and_outlive_a_failure() {
        let (mut cache, start) = (KeyCache::default(), Instant::now());
        let url = url(1);
        cache.want(&url, start);
        cache.settle(&url, Some(key()), start);
        assert!(cache.refresh(start + FRESH / 2).is_empty());

        let later = start + FRESH;
        assert!(cache.refresh(later).is_empty(), "nobody uses it");
        assert!(cache.keys(&url, later).is_some());
        assert_eq!(cache.refresh(later), std::slice::from_ref(&url));
        assert!(cache.refresh(later).is_empty(), "it is under way");
        cache.settle(&url, None, later);
        assert_eq!(cache.keys(&url, later), Some(key()));

        let end = start + STALE_MAX;
        assert_eq!(cache.keys(&url, end), None);
        assert_eq!(cache.want(&url, end), Want::Fetch);
    }

    #[test]
    fn it_is_bounded_and_keeps_keys_before_failures() {
        let (mut cache, now) = (KeyCache::default(), Instant::now());
        cache.want(&url(0), now);
        cache.settle(&url(0), Some(key()), now);
        for number in 1..200 {
            assert_eq!(cache.want(&url(number), now), Want::Fetch);
            cache.settle(&url(number), None, now);
        }
        assert_eq!(cache.0.len(), ENTRIES_MAX);
        assert!(cache.keys(&url(0), now).is_some());

        let mut busy = KeyCache::default();
        for number in 0..ENTRIES_MAX {
            assert_eq!(busy.want(&url(number), now), Want::Fetch);
        }
        assert_eq!(busy.want(&url(ENTRIES_MAX), now), Want::No);
    }
}
