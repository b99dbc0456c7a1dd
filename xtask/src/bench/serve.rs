//! A file server on the loopback device: GET with `Range: bytes=N-` and an entity tag, sent by the kernel (`sendfile`),
//! so that the source costs no client more than another. Below `/slow/` lie the same files, sent at a chosen rate.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Longest head of a request, bytes.
const HEAD: u64 = 16 << 10;
/// Bytes that a slow reply sends at a time.
const SLICE: u64 = 128 << 10;

/// A server that runs until the process ends.
pub struct Server {
    /// Its address.
    pub url: String,
    /// Bytes a second of each connection below `/slow/`.
    rate: Arc<AtomicU64>,
}

impl Server {
    /// Serves the files of `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for image requests")?;
        let url = format!("http://{}", listener.local_addr()?);
        let rate = Arc::new(AtomicU64::new(u64::MAX));
        let (folder, shared) = (folder.to_path_buf(), rate.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, rate) = (folder.clone(), shared.load(Relaxed));
                // A client that goes away has what it wanted: parts of a qcow2 are read that way.
                std::thread::spawn(move || answer(stream, &folder, rate));
            }
        });
        Ok(Self { url, rate })
    }

    /// Sets the rate of what is asked for from now on below `/slow/`, bytes a second.
    pub fn throttle(&self, rate: u64) {
        self.rate.store(rate.max(1), Relaxed);
    }
}

struct Asked {
    file: PathBuf,
    slow: bool,
    from: Option<u64>,
}

fn read_request(stream: &TcpStream, folder: &Path) -> Result<Asked> {
    let (mut name, mut from) = (String::new(), None);
    for (number, line) in BufReader::new(stream.take(HEAD)).lines().enumerate() {
        let line = line?;
        if number == 0 {
            name = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let slow = name.strip_prefix("slow/");
    let file = slow.unwrap_or(&name);
    anyhow::ensure!(!file.contains('/'), "{file:?} is not a file name");
    Ok(Asked { file: folder.join(file), slow: slow.is_some(), from })
}

fn answer(mut stream: TcpStream, folder: &Path, rate: u64) -> Result<()> {
    let asked = read_request(&stream, folder)?;
    let Ok(mut file) = File::open(&asked.file) else {
        return Ok(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?);
    };
    let size = file.metadata()?.len();
    let at = asked.from.unwrap_or(0).min(size);
    let (status, range) = match asked.from {
        Some(_) => ("206 Partial Content", format!("Content-Range: bytes {at}-{}/{size}\r\n", size - 1)),
        None => ("200 OK", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}ETag: \"{size}\"\r\nAccept-Ranges: bytes\r\n\
         Connection: close\r\n\r\n",
        size - at
    );
    stream.write_all(head.as_bytes())?;
    file.seek(SeekFrom::Start(at))?;
    if asked.slow { send_slowly(file, stream, rate) } else { Ok(io::copy(&mut file, &mut stream).map(|_| ())?) }
}

fn send_slowly(mut file: File, mut stream: TcpStream, rate: u64) -> Result<()> {
    let (start, mut sent) = (Instant::now(), 0);
    loop {
        let len = io::copy(&mut Read::by_ref(&mut file).take(SLICE), &mut stream)?;
        if len == 0 {
            return Ok(());
        }
        sent += len;
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
}
