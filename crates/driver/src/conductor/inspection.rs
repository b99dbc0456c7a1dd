//! Taking in what an inspection found: finds the node, checks the interfaces, adds ports, saves the inventory.
//!
//! The payload is open-ended: agents add collectors of their own. What is needed of it is read from the JSON, the rest
//! is kept as it came.

use super::Conductor;
use super::change::{Draft, Failure};
use super::lookup::give_token;
use super::ramdisk::KeepLogs;
use super::rules::{Findings, apply_rules, port_facts};
use super::settings::AddPorts;
use crate::fault::Fault;
use crate::flow::{Action, FlowKind};
use lifecycle::provision::{Event, State};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{Inventory, Node, Page, Port, PortFilter, Store, StoreError};
use uuid::Uuid;
use wire::ramdisk::Lookup;

/// An interface that can become a port.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    name: String,
    mac: String,
    has_address: bool,
    booted_from: bool,
}

impl<S: Store> Conductor<S> {
    /// Takes the result of an inspection. `node`: the UUID, where the agent was told. `token`: whether the agent may be
    /// given a token (since 1.84).
    ///
    /// # Errors
    /// [`Fault::Invalid`] when nothing in it leads to a node, [`Fault::NotFound`] when no node waits for it.
    pub async fn continue_inspection(
        self: &Arc<Self>,
        body: Map<String, Value>,
        node: Option<Uuid>,
        token: bool,
    ) -> Result<Lookup, Fault> {
        let this = self.clone();
        self.detached(async move { this.take_inspection(body, node, token).await }).await
    }

    async fn take_inspection(
        self: &Arc<Self>,
        body: Map<String, Value>,
        node: Option<Uuid>,
        token: bool,
    ) -> Result<Lookup, Fault> {
        let macs: Vec<String> = interfaces(&body).iter().filter_map(mac_of).collect();
        let bmc = bmc_addresses(&body);
        let error = body.get("error").and_then(Value::as_str).filter(|error| !error.is_empty());
        if macs.is_empty() && bmc.is_empty() {
            return Err(Fault::Invalid("No lookup information provided".to_owned()));
        }
        let not_found = || Fault::NotFound("Resource could not be found.".to_owned());
        let by_mac = self.node_of_addresses(&macs).await?;
        let uuid = match (by_mac, node) {
            (Some(found), Some(told)) if found != told => return Err(not_found()),
            (Some(found), _) => found,
            (None, Some(told)) => told,
            (None, None) => self.node_of_bmc(&bmc).await?.ok_or_else(not_found)?,
        };
        let record = match self.store.node(uuid).await {
            Ok(record) => record,
            Err(StoreError::NotFound { .. }) => return Err(not_found()),
            Err(other) => return Err(other.into()),
        };
        let (_, flow) = self.load(uuid).await?;
        if !waits(&record, flow.as_ref()) {
            return Err(not_found());
        }
        let (candidates, all) = candidates(&body);
        // Ports are added before the node goes on; a repetition finds them there.
        if error.is_none() {
            self.add_ports(&record, &candidates).await?;
        }
        let plugin_data = plugin_data(&body, &candidates, all);
        let inventory = body.get("inventory").cloned().unwrap_or(Value::Null);
        let rules = if error.is_none() && !candidates.is_empty() { self.rules().await? } else { Vec::new() };
        // Calls and ports first: the node goes on in one commit, when they are done.
        let (ports, ruled) = if rules.is_empty() {
            (Vec::new(), Ok(()))
        } else {
            let before = self.ports_of(uuid).await?;
            let facts = Findings { inventory: &inventory, plugin_data: &plugin_data };
            (port_facts(&before), self.run_rules(&rules, &record, &before, &facts).await?)
        };
        let (node, _, token) = self
            .change(uuid, |draft| {
                if !waits(&draft.node, draft.flow.as_ref()) {
                    return Err(not_found());
                }
                let token = if token { give_token(draft, true) } else { None };
                let mut plugin_data = plugin_data.clone();
                let problem = match (error, candidates.is_empty()) {
                    (Some(error), _) => Some(format!("Ramdisk reported error: {error}")),
                    (None, true) => Some("No valid network interfaces found in the inventory.".to_owned()),
                    (None, false) if ruled.is_err() => ruled.clone().err(),
                    (None, false) => {
                        let enabled = &self.settings.hardware;
                        let node = &mut draft.node;
                        apply_rules(&rules, node, &ports, &inventory, &mut plugin_data, enabled).err()
                    }
                };
                draft.enter(FlowKind::Inspect, true)?;
                match problem {
                    Some(text) => draft.fail(&Failure { text, event: Event::Fail, power_off: true })?,
                    None => take(draft, &body, plugin_data)?,
                }
                Ok(token)
            })
            .await?;
        let kept = match self.settings.keep_logs {
            KeepLogs::Always => true,
            KeepLogs::OnFailure => error.is_some(),
            KeepLogs::Never => false,
        };
        if let Some(logs) = body.get("logs").and_then(Value::as_str).filter(|_| kept) {
            self.save_logs(&node, "inspect", logs).await;
        }
        tracing::info!(node = %uuid, interfaces = candidates.len(), "an inventory has come");
        self.wake(uuid);
        Ok(self.lookup_answer(&node, token))
    }

