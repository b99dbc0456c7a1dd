//! Reading JSON that a stranger sent: depth is capped before anything is built.

use serde::de::DeserializeOwned;

/// Deepest nesting of arrays and objects that is read. Ironic's limit since OSSN-0099.
pub const MAX_DEPTH: usize = 25;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Nested too deeply.
    #[error("JSON is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Not JSON, or not of the expected shape; the text names place or field.
    #[error("{0}")]
    Invalid(String),
}

/// Reads a value of type `T`, refusing nesting beyond [`MAX_DEPTH`].
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    check_depth(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Invalid(error.to_string()))
}

/// Fails when arrays and objects nest beyond [`MAX_DEPTH`]. One pass, no memory.
pub fn check_depth(bytes: &[u8]) -> Result<(), JsonError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
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
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(JsonError::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_strings_only() {
        let deep = format!("{}1{}", "[".repeat(26), "]".repeat(26));
        assert!(matches!(read::<serde_json::Value>(deep.as_bytes()), Err(JsonError::TooDeep)));
        let fine = format!("{}\"{}\\\"[\"{}", "[".repeat(25), "[".repeat(100), "]".repeat(25));
        assert!(read::<serde_json::Value>(fine.as_bytes()).is_ok());
    }

    #[test]
    fn a_hundred_thousand_levels_are_refused_without_recursion() {
        assert!(matches!(check_depth("[".repeat(100_000).as_bytes()), Err(JsonError::TooDeep)));
    }
}
