//! Stories told with both machines as a pair, in virtual time.
