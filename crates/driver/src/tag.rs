//! What tells states of a node, a port or a record apart: the `ETag` of a reply.

use jiff::Timestamp;
use std::fmt;
use std::str::FromStr;

/// When something was created, and its version. A version alone begins anew when something is deleted and created again under the
/// same UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    created: i64,
    version: u64,
}

impl Tag {
    /// The tag of what was created then and has this version.
    pub fn new(created_at: Timestamp, version: u64) -> Self {
        // As much of it as a store keeps.
        Self { created: created_at.as_microsecond(), version }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:x}-{}\"", self.created, self.version)
    }
}

impl FromStr for Tag {
    type Err = ();

    /// Reads a tag that was given out. A tag of anybody else's names nothing.
    fn from_str(text: &str) -> Result<Self, ()> {
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or(())?;
        let (created, version) = inner.split_once('-').ok_or(())?;
        let created = i64::from_str_radix(created, 16).map_err(drop)?;
        Ok(Self { created, version: version.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written_and_nothing_else_is_one() {
        let tag = Tag::new("2026-01-02T03:04:05.678901234Z".parse().unwrap(), 7);
        assert_eq!(tag.to_string(), "\"6475ef6574f35-7\"");
        assert_eq!(tag.to_string().parse(), Ok(tag));
        for text in ["7", "\"7\"", "\"6475ef6574f35-7", "W/\"6475ef6574f35-7\"", "\"x-7\"", "\"1--7\""] {
            assert_eq!(text.parse::<Tag>(), Err(()), "{text}");
        }
    }
}