    /// The node among those being inspected whose BMC has one of these addresses.
    async fn node_of_bmc(&self, addresses: &[String]) -> Result<Option<Uuid>, Fault> {
        let mut found = Vec::new();
        for state in [State::InspectWait, State::Inspecting] {
            let filter = store::NodeFilter { provision_state: Some(state), ..store::NodeFilter::default() };
            for node in self.store.nodes(&filter, &Page::default()).await? {
                let address = node.driver_info.get("redfish_address").and_then(Value::as_str);
                if address.and_then(host_of).is_some_and(|host| addresses.contains(&host)) {
                    found.push(node.uuid);
                }
            }
        }
        Ok(if let [only] = found.as_slice() { Some(*only) } else { None })
    }

    /// Adds the ports that the site wants. Those that are there stay as they are.
    async fn add_ports(&self, node: &Node, candidates: &[Candidate]) -> Result<(), Fault> {
        let filter = PortFilter { node: Some(node.uuid), ..PortFilter::default() };
        let known: Vec<String> =
            self.store.ports(&filter, &Page::default()).await?.iter().map(|port| port.address.clone()).collect();
        for candidate in candidates.iter().filter(|candidate| wanted(self.settings.add_ports, candidate, candidates)) {
            if known.contains(&candidate.mac) {
                continue;
            }
            let mut port = Port::new(Uuid::new_v4(), node.uuid, &candidate.mac, self.parts.clock.now());
            port.pxe_enabled = candidate.booted_from || !candidates.iter().any(|other| other.booted_from);
            match self.store.create_port(self.epoch, port).await {
                Ok(_) => tracing::info!(node = %node.uuid, address = candidate.mac, "a port was added"),
                Err(StoreError::Duplicate { .. }) => {
                    tracing::warn!(node = %node.uuid, address = candidate.mac, "the port belongs to another node");
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }
}

/// Whether the node's flow can take an inventory: it waits for one, or has just switched the machine on.
fn waits(node: &Node, flow: Option<&crate::flow::Flow>) -> bool {
    matches!(node.provision_state, State::Inspecting | State::InspectWait)
        && flow.is_some_and(|flow| {
            matches!(flow.current(), Some(Action::PowerOn | Action::WaitForInspection))
                && flow.actions[flow.cursor..].contains(&Action::WaitForInspection)
        })
}

/// Saves what was found and moves the flow behind its wait.
fn take(draft: &mut Draft, body: &Map<String, Value>, plugin_data: Value) -> Result<(), Fault> {
    let inventory = body.get("inventory").cloned().unwrap_or(Value::Null);
    if let Some(architecture) = inventory.pointer("/cpu/architecture").and_then(Value::as_str)
        && !architecture.is_empty()
    {
        draft.node.properties.insert("cpu_arch".to_owned(), Value::from(architecture));
    }
    draft.inventory = Some(Inventory { inventory, plugin_data });
    if let Some(flow) = draft.flow.as_mut()
        && let Some(at) = flow.actions.iter().position(|action| *action == Action::WaitForInspection)
    {
        flow.cursor = at;
        flow.advance(&[]);
    }
    Ok(())
}

/// The interfaces of the inventory.
fn interfaces(body: &Map<String, Value>) -> &[Value] {
    let interfaces = body.get("inventory").and_then(|inventory| inventory.get("interfaces"));
    interfaces.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// The interface's MAC address, lower case, if it is one of a real station.
fn mac_of(interface: &Value) -> Option<String> {
    let mac = text(interface, "mac_address")?.to_ascii_lowercase();
    let parts: Vec<&str> = mac.split(':').collect();
    let is_mac = parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
    (is_mac && mac != "00:00:00:00:00:00").then_some(mac)
}

fn bmc_addresses(body: &Map<String, Value>) -> Vec<String> {
    let unset = ["0.0.0.0", "::/0", "::"];
    let Some(inventory) = body.get("inventory") else { return Vec::new() };
    ["bmc_address", "bmc_v6address"]
        .into_iter()
        .filter_map(|key| text(inventory, key))
        .filter(|address| !unset.contains(address))
        .map(str::to_owned)
        .collect()
}

fn host_of(url: &str) -> Option<String> {
    let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
}

/// The interface that was booted from, as a MAC address: `BOOTIF` has a hardware type in front and dashes.
fn booted_from(body: &Map<String, Value>) -> Option<String> {
    let of_inventory = || body.get("inventory")?.pointer("/boot/pxe_interface")?.as_str();
    let text = body.get("boot_interface").and_then(Value::as_str).or_else(of_inventory)?;
    let text = text.to_ascii_lowercase().replace('-', ":");
    // A byte count, since this is a stranger's text: 17 of the address, 3 in front of it.
    Some(if text.len() == 20 { text.get(3..)?.to_owned() } else { text })
}

/// The interfaces that can become ports, and all of them by name for the record.
fn candidates(body: &Map<String, Value>) -> (Vec<Candidate>, Value) {
    let boot = booted_from(body);
    let mut all = Map::new();
    let mut valid: BTreeMap<String, Candidate> = BTreeMap::new();
    for interface in interfaces(body) {
        let Some(name) = text(interface, "name") else { continue };
        let has_address = text(interface, "ipv4_address").or(text(interface, "ipv6_address")).is_some();
        let mac = mac_of(interface);
        let booted_from = mac.is_some() && mac == boot;
        let mut shown = interface.clone();
        if let Value::Object(shown) = &mut shown {
            shown.insert("pxe_enabled".to_owned(), Value::from(booted_from));
        }
        all.insert(name.to_owned(), shown);
        if let Some(mac) = mac.filter(|_| name != "lo") {
            let candidate = Candidate { name: name.to_owned(), mac: mac.clone(), has_address, booted_from };
            valid.entry(mac).or_insert(candidate);
        }
    }
    (valid.into_values().collect(), Value::Object(all))
}

fn wanted(add: AddPorts, candidate: &Candidate, all: &[Candidate]) -> bool {
    match add {
        AddPorts::Disabled => false,
        AddPorts::All => true,
        AddPorts::Active => candidate.has_address,
        AddPorts::Pxe if all.iter().any(|other| other.booted_from) => candidate.booted_from,
        AddPorts::Pxe => candidate.has_address,
    }
}

/// What the hooks made of it, for the record; without the logs, which are large.
fn plugin_data(body: &Map<String, Value>, candidates: &[Candidate], all: Value) -> Value {
    let mut data = body.clone();
    data.remove("inventory");
    data.remove("logs");
    let valid: Map<String, Value> =
        candidates.iter().map(|one| (one.name.clone(), all.get(&one.name).cloned().unwrap_or(Value::Null))).collect();
    let macs: Vec<&str> = candidates.iter().map(|candidate| candidate.mac.as_str()).collect();
    data.insert("all_interfaces".to_owned(), all);
    data.insert("valid_interfaces".to_owned(), Value::Object(valid));
    data.insert("macs".to_owned(), json!(macs));
    Value::Object(data)
}
