//! Nodes, flows and history: memory and SQLite behind one contract.
