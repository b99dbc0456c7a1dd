//! Inspection rules on the findings of an inspection: which rules there are, what they see of a node, and what they changed.
//! What rules mean is in [`crate::rules`].

use super::Conductor;
use super::patch::{document_of, write_back};
use super::ports::refused;
use crate::fault::Fault;
use crate::hardware_type::Enabled;
use crate::rules::{ApiCall, Facts, PortFacts, Rule, run};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use store::{Node, Page, Port, PortFilter, Record, RecordFilter, RecordKind, Store, StoreError};
use transport::client::{Client, Settings, chain};
use uuid::Uuid;

/// Largest answer of a call that a rule makes, in bytes; nobody reads it.
const MAX_REPLY: usize = 1 << 20;

/// What an inspection found.
pub(super) struct Findings<'a> {
    pub(super) inventory: &'a Value,
    pub(super) plugin_data: &'a Value,
}

impl<S: Store> Conductor<S> {
    /// The rules: those of the API in the order of their creation, then the site's own.
    pub(super) async fn rules(&self) -> Result<Vec<Rule>, Fault> {
        let records =
            self.store.records(RecordKind::InspectionRule, &RecordFilter::default(), &Page::default()).await?;
        let mut rules: Vec<Rule> = records.iter().map(Rule::of).collect();
        rules.extend(self.settings.inspection_rules.iter().cloned());
        Ok(rules)
    }

    /// The ports of a node.
    pub(super) async fn ports_of(&self, node: Uuid) -> Result<Vec<Port>, Fault> {
        let filter = PortFilter { node: Some(node), ..PortFilter::default() };
        Ok(self.store.ports(&filter, &Page::default()).await?.iter().map(|port| Port::clone(port)).collect())
    }

