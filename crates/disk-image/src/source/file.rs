//! Images in local files: only below allowed folders, only regular files.

use super::{Identity, Opened, Source, SourceError};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that one read asks for.
const READ: usize = 1 << 20;

/// A regular file below an allowed folder. It is opened anew for each stream, relative to that folder, so that neither
/// `..` nor a symbolic link leads out of it, not even one that is put there later.
pub struct FileSource {
    name: String,
    root: PathBuf,
    relative: PathBuf,
}

impl FileSource {
    /// The file of a `file:///path` address, percent-encoded.
    pub fn from_url(url: &str, roots: &[PathBuf]) -> Result<Self, SourceError> {
        let bad = |reason: &str| SourceError::Address { url: super::shown(url), reason: reason.to_owned() };
        let rest = url.get(5..).and_then(|rest| rest.strip_prefix("//"));
        let path = rest.map(|rest| rest.strip_prefix("localhost").unwrap_or(rest)).filter(|path| path.starts_with('/'));
        let path = path.ok_or_else(|| bad("write it as file:///path; other hosts are not reached this way"))?;
        let path = percent_decode(path).ok_or_else(|| bad("its percent-encoding is broken or hides a NUL"))?;
        Self::new(Path::new(&path), roots)
    }

    /// The file at this absolute path, which must lie below one of `roots`.
    pub fn new(path: &Path, roots: &[PathBuf]) -> Result<Self, SourceError> {
        let found = roots.iter().find_map(|root| Some((root, path.strip_prefix(root).ok()?)));
        let Some((root, relative)) = found else {
            let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
            let roots =
                if roots.is_empty() { "no folder at all (none is configured)".into() } else { roots.join(", ") };
            return Err(SourceError::NotAllowed { path: path.display().to_string(), roots });
        };
        Ok(Self { name: path.display().to_string(), root: root.clone(), relative: relative.to_owned() })
    }

    fn open_file(&self) -> io::Result<(File, Identity)> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, folder, Mode::empty())?;
        // NONBLOCK: a FIFO must not hang the open; it is refused right after.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(root, &self.relative, flags, Mode::empty(), beneath)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::from(file);
        let meta = file.metadata()?;
        let etag = format!("{}:{}:{}.{}", meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec());
        Ok((file, Identity { length: Some(meta.len()), etag: Some(etag), ..Identity::default() }))
    }
}

impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn file(&self) -> Option<PathBuf> {
        Some(self.root.join(&self.relative))
    }

    fn open<'a>(&'a self, at: u64, known: Option<&'a Identity>) -> BoxFuture<'a, Result<Opened, SourceError>> {
        async move {
            let opened = self.open_file();
            let (file, identity) = opened.map_err(|source| SourceError::File { path: self.name.clone(), source })?;
            if let Some(difference) = known.and_then(|known| known.difference(&identity)) {
                return Err(SourceError::Changed { url: self.name.clone(), difference });
            }
            let reading = Arc::new(Reading { file, spare: Mutex::new(Vec::new()) });
            let stream = stream::try_unfold(at, move |at| read(reading.clone(), at)).boxed();
            Ok(Opened { identity, stream })
        }
        .boxed()
    }
}

/// An open file, and the memory that is read into again: new pages for each read would take as long as the read.
struct Reading {
    file: File,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Reading {
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was read. Its memory goes back when nobody holds it any more.
struct Part {
    buffer: Vec<u8>,
    len: usize,
    from: Arc<Reading>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.from.spare().push(std::mem::take(&mut self.buffer));
    }
}

async fn read(from: Arc<Reading>, at: u64) -> io::Result<Option<(Bytes, u64)>> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut buffer = from.spare().pop().unwrap_or_else(|| vec![0; READ]);
        loop {
            match from.file.read_at(&mut buffer, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break io::Result::Ok(Part { len: other?, buffer, from }),
            }
        }
    });
    let part = reading.await.map_err(io::Error::other)??;
    let next = at + part.len as u64;
    Ok((part.len > 0).then(|| (Bytes::from_owner(part), next)))
}

pub(crate) fn percent_decode(text: &str) -> Option<PathBuf> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        (out, rest) = if byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok().filter(|&byte| byte != 0)?);
            (out, &tail[2..])
        } else {
            out.push(byte);
            (out, tail)
        };
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(source: &FileSource, at: u64) -> Result<Vec<u8>, SourceError> {
        let mut opened = source.open(at, None).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = opened.stream.next().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_file_is_read_from_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("an image"), b"0123456789").unwrap();
        let url = format!("file://{}/an%20image", dir.path().display());
        let source = FileSource::from_url(&url, &[dir.path().to_owned()]).unwrap();
        assert_eq!(all(&source, 0).await.unwrap(), b"0123456789");
        assert_eq!(all(&source, 7).await.unwrap(), b"789");
    }

    #[tokio::test]
    async fn cve_2025_44021_nothing_outside_the_allowed_folders_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(&outside, b"secret").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let roots = [inside.clone()];
        assert!(matches!(FileSource::new(&outside, &roots), Err(SourceError::NotAllowed { .. })));
        for escape in ["link", "../out"] {
            let source = FileSource::new(&inside.join(escape), &roots).unwrap();
            assert!(matches!(all(&source, 0).await, Err(SourceError::File { .. })), "{escape}");
        }
        assert!(matches!(FileSource::from_url("file:///etc/passwd", &[]), Err(SourceError::NotAllowed { .. })));
        assert!(matches!(FileSource::from_url("file://host/x", &roots), Err(SourceError::Address { .. })));
        assert!(matches!(FileSource::from_url("file:///a%00b", &roots), Err(SourceError::Address { .. })));
    }

    #[tokio::test]
    async fn cve_2026_44919_devices_pipes_and_folders_are_no_images() {
        let dev = FileSource::new(Path::new("/dev/zero"), &["/dev".into()]).unwrap();
        assert!(matches!(all(&dev, 0).await, Err(SourceError::File { .. })));
        let dir = tempfile::tempdir().unwrap();
        let folder = FileSource::new(&dir.path().join("."), &[dir.path().to_owned()]).unwrap();
        assert!(all(&folder, 0).await.is_err());
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let fifo = FileSource::new(&fifo, &[dir.path().to_owned()]).unwrap();
        assert!(all(&fifo, 0).await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_changed_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, b"0123456789").unwrap();
        let source = FileSource::new(&path, &[dir.path().to_owned()]).unwrap();
        let identity = source.open(0, None).await.unwrap().identity;
        std::fs::write(&path, b"0123456789abc").unwrap();
        assert!(matches!(source.open(5, Some(&identity)).await, Err(SourceError::Changed { .. })));
    }
}
