//! What a value must be, and whether it is.
//!
//! A condition is all of its terms. Some speak of the value as a whole; the others must be met by the
//! value itself or, if it is a list, by one and the same element of it. Everything negative speaks of
//! the whole and is the exact opposite of its positive, so that De Morgan's laws hold.

use std::cmp::Ordering;

use super::{number::Number, picked::Picked};

/// The number of a term within its filter.
pub(super) type Term = usize;

/// All of some terms.
#[derive(Debug, Clone, Default)]
pub(super) struct Condition {
    pub(super) whole: Vec<(Term, Whole)>,
    pub(super) own: Vec<(Term, Own)>,
}

/// Terms about a value as a whole, be it a list or missing.
#[derive(Debug, Clone)]
pub(super) enum Whole {
    Exist(bool),
    IsNone(Vec<Operand>),
    Not(Condition),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

/// Terms that one value must meet together: the value, or one element of a list.
#[derive(Debug, Clone)]
pub(super) enum Own {
    Field(Box<str>, Condition),
    IsOneOf(Vec<Operand>),
    Compares(Comparison, Operand),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What a value is compared with.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
}

impl Condition {
    /// The first term that a value does not meet. `None` for the value means that there is none.
    pub(super) fn unmet(&self, value: Option<&Picked<'_>>) -> Option<Term> {
        for (term, whole) in &self.whole {
            let met = match whole {
                Whole::Exist(wanted) => value.is_some() == *wanted,
                Whole::IsNone(operands) => !is_any_of(value, operands),
                Whole::Not(condition) => condition.unmet(value).is_some(),
                Whole::Any(conditions) => conditions.iter().any(|it| it.unmet(value).is_none()),
                Whole::All(conditions) => {
                    let unmet = conditions.iter().find_map(|it| it.unmet(value));
                    if unmet.is_some() {
                        return unmet;
                    }
                    true
                }
            };
            if !met {
                return Some(*term);
            }
        }
        self.unmet_by_one(value)
    }

    /// The same for the terms that one value must meet together.
    fn unmet_by_one(&self, value: Option<&Picked<'_>>) -> Option<Term> {
        let Some(Picked::List(elements)) = value else {
            return self
                .own
                .iter()
                .find_map(|(term, own)| own.unmet(*term, value));
        };
        let (first, _) = self.own.first()?;
        let mut unmet = None;
        for element in elements {
            match self.unmet_by_one(Some(element)) {
                None => return None,
                // What the first element lacks is the most telling.
                Some(term) => _ = unmet.get_or_insert(term),
            }
        }
        unmet.or(Some(*first))
    }
}

impl Own {
    fn unmet(&self, term: Term, value: Option<&Picked<'_>>) -> Option<Term> {
        let met = match self {
            Self::Field(name, condition) => {
                return condition.unmet(value.and_then(|value| value.field(name)));
            }
            Self::IsOneOf(operands) => {
                value.is_some_and(|value| operands.iter().any(|it| it.is(value)))
            }
            Self::Compares(comparison, operand) => {
                let order = value.and_then(|value| operand.order(value));
                order.is_some_and(|order| comparison.admits(order))
            }
            Self::StartsWith(start) => text(value).is_some_and(|text| text.starts_with(&**start)),
            Self::EndsWith(end) => text(value).is_some_and(|text| text.ends_with(&**end)),
            Self::Contains(part) => text(value).is_some_and(|text| text.contains(&**part)),
        };
        (!met).then_some(term)
    }
}

/// Whether a value, or any element of it, is one of these.
fn is_any_of(value: Option<&Picked<'_>>, operands: &[Operand]) -> bool {
    match value {
        None => false,
        Some(Picked::List(elements)) => elements.iter().any(|it| is_any_of(Some(it), operands)),
        Some(value) => operands.iter().any(|operand| operand.is(value)),
    }
}

fn text<'v>(value: Option<&'v Picked<'_>>) -> Option<&'v str> {
    match value? {
        Picked::Text(text) | Picked::Untyped(text) => Some(text),
        _ => None,
    }
}

impl Operand {
    fn is(&self, value: &Picked<'_>) -> bool {
        match (self, value) {
            (Self::Null, Picked::Null) => true,
            (Self::Bool(wanted), Picked::Bool(found)) => wanted == found,
            (Self::Bool(wanted), Picked::Untyped(text)) => {
                text == if *wanted { "true" } else { "false" }
            }
            _ => self.order(value) == Some(Ordering::Equal),
        }
    }

    /// How a value compares with this, if the two compare at all: numbers with numbers, texts with
    /// texts by code points.
    fn order(&self, value: &Picked<'_>) -> Option<Ordering> {
        match (self, value) {
            (Self::Number(wanted), Picked::Number(found)) => Some(found.compare(*wanted)),
            (Self::Number(wanted), Picked::Untyped(text)) => {
                Number::read(text).map(|found| found.compare(*wanted))
            }
            (Self::Text(wanted), Picked::Text(found) | Picked::Untyped(found)) => {
                Some(found.as_ref().cmp(&**wanted))
            }
            _ => None,
        }
    }
}

impl Comparison {
    fn admits(self, order: Ordering) -> bool {
        match self {
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        }
    }
}
