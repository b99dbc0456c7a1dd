//! The API and the heartbeats of `ferricd` beside those of Ironic: the same nodes, the same requests from the same
//! generator ([`load`]), one after the other in turns, on one machine. Bars are ratios of the same run.

mod load;
mod servers;

use anyhow::{Context as _, Result, ensure};
use load::{Ask, Asks, Shape, Taken};
use serde_json::json;
use servers::{Kind, Server, Usage};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program.
    pub ferricd: PathBuf,
    /// The Python environment with Ironic.
    pub ironic: PathBuf,
    /// Where the servers keep their files.
    pub dir: PathBuf,
    /// Nodes of each.
    pub nodes: usize,
    /// Turns of each load.
    pub rounds: usize,
    /// How long a load lasts.
    pub time: Duration,
}

/// The table, and whether every bar was met.
#[derive(Debug)]
pub struct Verdict {
    /// For people.
    pub table: String,
    /// Whether all bars were met.
    pub met: bool,
}

/// Least ratio of heartbeats and lookups a second.
const AGENTS: f64 = 100.0;
/// Least ratio of lists a second.
const LISTS: f64 = 50.0;
/// Most memory, as a part of Ironic's.
const MEMORY: f64 = 1.0 / 8.0;
/// Heartbeats a second beside which the API is read, and how long reads may take then, in milliseconds.
const STORM: u32 = 1000;
const READ_P99: f64 = 50.0;
/// Nodes that ferricd makes in a turn, at least: it makes as many as Ironic did in its own.
const MADE: usize = 200;
/// When a heartbeat that was acknowledged has to be on the disk, at the latest.
const SAVED_WITHIN: Duration = Duration::from_secs(1);

/// A node that both servers have.
#[derive(Clone)]
struct Node {
    uuid: Uuid,
    address: String,
    token: String,
}

/// One of the loads.
struct Load {
    name: &'static str,
    connections: usize,
    keep_alive: bool,
    asks: Asks,
    bar: Option<f64>,
    /// Answers come before the work is done: the time counts until the server rests.
    late: bool,
    /// Makes nodes, which are taken away after it.
    makes: bool,
}

/// Measures.
///
/// # Errors
/// A server that does not start, or does not do what the load needs.
pub async fn run(plan: &Plan) -> Result<Verdict> {
    let ironic = Server::start(Kind::Ironic, &plan.ironic, &plan.dir.join("ironic")).await?;
    let ferricd = Server::start(Kind::Ferricd, &plan.ferricd, &plan.dir.join("ferricd")).await?;
    let measured = measure(plan, &ironic, ferricd).await;
    let stopped = ironic.stop().await;
    let verdict = measured?;
    stopped?;
    Ok(verdict)
}

async fn measure(plan: &Plan, ironic: &Server, ferricd: Server) -> Result<Verdict> {
    let mut out = Report::new(plan);
    let theirs = enrol(ironic, plan.nodes).await?;
    let ours = enrol(&ferricd, plan.nodes).await?;
    let of_theirs = loads(&theirs);
    let of_ours = loads(&ours);
    let mut taken = vec![(Taken::default(), Taken::default()); of_ours.len()];
    let (mut used_theirs, mut used_ours) = (Usage::default(), Usage::default());
    for round in 0..plan.rounds {
        for ((theirs, ours), taken) in of_theirs.iter().zip(&of_ours).zip(&mut taken) {
            let from = round * 1_000_000;
            let there = turn(ironic, theirs, plan.time, from, None, &mut used_theirs).await?;
            // Who makes nodes quickly must not have more of them in memory when that is compared.
            let most = theirs.makes.then_some(there.latencies.len().max(MADE));
            taken.1.add(turn(&ferricd, ours, plan.time, from, most, &mut used_ours).await?);
            taken.0.add(there);
        }
    }
    for (load, (theirs, ours)) in of_ours.iter().zip(&taken) {
        out.compare(load, theirs, ours);
    }
    out.memory(used_theirs, used_ours);
    storm(&mut out, &ferricd, &ours, plan.time).await?;
    let ferricd = kept(&mut out, ferricd, &ours, plan.time).await?;
    ferricd.stop().await?;
    Ok(Verdict { table: out.text, met: out.met })
}

