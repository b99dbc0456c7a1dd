//! Conductors: the one that serves this API.

use super::document::links;
use super::list;
use super::request::{Call, short};
use super::{Api, reply};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::Store;

const FIELDS: &[&str] = &["hostname", "conductor_group", "alive", "drivers", "created_at", "updated_at", "links"];
const SHORT: &[&str] = &["hostname", "conductor_group", "alive"];
const SORT_KEYS: &[&str] = &["hostname", "conductor_group", "created_at", "updated_at"];

impl<S: Store> Api<S> {
    /// `GET /v1/conductors`
    pub(super) fn list_conductors(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let detail = query.flag("detail")?.unwrap_or_default();
        let fields = wanted(query.take("fields"))?;
        let marker = query.take("marker");
        let page = list::page(&mut query)?;
        if let Some(key) = page.sort_key.filter(|key| !SORT_KEYS.contains(&key.as_str())) {
            return Err(Fault::Invalid(format!(
                "The sort_key value \"{}\" is an invalid field for sorting; choose one of: {}",
                short(&key),
                SORT_KEYS.join(", ")
            )));
        }
        query.finish()?;
        if let Some(marker) = marker.as_ref().filter(|marker| *marker != self.conductor.hostname()) {
            return Err(Fault::NotFound(format!("Conductor {} could not be found.", short(marker))));
        }
        let fields = match fields {
            Some(_) if detail => {
                return Err(Fault::Invalid("Can not specify ?detail=True and fields in the same request.".to_owned()));
            }
            Some(fields) => fields,
            None if detail => FIELDS.iter().map(|name| (*name).to_owned()).collect(),
            None => SHORT.iter().map(|name| (*name).to_owned()).collect(),
        };
        // There is one; after it comes nothing.
        let list = if marker.is_some() { Vec::new() } else { vec![self.conductor_document(&call, &fields)] };
        Ok(reply::json(StatusCode::OK, &json!({"conductors": list})))
    }

    /// `GET /v1/conductors/<hostname>`
    pub(super) fn show_conductor(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let fields = wanted(query.take("fields"))?;
        query.finish()?;
        let name = call.segment(0);
        if name != self.conductor.hostname() {
            return Err(Fault::NotFound(format!("Conductor {} could not be found.", short(name))));
        }
        let fields = fields.unwrap_or_else(|| FIELDS.iter().map(|name| (*name).to_owned()).collect());
        Ok(reply::json(StatusCode::OK, &self.conductor_document(&call, &fields)))
    }

    fn conductor_document(&self, call: &Call, fields: &[String]) -> Value {
        let hostname = self.conductor.hostname();
        let drivers: Vec<&str> = self.conductor.settings().hardware.types().map(|kind| kind.name).collect();
        let started = self.started.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        let value = |name: &str| match name {
            "hostname" => json!(hostname),
            "conductor_group" => json!(""),
            "alive" => json!(true),
            "drivers" => json!(drivers),
            "created_at" => json!(started),
            "links" => links(&call.base, &format!("conductors/{hostname}")),
            _ => Value::Null,
        };
        let chosen = FIELDS.iter().filter(|name| **name == "links" || fields.iter().any(|field| field == *name));
        Value::Object(chosen.map(|name| ((*name).to_owned(), value(name))).collect::<Map<_, _>>())
    }
}

/// The fields that are asked for, all of them known.
fn wanted(fields: Option<String>) -> Result<Option<Vec<String>>, Fault> {
    let Some(fields) = fields else { return Ok(None) };
    let names = list::names(&fields);
    match names.iter().find(|name| !FIELDS.contains(&name.as_str())) {
        None => Ok(Some(names)),
        Some(unknown) => Err(Fault::Invalid(format!("Field(s) \"{}\" are not valid.", short(unknown)))),
    }
}
