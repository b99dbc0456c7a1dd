//! `cargo xtask wire`: the code of `ferric.agent.v1` and `ferric.events.v1`, made from their descriptions and committed. What
//! an older peer would misread is refused: the committed descriptors are what peers out there know.

use crate::cmd;
use anyhow::{Context as _, Result, bail};
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Each package with its description.
const PACKAGES: [(&str, &str); 2] =
    [("ferric.agent.v1", "ferric/agent/v1/agent.proto"), ("ferric.events.v1", "ferric/events/v1/events.proto")];

/// Writes code and descriptor anew. With `check` nothing is written, and a difference is an error. A change that breaks
/// older peers is an error in both cases.
pub fn run(check: bool) -> Result<()> {
    PACKAGES.iter().try_for_each(|(package, description)| package_of(package, description, check))
}

fn package_of(package: &str, description: &str, check: bool) -> Result<()> {
    let wire = cmd::root().join("crates/wire");
    let mut described = protox::Compiler::new([wire.join("proto")])
        .and_then(|mut compiler| {
            compiler.include_source_info(true).include_imports(true).open_file(wire.join("proto").join(description))?;
            Ok(compiler.file_descriptor_set())
        })
        .map_err(|error| anyhow::anyhow!("{description}: {error:?}"))?;
    let code = generate(package, &described)?;
    // Comments are no part of what peers agree on.
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    let descriptor = wire.join(format!("proto/{package}.binpb"));
    match std::fs::read(&descriptor) {
        Ok(bytes) => {
            let known = FileDescriptorSet::decode(&*bytes).with_context(|| descriptor.display().to_string())?;
            let broken = breaking(&known, &described);
            if !broken.is_empty() {
                bail!(
                    "{description} breaks peers that know {}:\n  {}\nkeep what is there and add beside it, or begin a new \
                     package",
                    descriptor.display(),
                    broken.join("\n  ")
                );
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !check => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", descriptor.display())),
    }
    keep(&descriptor, &described.encode_to_vec(), check)?;
    keep(&wire.join(format!("src/generated/{package}.rs")), code.as_bytes(), check)
}

/// The Rust code of the package, with client and server.
fn generate(package: &str, described: &FileDescriptorSet) -> Result<String> {
    let out = tempfile::tempdir().context("make a folder for generated code")?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        // Documents are parts of the frame that they came in, not copies.
        .bytes(".")
        .codec_path("crate::rpc::Codec")
        // It has a token in it: its Debug is written by hand.
        .skip_debug([".ferric.agent.v1.EnrollRequest"])
        .compile_fds(described.clone())
        .context("generate code")?;
    let made = out.path().join(format!("{package}.rs"));
    std::fs::read_to_string(&made).with_context(|| format!("read {}", made.display()))
}

/// Writes `content` to `path`, or tells that it is not what is there.
fn keep(path: &PathBuf, content: &[u8], check: bool) -> Result<()> {
    if check {
        if std::fs::read(path).with_context(|| format!("read {}", path.display()))? != content {
            bail!("{} is stale; `cargo xtask wire` writes it anew", path.display());
        }
        return Ok(());
    }
    std::fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// What `new` says that a peer who knows `old` would misread, a line for each.
fn breaking(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Names::of(old), Names::of(new));
    let mut broken = Vec::new();
    for (name, method) in &old.methods {
        match new.methods.get(name) {
            None => broken.push(format!("the call {name} is gone")),
            Some(now) if shape(method) != shape(now) => broken.push(format!("the call {name} has another form")),
            Some(_) => {}
        }
    }
    for (name, message) in &old.messages {
        match new.messages.get(name) {
            None => broken.push(format!("the message {name} is gone")),
            Some(now) => fields(name, message, now, &mut broken),
        }
    }
    for (name, choice) in &old.enums {
        match new.enums.get(name) {
            None => broken.push(format!("the enum {name} is gone")),
            Some(now) => values(name, choice, now, &mut broken),
        }
    }
    broken
}

fn shape(method: &MethodDescriptorProto) -> (&str, &str, bool, bool) {
    (method.input_type(), method.output_type(), method.client_streaming(), method.server_streaming())
}

fn fields(message: &str, old: &DescriptorProto, new: &DescriptorProto, broken: &mut Vec<String>) {
    for field in &old.field {
        let name = format!("{message}.{}", field.name());
        let number = field.number();
        let Some(now) = new.field.iter().find(|now| now.number() == number) else {
            // Who removes a field keeps its number and its name from being used again; the data is still lost on old peers.
            broken.push(match new.field.iter().find(|now| now.name() == field.name()) {
                Some(now) => format!("the field {name} had number {number} and now has {}", now.number()),
                None => format!("the field {name} = {number} is gone"),
            });
            continue;
        };
        if now.name() != field.name() {
            broken.push(format!("the field {name} = {number} is now called {}", now.name()));
        } else if form(field) != form(now) {
            broken.push(format!("the field {name} = {number} has another type"));
        } else if group(old, field) != group(new, now) {
            broken.push(format!("the field {name} = {number} is in another oneof"));
        }
    }
}

fn form(field: &FieldDescriptorProto) -> (i32, i32, &str) {
    (field.label.unwrap_or_default(), field.r#type.unwrap_or_default(), field.type_name())
}

/// The `oneof` that a field is in; one that stands for `optional` has the field's name.
fn group<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a str> {
    let index = usize::try_from(field.oneof_index?).ok()?;
    message.oneof_decl.get(index).map(prost_types::OneofDescriptorProto::name)
}

fn values(choice: &str, old: &EnumDescriptorProto, new: &EnumDescriptorProto, broken: &mut Vec<String>) {
    for value in &old.value {
        match new.value.iter().find(|now| now.number() == value.number()) {
            None => broken.push(format!("the value {choice}.{} = {} is gone", value.name(), value.number())),
            Some(now) if now.name() != value.name() => {
                broken.push(format!("the value {choice}.{} = {} is now {}", value.name(), value.number(), now.name()));
            }
            Some(_) => {}
        }
    }
}

/// Everything in a set by its full name.
#[derive(Default)]
struct Names<'a> {
    methods: BTreeMap<String, &'a MethodDescriptorProto>,
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Names<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut names = Self::default();
        for file in &set.file {
            let package = file.package();
            for service in &file.service {
                for method in &service.method {
                    names.methods.insert(format!("{package}.{}/{}", service.name(), method.name()), method);
                }
            }
            file.message_type.iter().for_each(|message| names.message(package, message));
            file.enum_type.iter().for_each(|choice| names.choice(package, choice));
        }
        names
    }

    fn message(&mut self, within: &str, message: &'a DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        message.nested_type.iter().for_each(|inner| self.message(&name, inner));
        message.enum_type.iter().for_each(|choice| self.choice(&name, choice));
        self.messages.insert(name, message);
    }

    fn choice(&mut self, within: &str, choice: &'a EnumDescriptorProto) {
        self.enums.insert(format!("{within}.{}", choice.name()), choice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "
        syntax = 'proto3';
        package p;
        service S { rpc Keep(A) returns (stream A); rpc Drop(A) returns (A); }
        message A { string name = 1; uint64 size = 2; optional uint32 part = 5; oneof body { bytes one = 3; bytes other = 4; } message In { bool x = 1; } }
        message B {}
        enum E { E_NONE = 0; E_ONE = 1; }
    ";

    fn described(text: &str) -> FileDescriptorSet {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("p.proto"), text).unwrap();
        protox::compile(["p.proto"], [dir.path()]).unwrap()
    }

    fn changed(edits: &[(&str, &str)]) -> Vec<String> {
        let mut text = OLD.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        breaking(&described(OLD), &described(&text))
    }

    #[test]
    fn what_is_added_breaks_nobody() {
        assert_eq!(changed(&[]), [""; 0]);
        let edits = [
            ("bool x = 1;", "bool x = 1; bool y = 2;"),
            ("bytes other = 4;", "bytes other = 4; B third = 6;"),
            ("E_ONE = 1;", "E_ONE = 1; E_TWO = 2;"),
            ("rpc Drop", "rpc More(B) returns (B); rpc Drop"),
            ("message B {}", "message B { string new = 1; } message C {}"),
        ];
        assert_eq!(changed(&edits), [""; 0]);
    }

    #[test]
    fn what_an_older_peer_would_misread_is_named() {
        let rows: [(&str, &str, &str); 13] = [
            ("uint64 size = 2;", "", "the field p.A.size = 2 is gone"),
            ("uint64 size = 2;", "reserved 2;", "the field p.A.size = 2 is gone"),
            ("uint64 size = 2;", "uint64 size = 7;", "the field p.A.size had number 2 and now has 7"),
            ("uint64 size = 2;", "string size = 2;", "the field p.A.size = 2 has another type"),
            ("uint64 size = 2;", "repeated uint64 size = 2;", "the field p.A.size = 2 has another type"),
            ("uint64 size = 2;", "uint64 length = 2;", "the field p.A.size = 2 is now called length"),
            ("optional uint32 part", "uint32 part", "the field p.A.part = 5 is in another oneof"),
            ("rpc Drop(A) returns (A);", "", "the call p.S/Drop is gone"),
            ("rpc Keep(A) returns (stream A)", "rpc Keep(A) returns (A)", "the call p.S/Keep has another form"),
            ("message B {}", "", "the message p.B is gone"),
            ("message In { bool x = 1; }", "", "the message p.A.In is gone"),
            ("E_ONE = 1;", "", "the value p.E.E_ONE = 1 is gone"),
            ("E_ONE = 1;", "E_UN = 1;", "the value p.E.E_ONE = 1 is now E_UN"),
        ];
        for (from, to, wanted) in rows {
            assert_eq!(changed(&[(from, to)]), [wanted], "{from} -> {to}");
        }
    }

    #[test]
    fn a_field_that_moves_out_of_its_oneof_is_named() {
        let edit =
            [("oneof body { bytes one = 3; bytes other = 4; }", "bytes one = 3; oneof body { bytes other = 4; }")];
        assert_eq!(changed(&edit), ["the field p.A.one = 3 is in another oneof"]);
    }
}
