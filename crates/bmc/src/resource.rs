//! A Redfish resource as it came, read tolerantly: what is missing is `None`, and the reader decides what it needs.

use crate::error::RedfishError;
use serde_json::{Map, Value};

/// One resource.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    /// The BMC, for messages.
    pub(crate) bmc: String,
    /// Where it was read from.
    pub(crate) path: String,
    /// The document.
    pub(crate) value: Map<String, Value>,
    /// Its version, from the header or the document.
    pub(crate) etag: Option<String>,
}

impl Resource {
    /// The value below a chain of keys. Keys hold dots and at-signs, so this is no JSON pointer.
    pub(crate) fn at(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.value.get(*first)?, |value, key| value.get(key))
    }

    /// A text, unless it is missing, empty or of another type.
    pub(crate) fn text(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys)?.as_str().filter(|text| !text.is_empty())
    }

    /// A link: the `@odata.id` of the object there.
    pub(crate) fn link(&self, keys: &[&str]) -> Option<&str> {
        link_of(self.at(keys)?)
    }

    /// A list of links.
    pub(crate) fn links(&self, keys: &[&str]) -> Vec<String> {
        let list = self.at(keys).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(link_of).map(str::to_owned).collect()
    }

    /// A list of texts; `None` when there is no list.
    pub(crate) fn texts(&self, keys: &[&str]) -> Option<Vec<&str>> {
        Some(self.at(keys)?.as_array()?.iter().filter_map(Value::as_str).collect())
    }

    /// An error that says what this resource cannot do.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> RedfishError {
        RedfishError::Unsupported { bmc: self.bmc.clone(), resource: self.path.clone(), what: what.into() }
    }

    /// An error that says what is wrong with this resource.
    pub(crate) fn malformed(&self, problem: impl Into<String>) -> RedfishError {
        RedfishError::Malformed { bmc: self.bmc.clone(), resource: self.path.clone(), problem: problem.into() }
    }
}

fn link_of(value: &Value) -> Option<&str> {
    value.get("@odata.id")?.as_str().filter(|text| !text.is_empty())
}

/// The BMC's own words about a failure (DSP0266, "Error responses"), shortened to what fits a sentence.
pub(crate) fn complaint(body: &[u8]) -> String {
    const LONGEST: usize = 300;
    let parsed: Option<Value> = wire::json::read(body).ok();
    let error = parsed.as_ref().and_then(|value| value.get("error"));
    let mut words: Vec<&str> = Vec::new();
    let infos = error.and_then(|error| error.get("@Message.ExtendedInfo"));
    let infos: Vec<&Value> = match infos {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one) => vec![one],
        None => Vec::new(),
    };
    for info in infos {
        words.extend(info.get("Message").or_else(|| info.get("MessageId")).and_then(Value::as_str));
    }
    let general = error.and_then(|error| error.get("message")).and_then(Value::as_str);
    if words.is_empty() || words.iter().all(|word| !word.contains(' ')) {
        words.splice(0..0, general);
    }
    let text = if words.is_empty() { String::from_utf8_lossy(body).into_owned() } else { words.join(" ") };
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_the_message_that_a_person_can_read() {
        let cases = [
            r#"{"error":{"code":"Base.1.8.GeneralError","message":"See ExtendedInfo.","@Message.ExtendedInfo":[{"MessageId":"Base.1.8.PropertyValueNotInList","Message":"The value Cd is not in the list."}]}}"#,
            r#"{"error":{"message":"Domain not found","@Message.ExtendedInfo":[{"MessageId":"Base.1.0.GeneralError"}]}}"#,
            r#"{"error":{"@Message.ExtendedInfo":{"Message":"One object instead of a list."}}}"#,
            "<html>\n  Internal   Server Error</html>",
            "",
        ];
        let lines: Vec<_> = cases.iter().map(|case| complaint(case.as_bytes())).collect();
        insta::assert_snapshot!(lines.join("\n"));
        assert_eq!(complaint(&[b'x'; 5000]).len(), 300);
    }
}
