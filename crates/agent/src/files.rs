//! `inject_files`: files of the operator's are put on partitions of the installed system. Nothing there is executed, and no path
//! leads out of the partition: `..` is refused, and links are followed as the installed system will follow them.

use crate::command::{AgentError, Class};
use crate::maintenance::{self, argsinfo, broken, params};
use crate::root_disk;
use crate::session::ironic;
use crate::state::Shared;
use base64::Engine as _;
use bytes::Bytes;
use hardware::{Disk, Machine, MachineError, Mounted, Plan, StepCall, StepError};
use http::Request;
use http_body_util::Full;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use transport::client::{self, chain};

/// Files of one step, and bytes of all of them: they are in memory before the first is written.
const MOST_FILES: usize = 256;
const MOST_BYTES: usize = 32 << 20;
/// For each request.
const PATIENCE: Duration = Duration::from_secs(60);
/// Links are followed inside the partition.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

pub(crate) fn arguments() -> Value {
    argsinfo(&[
        (
            "files",
            "Files to inject, a list of file structures with keys: 'path' (path to the file), 'partition' (partition \
             specifier), 'content' (base64 encoded string), 'mode' (new file mode) and 'dirmode' (mode for the leaf \
             directory, if created). Merged with the values from node.properties[inject_files].",
            false,
        ),
        ("verify_ca", "Whether to verify TLS certificates. Global agent options are used by default.", false),
    ])
}

/// A file that is wanted, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// Below the root of the file system, without a slash in front.
    path: Vec<String>,
    partition: Option<String>,
    /// `None` when it is to go.
    content: Option<String>,
    mode: Option<u32>,
    dirmode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
}

pub(crate) async fn inject(shared: &Shared, call: StepCall) -> Result<Value, StepError> {
    let args = maintenance::arguments(&call, &arguments())?;
    let verify = maintenance::truth(args, "verify_ca", true)?;
    let given = [call.node.pointer("/properties/inject_files"), args.get("files")];
    let wanted = wanted(given)?;
    if wanted.is_empty() {
        return Ok(json!([]));
    }
    root_disk::may_write(shared, "inject_files").map_err(|error| maintenance::failed(&error))?;
    // All that has to come from somewhere else is there before anything is changed.
    let contents = contents(shared, &wanted, &call, verify).await?;
    let (root, _) = root_disk::choose(shared).await.map_err(|error| maintenance::failed(&error))?;
    let kind = call.kind;
    let work = wanted.into_iter().zip(contents);
    let work: Vec<(Wanted, Bytes)> = work.collect();
    let done = shared.on_machine(move |machine| {
        let plan = Plan::new("inject_files", machine.disks()?);
        let mut done = Vec::new();
        for (file, content) in work {
            match put(machine, &plan, &root, &file, &content) {
                Ok(place) => done.push(place),
                Err(error) => return Ok(Err((error, done))),
            }
        }
        Ok(Ok(done))
    });
    match done.await.map_err(|error| broken(kind, chain(&error)))? {
        Ok(done) => Ok(Value::Array(done)),
        Err((error, done)) => {
            let before = if done.is_empty() { String::new() } else { format!("; done before: {}", Value::Array(done)) };
            Err(maintenance::failed(&AgentError { details: format!("{}{before}", error.details), ..error }))
        }
    }
}

/// What properties of the node and arguments of the step ask for together.
fn wanted(given: [Option<&Value>; 2]) -> Result<Vec<Wanted>, StepError> {
    let mut files = Vec::new();
    for (what, value) in ["The `inject_files` node property", "The `files` argument"].into_iter().zip(given) {
        match value {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => files.extend(list),
            Some(_) => return Err(params(format!("{what} must be a list"))),
        }
    }
    if files.len() > MOST_FILES {
        return Err(params(format!("there are {} files, and {MOST_FILES} are the most", files.len())));
    }
    let (good, bad): (Vec<_>, Vec<_>) = files.into_iter().map(one).partition(Result::is_ok);
    let failures: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() {
        return Ok(good.into_iter().filter_map(Result::ok).collect());
    }
    Err(params(format!("Validation of files failed: {}", failures.join("; "))))
}

