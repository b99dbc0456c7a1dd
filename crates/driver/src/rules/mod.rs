//! Inspection rules: what is done with the findings of an inspection. Ironic's operators, actions and their meaning; the
//! engine is pure, so that it can be run again when a commit meets another.
//!
//! A rule whose conditions hold has its actions done, in order of priority. Whatever goes wrong in a rule fails the
//! inspection, by the rule's name, and nothing of what the rules did is kept.

mod action;
mod arguments;
mod check;
mod condition;
mod python;

pub(crate) use action::ACTIONS;
pub use action::ApiCall;
pub(crate) use arguments::Signature;
pub(crate) use check::problem;
pub(crate) use condition::{OPERATORS, check_regex};

use serde_json::{Map, Value};
use store::{Record, RecordKind};

/// What a value is shown as to rules whose key says that it is a secret.
const HIDDEN: &str = "***";
/// Keys whose values rules do not see.
const SECRET: &[&str] = &["password", "auth_token", "bmc_password"];
/// The phase in which rules run.
const PHASE: &str = "main";

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// UUID.
    pub uuid: String,
    /// For people.
    pub description: Option<String>,
    /// Higher ones run first.
    pub priority: i64,
    /// When it runs.
    pub phase: String,
    /// All have to hold.
    pub conditions: Vec<Value>,
    /// What is done then, in order.
    pub actions: Vec<Value>,
}

/// Why a rule failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Inspection rule {rule}: {reason}")]
pub struct RuleError {
    /// The rule: its UUID, and its description where it has one.
    pub rule: String,
    /// Why.
    pub reason: String,
}

impl Rule {
    /// The rule of a record.
    pub fn of(record: &Record) -> Self {
        debug_assert_eq!(record.kind, RecordKind::InspectionRule);
        Self::read(record.uuid.to_string(), &record.fields)
    }

    /// The rule of the fields of the API.
    pub fn read(uuid: String, fields: &Map<String, Value>) -> Self {
        let list = |key: &str| fields.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            uuid,
            description: text("description").filter(|text| !text.is_empty()),
            priority: fields.get("priority").and_then(Value::as_i64).unwrap_or_default(),
            phase: text("phase").unwrap_or_else(|| PHASE.to_owned()),
            conditions: list("conditions"),
            actions: list("actions"),
        }
    }

    fn name(&self) -> String {
        match &self.description {
            Some(description) => format!("{} ({description})", self.uuid),
            None => self.uuid.clone(),
        }
    }
}

/// A port of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct PortFacts {
    /// UUID.
    pub uuid: String,
    /// Its attributes that may be changed.
    pub fields: Map<String, Value>,
}

/// What rules look at and change.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The node's attributes that rules may change, by their names in the API.
    pub node: Map<String, Value>,
    /// Attributes that rules may look at only.
    pub fixed: Map<String, Value>,
    /// Traits.
    pub traits: Vec<String>,
    /// Ports.
    pub ports: Vec<PortFacts>,
    /// The inventory; looked at only.
    pub inventory: Value,
    /// What else was found.
    pub plugin_data: Value,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Run {
    /// The rules whose conditions held.
    pub applied: Vec<String>,
    /// What has to be called, each with the name of its rule.
    pub calls: Vec<(String, ApiCall)>,
}

/// The rules that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct RuleErrors(pub Vec<RuleError>);

/// Runs rules on what was found. Where one fails the others are tried all the same, so that everything by which a machine is
/// not what was expected is told at once.
///
/// # Errors
/// [`RuleErrors`]; what the facts are then is of no use.
pub fn run(rules: &[Rule], facts: &mut Facts) -> Result<Run, RuleErrors> {
    let mut rules: Vec<&Rule> = rules.iter().filter(|rule| rule.phase == PHASE).collect();
    rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
    let mut run = Run::default();
    let mut failed = Vec::new();
    for rule in rules {
        match one(rule, facts) {
            Ok(None) => tracing::debug!(rule = rule.uuid, "the conditions do not hold"),
            Ok(Some(calls)) => {
                run.applied.push(rule.uuid.clone());
                run.calls.extend(calls.into_iter().map(|call| (rule.name(), call)));
            }
            Err(reason) => failed.push(RuleError { rule: rule.name(), reason }),
        }
    }
    if failed.is_empty() { Ok(run) } else { Err(RuleErrors(failed)) }
}

/// Runs one rule; `None` when its conditions do not hold. The text of a failure ends with what its conditions looked at.
fn one(rule: &Rule, facts: &mut Facts) -> Result<Option<Vec<ApiCall>>, String> {
    if !condition::hold(&rule.conditions, facts)? {
        return Ok(None);
    }
    let found = condition::found(&rule.conditions, facts);
    let acted = action::act(&rule.uuid, &rule.actions, facts);
    acted.map(Some).map_err(|reason| if found.is_empty() { reason } else { format!("{reason} ({})", found.join(", ")) })
}

/// What place-holders stand for: the node, the inventory and the plugin data without secrets, and the item of a loop.
fn context(facts: &Facts, item: Option<&Value>) -> Map<String, Value> {
    let mut node = hidden(&facts.fixed, true);
    node.extend(hidden(&facts.node, true));
    node.insert("traits".to_owned(), Value::from(facts.traits.clone()));
    let mut context = Map::new();
    context.insert("node".to_owned(), Value::Object(node));
    context.insert("inventory".to_owned(), hide(&facts.inventory, false));
    context.insert("plugin_data".to_owned(), hide(&facts.plugin_data, false));
    if let Some(item) = item {
        context.insert("item".to_owned(), item.clone());
    }
    context
}

fn hidden(map: &Map<String, Value>, node: bool) -> Map<String, Value> {
    let is_secret = |key: &str| {
        // Of the node, whatever may lead into its BMC or its agent.
        SECRET.contains(&key) || node && ["password", "secret", "token"].iter().any(|word| key.contains(word))
    };
    let entry = |(key, value): (&String, &Value)| {
        (key.clone(), if is_secret(key) { Value::from(HIDDEN) } else { hide(value, node) })
    };
    map.iter().map(entry).collect()
}

fn hide(value: &Value, node: bool) -> Value {
    match value {
        Value::Object(map) => Value::Object(hidden(map, node)),
        Value::Array(list) => Value::Array(list.iter().map(|item| hide(item, node)).collect()),
        other => other.clone(),
    }
}
