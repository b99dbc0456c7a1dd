//! Raw `key=value` words, as typed. What they mean is decided in [`super::settings`].

use std::collections::BTreeMap;

/// Longest text that is read: the kernel's own command line has 2048 bytes on x86 (`COMMAND_LINE_SIZE`), files on media
/// have no limit of their own.
pub const MAX_TEXT: usize = 64 << 10;

/// Words by key. Of several with one key the last counts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words(BTreeMap<String, String>);

impl std::fmt::Debug for Words {
    // A value may be a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Words {
    /// The words of a kernel command line or of `parameters.txt`: separated by white space, those without `=` dropped.
    /// Text beyond [`MAX_TEXT`] is not read.
    pub fn parse(text: &str) -> Self {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let pairs = text[..end].split_whitespace().filter_map(|word| word.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// The options of an oslo.config file: `key = value`, `#` and `;` begin comments. Keys of sections other than
    /// `[DEFAULT]` have the section and a slash in front; keys are written with underscores.
    pub fn parse_ini(text: &str) -> Self {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let mut words = BTreeMap::new();
        let mut section = String::new();
        for line in text[..end].lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let default = name.eq_ignore_ascii_case("DEFAULT");
                section = if default { String::new() } else { format!("{}/", name.to_ascii_lowercase()) };
            } else if !line.starts_with(['#', ';'])
                && let Some((key, value)) = line.split_once('=')
            {
                words.insert(format!("{section}{}", key.trim().replace('-', "_")), value.trim().to_owned());
            }
        }
        Self(words)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Takes over all words of `other`, which win over those that are here.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The keys, for logs.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_at_white_space_and_at_their_first_equals_sign() {
        let words = Words::parse("quiet ipa-api-url=http://a/?x=1  a=\n\tb=2 b=3 =lost");
        assert_eq!(words.get("ipa-api-url"), Some("http://a/?x=1"));
        assert_eq!(words.get("a"), Some(""));
        assert_eq!(words.get("b"), Some("3"));
        assert_eq!(words.get("quiet"), None);
    }

    #[test]
    fn a_token_on_the_command_line_is_not_printed() {
        assert!(!format!("{:?}", Words::parse("ipa-agent-token=secret")).contains("secret"));
    }

    #[test]
    fn text_beyond_the_limit_is_cut_at_a_character() {
        let text = format!("a=1 {}", "é".repeat(MAX_TEXT));
        assert_eq!(Words::parse(&text).get("a"), Some("1"));
    }

    #[test]
    fn options_outside_of_the_default_section_carry_its_name() {
        let words = Words::parse_ini("cafile = /x.crt\n# a = b\n[other]\ninsecure=1\n[DEFAULT]\napi-url = http://a\n");
        assert_eq!(words.get("cafile"), Some("/x.crt"));
        assert_eq!(words.get("insecure"), None);
        assert_eq!(words.get("other/insecure"), Some("1"));
        assert_eq!(words.get("api_url"), Some("http://a"));
    }
}
