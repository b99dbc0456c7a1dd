//! The state machines: provision states of a node ([`provision`]) and the life of an agent command ([`command`]).
//!
//! One table each. The table is the code ([`provision::step`]), the picture (`docs/state-machine.md`), the matrix
//! snapshot and the property tests. Nothing here does I/O, reads a clock or knows of a database: events, waited
//! times and settings are arguments, and what follows from a step is the caller's business.

mod names;

pub mod command;
pub mod provision;
