//! A relay between an agent and its driver, as a router that translates addresses far away from both: whoever comes gets a
//! connection of the relay's own to the driver, and everything takes its time in both directions.

use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Pieces of up to 16 KiB that are on their way in one direction; more are not read.
const ON_THE_WAY: usize = 256;

/// A relay; it ends with this value, and so do its connections.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    to: SocketAddr,
    delay: Duration,
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
        let connections = Arc::default();
        let task = listen(address, to, delay, None, &connections).await?;
        Ok(Self { address, to, delay, connections, task })
    }

    /// Breaks all connections, and relays again, from another address to the driver.
    ///
    /// # Errors
    /// When the address that it listens on was taken meanwhile.
    pub(crate) async fn restart_from(&mut self, from: Ipv4Addr) -> Result<()> {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.task = listen(self.address, self.to, self.delay, Some(from), &self.connections).await?;
        Ok(())
    }

    /// How many connections there were.
    #[must_use]
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn listen(
    address: SocketAddr,
    to: SocketAddr,
    delay: Duration,
    from: Option<Ipv4Addr>,
    connections: &Arc<AtomicUsize>,
) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("relay on {address}"))?;
    let counted = connections.clone();
    Ok(tokio::spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            open.spawn(async move {
                let Ok(far) = connect(to, from).await else { return };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::join!(carry(near_in, far_out, delay), carry(far_in, near_out, delay));
            });
            while open.try_join_next().is_some() {}
        }
    }))
}

async fn connect(to: SocketAddr, from: Option<Ipv4Addr>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    socket.connect(to).await
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let taken = async move {
        loop {
            let mut piece = vec![0; 16 << 10];
            let Ok(length @ 1..) = from.read(&mut piece).await else { return };
            piece.truncate(length);
            if sender.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    let given = async move {
        while let Some((due, piece)) = on_the_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(taken, given);
}
