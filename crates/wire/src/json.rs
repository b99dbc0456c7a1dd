//! Reading JSON that a stranger sent: depth and number of values are capped before anything is built.

use serde::de::DeserializeOwned;

/// How much a text may ask of its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting of arrays and objects.
    pub depth: usize,
    /// Values of all levels; an empty array or object counts as two. Each takes tens of bytes of memory, whatever the two
    /// bytes that it has in the text.
    pub values: usize,
}

/// What [`read`] admits. The depth is Ironic's limit since OSSN-0099; a listing or an inventory is far from the values.
pub const LIMITS: Limits = Limits { depth: 25, values: 1_000_000 };

/// What an agent admits in a command. Ironic sends what it was sent at [`LIMITS`]' depth one level deeper: a node's `extra`
/// arrives as `params.node.extra`, and a step's arguments as `params.step.args`.
pub const COMMAND_LIMITS: Limits = Limits { depth: 32, values: 200_000 };

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Nested too deeply.
    #[error("JSON is nested more than {limit} levels deep")]
    TooDeep {
        /// The cap.
        limit: usize,
    },
    /// Too many values.
    #[error("JSON has more than {limit} values")]
    TooMany {
        /// The cap.
        limit: usize,
    },
    /// Not JSON, or not of the expected shape; the text names place or field.
    #[error("{0}")]
    Invalid(String),
}

/// Reads a value of type `T`, refusing what is beyond [`LIMITS`].
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    read_within(bytes, LIMITS)
}

/// Reads a value of type `T`, refusing what is beyond `limits`.
pub fn read_within<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, JsonError> {
    check(bytes, limits)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Invalid(error.to_string()))
}

/// Fails when a text goes beyond `limits`. One pass, no memory.
pub fn check(bytes: &[u8], limits: Limits) -> Result<(), JsonError> {
    let (mut depth, mut values, mut in_string, mut escaped) = (0_usize, 1_usize, false, false);
    for &byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                (depth, values) = (depth + 1, values + 1);
                if depth > limits.depth {
                    return Err(JsonError::TooDeep { limit: limits.depth });
                }
            }
            b',' => values += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if values > limits.values {
            return Err(JsonError::TooMany { limit: limits.values });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn nesting_is_counted_outside_strings_only() {
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let error = read::<Value>(deep(26).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "JSON is nested more than 25 levels deep");
        assert!(read_within::<Value>(deep(32).as_bytes(), COMMAND_LIMITS).is_ok());
        assert!(read_within::<Value>(deep(33).as_bytes(), COMMAND_LIMITS).is_err());
        let fine = format!("{}\"{}\\\"[\"{}", "[".repeat(25), "[".repeat(100), "]".repeat(25));
        assert!(read::<Value>(fine.as_bytes()).is_ok());
    }

    #[test]
    fn a_hundred_thousand_levels_are_refused_without_recursion() {
        assert!(matches!(check("[".repeat(100_000).as_bytes(), LIMITS), Err(JsonError::TooDeep { limit: 25 })));
    }

    #[test]
    fn values_of_all_levels_are_counted_before_any_is_built() {
        let limits = |values| Limits { depth: 25, values };
        for (text, values) in [("1", 1), ("[1, 2]", 3), (r#"{"a": [1, "b,c,[d"], "e": {"f": null}}"#, 6), ("[]", 2)] {
            assert!(check(text.as_bytes(), limits(values)).is_ok(), "{text}");
            assert!(check(text.as_bytes(), limits(values - 1)).is_err(), "{text}");
        }
        let many = format!("[{}0]", "0,".repeat(15_000_000));
        let error = read_within::<Value>(many.as_bytes(), COMMAND_LIMITS).unwrap_err();
        assert_eq!(error.to_string(), "JSON has more than 200000 values");
    }
}
