//! The clock, from a time server by SNTP (RFC 4330): asked once, as certificates of the driver and of image servers cannot
//! be checked by a clock that is years off. Nothing here makes anybody wait longer than the deadlines say.

use hardware_linux::{Tree, clock as saved};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::Instant;

const PORT: u16 = 123;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each is asked.
const ATTEMPTS: u32 = 3;
/// Servers that are asked at most.
const MOST_SERVERS: usize = 4;
/// Clocks that differ by less are left as they are.
const TOLERANCE: Duration = Duration::from_millis(100);
/// Seconds from 1900, where NTP counts from, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;
/// 2025-01-01: an earlier time is the server's mistake, as this program is younger.
const EARLIEST: u64 = 1_735_689_600;
/// 2100-01-01.
const LATEST: u64 = 4_102_444_800;

/// Why the clock was not set.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// Nobody gave a time.
    #[error("no time from {servers}; is UDP port 123 there reachable? The last failure: {last}")]
    NoTime {
        /// Who was asked.
        servers: String,
        /// What the last one did.
        last: String,
    },
    /// The kernel refused it.
    #[error("set the clock")]
    Set(#[source] io::Error),
}

/// Asks the servers in turn, addresses or host names, and sets the clock by the first time that comes. Returns by how many
/// seconds it was moved.
///
/// # Errors
///
/// See [`ClockError`]. It takes 2 s for each of three tries at each of four servers at most.
pub async fn set(servers: &[String]) -> Result<f64, ClockError> {
    let mut last = "none was given".to_owned();
    for _ in 0..ATTEMPTS {
        for server in servers.iter().take(MOST_SERVERS) {
            let asked = tokio::time::timeout(PATIENCE, ask(server)).await;
            match asked.unwrap_or_else(|_| Err(format!("{server} did not answer within {} s", PATIENCE.as_secs()))) {
                Ok((time, heard)) => return step(time + heard.elapsed(), server),
                Err(reason) => last = reason,
            }
        }
    }
    Err(ClockError::NoTime { servers: servers.join(", "), last })
}

/// The time of a server, and when it was that time here.
async fn ask(server: &str) -> Result<(SystemTime, Instant), String> {
    let failed = |error: io::Error| format!("{server}: {error}");
    let targets: Vec<SocketAddr> = lookup_host((server, PORT)).await.map_err(failed)?.collect();
    let target = targets.first().ok_or_else(|| format!("{server} has no address"))?;
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    socket.connect(target).await.map_err(failed)?;
    // The number that the answer has to repeat. It says nothing of our clock, and nobody off the path can guess it.
    let cookie: [u8; 8] = rand::random();
    let sent = Instant::now();
    socket.send(&question(cookie)).await.map_err(failed)?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await.map_err(failed)?;
        match time(&answer[..length], cookie) {
            // Half of the way was spent since.
            Ok(time) => return Ok((time, sent + sent.elapsed() / 2)),
            Err(Answer::NotOurs) => {}
            Err(Answer::Refused(reason)) => return Err(format!("{server}: {reason}")),
        }
    }
}

/// A client's packet: version 4, mode 3 (RFC 4330, 5), with the cookie as its transmit timestamp.
fn question(cookie: [u8; 8]) -> [u8; 48] {
    let mut packet = [0; 48];
    packet[0] = 0x23;
    packet[40..].copy_from_slice(&cookie);
    packet
}

/// An answer that gives no time.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    NotOurs,
    Refused(&'static str),
}

