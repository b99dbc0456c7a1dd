//! What a BMC told of its machine's firmware: BIOS settings and versions, as they were read last.

use super::document::{links, maybe_time, time};
use super::request::{Call, Query, short};
use super::versions::{BIOS_FIELDS, FIRMWARE_IDENTITY};
use super::{Api, list, reply};
use crate::conductor::{KeptComponent, KeptSetting};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::Store;
use uuid::Uuid;

/// Fields of a setting; the first two are those of a list without details, the others came with 1.74.
const SETTING: &[&str] = &[
    "name",
    "value",
    "attribute_type",
    "allowable_values",
    "lower_bound",
    "max_length",
    "min_length",
    "read_only",
    "reset_required",
    "unique",
    "upper_bound",
];
/// Fields of a component.
const COMPONENT: &[&str] = &["component", "initial_version", "current_version", "last_version_flashed"];
/// Those that came with 1.114.
const IDENTITY: &[&str] = &["vendor", "model", "serial_number"];

/// Takes `fields` and `detail`: the fields that are asked for, of those that there are.
pub(super) fn wanted(
    query: &mut Query,
    known: &[&'static str],
    short_list: &[&'static str],
) -> Result<Vec<&'static str>, Fault> {
    let detail = query.flag("detail")?.unwrap_or_default();
    let Some(fields) = query.take("fields") else {
        return Ok(if detail { known.to_vec() } else { short_list.to_vec() });
    };
    if detail {
        return Err(Fault::Invalid("Can not specify ?detail=True and fields in the same request.".to_owned()));
    }
    let find = |name: &String| {
        let found = known.iter().find(|known| *known == name).copied();
        found.ok_or_else(|| Fault::Invalid(format!("Field(s) \"{}\" are not valid.", short(name))))
    };
    list::names(&fields).iter().map(find).collect()
}

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/bios`
    pub(super) async fn list_bios(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        if !call.has(BIOS_FIELDS) && (query.has("detail") || query.has("fields")) {
            return Err(Fault::Invalid(format!(
                "detail and fields of BIOS settings came with API version 1.{BIOS_FIELDS}"
            )));
        }
        let fields = wanted(&mut query, SETTING, &SETTING[..2])?;
        query.finish()?;
        let node = self.node(&call).await?;
        let settings = self.conductor.bios_settings(node.uuid).await?;
        // Ironic links by the name that the request used.
        let entries: Vec<Value> = settings.iter().map(|kept| setting(&call, call.segment(0), kept, &fields)).collect();
        Ok(reply::json(StatusCode::OK, &json!({"bios": entries})))
    }

    /// `GET /v1/nodes/<node>/bios/<setting>`
    pub(super) async fn show_bios_setting(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        let name = call.segment(1);
        let settings = self.conductor.bios_settings(node.uuid).await?;
        let Some(kept) = settings.iter().find(|kept| kept.setting.name == name) else {
            let name = short(name);
            return Err(Fault::NotFound(format!("Node {} doesn't have a BIOS setting '{name}'", node.uuid)));
        };
        let fields = if call.has(BIOS_FIELDS) { SETTING } else { &SETTING[..2] };
        let document = Map::from_iter([(name.to_owned(), setting(&call, &node.uuid.to_string(), kept, fields))]);
        Ok(reply::json(StatusCode::OK, &Value::Object(document)))
    }

    /// `GET /v1/nodes/<node>/firmware`
    pub(super) async fn list_firmware(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let known = if call.has(FIRMWARE_IDENTITY) { [COMPONENT, IDENTITY].concat() } else { COMPONENT.to_vec() };
        let fields = wanted(&mut query, &known, &known)?;
        query.finish()?;
        let node: Uuid = self.node(&call).await?.uuid;
        let components = self.conductor.firmware(node).await?;
        let entries: Vec<Value> = components.iter().map(|kept| component(kept, &fields)).collect();
        Ok(reply::json(StatusCode::OK, &json!({"firmware": entries})))
    }
}

fn setting(call: &Call, node: &str, kept: &KeptSetting, fields: &[&str]) -> Value {
    let own = &kept.setting;
    let mut document = Map::new();
    document.insert("created_at".to_owned(), time(kept.created_at));
    document.insert("updated_at".to_owned(), maybe_time(kept.updated_at));
    document.insert("links".to_owned(), links(&call.base, &format!("nodes/{node}/bios/{}", own.name)));
    for name in fields {
        let value = match *name {
            "name" => json!(own.name),
            "value" => text_of(&own.value),
            "attribute_type" => json!(own.attribute_type),
            "allowable_values" => json!(own.allowable_values),
            "lower_bound" => json!(own.lower_bound),
            "max_length" => json!(own.max_length),
            "min_length" => json!(own.min_length),
            "read_only" => json!(own.read_only),
            "reset_required" => json!(own.reset_required),
            "unique" => json!(own.unique),
            "upper_bound" => json!(own.upper_bound),
            _ => continue,
        };
        document.insert((*name).to_owned(), value);
    }
    Value::Object(document)
}

/// A value as clients know it: a text, whatever it is in the BMC. A flag is spelt as Ironic spells it.
fn text_of(value: &Value) -> Value {
    match value {
        Value::Null | Value::String(_) => value.clone(),
        Value::Bool(true) => json!("True"),
        Value::Bool(false) => json!("False"),
        other => json!(other.to_string()),
    }
}

fn component(kept: &KeptComponent, fields: &[&str]) -> Value {
    let own = &kept.component;
    let mut document = Map::new();
    document.insert("created_at".to_owned(), time(kept.created_at));
    document.insert("updated_at".to_owned(), maybe_time(kept.updated_at));
    for name in fields {
        let value = match *name {
            "component" => json!(own.component),
            "initial_version" => json!(kept.initial_version),
            "current_version" => json!(own.version),
            "last_version_flashed" => json!(kept.last_version_flashed),
            "vendor" => json!(own.vendor),
            "model" => json!(own.model),
            "serial_number" => json!(own.serial_number),
            _ => continue,
        };
        document.insert((*name).to_owned(), value);
    }
    Value::Object(document)
}
