//! Drivers: the hardware types and their interfaces.

use super::document::links;
use super::list;
use super::request::{Call, short};
use super::versions::{DRIVER_FIELDS, DYNAMIC_DRIVERS};
use super::{Api, reply};
use crate::fault::Fault;
use crate::hardware_type::{HardwareType, Interface};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::Store;

/// The version that brought an interface, where it came after hardware types.
fn since(interface: Interface) -> u16 {
    match interface {
        Interface::Storage => 33,
        Interface::Rescue => 38,
        Interface::Bios => 40,
        Interface::Firmware => 86,
        Interface::Boot
        | Interface::Console
        | Interface::Deploy
        | Interface::Inspect
        | Interface::Management
        | Interface::Network
        | Interface::Power
        | Interface::Raid
        | Interface::Vendor => DYNAMIC_DRIVERS,
    }
}

impl<S: Store> Api<S> {
    /// `GET /v1/drivers`
    pub(super) fn list_drivers(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let kind = query.take("type");
        let detail = query.flag("detail")?;
        let fields = query.take("fields");
        query.finish()?;
        if kind.is_some() || detail.is_some() {
            call.need(DYNAMIC_DRIVERS)?;
        }
        let types: Vec<_> = match kind.as_deref() {
            None | Some("dynamic") => self.conductor.settings().hardware.types().collect(),
            Some("classic") => Vec::new(),
            Some(other) => {
                let other = short(other);
                return Err(Fault::Invalid(format!("type must be \"dynamic\" or \"classic\", not \"{other}\"")));
            }
        };
        let documents: Vec<Value> = types
            .into_iter()
            .map(|kind| self.selected(&call, kind, detail.unwrap_or_default(), fields.as_deref()))
            .collect::<Result<_, _>>()?;
        Ok(reply::json(StatusCode::OK, &json!({"drivers": documents})))
    }

    /// `GET /v1/drivers/<driver>`
    pub(super) fn show_driver(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let fields = query.take("fields");
        query.finish()?;
        let document = self.selected(&call, self.driver(&call)?, true, fields.as_deref())?;
        Ok(reply::json(StatusCode::OK, &document))
    }

    /// `GET /v1/drivers/<driver>/properties`
    pub(super) fn show_driver_properties(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let properties = self.driver(&call)?.properties();
        let document: Map<String, Value> =
            properties.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        Ok(reply::json(StatusCode::OK, &Value::Object(document)))
    }

    /// The document of a hardware type, or the fields of it that are asked for.
    fn selected(&self, call: &Call, kind: &HardwareType, detail: bool, fields: Option<&str>) -> Result<Value, Fault> {
        let mut document = self.driver_document(call, kind, detail);
        if let Some(fields) = fields {
            call.need(DRIVER_FIELDS)?;
            let names = list::names(fields);
            if let Some(unknown) = names.iter().find(|name| !document.contains_key(name.as_str())) {
                return Err(Fault::Invalid(format!("Field(s) \"{}\" are not valid.", short(unknown))));
            }
            document.retain(|name, _| name == "links" || names.contains(name));
        }
        Ok(Value::Object(document))
    }

    fn driver_document(&self, call: &Call, kind: &HardwareType, detail: bool) -> Map<String, Value> {
        let path = format!("drivers/{}", kind.name);
        let enabled = &self.conductor.settings().hardware;
        let mut document = Map::new();
        document.insert("name".to_owned(), json!(kind.name));
        document.insert("hosts".to_owned(), json!([self.conductor.hostname()]));
        document.insert("links".to_owned(), links(&call.base, &path));
        if call.has(14) {
            document.insert("properties".to_owned(), links(&call.base, &format!("{path}/properties")));
        }
        if call.has(DYNAMIC_DRIVERS) {
            document.insert("type".to_owned(), json!("dynamic"));
            for interface in Interface::ALL.into_iter().filter(|interface| detail && call.has(since(*interface))) {
                let name = interface.as_str();
                document.insert(format!("default_{name}_interface"), json!(enabled.default_of(kind, interface)));
                document.insert(format!("enabled_{name}_interfaces"), json!(sorted(enabled.of(kind, interface))));
            }
        }
        document
    }

    /// The hardware type that the path names.
    pub(super) fn driver(&self, call: &Call) -> Result<&'static HardwareType, Fault> {
        let name = call.segment(0);
        self.conductor.settings().hardware.named(name).ok_or_else(|| {
            Fault::NotFound(format!("Could not find the following driver(s) or hardware type(s): {}.", short(name)))
        })
    }
}

fn sorted(mut names: Vec<&'static str>) -> Vec<&'static str> {
    names.sort_unstable();
    names
}
