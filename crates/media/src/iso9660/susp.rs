//! Rock Ridge: real names and modes, in the system use area of directory records (SUSP 1.10, RRIP 1.10).

use super::record::{base_length, both_32};
use super::{BLOCK, tree::Node};

/// Longest system use area together with the rest of the record.
const RECORD_MAX: usize = 254;
/// Bytes of a CE field.
const CE: usize = 28;
/// Longest part of a name that fits one NM field.
const NAME_PART: usize = 250;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

const RRIP_ID: &[u8] = b"RRIP_1991A";
const RRIP_DESCRIPTOR: &[u8] = b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
const RRIP_SOURCE: &[u8] = b"PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN \
PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";

/// Which record of a node this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// "." of the root, which announces the protocol.
    RootSelf,
    /// "." or ".." elsewhere: a mode and no name.
    Dot,
    /// The record in the directory above.
    Entry,
}

/// Fields that did not fit their records.
#[derive(Debug, Default)]
pub(super) struct Continuation {
    /// First block of the area.
    pub(super) block: u32,
    /// The area's contents so far.
    pub(super) bytes: Vec<u8>,
}

impl Continuation {
    /// Stores fields so that they do not cross a block, and returns the CE field that leads to them.
    fn store(&mut self, fields: &[u8]) -> Vec<u8> {
        let block = BLOCK as usize;
        if self.bytes.len() % block + fields.len() > block {
            self.bytes.resize(self.bytes.len().next_multiple_of(block), 0);
        }
        let offset = self.bytes.len();
        self.bytes.extend(fields);
        let mut ce = field(b"CE", CE - 4);
        ce.extend(both_32(self.block + (offset / block) as u32));
        ce.extend(both_32((offset % block) as u32));
        ce.extend(both_32(fields.len() as u32));
        ce
    }
}

/// The system use area of a record with this identifier.
pub(super) fn system_use(
    node: &Node,
    role: Role,
    directory: bool,
    links: u32,
    identifier: &[u8],
    continuation: &mut Continuation,
) -> Vec<u8> {
    let mut fields = Vec::new();
    if role == Role::RootSelf {
        fields.push([field(b"SP", 3), vec![0xbe, 0xef, 0]].concat());
    }
    let kind = if directory { S_IFDIR } else { S_IFREG };
    fields.push(posix(kind | node.mode, links));
    if role == Role::Entry {
        fields.extend(name(&node.name));
    }
    if role == Role::RootSelf {
        fields.push(protocol());
    }
    fit(fields, RECORD_MAX - base_length(identifier), continuation)
}

/// Keeps as many fields as fit, and moves the rest into the continuation area.
fn fit(fields: Vec<Vec<u8>>, room: usize, continuation: &mut Continuation) -> Vec<u8> {
    if fields.iter().map(Vec::len).sum::<usize>() <= room {
        return fields.concat();
    }
    let mut used = 0;
    let kept = fields
        .iter()
        .take_while(|field| {
            used += field.len();
            used + CE <= room
        })
        .count();
    let mut out = fields[..kept].concat();
    out.extend(continuation.store(&fields[kept..].concat()));
    out
}

fn field(signature: &[u8; 2], data: usize) -> Vec<u8> {
    vec![signature[0], signature[1], (data + 4) as u8, 1]
}

/// PX: mode, links, owner and group (RRIP 4.1.1).
fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut out = field(b"PX", 32);
    out.extend(both_32(mode));
    out.extend(both_32(links));
    out.extend(both_32(0));
    out.extend(both_32(0));
    out
}

/// NM: the name, in as many fields as it needs (RRIP 4.1.4).
fn name(name: &str) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = name.as_bytes().chunks(NAME_PART).collect();
    let last = parts.len().saturating_sub(1);
    let part = |(index, part): (usize, &&[u8])| {
        let mut out = field(b"NM", 1 + part.len());
        out.push(u8::from(index < last));
        out.extend_from_slice(part);
        out
    };
    parts.iter().enumerate().map(part).collect()
}

/// ER: the name of the protocol (SUSP 5.5).
fn protocol() -> Vec<u8> {
    let mut out = field(b"ER", 4 + RRIP_ID.len() + RRIP_DESCRIPTOR.len() + RRIP_SOURCE.len());
    out.extend([RRIP_ID.len() as u8, RRIP_DESCRIPTOR.len() as u8, RRIP_SOURCE.len() as u8, 1]);
    out.extend(RRIP_ID);
    out.extend(RRIP_DESCRIPTOR);
    out.extend(RRIP_SOURCE);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_do_not_fit_move_into_the_continuation_area() {
        let mut continuation = Continuation { block: 30, bytes: vec![0; 2000] };
        let fields = vec![vec![1; 36], vec![2; 255]];
        let kept = fit(fields, 200, &mut continuation);
        assert_eq!(kept.len(), 36 + CE);
        assert_eq!(&kept[36..40], b"CE\x1c\x01");
        // 255 bytes do not fit behind byte 2000 of a block, so they start the next one.
        assert_eq!(kept[40..44], 31_u32.to_le_bytes());
        assert_eq!(continuation.bytes[2048..], [2; 255]);
    }

    #[test]
    fn a_long_name_takes_two_fields() {
        let fields = name(&"n".repeat(255));
        assert_eq!(fields.iter().map(Vec::len).collect::<Vec<_>>(), [255, 10]);
        assert_eq!((fields[0][4], fields[1][4]), (1, 0));
    }
}
