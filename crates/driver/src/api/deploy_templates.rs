//! Deploy templates: steps that a deployment gains when its node is asked for with a trait of their name.

use super::node_parts::is_trait;
use super::request::{Call, short};
use super::resource::Resource;
use super::steps;
use super::versions::DEPLOY_TEMPLATE_FIELDS;
use crate::fault::Fault;
use serde_json::{Map, Value, json};
use store::RecordKind;

pub(super) const RESOURCE: Resource = Resource {
    kind: RecordKind::DeployTemplate,
    path: "deploy_templates",
    list: "deploy_templates",
    fields: DEPLOY_TEMPLATE_FIELDS,
    short: &["uuid", "name"],
    detail: Some(1),
    filters: &[],
    named: true,
    defaults: || json!({}),
    check,
};

fn check(_: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
    if !is_trait(name) {
        let name = short(name);
        return Err(Fault::Invalid(format!("Schema error for deploy template: name '{name}' is not that of a trait")));
    }
    steps::check("deploy template", fields.get("steps"), "priority")
}
