//! The one rule for paths inside archives and file systems that we write.

/// The longest name of one path component, in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;

/// A path that cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} cannot be stored: {reason}; use relative names joined by '/', like \"etc/os-release\"")]
pub struct PathError {
    /// The path as it was given.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Splits a relative path into its names.
///
/// # Errors
/// Refuses what would mean something else after unpacking: empty paths, absolute paths, empty names, `.`, `..`, NUL
/// bytes and names over [`NAME_MAX`].
pub fn components(path: &str) -> Result<Vec<&str>, PathError> {
    let refuse = |reason| Err(PathError { path: path.to_owned(), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    let names: Vec<&str> = path.split('/').collect();
    for name in &names {
        match *name {
            "" => return refuse("it has an empty name (a leading, trailing or double '/')"),
            "." | ".." => return refuse("it has a '.' or '..' name"),
            name if name.contains('\0') => return refuse("it has a NUL byte"),
            name if name.len() > NAME_MAX => return refuse("it has a name of more than 255 bytes"),
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_split_into_names() {
        assert_eq!(components("etc/ssl/certs"), Ok(vec!["etc", "ssl", "certs"]));
        assert_eq!(components("init"), Ok(vec!["init"]));
    }

    #[test]
    fn cve_2026_48681_paths_that_could_leave_the_root_are_refused() {
        for path in ["", "/etc", "etc/", "a//b", "../x", "a/./b", "a/..", "a\0b"] {
            assert!(components(path).is_err(), "{path:?}");
        }
        assert!(components(&"n".repeat(255)).is_ok());
        assert!(components(&"n".repeat(256)).is_err());
    }
}
