//! One server stack and one client stack: hyper, tower, TLS identities, limits, deadlines.
