//! The image pipeline: fetch, hash, decompress, write, seal. Knows nothing of nodes.