fn one(file: &Value) -> Result<Wanted, String> {
    const KEYS: [&str; 8] = ["path", "partition", "content", "deleted", "mode", "dirmode", "owner", "group"];
    let Value::Object(fields) = file else { return Err(format!("a file is an object, not {file}")) };
    let shown = fields.get("path").and_then(Value::as_str).unwrap_or("a file without a path");
    let unknown: Vec<&str> = fields.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).collect();
    if !unknown.is_empty() {
        return Err(format!("unexpected fields in {shown}: {}; there are {}", unknown.join(", "), KEYS.join(", ")));
    }
    let text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(Value::Number(number)) if key == "partition" => Ok(Some(number.to_string())),
        Some(_) => Err(format!("{key} must be a string in {shown}")),
    };
    let number = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            number.map(Some).ok_or_else(|| format!("{key} must be a number in {shown}"))
        }
    };
    let deleted = match fields.get("deleted") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err(format!("deleted must be true or false in {shown}")),
    };
    let (content, partition) = (text("content")?, text("partition")?);
    match (&content, deleted) {
        (Some(_), true) => return Err(format!("content cannot be used with deleted in {shown}")),
        (None, false) => return Err(format!("expected content or deleted in {shown}")),
        _ => {}
    }
    let path = text("path")?.ok_or_else(|| format!("expected a path in {file}"))?;
    if path.ends_with('/') {
        return Err(format!("directories not supported for {shown}"));
    }
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
    if parts.is_empty() || parts.iter().any(|part| part == ".." || part.contains('\0')) {
        return Err(format!("{shown} leads out of the file system: a path has names and slashes, and no \"..\""));
    }
    if parts.len() == 1 && partition.is_none() {
        return Err(format!("{shown} in root directory requires \"partition\""));
    }
    let mode = |key: &str| number(key).map(|mode| mode.map(|mode| mode & 0o7777));
    Ok(Wanted {
        path: parts,
        partition,
        content,
        mode: mode("mode")?,
        dirmode: mode("dirmode")?,
        owner: number("owner")?,
        group: number("group")?,
    })
}

/// The bytes of all files: from base64, or from URLs with the node and its ports filled in.
async fn contents(shared: &Shared, wanted: &[Wanted], call: &StepCall, verify: bool) -> Result<Vec<Bytes>, StepError> {
    let mut all = Vec::new();
    let mut left = MOST_BYTES;
    for file in wanted {
        let path = file.path.join("/");
        let bytes = match file.content.as_deref() {
            None => Bytes::new(),
            Some(content) if content.contains("://") => {
                let url = fill_in(content, &call.node, &call.ports).map_err(|why| params(format!("{path}: {why}")))?;
                let got = fetch(shared, &url, verify, left).await;
                got.map_err(|why| broken(call.kind, format!("Failed to process file {path}: {why}")))?
            }
            Some(content) => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(content.trim());
                let decoded = decoded.map_err(|error| params(format!("{path}: content is not base64: {error}")))?;
                Bytes::from(decoded)
            }
        };
        left = left.checked_sub(bytes.len()).ok_or_else(|| {
            params(format!("all files together have more than {MOST_BYTES} bytes; put large ones into the image"))
        })?;
        all.push(bytes);
    }
    Ok(all)
}

/// Fetches something small.
pub(crate) async fn fetch(shared: &Shared, url: &str, verify: bool, most: usize) -> Result<Bytes, String> {
    let settings = shared.settings();
    let base = client::Settings { timeout: PATIENCE, body_limit: most, ..client::Settings::default() };
    let client = if verify {
        ironic::client(&settings, [&url.to_owned()], base)
    } else {
        client::Client::new(client::Settings { trust: client::Trust::Anybody, ..base })
    };
    let client = client.map_err(|error| chain(&error))?;
    let request = Request::get(url).body(Full::default()).map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let reply = client.send(request).await.map_err(|error| chain(&error))?;
    if reply.status.is_success() { Ok(reply.body) } else { Err(format!("{} answers {}", reply.url, reply.status)) }
}

