//! The pipeline as its callers see it, against a server and disks that fail.

mod cuts;
mod disk_faults;
mod drive;
mod foreign;
mod frames;
mod hostile;
pub(crate) mod image;
mod info;
mod odd;
mod partition;
mod qcow2;
mod refusals;
mod replies;
mod server;
mod transfer;
