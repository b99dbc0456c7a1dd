//! Everything that crosses the network: REST documents, error bodies, microversions.
