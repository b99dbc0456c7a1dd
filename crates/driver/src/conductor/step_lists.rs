//! Steps that come from records: a runbook that a request names, and the deploy templates of the traits that an
//! instance wants.

use super::Conductor;
use crate::command::ProvisionArguments;
use crate::fault::Fault;
use lifecycle::provision::Verb;
use serde_json::{Map, Value};
use store::{Node, Record, RecordKind, Store, StoreError};
use uuid::Uuid;

type Steps = Vec<Map<String, Value>>;

impl<S: Store> Conductor<S> {
    /// The arguments of a verb with the steps that they stand for.
    ///
    /// # Errors
    /// [`Fault::NotFound`] for a runbook that there is not, [`Fault::Invalid`] for one that the node has no trait for.
    pub(super) async fn with_listed_steps(
        &self,
        node: &Node,
        verb: Verb,
        mut arguments: ProvisionArguments,
    ) -> Result<ProvisionArguments, Fault> {
        if let Some(name) = arguments.runbook.take() {
            let runbook = self.runbook(&name).await?;
            approved(node, &runbook)?;
            let steps = Some(steps_of(&runbook, "order"));
            match verb {
                Verb::Service => arguments.service_steps = steps,
                _ => arguments.clean_steps = steps,
            }
            let without = runbook.fields.get("disable_ramdisk").and_then(Value::as_bool);
            arguments.disable_ramdisk = arguments.disable_ramdisk.or(without);
        }
        if matches!(verb, Verb::Active | Verb::Deploy | Verb::Rebuild) {
            let templates = self.template_steps(node).await?;
            if !templates.is_empty() {
                let chosen = arguments.deploy_steps.get_or_insert_default();
                // What the request says about a step counts more than what a template says.
                let same = |a: &Map<String, Value>, b: &Map<String, Value>| {
                    a.get("interface") == b.get("interface") && a.get("step") == b.get("step")
                };
                let more: Steps =
                    templates.into_iter().filter(|step| !chosen.iter().any(|given| same(given, step))).collect();
                chosen.extend(more);
            }
        }
        Ok(arguments)
    }

    async fn runbook(&self, name: &str) -> Result<Record, Fault> {
        let found = match Uuid::try_parse(name) {
            Ok(uuid) => self.store.record(RecordKind::Runbook, uuid).await,
            Err(_) => self.store.record_by_name(RecordKind::Runbook, name).await,
        };
        found.map_err(|error| match error {
            StoreError::NotFound { .. } => Fault::NotFound(format!("Runbook {name} could not be found.")),
            other => other.into(),
        })
    }

    /// The steps of the templates whose names are among the traits of the instance.
    async fn template_steps(&self, node: &Node) -> Result<Steps, Fault> {
        let traits = node.instance_info.get("traits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut steps = Steps::new();
        for name in traits.iter().filter_map(Value::as_str) {
            match self.store.record_by_name(RecordKind::DeployTemplate, name).await {
                Ok(template) => steps.extend(steps_of(&template, "")),
                // A trait need not have a template.
                Err(StoreError::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(steps)
    }
}

/// Whether the node may run the runbook: it has the trait of its name or one of its traits, as in Ironic.
fn approved(node: &Node, runbook: &Record) -> Result<(), Fault> {
    let listed = runbook.fields.get("traits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name = runbook.fields.get("name").and_then(Value::as_str);
    let mut wanted = listed.iter().filter_map(Value::as_str).chain(name);
    if wanted.any(|wanted| node.traits.iter().any(|own| own == wanted)) {
        return Ok(());
    }
    Err(Fault::Invalid(format!(
        "Runbook {} is not approved for node {}: give the node the trait of its name, or one of its traits.",
        name.unwrap_or_default(),
        node.uuid
    )))
}

/// The steps of a record in the order of the key `rank`, which goes; all other keys stay.
fn steps_of(record: &Record, rank: &str) -> Steps {
    let list = record.fields.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut steps: Steps = list.iter().filter_map(Value::as_object).cloned().collect();
    let number = |step: &Map<String, Value>| step.get(rank).and_then(whole).unwrap_or_default();
    steps.sort_by_key(number);
    for step in &mut steps {
        step.remove(rank);
    }
    steps
}

/// A whole number, also as text.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}
