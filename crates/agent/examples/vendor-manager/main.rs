//! An agent with a vendor's own hardware manager: what a vendor's crate looks like. In a ramdisk, this program is `/init`.

#![allow(clippy::print_stderr, reason = "a program that tells how it is to be used")]

mod acme;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        agent::ramdisk::main(|builder| builder.manager(acme::AcmeManager::at("/")));
    }
    eprintln!("this agent is the first program of a ramdisk; start it as /init");
    ExitCode::FAILURE
}
