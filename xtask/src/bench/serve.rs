//! A file server on the loopback device: GET with `Range: bytes=N-` and an entity tag, sent by the kernel (`sendfile`),
//! so that the source costs no client more than another.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

/// Longest head of a request, bytes.
const HEAD: u64 = 16 << 10;

/// Serves the files of `folder` until the process ends, and returns the address.
pub fn start(folder: &Path) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen for image requests")?;
    let address = listener.local_addr()?;
    let folder = folder.to_path_buf();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            // A client that goes away has what it wanted: parts of a qcow2 are read that way.
            std::thread::spawn(move || answer(stream, &folder));
        }
    });
    Ok(format!("http://{address}"))
}

fn answer(mut stream: TcpStream, folder: &Path) -> Result<()> {
    let mut name = String::new();
    let mut from = None;
    for (number, line) in BufReader::new((&stream).take(HEAD)).lines().enumerate() {
        let line = line?;
        if number == 0 {
            name = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<u64>().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    anyhow::ensure!(!name.contains('/'), "{name:?} is not a file name");
    let Ok(mut file) = File::open(folder.join(&name)) else {
        return Ok(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?);
    };
    let size = file.metadata()?.len();
    let at = from.unwrap_or(0).min(size);
    let (status, range) = match from {
        Some(_) => ("206 Partial Content", format!("Content-Range: bytes {at}-{}/{size}\r\n", size - 1)),
        None => ("200 OK", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}ETag: \"{name}-{size}\"\r\nAccept-Ranges: bytes\r\n\
         Connection: close\r\n\r\n",
        size - at
    );
    stream.write_all(head.as_bytes())?;
    file.seek(SeekFrom::Start(at))?;
    std::io::copy(&mut file, &mut stream)?;
    Ok(())
}