/// Nodes with a port each, as a site has them, and a first look-up of each, which makes its token.
async fn enrol(server: &Server, count: usize) -> Result<Vec<Node>> {
    let api = server.api();
    let mut nodes = Vec::with_capacity(count);
    for number in 0..count {
        let node = Node {
            uuid: Uuid::new_v4(),
            address: format!("52:54:00:{:02x}:{:02x}:{:02x}", number >> 16 & 255, number >> 8 & 255, number & 255),
            token: String::new(),
        };
        let made = api.request(http::Method::POST, "/v1/nodes", Some(&document(number, node.uuid))).await?;
        ensure!(made.0 == 201, "{} made no node: {made:?}", server.kind.name());
        let port = json!({"node_uuid": node.uuid, "address": node.address});
        let made = api.request(http::Method::POST, "/v1/ports", Some(&port)).await?;
        ensure!(made.0 == 201, "{} made no port: {made:?}", server.kind.name());
        let found = api.get(&format!("/v1/lookup?addresses={}", node.address)).await?;
        let token = found["config"]["agent_token"].as_str().context("the look-up brought no token")?.to_owned();
        nodes.push(Node { token, ..node });
    }
    Ok(nodes)
}

fn document(number: usize, uuid: Uuid) -> serde_json::Value {
    json!({
        "uuid": uuid,
        "name": format!("node-{uuid}"),
        "driver": "fake-hardware",
        "deploy_interface": "direct",
        "resource_class": "baremetal",
        "properties": {"cpus": 64, "memory_mb": 262_144, "local_gb": 960, "cpu_arch": "x86_64",
            "capabilities": "boot_mode:uefi,secure_boot:true", "root_device": {"serial": format!("S{number:06}")}},
        "driver_info": {"deploy_kernel": "http://192.0.2.1/vmlinuz", "deploy_ramdisk": "http://192.0.2.1/initramfs"},
        "extra": {"rack": format!("r{}", number / 40), "height": number % 40},
    })
}

fn heartbeats(nodes: &[Node]) -> Asks {
    let nodes = nodes.to_vec();
    Arc::new(move |number| {
        let node = &nodes[number % nodes.len()];
        let body =
            json!({"callback_url": "https://192.0.2.2:9999", "agent_version": "13.0.0", "agent_token": node.token});
        Ask::post(format!("/v1/heartbeat/{}", node.uuid), &body, 202)
    })
}

fn loads(nodes: &[Node]) -> Vec<Load> {
    let of = |ask: fn(&Node) -> Ask| -> Asks {
        let nodes = nodes.to_vec();
        Arc::new(move |number| ask(&nodes[number % nodes.len()]))
    };
    let load = |name, connections, keep_alive, asks, bar| Load {
        name,
        connections,
        keep_alive,
        asks,
        bar,
        late: false,
        makes: false,
    };
    let lookup = of(|node| Ask::get(format!("/v1/lookup?addresses={}", node.address)));
    let show = of(|node| Ask::get(format!("/v1/nodes/{}", node.uuid)));
    let create: Asks = Arc::new(|number| Ask::post("/v1/nodes", &document(number, Uuid::new_v4()), 201));
    let list = |path: &'static str| -> Asks { Arc::new(move |_| Ask::get(path)) };
    vec![
        Load { late: true, ..load("heartbeat, kept connections", 8, true, heartbeats(nodes), Some(AGENTS)) },
        Load { late: true, ..load("heartbeat, a connection each", 8, false, heartbeats(nodes), Some(AGENTS)) },
        load("lookup, kept connections", 8, true, lookup.clone(), Some(AGENTS)),
        load("lookup, a connection each", 8, false, lookup, Some(AGENTS)),
        load("list of 1000, brief", 2, true, list("/v1/nodes?limit=1000"), Some(LISTS)),
        load("list of 1000, detail", 2, true, list("/v1/nodes/detail?limit=1000"), Some(LISTS)),
        load("node show", 8, true, show, None),
        Load { makes: true, ..load("node create", 4, true, create, None) },
    ]
}

