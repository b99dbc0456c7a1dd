//! A relay between an agent and its driver, as a router that translates addresses far away from both: whoever comes gets a
//! connection of the relay's own to the driver, and everything takes its time in both directions.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Pieces of up to 16 KiB that are on their way in one direction; more are not read.
const ON_THE_WAY: usize = 256;

/// A relay; it ends with this value.
#[derive(Debug)]
pub(crate) struct Relay {
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Relays what comes to `address` to `to`, each way late by `delay`.
    ///
    /// # Errors
    /// When the address is taken.
    pub(crate) async fn start(address: SocketAddr, to: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("relay on {address}"))?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::spawn(carry(near_in, far_out, delay));
                    tokio::spawn(carry(far_in, near_out, delay));
                });
            }
        });
        Ok(Self { connections, task })
    }

    /// How many connections there were.
    #[must_use]
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    tokio::spawn(async move {
        loop {
            let mut piece = vec![0; 16 << 10];
            let Ok(length @ 1..) = from.read(&mut piece).await else { return };
            piece.truncate(length);
            if sender.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    });
    while let Some((due, piece)) = on_the_way.recv().await {
        sleep_until(due).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
