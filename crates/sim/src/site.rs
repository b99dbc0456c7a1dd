//! What the machines of a site have in common: network, images, chance.

use crate::dice::Dice;
use crate::image::Image;
use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use transport::client::Client;

/// What all machines share.
pub(crate) struct Site {
    pub(crate) dice: Dice,
    /// The part of all ramdisks that is reset in the middle of its work.
    pub(crate) resets: f64,
    /// The machines' addresses are 127.`network`.x.y.
    pub(crate) network: u8,
    /// Where agents listen, and where they say that they do: between the two the network may cut connections.
    pub(crate) agent_port: u16,
    pub(crate) callback_port: u16,
    pub(crate) image: Image,
    /// What BMCs fetch CDs with.
    pub(crate) client: Client,
    pub(crate) reset: AtomicU64,
}

impl Site {
    pub(crate) fn count_reset(&self) {
        self.reset.fetch_add(1, Ordering::Relaxed);
    }
}

/// A kernel image for the firmware that is well-formed and does nothing: ferricd puts command lines into it, and nobody
/// starts it.
pub(crate) fn boot_program() -> Result<Vec<u8>> {
    let sections = media::pe::Sections {
        os_release: "ID=ferric\n",
        uname: "simulated",
        cmdline: "console=ttyS0",
        linux: b"MZ",
        initrd: &[7; 4096],
    };
    media::pe::build(&media::pe::stub::stub(7), &sections).context("make the ramdisk")
}

/// A port that is free on all addresses of the machines, as far as one tells it.
pub(crate) fn free_port(network: u8, from: u16) -> Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::new(127, network, 0, 1), *port)).is_ok();
    (from..from.saturating_add(1000)).step_by(10).find(is_free).context("no port is free")
}

/// A listener on loopback.
pub(crate) async fn listen(address: Ipv4Addr, port: u16) -> Result<(tokio::net::TcpListener, SocketAddr)> {
    let listener = tokio::net::TcpListener::bind((address, port)).await;
    let listener = listener.with_context(|| format!("listen on {address}:{port}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
