//! Fresh identifiers.

use crate::clock::Timestamp;

/// The 128 bits of a new ULID: the time, then 80 random bits.
pub fn fresh(now: Timestamp) -> u128 {
    let random = rand::random::<u128>() >> 48;
    u128::from(now.0) << 80 | random
}

/// A name for one request to the API.
pub fn request(now: Timestamp) -> String {
    let ulid = ulid::Ulid(fresh(now)).to_string();
    format!("req_{}", ulid.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use protocol::id::EventId;

    use super::*;

    #[test]
    fn ids_sort_by_time_and_differ() {
        let [first, second, later] = [1, 1, 2].map(|ms| EventId::from_u128(fresh(Timestamp(ms))));

        assert_ne!(first, second);
        assert!(first < later && second < later);
        assert!(first.to_string().starts_with("evt_0000000001"));
    }
}
