//! Why a change was not made.

use super::{Invalid, InvalidName, secrets::NoRandomness};
use crate::{
    lifecycle::filter::InvalidFilter,
    problem::{Code, PlaceError, Problem},
    store::StoreError,
};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum TenancyError {
    /// The settings cannot work; the text names the field.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The filter is none.
    #[error("the filter is not valid: {0}")]
    Filter(#[from] InvalidFilter),
    /// The tenant has nothing of this id or name.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The name is in use.
    #[error("another {kind} has the name `{name}`")]
    NameTaken {
        /// What kind of thing.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// It changed since it was read, or something still depends on it.
    #[error("{0}")]
    Conflict(String),
    /// The tenant has as many as it may.
    #[error("a tenant may have at most {max} {kind}s")]
    TooMany {
        /// What kind of thing.
        kind: &'static str,
        /// The limit.
        max: usize,
    },
    /// The token may not do it.
    #[error("the token may not {0}")]
    Forbidden(&'static str),
    /// The machine gives no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The store failed.
    #[error("the settings cannot be stored")]
    Store(#[from] StoreError),
}

impl From<InvalidName> for TenancyError {
    fn from(error: InvalidName) -> Self {
        Self::Invalid(Invalid::new("name", error))
    }
}

impl From<&TenancyError> for Problem {
    fn from(error: &TenancyError) -> Self {
        let at = |pointer: String, detail: &str| PlaceError {
            pointer,
            detail: detail.to_owned(),
        };
        let errors = match error {
            TenancyError::Invalid(Invalid { field, why }) => {
                vec![at(format!("/{}", field.replace('.', "/")), why)]
            }
            TenancyError::Filter(InvalidFilter { faults }) => faults
                .iter()
                .map(|fault| at(format!("/filter{}", fault.pointer), &fault.why))
                .collect(),
            _ => Vec::new(),
        };
        let code = match error {
            TenancyError::Store(error) => return Self::from(error),
            TenancyError::NotFound(_) => return Self::new(Code::NotFound),
            TenancyError::NoRandomness(_) => Code::Internal,
            TenancyError::Invalid(_) | TenancyError::Filter(_) | TenancyError::TooMany { .. } => {
                Code::Invalid
            }
            TenancyError::NameTaken { .. } => Code::NameTaken,
            TenancyError::Conflict(_) => Code::Conflict,
            TenancyError::Forbidden(_) => Code::Forbidden,
        };
        Self::new(code).detail(error.to_string()).errors(errors)
    }
}
