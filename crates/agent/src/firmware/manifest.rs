//! The manifest: which firmware belongs on which device.

use super::Device;
use disk_image::Digest;
use serde::Deserialize;
use serde_json::Value;

/// The version of the format.
const VERSION: u32 = 1;
/// Components of one manifest.
const MOST: usize = 256;

/// A manifest, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) components: Vec<Component>,
}

/// One firmware.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// What people call it.
    pub(super) component: String,
    /// Patterns with `*`; without a vendor any will do.
    vendor: Option<String>,
    pub(super) model: String,
    /// What the device says when it runs it.
    pub(super) version: String,
    pub(super) url: String,
    pub(super) digest: Digest,
    tool: Tool,
}

/// Who installs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tool {
    /// The agent, by the commands of NVMe.
    Nvme,
    /// A program of the ramdisk.
    Program(String),
}

impl Tool {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Nvme => "nvme",
            Self::Program(name) => name,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    components: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    component: String,
    #[serde(default)]
    vendor: Option<String>,
    model: String,
    version: String,
    url: String,
    digest: String,
    tool: String,
}

impl Manifest {
    /// Reads a manifest; what is wrong with it is in words that name the place.
    pub(super) fn read(document: Value) -> Result<Self, String> {
        let Document { version, components } = serde_json::from_value(document).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("it has version {version}, and this agent knows {VERSION}"));
        }
        if components.is_empty() || components.len() > MOST {
            return Err(format!("it has {} components, and may have 1 to {MOST}", components.len()));
        }
        let components = components.into_iter().map(component).collect::<Result<_, _>>()?;
        Ok(Self { components })
    }

    /// Programs that it names, each once.
    pub(super) fn programs(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for component in &self.components {
            if let Tool::Program(name) = &component.tool
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }
}

fn component(entry: Entry) -> Result<Component, String> {
    let Entry { component, vendor, model, version, url, digest, tool } = entry;
    let wrong = |what: &str, why: String| Err(format!("{what} of component {component:?}: {why}"));
    if model.trim_matches(['*', ' ']).is_empty() {
        return wrong("model", "it has to name a model; a pattern such as \"ACME 15*\" will do".to_owned());
    }
    if version.trim().is_empty() {
        return wrong("version", "it is empty".to_owned());
    }
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return wrong("url", format!("{url:?} is not an http or https URL"));
    }
    let digest = match digest.parse() {
        Ok(digest) => digest,
        Err(error) => return wrong("digest", format!("{error}; write it like sha256:…")),
    };
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
    let tool = match tool.as_str() {
        "nvme" => Tool::Nvme,
        name if !name.is_empty() && name.len() <= 64 && name.bytes().all(plain) => Tool::Program(name.to_owned()),
        name => {
            return wrong(
                "tool",
                format!("{name:?} is neither \"nvme\" nor the name of a program (a-z, 0-9, - and _)"),
            );
        }
    };
    Ok(Component { component, vendor, model, version: version.trim().to_owned(), url, digest, tool })
}

impl Component {
    /// Whether it belongs on this device.
    pub(super) fn fits(&self, device: &Device) -> bool {
        self.tool == device.tool
            && is_like(&self.model, &device.model)
            && self.vendor.as_ref().is_none_or(|vendor| is_like(vendor, &device.vendor))
    }
}

/// Whether a text is as a pattern says, in which `*` stands for anything. Case and space around it do not count.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.trim().to_lowercase(), text.trim().to_lowercase());
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(super) fn entry(change: Value) -> Value {
        let mut entry = json!({"component": "boot drive", "model": "ACME 15*", "version": "2.0",
            "url": "https://host/fw.bin", "digest": format!("sha256:{}", "0".repeat(64)), "tool": "nvme"});
        for (key, value) in change.as_object().unwrap() {
            entry[key] = value.clone();
        }
        json!({"version": 1, "components": [entry]})
    }

    #[test]
    fn a_manifest_is_read_and_what_is_wrong_with_one_is_named() {
        assert_eq!(Manifest::read(entry(json!({}))).unwrap().components[0].tool, Tool::Nvme);
        let cases = [
            entry(json!({"model": "*"})),
            entry(json!({"version": " "})),
            entry(json!({"url": "file:///etc/passwd"})),
            entry(json!({"digest": "sha256:00"})),
            entry(json!({"digest": "md5:d41d8cd98f00b204e9800998ecf8427e"})),
            entry(json!({"tool": "../sh"})),
            entry(json!({"colour": "red"})),
            json!({"version": 2, "components": []}),
            json!({"version": 1, "components": []}),
            json!({"components": []}),
        ];
        let texts: Vec<String> = cases.into_iter().map(|case| Manifest::read(case).unwrap_err()).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn patterns_are_like_what_they_stand_for() {
        for (pattern, text) in
            [("acme 15*", "ACME 1500 "), ("*", ""), ("a*c*e", "abcde"), ("SAME", "same"), ("*b", "ab")]
        {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("acme", "acme 2"), ("a*b*b", "ab"), ("*x", "xy"), ("", "x")] {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
    }
}
