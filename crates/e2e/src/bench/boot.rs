//! From power-on to the first heartbeat: boots a ramdisk by QEMU's `-kernel` and `-initrd` against a small stand-in for
//! the driver's API and notes when the guest asks for what, in wall seconds and in CPU seconds of the QEMU process.
//!
//! The stand-in answers the three requests that an agent makes while it checks in (version discovery, lookup,
//! heartbeat) as Ironic 39 does, so that any agent of the field's protocol can be measured with the same ruler.

use anyhow::{Context as _, Result, bail};
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::future::IntoFuture as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name in the table.
    pub name: String,
    /// Linux kernel image.
    pub kernel: PathBuf,
    /// Initial ramdisk.
    pub initrd: PathBuf,
    /// Guest memory in MiB.
    pub memory: u32,
}

/// How it is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Boots of each subject; the subjects take turns and the table shows medians.
    pub runs: usize,
    /// Seconds that one boot may take.
    pub limit: Duration,
    /// Where serial logs go.
    pub logs: PathBuf,
}

/// Stages of a check-in, in order.
const STAGES: [&str; 3] = ["API reached", "lookup", "heartbeat"];

/// Size of the guest's disk: the smallest that agents install on is 4 GiB.
const DISK_BYTES: u64 = 8 << 30;

/// Seconds since QEMU was started.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mark {
    wall: f64,
    cpu: f64,
}

/// Marks of one boot, by stage.
type Marks = [Option<Mark>; STAGES.len()];

struct Watch {
    started: Instant,
    pid: Mutex<Option<u32>>,
    marks: Mutex<Marks>,
    heartbeat: Notify,
}

impl Watch {
    fn mark(&self, stage: usize) {
        let pid = *self.pid.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mark = Mark { wall: self.started.elapsed().as_secs_f64(), cpu: pid.and_then(cpu_seconds).unwrap_or(0.0) };
        let mut marks = self.marks.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        marks[stage].get_or_insert(mark);
        if stage == STAGES.len() - 1 {
            self.heartbeat.notify_one();
        }
    }
}

/// Boots every subject `plan.runs` times, in turns, and returns the table.
pub async fn run(subjects: &[Subject], plan: &Plan) -> Result<String> {
    std::fs::create_dir_all(&plan.logs).with_context(|| format!("create {}", plan.logs.display()))?;
    let mut all: Vec<Vec<Marks>> = vec![Vec::new(); subjects.len()];
    for run in 1..=plan.runs {
        for (subject, runs) in subjects.iter().zip(&mut all) {
            let log = plan.logs.join(format!("{}-{run}.log", subject.name));
            let marks =
                boot(subject, plan, &log).await.with_context(|| format!("boot {} (run {run})", subject.name))?;
            runs.push(marks);
        }
    }
    Ok(table(subjects, &all))
}

async fn boot(subject: &Subject, plan: &Plan, log: &Path) -> Result<Marks> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("bind a loopback port")?;
    let port = listener.local_addr()?.port();
    let watch = Arc::new(Watch {
        started: Instant::now(),
        pid: Mutex::new(None),
        marks: Mutex::new([None; STAGES.len()]),
        heartbeat: Notify::new(),
    });
    let server = tokio::spawn(axum::serve(listener, api(watch.clone())).into_future());
    std::fs::write(log, b"").with_context(|| format!("create {}", log.display()))?;
    let disk = log.with_extension("disk");
    // An agent that finds no disk waits for one; an empty sparse file is enough.
    let made = std::fs::File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
    made.with_context(|| format!("create {}", disk.display()))?;
    let append = format!(
        "console=ttyS0 quiet loglevel=3 ipa-api-url=http://10.0.2.2:{port} ipa-insecure=1 \
         ipa-advertise-host=127.0.0.1 ipa-advertise-port=9999"
    );
    let mut qemu = tokio::process::Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-display", "none", "-no-reboot"])
        .args(["-m", &subject.memory.to_string()])
        .args(["-serial", &format!("file:{}", log.display())])
        .arg("-kernel")
        .arg(&subject.kernel)
        .arg("-initrd")
        .arg(&subject.initrd)
        .args(["-append", &append])
        .args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="])
        .args(["-drive", &format!("file={},format=raw,if=virtio", disk.display())])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start qemu-system-x86_64")?;
    *watch.pid.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = qemu.id();
    let waited = tokio::time::timeout(plan.limit, wait_for_heartbeat(&watch, log, &mut qemu)).await;
    qemu.kill().await.context("end QEMU")?;
    std::fs::remove_file(&disk).with_context(|| format!("remove {}", disk.display()))?;
    server.abort();
    match waited {
        Ok(result) => result?,
        Err(_) => bail!("no heartbeat within {} s; its console is in {}", plan.limit.as_secs(), log.display()),
    }
    let marks = *watch.marks.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(marks)
}

