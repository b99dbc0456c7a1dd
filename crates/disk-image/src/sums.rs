//! Digests out of files with digests, such as `SHA256SUMS`.

use crate::error::Cause;
use crate::fetch::Patience;
use crate::progress::Meters;
use crate::reader::Reader;
use crate::source::Source;

/// Longest file of digests that is read, bytes: `SHA256SUMS` of a whole distribution mirror has a tenth of it.
pub const MAX_FILE: usize = 1 << 20;

/// Reads a file of digests, as far as [`MAX_FILE`].
pub async fn read(source: &dyn Source, patience: &Patience) -> Result<String, Cause> {
    let meters = Meters::new();
    let mut bytes = vec![0; MAX_FILE];
    let len = Reader::new(source, patience, &meters, MAX_FILE as u64).read(0, &mut bytes).await?;
    bytes.truncate(len);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last part of a URL's path.
pub fn base_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The digest for one of `names` in the usual formats: a bare digest alone in the file, `digest  name`, `digest *name`
/// and `ALGORITHM (name) = digest`. Lines that begin with `#` are comments.
pub fn find(text: &str, names: &[&str]) -> Option<String> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    if let [only] = lines.as_slice()
        && !only.contains(char::is_whitespace)
    {
        return Some((*only).to_owned());
    }
    lines.into_iter().find_map(|line| {
        let (name, digest) = match line.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") = ")) {
            Some((name, digest)) => (name, digest),
            None => {
                let (digest, name) = line.split_once(char::is_whitespace)?;
                (name.trim().trim_start_matches('*'), digest)
            }
        };
        names.contains(&name.trim_start_matches("./")).then(|| digest.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_in_the_usual_files() {
        let names = ["debian.raw"];
        assert_eq!(find("abc\n", &names).as_deref(), Some("abc"));
        assert_eq!(find("# sums\n111  other.raw\n222 *debian.raw\n", &names).as_deref(), Some("222"));
        assert_eq!(find("111  ./debian.raw\n222  x\n", &names).as_deref(), Some("111"));
        assert_eq!(find("SHA256 (debian.raw) = 333\nSHA256 (x) = 4\n", &names).as_deref(), Some("333"));
        assert_eq!(find("111  other.raw\n", &names), None);
        assert_eq!(find("", &names), None);
        assert_eq!(base_name("http://host/a/debian.raw?sig=x/y"), "debian.raw");
    }
}