/// The transmit timestamp of a server's packet.
fn time(packet: &[u8], cookie: [u8; 8]) -> Result<SystemTime, Answer> {
    let Some(packet) = packet.first_chunk::<48>() else { return Err(Answer::NotOurs) };
    // Mode 4 is a server; it repeats our timestamp in its originate field.
    if packet[0] & 7 != 4 || packet[24..32] != cookie {
        return Err(Answer::NotOurs);
    }
    if packet[1] == 0 || packet[0] >> 6 == 3 {
        return Err(Answer::Refused("it has no time itself, or does not want to be asked"));
    }
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (seconds, fraction) = (u64::from(word(40)), u64::from(word(44)));
    // What has its first bit clear is of the era after 2036 (RFC 4330, 3).
    let since_1900 = if seconds >> 31 == 0 { seconds + (1 << 32) } else { seconds };
    let unix = since_1900.saturating_sub(NTP_TO_UNIX);
    if !(EARLIEST..LATEST).contains(&unix) {
        return Err(Answer::Refused("its time is before 2025 or after 2100"));
    }
    Ok(UNIX_EPOCH + Duration::from_secs(unix) + Duration::from_nanos((fraction * 1_000_000_000) >> 32))
}

/// Hands the time on to the clock that goes on while the machine is off, for the system that boots next. Takes up to a second.
pub async fn save() {
    tokio::time::sleep(saved::until_best(SystemTime::now())).await;
    match saved::save(&Tree::at("/"), SystemTime::now()) {
        Ok(()) => tracing::debug!("the clock of the machine is set"),
        Err(error) => {
            tracing::warn!(%error, "the clock of the machine is not set; it keeps its own time while it is off")
        }
    }
}

fn step(time: SystemTime, server: &str) -> Result<f64, ClockError> {
    let now = SystemTime::now();
    let moved = match time.duration_since(now) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(error) => -error.duration().as_secs_f64(),
    };
    if moved.abs() < TOLERANCE.as_secs_f64() {
        tracing::debug!(server, "the clock is right");
        return Ok(0.0);
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let wanted = rustix::time::Timespec {
        tv_sec: since.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: since.subsec_nanos().into(),
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, wanted)
        .map_err(|error| ClockError::Set(error.into()))?;
    tracing::info!(server, seconds = moved, "clock set");
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: [u8; 8] = *b"whatever";

    fn answer(first: u8, stratum: u8, seconds: u32) -> [u8; 48] {
        let mut packet = [0; 48];
        packet[0] = first;
        packet[1] = stratum;
        packet[24..32].copy_from_slice(&COOKIE);
        packet[40..44].copy_from_slice(&seconds.to_be_bytes());
        packet[44..].copy_from_slice(&0x8000_0000_u32.to_be_bytes());
        packet
    }

    #[test]
    fn a_servers_time_is_read_in_both_eras() {
        let unix = |packet: [u8; 48]| time(&packet, COOKIE).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert_eq!(unix(answer(0x24, 2, 0xee00_0000)), f64::from(0xee00_0000_u32) - 2_208_988_800.0 + 0.5);
        // 2036-02-07 and a while.
        assert_eq!(unix(answer(0x24, 2, 1000)), 4_294_967_296.0 + 1000.0 - 2_208_988_800.0 + 0.5);
    }

    #[test]
    fn a_packet_that_is_no_answer_to_ours_is_passed_over() {
        assert_eq!(time(&[0x24; 20], COOKIE), Err(Answer::NotOurs));
        assert_eq!(time(&answer(0x24, 2, 0xee00_0000), *b"another!"), Err(Answer::NotOurs));
        assert_eq!(time(&answer(0x23, 2, 0xee00_0000), COOKIE), Err(Answer::NotOurs));
    }

    #[test]
    fn a_server_without_time_and_a_senseless_time_are_refused() {
        assert!(matches!(time(&answer(0x24, 0, 0xee00_0000), COOKIE), Err(Answer::Refused(_))));
        assert!(matches!(time(&answer(0xe4, 2, 0xee00_0000), COOKIE), Err(Answer::Refused(_))));
        assert!(matches!(time(&answer(0x24, 2, 0x8000_0000), COOKIE), Err(Answer::Refused(_))));
        assert!(matches!(time(&answer(0x24, 2, 0x7fff_ffff), COOKIE), Err(Answer::Refused(_))));
    }
}