async fn turn(
    server: &Server,
    load: &Load,
    time: Duration,
    from: usize,
    most: Option<usize>,
    used: &mut Usage,
) -> Result<Taken> {
    let shape = Shape { connections: load.connections, keep_alive: load.keep_alive, time, rate: None, most };
    let begun = Instant::now();
    let before = made_meanwhile(server, load).await?;
    let mut taken = load::run(server.address, shape, from, &load.asks).await;
    let busy = Instant::now();
    server.rest().await?;
    if load.late {
        taken.seconds += busy.elapsed().as_secs_f64();
    }
    let now = server.usage()?;
    used.pss = used.pss.max(now.pss);
    used.peak_rss = used.peak_rss.max(now.peak_rss);
    forget(server, load, before).await?;
    eprintln!(
        "[bench] {:<8} {:<30} {:>9.1}/s, {} errors, {:.0} s",
        server.kind.name(),
        load.name,
        taken.rate(),
        taken.errors,
        begun.elapsed().as_secs_f64()
    );
    Ok(taken)
}

/// The node behind which those of a load stand.
async fn made_meanwhile(server: &Server, load: &Load) -> Result<Option<String>> {
    if !load.makes {
        return Ok(None);
    }
    let last = server.api().get("/v1/nodes?limit=1&sort_key=id&sort_dir=desc&fields=uuid").await?;
    Ok(last["nodes"][0]["uuid"].as_str().map(str::to_owned))
}

/// Takes away what a load has made, so that every turn finds the same nodes.
async fn forget(server: &Server, load: &Load, last: Option<String>) -> Result<()> {
    let Some(last) = last.filter(|_| load.makes) else { return Ok(()) };
    let api = server.api();
    loop {
        let more = api.get(&format!("/v1/nodes?fields=uuid&limit=100&sort_key=id&marker={last}")).await?;
        let nodes = more["nodes"].as_array().cloned().unwrap_or_default();
        if nodes.is_empty() {
            return Ok(());
        }
        for node in nodes.iter().filter_map(|node| node["uuid"].as_str()) {
            let (status, _) = api.request(http::Method::DELETE, &format!("/v1/nodes/{node}"), None).await?;
            ensure!(status == 204, "a node was not deleted: {status}");
        }
    }
}

/// Reads of the API while heartbeats arrive.
async fn storm(out: &mut Report, server: &Server, nodes: &[Node], time: Duration) -> Result<()> {
    let beats = Shape { connections: 64, keep_alive: true, time, rate: Some(STORM), most: None };
    let reads = Shape { connections: 16, keep_alive: true, time, rate: Some(50), most: None };
    let own = nodes.to_vec();
    let read: Asks = Arc::new(move |number| match number % 10 {
        0 => Ask::get("/v1/nodes?limit=1000"),
        1 | 2 => Ask::get("/v1/nodes/detail?limit=100"),
        _ => Ask::get(format!("/v1/nodes/{}", own[number % own.len()].uuid)),
    });
    let asks = heartbeats(nodes);
    let (beats, reads) =
        tokio::join!(load::run(server.address, beats, 0, &asks), load::run(server.address, reads, 0, &read));
    let line = format!(
        "{:.0} heartbeats/s beside {:.0} reads/s (7 of 10 a node, 2 a page of 100 with details, 1 a list of 1000): \
         reads p50 {:.1} ms, p99 {:.1} ms; heartbeats p99 {:.1} ms",
        beats.rate(),
        reads.rate(),
        reads.percentile(50),
        reads.percentile(99),
        beats.percentile(99)
    );
    out.bar(&line, reads.percentile(99) < READ_P99 && beats.rate() > 0.95 * f64::from(STORM));
    out.no_errors("that load", &[&beats, &reads]);
    Ok(())
}

/// Whether what was acknowledged is kept: seen at once, and there after kill -9 as soon as it has to be.
async fn kept(out: &mut Report, server: Server, nodes: &[Node], time: Duration) -> Result<Server> {
    let asks = heartbeats(nodes);
    for connections in [1, 64, 256] {
        let shape = Shape { connections, keep_alive: true, time: time / 2, rate: None, most: None };
        let taken = load::run(server.address, shape, 0, &asks).await;
        out.no_errors(&format!("{} heartbeats over {connections} connections", taken.done.len()), &[&taken]);
        let lost = lost(&server, nodes, &taken).await?;
        out.bar(&format!("of {} acknowledged heartbeats, {lost} are not in the API", taken.done.len()), lost == 0);
    }
    let shape = Shape { connections: 64, keep_alive: true, time: time / 2, rate: None, most: None };
    let taken = load::run(server.address, shape, 0, &asks).await;
    tokio::time::sleep(SAVED_WITHIN).await;
    let server = server.kill_and_start().await?;
    let lost = lost(&server, nodes, &taken).await?;
    out.bar(&format!("after kill -9 {SAVED_WITHIN:?} later, {lost} of {} are lost", taken.done.len()), lost == 0);
    Ok(server)
}

