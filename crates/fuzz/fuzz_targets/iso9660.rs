//! `fuzz::file_systems::iso9660` under libFuzzer.

#![no_main]
#![allow(unsafe_code, missing_docs, reason = "the macro exports the function that libFuzzer calls")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::file_systems::iso9660(data));