async fn wait_for_heartbeat(watch: &Watch, log: &Path, qemu: &mut tokio::process::Child) -> Result<()> {
    tokio::select! {
        () = watch.heartbeat.notified() => Ok(()),
        status = qemu.wait() => bail!("QEMU ended with {}; the console is in {}", status?, log.display()),
    }
}

/// User and system time of a process from `/proc/PID/stat`, fields 14 and 15 in clock ticks (proc(5)).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

const NODE: &str = "f6b0a1c2-0000-4000-8000-0123456789ab";

fn api(watch: Arc<Watch>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/v1", get(root))
        .route("/v1/", get(root))
        .route("/v1/lookup", get(lookup))
        .route("/v1/heartbeat/{node}", post(heartbeat))
        .with_state(watch)
}

async fn root(State(watch): State<Arc<Watch>>) -> Json<Value> {
    watch.mark(0);
    let version = json!({"id": "v1", "links": [], "status": "CURRENT", "min_version": "1.1", "version": "1.115"});
    Json(json!({"name": "OpenStack Ironic API", "default_version": version, "versions": [version]}))
}

async fn lookup(State(watch): State<Arc<Watch>>) -> Json<Value> {
    watch.mark(1);
    Json(json!({
        "node": {"uuid": NODE, "properties": {}, "instance_info": {}, "driver_internal_info": {}, "links": []},
        "config": {
            "metrics": {
                "backend": "noop", "prepend_host": false, "prepend_uuid": false, "prepend_host_reverse": true,
                "global_prefix": null
            },
            "metrics_statsd": {"statsd_host": "localhost", "statsd_port": 8125},
            "heartbeat_timeout": 300,
            "agent_containers": {
                "allow_arbitrary_containers": false, "allowed_containers": [], "container_steps_file": "",
                "runner": "podman", "pull_options": [], "run_options": []
            },
            "agent_token": "A".repeat(43), "agent_token_required": true, "agent_md5_checksum_enable": false,
            "disable_deep_image_inspection": false, "permitted_image_formats": ["raw", "gpt", "qcow2", "iso"],
            "agent_skip_bmc_detect": true, "enable_bios_bootloader_install": false, "tls_min_version": "1.3",
            "tls_cipher_suites": null
        }
    }))
}

async fn heartbeat(State(watch): State<Arc<Watch>>, UrlPath(_): UrlPath<String>) -> StatusCode {
    watch.mark(2);
    StatusCode::ACCEPTED
}

fn table(subjects: &[Subject], all: &[Vec<Marks>]) -> String {
    let runs = all.first().map_or(0, Vec::len);
    let mut text = format!("median of {runs} run(s): wall s / QEMU CPU s since power-on\n{:<16}", "stage");
    for subject in subjects {
        text.push_str(&format!("{:>20}", format!("{} ({} MiB)", subject.name, subject.memory)));
    }
    text.push_str(if subjects.len() > 1 { "     ratio to first\n" } else { "\n" });
    for (stage, name) in STAGES.iter().enumerate() {
        let medians: Vec<Option<Mark>> = all.iter().map(|runs| median(runs, stage)).collect();
        text.push_str(&format!("{name:<16}"));
        for mark in &medians {
            let cell = mark.map_or("-".to_owned(), |mark| format!("{:.1} / {:.1}", mark.wall, mark.cpu));
            text.push_str(&format!("{cell:>20}"));
        }
        if let [Some(ours), Some(theirs), ..] = medians[..] {
            text.push_str(&format!("     {:.1} x / {:.1} x", theirs.wall / ours.wall, theirs.cpu / ours.cpu));
        }
        text.push('\n');
    }
    text
}

fn median(runs: &[Marks], stage: usize) -> Option<Mark> {
    let mut marks: Vec<Mark> = runs.iter().filter_map(|marks| marks[stage]).collect();
    marks.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    marks.get(marks.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_medians_and_the_ratio_to_the_first() {
        let subject = |name: &str, memory| Subject {
            name: name.to_owned(),
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            memory,
        };
        let marks = |wall| [Some(Mark { wall, cpu: wall * 2.0 }); STAGES.len()];
        let text = table(
            &[subject("ferric", 256), subject("peer", 3072)],
            &[vec![marks(5.0), marks(4.0), marks(6.0)], vec![marks(20.0)]],
        );
        assert!(text.contains("heartbeat                 5.0 / 10.0         20.0 / 40.0     4.0 x / 4.0 x"), "{text}");
    }

    #[test]
    fn our_own_cpu_time_can_be_read() {
        assert!(cpu_seconds(std::process::id()).is_some());
    }
}
