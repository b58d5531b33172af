//! When to ask whether the peer is alive, and when to presume that it is not.
