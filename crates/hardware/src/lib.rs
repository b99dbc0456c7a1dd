//! What a machine is: inventory, root device hints, steps, grants and proofs; the traits of hardware and their dispatch.
