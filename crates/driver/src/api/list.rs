//! What all lists have in common: paging, sorting, `fields` and `detail`, and the link to the next page.

use super::document::Wanted;
use super::reply;
use super::request::{Call, Query, short};
use super::versions::{FIELDS, Field};
use crate::fault::Fault;
use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use store::{Page, SortDirection};
use uuid::Uuid;
use wire::ironic::Version;

/// Most entries of a page, and how many there are when nothing is said.
const MAX_LIMIT: usize = 1000;

/// Bytes after which a piece of a list is sent: a page of nodes with all their details has megabytes.
const PIECE: usize = 16 << 10;

/// Takes the parameters of a page.
pub(super) fn page(query: &mut Query) -> Result<Page, Fault> {
    let limit = match query.take("limit") {
        None => MAX_LIMIT,
        Some(text) => match text.parse::<i64>() {
            Ok(limit) if limit > 0 => usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
            Ok(_) => return Err(Fault::Invalid("Limit must be positive".to_owned())),
            Err(_) => {
                return Err(Fault::Invalid(format!("Expected an integer for limit: {}", short(&text))));
            }
        },
    };
    let direction = match query.take("sort_dir").as_deref() {
        None | Some("asc") => SortDirection::Ascending,
        Some("desc") => SortDirection::Descending,
        Some(other) => {
            let other = short(other);
            return Err(Fault::Invalid(format!(
                "Invalid sort direction: {other}. Acceptable values are 'asc' or 'desc'"
            )));
        }
    };
    // `id` is Ironic's word for the order of creation.
    let sort_key = query.take("sort_key").filter(|key| key != "id" && !key.is_empty());
    Ok(Page { limit: Some(limit), marker: query.uuid("marker")?, sort_key, direction })
}

/// The names of a comma-separated list.
pub(super) fn names(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}

/// Takes `fields` of a request for one thing: all without it.
pub(super) fn wanted(query: &mut Query, fields: &[Field], version: Version) -> Result<Wanted, Fault> {
    match query.take("fields") {
        None => Ok(Wanted::All),
        Some(_) if version.0 < FIELDS => Err(Fault::not_acceptable()),
        Some(text) => Wanted::check(names(&text), fields, version),
    }
}

/// Takes `fields` and `detail` of a list; `short` are the fields without either, all when there are none. `since`: the
/// version that brought `detail`; unset where there is none.
pub(super) fn wanted_of_list(
    query: &mut Query,
    fields: &[Field],
    call: &Call,
    detail: bool,
    short: &[&str],
    since: Option<u16>,
) -> Result<Wanted, Fault> {
    let asked = match since {
        Some(since) => {
            let asked = query.flag("detail")?;
            if asked.is_some() {
                call.need(since)?;
            }
            asked
        }
        None => None,
    };
    match (detail || asked == Some(true), wanted(query, fields, call.version)?) {
        (true, Wanted::Only(_)) => {
            Err(Fault::Invalid("Can not specify ?detail=True and fields in the same request.".to_owned()))
        }
        (false, Wanted::All) if !short.is_empty() => {
            Ok(Wanted::Only(short.iter().map(|name| (*name).to_owned()).collect()))
        }
        (_, wanted) => Ok(wanted),
    }
}

/// The document of a list, by the name of what is in it.
pub(super) struct Document<T> {
    name: &'static str,
    next: Option<String>,
    entries: Vec<T>,
}

impl<T: Serialize> Serialize for Document<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_map(None)?;
        if let Some(next) = &self.next {
            document.serialize_entry("next", next)?;
        }
        document.serialize_entry(self.name, &self.entries)?;
        document.end()
    }
}

/// The document of a list. A page that is full may not be the last, so it names the next one; `path` is where.
pub(super) fn document<T>(
    call: &Call,
    original: &[(String, String)],
    name: &'static str,
    path: &str,
    page: &Page,
    entries: Vec<T>,
    last: Option<Uuid>,
) -> Document<T> {
    let next = page.limit.zip(last).filter(|(limit, _)| entries.len() == *limit).map(|(limit, last)| {
        let mut parameters: Vec<String> = original
            .iter()
            .filter(|(name, _)| name != "limit" && name != "marker")
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        parameters.push(format!("limit={limit}&marker={last}"));
        format!("{}/v1/{path}?{}", call.base, parameters.join("&"))
    });
    Document { name, next, entries }
}

