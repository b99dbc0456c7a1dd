//! `fuzz::event_stream` under libFuzzer.

#![no_main]
#![allow(unsafe_code, missing_docs, reason = "the macro exports the function that libFuzzer calls")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::event_stream(data));
