//! One suite that defines what a store is.