impl<T: Send + 'static> Document<T> {
    /// The answer with this list, which is written while it is sent: what is held of it are its entries and a few pieces.
    /// `write` writes an entry.
    pub(super) fn answer<W>(self, write: W) -> Response<Body>
    where
        W: FnMut(&T, &mut Vec<u8>) -> serde_json::Result<()> + Send + 'static,
    {
        let mut pieces = Pieces { head: Some((self.name, self.next)), entries: self.entries.into_iter(), write };
        let mut begun = match pieces.piece() {
            Ok(begun) => begun,
            Err(error) => return reply::unwritten(&error),
        };
        if pieces.is_over() {
            return reply::json_bytes(StatusCode::OK, Body::from(begun));
        }
        let first = std::iter::once_with(move || Ok(Bytes::from(std::mem::take(&mut begun))));
        let rest = std::iter::from_fn(move || {
            let more = !pieces.is_over();
            // A client that is given an error sees that the list is not whole.
            more.then(|| pieces.piece().map(Bytes::from).map_err(std::io::Error::from))
        });
        reply::json_bytes(StatusCode::OK, Body::from_stream(futures::stream::iter(first.chain(rest))))
    }
}

/// A list that is written piece by piece.
struct Pieces<T, W> {
    /// What comes before the entries; taken by the first piece.
    head: Option<(&'static str, Option<String>)>,
    entries: std::vec::IntoIter<T>,
    write: W,
}

impl<T, W: FnMut(&T, &mut Vec<u8>) -> serde_json::Result<()>> Pieces<T, W> {
    fn is_over(&self) -> bool {
        self.head.is_none() && self.entries.len() == 0
    }

    /// The next piece; the last one when there are no entries after it.
    fn piece(&mut self) -> serde_json::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(PIECE + PIECE / 2);
        let mut is_first = false;
        if let Some((name, next)) = self.head.take() {
            piece.push(b'{');
            if let Some(next) = next {
                piece.extend_from_slice(b"\"next\":");
                serde_json::to_writer(&mut piece, &next)?;
                piece.push(b',');
            }
            serde_json::to_writer(&mut piece, name)?;
            piece.extend_from_slice(b":[");
            is_first = true;
        }
        while piece.len() < PIECE
            && let Some(entry) = self.entries.next()
        {
            if !std::mem::take(&mut is_first) {
                piece.push(b',');
            }
            (self.write)(&entry, &mut piece)?;
        }
        if self.entries.len() == 0 {
            piece.extend_from_slice(b"]}");
        }
        Ok(piece)
    }
}

/// Percent-encodes a part of a query.
fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::HttpBody;
    use serde_json::{Value, json};

    /// A list of texts as it is sent: its content type, its length where that is told, and its bytes.
    async fn sent(entries: Vec<String>, next: Option<&str>) -> (Option<String>, Vec<u8>) {
        let document = Document { name: "nodes", next: next.map(str::to_owned), entries };
        let answer = document.answer(|entry, to| serde_json::to_writer(to, entry));
        assert_eq!(answer.headers()["content-type"], "application/json");
        let told = HttpBody::size_hint(answer.body()).exact().map(|length| length.to_string());
        (told, axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    #[tokio::test]
    async fn a_list_is_the_same_document_whether_it_is_sent_whole_or_in_pieces() {
        for (entries, length) in [(0, 0), (1, 1), (3, 10), (1, PIECE - 15), (2, PIECE), (700, 100), (5, 3 * PIECE)] {
            for next in [None, Some("http://here/v1/nodes?limit=3&marker=x")] {
                let entries: Vec<String> = (0..entries).map(|number| format!("{number}").repeat(length)).collect();
                let whole = Document { name: "nodes", next: next.map(str::to_owned), entries: entries.clone() };
                let whole = serde_json::to_vec(&whole).unwrap();
                let (told, bytes) = sent(entries.clone(), next).await;
                assert!(bytes == whole, "{} entries of {length}", entries.len());
                assert_eq!(told.is_some(), whole.len() < PIECE || entries.len() == 1, "{} bytes", whole.len());
                let value: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!((&value["nodes"], value.get("next")), (&json!(entries), next.map(Value::from).as_ref()));
            }
        }
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_written_on_does_not_look_whole() {
        let document = Document { name: "nodes", next: None, entries: vec![0; 2 * PIECE] };
        let mut left = PIECE;
        let answer = document.answer(move |_, to| {
            left -= 1;
            if left == 0 {
                return Err(serde::ser::Error::custom("no"));
            }
            serde_json::to_writer(to, &0)
        });
        assert_eq!(answer.status(), 200);
        assert!(axum::body::to_bytes(answer.into_body(), usize::MAX).await.is_err());
    }
}
