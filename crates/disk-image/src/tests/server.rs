//! An HTTP server that misbehaves on request.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How one request is answered.
#[derive(Clone, Default)]
pub(super) struct Answer {
    /// Instead of 200 or 206, without a body.
    pub(super) status: Option<u16>,
    /// Close the connection after so many bytes of the body.
    pub(super) cut: Option<usize>,
    /// Send nothing more after so many bytes, and keep the connection.
    pub(super) stall: Option<usize>,
    /// Entity tag; empty: none.
    pub(super) etag: String,
    /// Always send everything.
    pub(super) ignore_range: bool,
    /// What to add to the announced full length.
    pub(super) longer: usize,
    /// In place of the right `Content-Range`; empty: none.
    pub(super) content_range: Option<String>,
    /// Continue what may be another content, whatever `If-Range` says.
    pub(super) ignore_if_range: bool,
    /// Send so many bytes at a time, with a pause after each.
    pub(super) slow: Option<(usize, Duration)>,
    /// Send so many bytes behind the announced ones, and close the connection.
    pub(super) extra: usize,
    /// Announce no length: the end of the connection is the end of the image.
    pub(super) endless: bool,
    /// Answer with 206 although everything was asked for.
    pub(super) partial: bool,
    /// Send no more than so many bytes of a range, and say so in its `Content-Range`.
    pub(super) portion: Option<usize>,
    /// Where to redirect to.
    pub(super) location: Option<String>,
    /// Announce no length, and send the body in chunks; where it is cut, without the last one.
    pub(super) chunked: bool,
    /// Further lines of the head, each with its end.
    pub(super) more: &'static str,
}

impl Answer {
    pub(super) fn good() -> Self {
        Self { etag: "\"v1\"".into(), ..Self::default() }
    }
}

/// One request, as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// First byte asked for.
    pub(super) start: usize,
    /// `If-Range`.
    pub(super) if_range: Option<String>,
    /// `Authorization`.
    pub(super) authorization: Option<String>,
    /// Bytes of the body that were sent.
    pub(super) sent: usize,
}

pub(super) struct Server {
    pub(super) url: String,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves `content`; the n-th request (from 0) is answered as `answer` says.
    pub(super) async fn start(content: Vec<u8>, answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/image", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, content, answer) = (seen.clone(), Arc::new(content), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, content.clone(), answer.clone(), log.clone()));
            }
        });
        Self { url, seen, task }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    content: Arc<Vec<u8>>,
    answer: Arc<impl Fn(usize) -> Answer>,
    log: Arc<Mutex<Vec<Seen>>>,
) {
    while let Some(head) = read_head(&mut stream).await {
        let mut seen = parse(&head);
        let index = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        let answer = answer(index);
        let other_version = seen.if_range.as_ref().is_some_and(|tag| *tag != answer.etag);
        if answer.ignore_range || (other_version && !answer.ignore_if_range) {
            seen.start = 0;
        }
        let (reply, body) = reply(&answer, &content, seen.start);
        let len = body.len().min(answer.cut.unwrap_or(usize::MAX)).min(answer.stall.unwrap_or(usize::MAX));
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
        let (piece, pause) = answer.slow.unwrap_or((usize::MAX, Duration::ZERO));
        for piece in body[..len].chunks(if answer.chunked { piece.min(70_001) } else { piece }) {
            let chunk = format!("{:x}\r\n", piece.len());
            let sent = match answer.chunked {
                true => stream.write_all(&[chunk.as_bytes(), piece, b"\r\n"].concat()).await,
                false => stream.write_all(piece).await,
            };
            if sent.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        if answer.chunked && len == body.len() && stream.write_all(b"0\r\n\r\n").await.is_err() {
            return;
        }
        log.lock().unwrap()[index].sent = len;
        if stream.write_all(&vec![0x5a; answer.extra]).await.is_err() || answer.extra > 0 || answer.endless {
            let _ = stream.shutdown().await;
            return;
        }
        if answer.stall.is_some() {
            std::future::pending::<()>().await;
        }
        if len < body.len() || answer.longer > 0 || answer.cut.is_some() {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

fn reply<'a>(answer: &Answer, content: &'a [u8], start: usize) -> (String, &'a [u8]) {
    let total = content.len() + answer.longer;
    let mut head = if let Some(location) = &answer.location {
        return (format!("HTTP/1.1 307 x\r\ncontent-length: 0\r\nlocation: {location}\r\n\r\n"), &[]);
    } else if let Some(status) = answer.status {
        return (format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{}\r\n", answer.more), &[]);
    } else if start > 0 || answer.partial {
        let end = answer.portion.map_or(total, |portion| total.min(start + portion));
        let right = format!("bytes {start}-{}/{total}", end - 1);
        match answer.content_range.as_deref().unwrap_or(&right) {
            "" => "HTTP/1.1 206 x\r\n".to_owned(),
            range => format!("HTTP/1.1 206 x\r\ncontent-range: {range}\r\n"),
        }
    } else {
        "HTTP/1.1 200 x\r\n".to_owned()
    };
    let rest = answer.portion.filter(|_| start > 0).map_or(total - start, |portion| portion.min(total - start));
    head += answer.more;
    if answer.chunked {
        head += "transfer-encoding: chunked\r\n";
    } else if !answer.endless {
        head += &format!("content-length: {rest}\r\n");
    }
    if !answer.etag.is_empty() {
        head += &format!("etag: {}\r\n", answer.etag);
    }
    let body = content.get(start..).unwrap_or_default();
    (head + "\r\n", &body[..body.len().min(rest)])
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

fn parse(head: &str) -> Seen {
    let field = |name: &str| {
        head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let value = |name| field(name).map(|(_, value)| value.to_owned());
    let start = value("range").map(|range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
    Seen { start: start.unwrap_or(0), if_range: value("if-range"), authorization: value("authorization"), sent: 0 }
}
