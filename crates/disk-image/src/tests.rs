//! The pipeline as its callers see it, against a server and disks that fail.

mod disk_faults;
mod drive;
mod image;
mod refusals;
mod server;
mod transfer;