/// `{node[uuid]}` and `{ports[0][address]}` in a URL, as Python's `str.format` has them; `{{` is a brace.
fn fill_in(template: &str, node: &Value, ports: &Value) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        let wrong = || format!("{template:?} has a single {brace:?}; fields are like {{node[uuid]}}");
        let (field, after) = after.split_once('}').filter(|_| brace == "{").ok_or_else(wrong)?;
        let value = look_up(field, node, ports).ok_or_else(|| format!("{{{field}}} in the URL names nothing"))?;
        match value {
            Value::String(value) => text.push_str(value),
            Value::Number(value) => text.push_str(&value.to_string()),
            _ => return Err(format!("{{{field}}} in the URL is neither a text nor a number")),
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

fn look_up<'a>(field: &str, node: &'a Value, ports: &'a Value) -> Option<&'a Value> {
    let (name, keys) = field.split_once('[').unwrap_or((field, ""));
    let mut value = match name {
        "node" => node,
        "ports" => ports,
        _ => return None,
    };
    let keys = if keys.is_empty() { "" } else { keys.strip_suffix(']')? };
    for key in keys.split("][").filter(|key| !key.is_empty()) {
        value = match value {
            Value::Array(list) => list.get(key.parse::<usize>().ok()?)?,
            Value::Object(map) => map.get(key)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Puts one file where it belongs, and tells where that was.
fn put(machine: &dyn Machine, plan: &Plan, root: &Disk, file: &Wanted, content: &[u8]) -> Result<Value, AgentError> {
    let shown = file.path.join("/");
    let (mounted, device) = find(machine, plan, root, file)?;
    let failed = |error: io::Error| AgentError::failed(format!("Failed to process file {shown} on {device}: {error}"));
    let changed = change(mounted.root(), file, content);
    let closed = mounted.close().map_err(|error| AgentError::failed(chain(&error)));
    changed.map_err(failed)?;
    closed?;
    tracing::info!(path = shown, device, "file injected");
    let mut told = Map::new();
    told.insert("path".to_owned(), json!(format!("/{shown}")));
    told.insert("partition".to_owned(), json!(device));
    match file.content {
        Some(_) => told.insert("bytes".to_owned(), json!(content.len())),
        None => told.insert("deleted".to_owned(), json!(true)),
    };
    Ok(Value::Object(told))
}

/// Where the kernel shows a partition.
fn partition_path(disk: &str, number: u32) -> String {
    let between = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{between}{number}")
}

/// The partition that a file belongs to: the one that is named, or the first of the root disk that has the folder with which
/// the path begins.
fn find(
    machine: &dyn Machine,
    plan: &Plan,
    root: &Disk,
    file: &Wanted,
) -> Result<(Box<dyn Mounted>, String), AgentError> {
    let not_found = |details: String| AgentError::new(Class::DeviceNotFound, details);
    let mount = |disk: &Disk, number: u32| -> Result<Box<dyn Mounted>, MachineError> {
        let grant = plan.write(&disk.name).map_err(|refusal| MachineError::Unsupported {
            what: format!("changing files on {}", disk.name),
            reason: refusal.to_string(),
        })?;
        machine.mount(&grant, number)
    };
    let numbers = |disk: &Disk| machine.partition_numbers(&hardware::DeviceId::of(disk));
    if let Some(named) = &file.partition {
        let disks = plan.disks();
        let mut known = Vec::new();
        for disk in disks {
            for number in numbers(disk)? {
                let path = partition_path(&disk.name, number);
                let is_it = match named.parse::<u32>() {
                    Ok(wanted) => wanted == number && disk.name == root.name,
                    Err(_) => path == *named,
                };
                if is_it {
                    return Ok((mount(disk, number)?, path));
                }
                known.push(path);
            }
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(not_found(format!("there is no partition {named}; partitions are {known}")));
    }
    let folder = file.path.first().map(String::as_str).unwrap_or_default();
    let mut scanned = Vec::new();
    for number in numbers(root)? {
        let path = partition_path(&root.name, number);
        match mount(root, number) {
            Ok(mounted) if folder_in(mounted.root(), &[folder.to_owned()]).is_ok() => return Ok((mounted, path)),
            Ok(_) => scanned.push(path),
            // Swap space, a volume group, a file system that nobody here knows: it is not there.
            Err(error) => scanned.push(format!("{path} ({})", chain(&error))),
        }
    }
    let scanned = if scanned.is_empty() { format!("{} has no partitions", root.name) } else { scanned.join(", ") };
    Err(not_found(format!("No partition found with path {folder}, scanned: {scanned}")))
}

/// Opens a folder below `root`.
fn folder_in(root: &std::path::Path, parts: &[String]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let base = rustix::fs::open(root, flags, Mode::empty())?;
    if parts.is_empty() {
        return Ok(base);
    }
    Ok(rustix::fs::openat2(&base, parts.join("/"), flags, Mode::empty(), INSIDE)?)
}

/// Writes or removes the file. The folder that `root` is stands for the root of all paths and links.
fn change(root: &std::path::Path, file: &Wanted, content: &[u8]) -> io::Result<()> {
    let Some((name, folders)) = file.path.split_last() else { return Err(Errno::NOENT.into()) };
    if file.content.is_none() {
        let folder = match folder_in(root, folders) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        return match rustix::fs::unlinkat(&folder, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(rustix::fs::fsync(&folder)?),
            Err(error) => Err(error.into()),
        };
    }
    let folder = make_folders(root, folders, file.dirmode)?;
    let base = folder_in(root, &[])?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let usual = Mode::from_raw_mode(0o644);
    let opened = match rustix::fs::openat2(&folder, name.as_str(), flags, usual, INSIDE) {
        // A link, such as etc/resolv.conf: it is followed from the root of the partition.
        Err(Errno::LOOP) => {
            let flags = flags - OFlags::NOFOLLOW;
            rustix::fs::openat2(&base, file.path.join("/"), flags, usual, INSIDE)
        }
        opened => opened,
    };
    let mut opened = File::from(opened?);
    if !opened.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is something that is no regular file"));
    }
    opened.write_all(content)?;
    if let Some(mode) = file.mode {
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode))?;
    }
    own(opened.as_fd(), file)?;
    opened.sync_all()
}

fn own(file: BorrowedFd<'_>, wanted: &Wanted) -> io::Result<()> {
    let (owner, group) = (wanted.owner.map(Uid::from_raw), wanted.group.map(Gid::from_raw));
    if owner.is_none() && group.is_none() { Ok(()) } else { Ok(rustix::fs::fchown(file, owner, group)?) }
}

/// Makes the folders that are missing, and returns the last one.
fn make_folders(root: &std::path::Path, folders: &[String], leaf: Option<u32>) -> io::Result<OwnedFd> {
    let mut current = folder_in(root, &[])?;
    for (index, name) in folders.iter().enumerate() {
        match rustix::fs::mkdirat(&current, name.as_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let made = folder_in(root, &folders[..=index])?;
                if let Some(mode) = leaf.filter(|_| index + 1 == folders.len()) {
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
                }
                current = made;
            }
            Err(Errno::EXIST) => current = folder_in(root, &folders[..=index])?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests;
