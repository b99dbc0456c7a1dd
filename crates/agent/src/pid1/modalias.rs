//! Text files of a module tree (`/lib/modules/<release>`), as depmod(8) writes them, and matching of aliases.

use std::collections::BTreeMap;

/// A module's name: `-` and `_` are the same to the kernel, and a file name ends in `.ko` and perhaps a compression.
pub(super) fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// `modules.dep`: for each module its file and those that have to be loaded before, in that order.
pub(super) fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            // depmod writes them in the order in which they have to be unloaded.
            let mut files: Vec<String> = needs.split_whitespace().rev().map(str::to_owned).collect();
            files.push(file.trim().to_owned());
            (module_name(file.trim()), files)
        })
        .collect()
}

/// `modules.softdep`: for each module those that should be loaded before, if they are there.
pub(super) fn parse_soft_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("softdep") {
            continue;
        }
        let Some(module) = words.next() else { continue };
        let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
        found.insert(module_name(module), before.map(module_name).collect::<Vec<_>>());
    }
    found
}

/// `modules.alias`: patterns by what they begin with up to the first colon (the bus), each with its module.
#[derive(Debug, Default)]
pub(super) struct Aliases(BTreeMap<String, Vec<(String, String)>>);

impl Aliases {
    pub(super) fn parse(text: &str) -> Self {
        let mut aliases = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let pattern = normal(pattern);
                aliases.0.entry(bus(&pattern).to_owned()).or_default().push((pattern, module_name(module)));
            }
        }
        aliases
    }

    /// The modules for an alias, each once, in the order of the file.
    pub(super) fn modules(&self, alias: &str) -> Vec<&str> {
        let alias = normal(alias);
        let mut found: Vec<&str> = Vec::new();
        for (pattern, module) in self.0.get(bus(&alias)).into_iter().flatten() {
            if !found.contains(&module.as_str()) && matches(pattern.as_bytes(), alias.as_bytes()) {
                found.push(module);
            }
        }
        found
    }
}

fn bus(alias: &str) -> &str {
    alias.split_once(':').map_or(alias, |(bus, _)| bus)
}

/// As kmod does it: dashes become underscores, but for those in brackets.
fn normal(alias: &str) -> String {
    let mut inside = false;
    alias
        .chars()
        .map(|c| {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                _ => {}
            }
            if c == '-' && !inside { '_' } else { c }
        })
        .collect()
}

/// fnmatch(3) without flags: `*`, `?`, `[a-z]`, `[!a-z]`, `\` before a character. Goes back to the last `*` only, so that
/// its time is bounded by the product of the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (None, Some(_)) => None,
            (Some(_), None) => return false,
            (Some(_), Some(&byte)) => one(&pattern[p..], byte),
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) => {
                retry = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
}

/// The length of the pattern's first element when it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => match set(rest, byte) {
            Some((true, length)) => Some(1 + length),
            Some((false, _)) => None,
            // Without an end it is a bracket like any other character.
            None => (byte == b'[').then_some(1),
        },
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

/// Whether a set takes `byte`, and its length with the closing bracket.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut found = false;
    loop {
        match pattern.get(at..)? {
            [b']', ..] if at > start => return Some((found != negated, at + 1)),
            [low, b'-', high, ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [single, ..] => {
                found |= *single == byte;
                at += 1;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, wanted: bool) {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} against {text}");
    }

    #[test]
    fn stars_question_marks_and_sets_match_as_fnmatch_does() {
        check("", "", true);
        check("*", "", true);
        check("a*c", "abbc", true);
        check("a*c", "abbcd", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*ab*ab", "abxabab", true);
        check("[a-cx]1", "b1", true);
        check("[a-cx]1", "x1", true);
        check("[a-cx]1", "d1", false);
        check("[!a-c]", "d", true);
        check("[!a-c]", "a", false);
        check("[]]", "]", true);
        check("[a", "[a", true);
        check("a\\*", "a*", true);
        check("a\\*", "ab", false);
        check("a", "ab", false);
        check("ab", "a", false);
    }

    #[test]
    fn a_device_finds_its_modules() {
        let aliases = Aliases::parse(
            "# Aliases extracted from modules themselves.\n\
             alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n\
             alias virtio:d00000001v* virtio_net\n\
             alias usb:v*p*d*dc*dsc*dp*ic08isc0[25]ip50in* usb-storage\n\
             alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
             alias platform:i8042-kbd some-kbd\n\
             alias broken\n",
        );
        assert_eq!(aliases.modules("pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"), ["virtio_pci"]);
        assert_eq!(aliases.modules("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(aliases.modules("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"), ["ahci"]);
        assert_eq!(aliases.modules("usb:v0951p1666d0110dc00dsc00dp00ic08isc07ip50in00"), [""; 0]);
        assert_eq!(aliases.modules("usb:v0951p1666d0110dc00dsc00dp00ic08isc02ip50in00"), ["usb_storage"]);
        assert_eq!(aliases.modules("platform:i8042_kbd"), ["some_kbd"]);
    }

    #[test]
    fn dependencies_come_in_the_order_of_loading() {
        let needs = parse_dependencies(
            "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n\
             kernel/fs/isofs/isofs.ko.xz:\n",
        );
        assert_eq!(
            needs["virtio_net"],
            ["kernel/net/core/failover.ko", "kernel/drivers/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko"]
        );
        assert_eq!(needs["isofs"], ["kernel/fs/isofs/isofs.ko.xz"]);
    }

    #[test]
    fn soft_dependencies_before_are_kept_and_those_after_are_not() {
        let soft = parse_soft_dependencies("# x\nsoftdep ext4 pre: crc32c post: other\nsoftdep b post: c\n");
        assert_eq!(soft["ext4"], ["crc32c"]);
        assert!(soft["b"].is_empty());
    }
}
