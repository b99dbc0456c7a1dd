//! The driver beside a real Ironic 39: what that was recorded to answer (`testdata/ironic`, by the scripts in `ci/record`)
//! is asked again, in the same order, and compared value by value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bmc;
mod canary;
mod fake_hardware;
mod metal3;
mod redfish;
mod replay;
mod rules;
