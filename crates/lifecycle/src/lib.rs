//! The state machines: provision states of a node and the life of a command. One table each; sans-io; time is passed in.
