//! What all lists have in common: paging, sorting, `fields` and `detail`, and the link to the next page.

use super::document::Wanted;
use super::request::{Call, Query, short};
use super::versions::{FIELDS, Field};
use crate::fault::Fault;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use store::{Page, SortDirection};
use uuid::Uuid;
use wire::ironic::Version;

/// Most entries of a page, and how many there are when nothing is said.
const MAX_LIMIT: usize = 1000;

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

/// Percent-encodes a part of a query.
fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
