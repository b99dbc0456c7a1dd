//! The QEMU harness as a library and one file per story.
