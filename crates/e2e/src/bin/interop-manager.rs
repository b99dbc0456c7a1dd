//! A hardware manager of the interop stories, as a vendor would put it into a ramdisk: an executable after
//! `docs/hardware-managers.md`. Its service step leaves a mark on a disk, so that somebody outside can see that it ran.

use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};

/// Where the mark goes: behind the partition table and before the first partition of any image that begins at 1 MiB.
const MARK_AT: u64 = 512 << 10;

fn main() -> io::Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let request: Value = serde_json::from_str(&line)?;
    let mut answer = match answer(&request) {
        Ok(result) => json!({"result": result}),
        Err((class, details)) => json!({"error": {"class": class, "details": details}}),
    };
    answer["id"] = request["id"].clone();
    writeln!(io::stdout(), "{answer}")
}

fn answer(request: &Value) -> Result<Value, (&'static str, String)> {
    match request["method"].as_str() {
        Some("describe") => Ok(describe()),
        Some("run") => leave_mark(&request["params"]["step"]),
        other => Err(("", format!("method {other:?} is not known"))),
    }
}

fn describe() -> Value {
    let arguments = json!({
        "disk": {"description": "Path of the disk", "required": true},
        "text": {"description": "What to write", "required": true},
    });
    json!({
        "name": "interop",
        "version": "1",
        "class_name": "InteropManager",
        "support": 3,
        "steps": {"service": [{"step": "leave_mark", "interface": "deploy", "argsinfo": arguments, "deadline": 60}]},
    })
}

fn leave_mark(step: &Value) -> Result<Value, (&'static str, String)> {
    if step["step"] != "leave_mark" {
        return Err(("IncompatibleHardwareMethodError", "no such step here".to_owned()));
    }
    let argument = |name: &str| {
        step["args"][name].as_str().ok_or_else(|| ("TypeError", format!("argument {name} is missing or no text")))
    };
    let (disk, text) = (argument("disk")?, argument("text")?);
    let write = || -> io::Result<()> {
        let mut device = File::options().write(true).open(disk)?;
        device.seek(SeekFrom::Start(MARK_AT))?;
        device.write_all(text.as_bytes())?;
        device.sync_all()
    };
    write().map_err(|error| ("", format!("write {disk}: {error}")))?;
    Ok(json!({"written": text.len()}))
}
