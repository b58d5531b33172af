//! Numbers as JSON has them, compared by value: identifiers beyond 2^53 are not rounded.

use std::cmp::Ordering;

/// A number of a filter or a body.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    /// An integer of up to 64 bits, signed or not.
    Whole(i128),
    /// Any other, never NaN.
    Float(f64),
}

/// Two to the power of 100: beyond it every float is far from any integer of 64 bits.
const FAR: f64 = 1_267_650_600_228_229_401_496_703_205_376.0;

impl Number {
    /// Reads a number as JSON writes it.
    pub(super) fn read(text: &str) -> Option<Self> {
        // The parser would skip space around it.
        let begins = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let ends = text.ends_with(|last: char| last.is_ascii_digit());
        if !begins || !ends {
            return None;
        }
        serde_json::from_str(text).ok().and_then(|it| Self::of(&it))
    }

    pub(super) fn of(number: &serde_json::Number) -> Option<Self> {
        let whole = number.as_i128().map(Self::Whole);
        whole.or_else(|| number.as_f64().map(Self::Float))
    }

    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(one), Self::Whole(two)) => one.cmp(&two),
            (Self::Float(one), Self::Float(two)) => {
                one.partial_cmp(&two).unwrap_or(Ordering::Equal)
            }
            (Self::Whole(one), Self::Float(two)) => compare(one, two),
            (Self::Float(one), Self::Whole(two)) => compare(two, one).reverse(),
        }
    }
}

fn compare(whole: i128, float: f64) -> Ordering {
    if float.abs() >= FAR {
        return 0.0.partial_cmp(&float).unwrap_or(Ordering::Equal);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below 2^100 by the check above"
    )]
    let truncated = float.trunc() as i128;
    let rest = 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal);
    whole.cmp(&truncated).then(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_value() {
        for (one, order, two) in [
            ("1", Ordering::Equal, "1.0"),
            ("1", Ordering::Equal, "10e-1"),
            ("1", Ordering::Less, "1.5"),
            ("-1", Ordering::Greater, "-1.5"),
            ("9007199254740993", Ordering::Greater, "9007199254740992"),
            ("9007199254740993", Ordering::Greater, "9007199254740992.0"),
            ("18446744073709551615", Ordering::Less, "1e30"),
            ("-5", Ordering::Greater, "-1e300"),
            ("0", Ordering::Equal, "-0.0"),
        ] {
            let [first, second] = [one, two].map(|text| Number::read(text).unwrap());
            assert_eq!(first.compare(second), order, "{one} {two}");
            assert_eq!(second.compare(first), order.reverse(), "{two} {one}");
        }
    }

    #[test]
    fn only_what_json_calls_a_number_is_one() {
        for text in [
            "", " 1", "1 ", "+1", "01", "1.", ".5", "0x1", "NaN", "1e", "1e999", "1,0",
        ] {
            assert!(Number::read(text).is_none(), "{text:?}");
        }
    }
}
