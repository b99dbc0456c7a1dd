//! A network that cuts connections: in the handshake, in a request or its answer, in the middle of an image.

use crate::dice::Dice;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The most bytes after which a connection is cut that is to be cut.
const LONGEST: f64 = 1_048_576.0;

/// What the network does to connections.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    pub(crate) dice: Dice,
    /// The part of all connections that is cut.
    pub(crate) share: f64,
    /// How many were.
    pub(crate) cut: Arc<AtomicU64>,
}

impl Loss {
    /// The bytes after which the `time`-th connection of a link is cut; `None` for one that is left alone.
    fn of(&self, link: &str, who: u64, time: u64) -> Option<u64> {
        if !self.dice.happens(self.share, link, who, time) {
            return None;
        }
        // As likely between 1 and 10 bytes as between 100 kB and 1 MB: each part of a conversation is met.
        let at = self.dice.roll("where it is cut", who ^ link.len() as u64, time);
        Some(LONGEST.powf(at) as u64)
    }
}

/// Passes the connections to `listener` on to `to`, for ever. `link` and `who` name it.
pub(crate) async fn relay(listener: TcpListener, to: SocketAddr, link: &'static str, who: u64, loss: Loss) {
    let mut time = 0;
    loop {
        let Ok((near, _)) = listener.accept().await else {
            // Out of file descriptors, which pass.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        time += 1;
        let cut = loss.of(link, who, time);
        let loss = loss.clone();
        tokio::spawn(async move {
            // Nobody behind it: the connection ends, as one to a machine that is off.
            let Ok(far) = TcpStream::connect(to).await else { return };
            if pass(near, far, cut).await {
                loss.cut.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Passes bytes on in both directions until one end is done, or until so many have passed: then both ends see a reset.
/// Whether it was cut.
async fn pass(mut near: TcpStream, mut far: TcpStream, cut: Option<u64>) -> bool {
    let (mut there, mut back) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let mut left = cut.unwrap_or(u64::MAX);
    loop {
        let passed = tokio::select! {
            read = near.read(&mut there) => forward(read, &there, &mut far, left).await,
            read = far.read(&mut back) => forward(read, &back, &mut near, left).await,
        };
        let Some(passed) = passed else { return false };
        left = left.saturating_sub(passed);
        if left == 0 {
            for end in [&near, &far] {
                let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
            }
            return true;
        }
    }
}

/// Writes what was read, at most `left` bytes; how many they were, `None` at the end.
async fn forward(read: std::io::Result<usize>, bytes: &[u8], to: &mut TcpStream, left: u64) -> Option<u64> {
    let length = read.ok().filter(|length| *length > 0)?;
    let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
    to.write_all(&bytes[..length]).await.ok()?;
    Some(length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// How much of a megabyte and a half comes back from an echo behind a link that cuts `share` of all connections.
    async fn echoed(share: f64, times: u64) -> (Vec<usize>, u64) {
        const BYTES: usize = 3 << 19;
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let to = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let loss = Loss { dice: Dice::new(3), share, cut: Arc::default() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(relay(listener, to, "echo", 1, loss.clone()));
        let mut all = Vec::new();
        for _ in 0..times {
            let (mut read, mut write) = TcpStream::connect(at).await.unwrap().into_split();
            let writing = tokio::spawn(async move { write.write_all(&vec![7; BYTES]).await.map(|()| write) });
            let mut got = vec![0; BYTES];
            let mut length = 0;
            while length < BYTES {
                match read.read(&mut got[length..]).await {
                    Ok(more) if more > 0 => length += more,
                    _ => break,
                }
            }
            let _ = writing.await;
            all.push(length);
        }
        (all, loss.cut.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn connections_that_are_left_alone_pass_everything_and_those_that_are_cut_do_not() {
        let (whole, cut) = echoed(0.0, 3).await;
        assert_eq!((whole, cut), (vec![3 << 19; 3], 0));
        let (parts, cut) = echoed(1.0, 5).await;
        assert!(parts.iter().all(|length| *length < 3 << 19), "{parts:?}");
        assert_eq!(cut, 5);
    }
}