/// Nodes whose last acknowledged heartbeat is later than the one that the API knows of.
async fn lost(server: &Server, nodes: &[Node], taken: &Taken) -> Result<usize> {
    let mut last = vec![jiff::Timestamp::MIN; nodes.len()];
    for (number, sent) in &taken.done {
        let last = &mut last[number % nodes.len()];
        *last = (*last).max(*sent);
    }
    let api = server.api();
    let mut lost = 0;
    for (node, last) in nodes.iter().zip(last) {
        let document = api.node(&node.uuid.to_string()).await?;
        let known = document["driver_internal_info"]["agent_last_heartbeat"].as_str().unwrap_or_default();
        let known = format!("{known}Z").parse().unwrap_or(jiff::Timestamp::MIN);
        lost += usize::from(last > known);
    }
    Ok(lost)
}

/// What is printed.
struct Report {
    text: String,
    met: bool,
}

impl Report {
    fn new(plan: &Plan) -> Self {
        let text = format!(
            "{} nodes; {} turns of {:?} each, good answers a second, milliseconds (p50 / p99)\n{:<30} {:>10} {:>17} {:>10} {:>17} {:>8}\n",
            plan.nodes, plan.rounds, plan.time, "", "Ironic", "", "ferricd", "", "ratio"
        );
        Self { text, met: true }
    }

    fn compare(&mut self, load: &Load, theirs: &Taken, ours: &Taken) {
        let latency = |taken: &Taken| format!("{:.1} / {:.1}", taken.percentile(50), taken.percentile(99));
        let ratio = ours.rate() / theirs.rate();
        let verdict = match load.bar {
            None => String::new(),
            Some(bar) => format!("  bar {bar:.0}: {}", self.judge(ratio >= bar)),
        };
        // A text takes whatever is written.
        let _ = writeln!(
            self.text,
            "{:<30} {:>10.1} {:>17} {:>10.1} {:>17} {ratio:>8.1}{verdict}",
            load.name,
            theirs.rate(),
            latency(theirs),
            ours.rate(),
            latency(ours)
        );
        if theirs.errors > 0 {
            let first = theirs.first_error.as_deref().unwrap_or_default();
            let _ = writeln!(self.text, "    Ironic: {} errors, the first: {first:.160}", theirs.errors);
        }
        if ours.errors > 0 {
            self.no_errors(load.name, &[ours]);
        }
    }

    fn memory(&mut self, theirs: Usage, ours: Usage) {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let ratio = ours.pss as f64 / theirs.pss as f64;
        let line = format!(
            "memory of all processes of each after a load, with as many nodes on both sides, most of all: PSS {:.1} MiB and \
             {:.1} MiB, ratio {ratio:.3}, bar {MEMORY:.3}; peak RSS {:.1} and {:.1} MiB",
            mib(theirs.pss),
            mib(ours.pss),
            mib(theirs.peak_rss),
            mib(ours.peak_rss)
        );
        let small = ratio <= MEMORY && (ours.peak_rss as f64) <= MEMORY * theirs.peak_rss as f64;
        self.bar(&line, small);
    }

    fn no_errors(&mut self, what: &str, taken: &[&Taken]) {
        let errors: usize = taken.iter().map(|taken| taken.errors).sum();
        let first = taken.iter().find_map(|taken| taken.first_error.as_deref());
        let first = first.map(|first| format!(", the first: {first:.160}")).unwrap_or_default();
        self.bar(&format!("{what}: {errors} errors{first}"), errors == 0);
    }

    fn bar(&mut self, line: &str, met: bool) {
        let verdict = self.judge(met);
        let _ = writeln!(self.text, "{line}: {verdict}");
    }

    fn judge(&mut self, met: bool) -> &'static str {
        self.met &= met;
        if met { "met" } else { "MISSED" }
    }
}
