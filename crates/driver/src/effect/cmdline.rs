//! Kernel command lines: typed, so that no text from a user reaches a boot loader as anything but one parameter.

use std::str::FromStr;

/// Why a parameter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A character that a boot loader or the kernel could read as something else.
    #[error("kernel parameters may hold printable ASCII only, but there is {found:?}; remove it")]
    Character {
        /// The character.
        found: char,
    },
    /// A sequence that boot loaders expand or run.
    #[error("kernel parameters must not contain {found:?}, which boot loaders give a meaning to; remove it")]
    Sequence {
        /// The sequence.
        found: &'static str,
    },
    /// A parameter that the driver sets itself.
    #[error("the kernel parameter {name} is set by the driver; remove it")]
    Reserved {
        /// Its name.
        name: String,
    },
    /// Too long.
    #[error("kernel parameters have {length} characters, more than {MAX}; make them shorter")]
    TooLong {
        /// Characters.
        length: usize,
    },
}

/// Longest text of an operator's parameters; x86 kernels take 2048 bytes in all.
const MAX: usize = 1024;
/// What boot loaders expand (`${`, `$(`, backquote) or take for a new command.
const SEQUENCES: [&str; 5] = ["${", "$(", "`", "||", "&&"];
/// What only the driver may say.
const RESERVED: [&str; 4] = ["ipa-api-url", "ipa-agent-token", "ipa-inspection-callback-url", "boot_method"];

/// Checked parameters of a kernel, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters(Vec<String>);

impl Parameters {
    /// Reads parameters separated by blanks; see [`FromStr`].
    ///
    /// # Errors
    /// [`ParameterError`], naming what is refused.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        text.parse()
    }

    /// The node's parameters, in which `%default%` stands for the site's.
    pub fn with_default(&self, site: &Self) -> Self {
        let words = self.0.iter().flat_map(|word| match word.as_str() {
            "%default%" => site.0.clone(),
            _ => vec![word.clone()],
        });
        Self(words.collect())
    }

    /// Adds `name=value`; both come from the driver.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.push(format!("{name}={value}"));
    }

    /// Adds the parameters of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// As a command line.
    pub fn line(&self) -> String {
        self.0.join(" ")
    }
}

impl FromStr for Parameters {
    type Err = ParameterError;

    fn from_str(text: &str) -> Result<Self, ParameterError> {
        if text.len() > MAX {
            return Err(ParameterError::TooLong { length: text.len() });
        }
        if let Some(found) = text.chars().find(|c| !(c.is_ascii_graphic() || *c == ' ')) {
            return Err(ParameterError::Character { found });
        }
        if let Some(found) = SEQUENCES.into_iter().find(|sequence| text.contains(sequence)) {
            return Err(ParameterError::Sequence { found });
        }
        let words: Vec<String> = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        for word in &words {
            let name = word.split('=').next().unwrap_or_default();
            if RESERVED.contains(&name) {
                return Err(ParameterError::Reserved { name: name.to_owned() });
            }
        }
        Ok(Self(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_parameters_are_kept_in_order() {
        let parameters = Parameters::parse("  console=ttyS0,115200  nomodeset systemd.journald=1").unwrap();
        assert_eq!(parameters.line(), "console=ttyS0,115200 nomodeset systemd.journald=1");
    }

    #[test]
    fn cve_2026_46447_nothing_that_a_boot_loader_could_act_on_passes() {
        for text in ["a\nb", "a\0", "x=${net0/mac}", "a || shell", "`id`", "$(id)", "é", "a\tb", "a && b"] {
            assert!(Parameters::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Parameters::parse("ipa-api-url=http://evil"),
            Err(ParameterError::Reserved { name: "ipa-api-url".to_owned() })
        );
        assert!(matches!(Parameters::parse(&"x".repeat(2000)), Err(ParameterError::TooLong { length: 2000 })));
    }

    #[test]
    fn the_site_s_parameters_go_where_the_node_wants_them() {
        let site = Parameters::parse("console=ttyS0").unwrap();
        let node = Parameters::parse("a=1 %default% b=2").unwrap();
        assert_eq!(node.with_default(&site).line(), "a=1 console=ttyS0 b=2");
    }
}