    /// What the rules make of a node outside of it: calls, and changes of ports. Nothing is changed when one fails, but for a name
    /// or an address that another port took in the meantime.
    ///
    /// # Errors
    /// `Ok(Err)` with the rule and why, when a rule fails; [`Fault`]: the store.
    pub(super) async fn run_rules(
        self: &Arc<Self>,
        rules: &[Rule],
        node: &Node,
        ports: &[Port],
        found: &Findings<'_>,
    ) -> Result<Result<(), String>, Fault> {
        let mut facts = facts_of(node, ports, found.inventory, found.plugin_data);
        let ran = match run(rules, &mut facts) {
            Ok(ran) => ran,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut changed = Vec::new();
        let failed = |port: &Port, reason: &str| Ok(Err(format!("Inspection rules: port {}: {reason}", port.uuid)));
        for (port, facts) in ports.iter().zip(&facts.ports) {
            match changed_port(port, &facts.fields) {
                Ok(None) => {}
                Ok(Some(port)) => changed.push(port),
                Err(reason) => return failed(port, &reason),
            }
        }
        let mut groups = Vec::new();
        for port in &changed {
            let before = ports.iter().find(|before| before.uuid == port.uuid);
            match self.check_port(before, port, &changed).await {
                Ok(group) => groups.push(group),
                Err(fault @ (Fault::Conflict(_) | Fault::NotFound(_))) => return failed(port, &fault.to_string()),
                Err(fault) => return Err(fault),
            }
        }
        for (rule, request) in &ran.calls {
            if let Err(reason) = call(request).await {
                return Ok(Err(format!("Inspection rule {rule}: {reason}")));
            }
        }
        for (mut port, group) in changed.into_iter().zip(groups) {
            port.updated_at = Some(self.parts.clock.now());
            match self.store.update_port(self.epoch, port.clone()).await {
                Ok(_) => self.save_network(group).await?,
                Err(error @ StoreError::Duplicate { .. }) => return failed(&port, &refused(error).to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(node = %node.uuid, rules = rules.len(), applied = ran.applied.len(), "inspection rules ran");
        Ok(Ok(()))
    }

    /// Whether a port may be what rules made of it: the same that an operator may make of it.
    async fn check_port(&self, before: Option<&Port>, port: &Port, together: &[Port]) -> Result<Option<Record>, Fault> {
        if before.is_none_or(|before| before.name != port.name) {
            self.check_name(port, together).await?;
        }
        self.check_physical_network(before, port, together).await
    }
}

/// Has the rules change a node and its plugin data.
///
/// # Errors
/// The rule, and why.
pub(super) fn apply_rules(
    rules: &[Rule],
    node: &mut Node,
    ports: &[PortFacts],
    inventory: &Value,
    plugin_data: &mut Value,
    enabled: &Enabled,
) -> Result<(), String> {
    let mut facts = facts_of(node, &[], inventory, plugin_data);
    facts.ports = ports.to_vec();
    run(rules, &mut facts).map_err(|error| error.to_string())?;
    let mut changed = node.clone();
    write_back(&mut changed, &facts.node).map_err(|fault| format!("Inspection rules: {fault}"))?;
    changed.traits = facts.traits;
    enabled.compose(&mut changed).map_err(|fault| format!("Inspection rules: {fault}"))?;
    *node = changed;
    *plugin_data = facts.plugin_data;
    Ok(())
}

/// The attributes of a node that rules may change.
pub(crate) fn changeable() -> Vec<String> {
    document_of(&Node::new(Uuid::nil(), "", jiff::Timestamp::UNIX_EPOCH)).into_iter().map(|(name, _)| name).collect()
}

/// The ports of a node as rules see them.
pub(super) fn port_facts(ports: &[Port]) -> Vec<PortFacts> {
    let facts = |port: &Port| PortFacts { uuid: port.uuid.to_string(), fields: port_fields(port) };
    ports.iter().map(facts).collect()
}

fn facts_of(node: &Node, ports: &[Port], inventory: &Value, plugin_data: &Value) -> Facts {
    let fixed = json!({
        "uuid": node.uuid, "provision_state": node.provision_state, "power_state": node.power_state,
        "last_error": node.last_error, "target_provision_state": node.target_provision_state,
        "maintenance_reason": node.maintenance_reason, "fault": node.fault,
    });
    Facts {
        node: document_of(node),
        fixed: fixed.as_object().cloned().unwrap_or_default(),
        traits: node.traits.clone(),
        ports: port_facts(ports),
        inventory: inventory.clone(),
        plugin_data: plugin_data.clone(),
    }
}

/// The attributes of a port that a rule may change.
fn port_fields(port: &Port) -> Map<String, Value> {
    let fields = json!({
        "address": port.address, "extra": port.extra, "local_link_connection": port.local_link_connection,
        "name": port.name, "physical_network": port.physical_network, "pxe_enabled": port.pxe_enabled,
        "is_smartnic": port.attributes.get("is_smartnic"), "category": port.attributes.get("category"),
        "description": port.attributes.get("description"), "vendor": port.attributes.get("vendor"),
    });
    fields.as_object().cloned().unwrap_or_default()
}

/// A port as rules left it; `None` when they left it as it was.
fn changed_port(port: &Port, fields: &Map<String, Value>) -> Result<Option<Port>, String> {
    if port_fields(port) == *fields {
        return Ok(None);
    }
    let mut changed = port.clone();
    for (name, value) in fields {
        let wrong = |wanted: &str| Err(format!("{name} must be {wanted}"));
        match (name.as_str(), value) {
            ("address", Value::String(text)) => match crate::api::mac(text) {
                Some(address) => changed.address = address,
                None => return wrong("a MAC address"),
            },
            ("extra", Value::Object(map)) => changed.extra.clone_from(map),
            ("local_link_connection", Value::Object(map)) => changed.local_link_connection.clone_from(map),
            ("name" | "physical_network", Value::String(_) | Value::Null) => {
                let text = value.as_str().map(str::to_owned);
                if name == "name" { changed.name = text } else { changed.physical_network = text }
            }
            ("pxe_enabled", value) => match flag(value) {
                Some(flag) => changed.pxe_enabled = flag,
                None => return wrong("true or false"),
            },
            ("is_smartnic", value) if !value.is_null() => match flag(value) {
                Some(flag) => drop(changed.attributes.insert(name.clone(), Value::from(flag))),
                None => return wrong("true or false"),
            },
            ("category" | "description" | "vendor", Value::String(_)) => {
                changed.attributes.insert(name.clone(), value.clone());
            }
            ("category" | "description" | "vendor" | "is_smartnic", Value::Null) => {
                changed.attributes.remove(name);
            }
            ("category" | "description" | "vendor" | "name" | "physical_network", _) => return wrong("a text"),
            _ => return wrong("an object"),
        }
    }
    Ok(Some(changed))
}

/// A flag, also as the text that a place-holder makes of it.
fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Makes a call that a rule asks for: its answer has to be good.
async fn call(wanted: &ApiCall) -> Result<(), String> {
    let shown = wanted.url.split('?').next().unwrap_or_default();
    let failed = |reason: &str| format!("Request to {shown} failed: {reason}");
    let settings = Settings {
        connect_timeout: wanted.timeout,
        timeout: wanted.timeout,
        body_limit: MAX_REPLY,
        ..Settings::default()
    };
    let client = Client::new(settings).map_err(|error| failed(&chain(&error)))?;
    let mut pause = wanted.backoff;
    for attempt in 0..=wanted.retries {
        if attempt > 0 {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        let mut request = Request::builder().method(Method::GET).uri(&wanted.url);
        for (name, value) in &wanted.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| failed(&error.to_string()))?;
        let last = attempt == wanted.retries;
        match client.send(request).await {
            Ok(reply) if reply.status.is_success() => return Ok(()),
            // Those that may be another the next time.
            Ok(reply) if !last && [429, 500, 502, 503, 504].contains(&reply.status.as_u16()) => {}
            Ok(reply) => return Err(failed(&format!("HTTP {}", reply.status.as_u16()))),
            Err(error) if last => return Err(failed(&chain(&error))),
            Err(error) => tracing::debug!(error = chain(&error), "a call of an inspection rule is made again"),
        }
    }
    Err(failed("it was not made"))
}
