//! Runbooks: steps by one name, for cleaning and service; a node may run one when it has a trait of the runbook.

use super::node_parts::{is_trait, read_traits};
use super::request::{Call, is_name, short};
use super::resource::{Resource, of};
use super::versions::{RUNBOOK_FIELDS, RUNBOOK_TRAITS};
use super::{Api, reply, steps};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::{Record, RecordKind, Store};
use uuid::Uuid;

pub(super) const RESOURCE: Resource = Resource {
    kind: RecordKind::Runbook,
    path: "runbooks",
    list: "runbooks",
    fields: RUNBOOK_FIELDS,
    short: &["uuid", "name"],
    detail: Some(1),
    filters: &[("owner", 1)],
    named: true,
    defaults: || json!({"disable_ramdisk": false, "public": false, "traits": []}),
    check,
};

/// Until 1.112 a runbook's name is that of the trait that a node needs; since then traits are a list of their own.
fn check(call: &Call, fields: &Map<String, Value>) -> Result<(), Fault> {
    let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
    let free = call.has(RUNBOOK_TRAITS) && is_name(name) && Uuid::try_parse(name).is_err();
    if !free && !is_trait(name) {
        let name = short(name);
        return Err(Fault::Invalid(format!("Schema error for runbook: name '{name}' is not that of a trait")));
    }
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or_default();
    if flag("public") && fields.get("owner").is_some_and(|owner| !owner.is_null()) {
        return Err(Fault::Invalid("A public runbook has no owner: unset public or owner".to_owned()));
    }
    steps::check("runbook", fields.get("steps"), "order")
}

fn traits_of(record: &Record) -> Vec<String> {
    let list = record.fields.get("traits").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl<S: Store> Api<S> {
    /// `GET /v1/runbooks/<runbook>/traits`
    pub(super) async fn show_runbook_traits(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let record = self.find_record(&call, of(RecordKind::Runbook)).await?;
        Ok(reply::json(StatusCode::OK, &json!({"traits": traits_of(&record)})))
    }

    /// `PUT /v1/runbooks/<runbook>/traits`
    pub(super) async fn replace_runbook_traits(&self, call: Call) -> Result<Response<Body>, Fault> {
        let traits = read_traits(&call)?;
        self.set_runbook_traits(call, |_| traits).await
    }

    /// `DELETE /v1/runbooks/<runbook>/traits`
    pub(super) async fn clear_runbook_traits(&self, call: Call) -> Result<Response<Body>, Fault> {
        self.set_runbook_traits(call, |_| Vec::new()).await
    }

    /// `PUT /v1/runbooks/<runbook>/traits/<trait>`
    pub(super) async fn add_runbook_trait(&self, call: Call) -> Result<Response<Body>, Fault> {
        let name = call.segment(1).to_owned();
        let location = format!("{}/v1/runbooks/{}/traits/{name}", call.base, call.segment(0));
        let add = |mut traits: Vec<String>| {
            traits.push(name);
            traits
        };
        Ok(reply::located(self.set_runbook_traits(call, add).await?, &location))
    }

    /// `DELETE /v1/runbooks/<runbook>/traits/<trait>`. One that is not there is as good as removed.
    pub(super) async fn remove_runbook_trait(&self, call: Call) -> Result<Response<Body>, Fault> {
        let name = call.segment(1).to_owned();
        self.set_runbook_traits(call, |mut traits| {
            traits.retain(|known| *known != name);
            traits
        })
        .await
    }

    async fn set_runbook_traits(
        &self,
        mut call: Call,
        change: impl FnOnce(Vec<String>) -> Vec<String> + Send,
    ) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut record = self.find_record(&call, of(RecordKind::Runbook)).await?;
        let traits = super::node_parts::check_traits(change(traits_of(&record)))?;
        record.fields.insert("traits".to_owned(), json!(traits));
        self.conductor.update_record(record).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }
}
