//! Changes of BIOS settings (DSP0268, Bios, AttributeRegistry, Settings; DSP0266, "Settings resource").

use crate::bios::Bios;
use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::{BiosDifference, BiosValues, StagedBios};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Most valid choices that an error names.
const NAMED: usize = 40;
/// Most dependencies of a registry that are looked at.
const MOST_DEPENDENCIES: usize = 8192;

impl Redfish {
    /// Checks settings against those that there are and against the attribute registry; see
    /// [`hardware::BiosControl::check_bios`].
    ///
    /// # Errors
    /// [`RedfishError::Wish`] with all that is wrong, else what went wrong with the BMC.
    pub async fn check_bios_values(&self, wanted: &BiosValues) -> Result<BiosValues, RedfishError> {
        let bios = self.bios().await?;
        self.converted(&bios, wanted)
    }

    fn converted(&self, bios: &Bios, wanted: &BiosValues) -> Result<BiosValues, RedfishError> {
        let mut problems = Vec::new();
        let mut values = BiosValues::new();
        for (name, value) in wanted {
            match checked(bios, name, value) {
                Ok(value) => drop(values.insert(name.clone(), value)),
                Err(problem) => problems.push(format!("{name}: {problem}")),
            }
        }
        if problems.is_empty() {
            problems.extend(dependencies(bios, &values));
        }
        if problems.is_empty() {
            let shown = values.into_iter().map(|(name, value)| match bios.values.get(&name) {
                Some(now) => (name, shown_as(now, value)),
                None => (name, value),
            });
            return Ok(shown.collect());
        }
        Err(RedfishError::Wish { bmc: self.connection.bmc(), problem: problems.join("; ") })
    }

    /// Makes settings so at the next start; see [`hardware::BiosControl::stage_bios`]. A setting that is as wanted, and
    /// is not about to become otherwise, is left alone.
    ///
    /// # Errors
    /// As [`Self::check_bios_values`]; and what the BMC says to the change.
    pub async fn stage_bios_values(&self, wanted: &BiosValues) -> Result<StagedBios, RedfishError> {
        let bios = self.bios().await?;
        let wanted = self.converted(&bios, wanted)?;
        let settings = self.pending(&bios).await?;
        let pending = settings.as_ref().and_then(|settings| settings.at(&["Attributes"])).and_then(Value::as_object);
        let waits = |name: &str| pending.and_then(|pending| pending.get(name));
        let differs = |name: &str, value: &Value| !bios.values.get(name).is_some_and(|now| same(now, value));
        // Some settings resources show what is waited for only, some everything.
        let to_send: Map<String, Value> = wanted
            .iter()
            .filter(|(name, value)| match waits(name) {
                Some(waiting) => !same(waiting, value),
                None => differs(name, value),
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let changes: Vec<String> = wanted
            .iter()
            .filter(|(name, value)| differs(name, value) || to_send.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let mut task = None;
        if !to_send.is_empty() {
            let names: Vec<&String> = to_send.keys().collect();
            tracing::info!(bmc = bios.resource.bmc, ?names, "changing BIOS settings");
            let mut body = json!({"Attributes": to_send});
            let times = ["@Redfish.Settings", "SupportedApplyTimes"];
            if bios.resource.texts(&times).is_some_and(|times| times.contains(&"OnReset")) {
                body["@Redfish.SettingsApplyTime"] = json!({"ApplyTime": "OnReset"});
            }
            let target = settings.as_ref().unwrap_or(&bios.resource);
            task = self.connection.begin_patch(target, &body).await?;
        }
        Ok(StagedBios { changes, task })
    }

    /// Whether the BMC can be asked for that.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] where it has no such action, else what went wrong.
    pub async fn check_bios_reset(&self) -> Result<(), RedfishError> {
        reset_of(&self.read_bios().await?).map(drop)
    }

    /// Makes all settings as the maker had them, at the next start. Returns those whose default the registry tells.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] where the BMC has no such action, else what went wrong.
    pub async fn reset_bios_values(&self) -> Result<BiosValues, RedfishError> {
        let bios = self.bios().await?;
        let resource = &bios.resource;
        let target = reset_of(resource)?;
        tracing::info!(bmc = resource.bmc, "resetting BIOS settings");
        self.connection.post(&resource.path, target, &json!({})).await?;
        Ok(defaults(&bios))
    }

    /// The settings that are not as wanted, and what the BMC said of the last change.
    ///
    /// # Errors
    /// When the BMC does not answer.
    pub async fn bios_differences_from(
        &self,
        wanted: &BiosValues,
    ) -> Result<(Vec<BiosDifference>, Vec<String>), RedfishError> {
        let bios = self.read_bios().await?;
        let values = bios.at(&["Attributes"]).and_then(Value::as_object);
        let differences = wanted.iter().filter_map(|(name, wanted)| {
            let seen = values.and_then(|values| values.get(name));
            let is_so = seen.is_some_and(|seen| same(seen, wanted));
            (!is_so).then(|| BiosDifference { name: name.clone(), wanted: wanted.clone(), seen: seen.cloned() })
        });
        Ok((differences.collect(), messages(&bios)))
    }

    /// The settings resource; `None` where changes are made to the settings themselves.
    async fn pending(&self, bios: &Bios) -> Result<Option<Resource>, RedfishError> {
        match bios.resource.link(&["@Redfish.Settings", "SettingsObject"]) {
            Some(link) => self.connection.get(&bios.resource.path, link).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The place of the action that resets settings.
fn reset_of(bios: &Resource) -> Result<&str, RedfishError> {
    let target = bios.text(&["Actions", "#Bios.ResetBios", "target"]);
    target.ok_or_else(|| bios.unsupported("it has no action ResetBios, so that BIOS settings cannot be reset"))
}

/// The settings that a reset has to make as the registry's `DefaultValue` has them (DSP0268, AttributeRegistry, Attributes).
/// Texts are left out, for asset tags and names are kept by many machines; so is what cannot be changed, and what another
/// setting decides.
fn defaults(bios: &Bios) -> BiosValues {
    let entries = |key: &str| {
        let list = bios.registry.as_ref().and_then(|registry| registry.at(&["RegistryEntries", key]));
        list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    };
    let target = |entry: &'_ Value| {
        let mapped = entry.pointer("/Dependency/MapToAttribute").or_else(|| entry.get("DependencyFor"));
        mapped.and_then(Value::as_str).map(str::to_owned)
    };
    let decided: BTreeSet<String> = entries("Dependencies").iter().take(MOST_DEPENDENCIES).filter_map(target).collect();
    let default = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let name = text("AttributeName")?;
        let now = bios.values.get(name).filter(|_| !decided.contains(name))?;
        let flag = |key: &str| entry.get(key).and_then(Value::as_bool) == Some(true);
        if ["ReadOnly", "Immutable", "Hidden", "GrayOut"].into_iter().any(flag) {
            return None;
        }
        let value = entry.get("DefaultValue").filter(|value| !value.is_null())?;
        matches!(text("Type"), Some("Enumeration" | "Integer" | "Boolean"))
            .then(|| (name.to_owned(), shown_as(now, value.clone())))
    };
    entries("Attributes").iter().filter_map(default).collect()
}

/// What the BMC says of how the last change of settings went.
fn messages(bios: &Resource) -> Vec<String> {
    let list = bios.at(&["@Redfish.Settings", "Messages"]).and_then(Value::as_array);
    let text = |message: &Value| {
        let text = message.get("Message").or_else(|| message.get("MessageId"))?.as_str()?;
        Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
    };
    list.into_iter().flatten().take(10).filter_map(text).collect()
}

/// Whether two values are the same setting: some BMCs show numbers and flags as texts.
fn same(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::String(text), Value::Bool(_) | Value::Number(_)) => text.eq_ignore_ascii_case(&wanted.to_string()),
        (Value::Bool(_) | Value::Number(_), Value::String(text)) => text.eq_ignore_ascii_case(&seen.to_string()),
        _ => seen == wanted,
    }
}

/// A value as the BMC shows the setting now: a text where it shows a text, whatever its registry says.
fn shown_as(now: &Value, value: Value) -> Value {
    match (now, &value) {
        (Value::String(_), Value::Bool(_) | Value::Number(_)) => Value::String(value.to_string()),
        _ => value,
    }
}

/// Names for an error, not too many.
fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let text = names.join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

/// The value in the type that the setting has; else what is wrong with it.
fn checked(bios: &Bios, name: &str, value: &Value) -> Result<Value, String> {
    let entry = bios.entry(name);
    let Some(now) = bios.values.get(name) else {
        let near = bios.values.keys().find(|known| known.eq_ignore_ascii_case(name));
        return Err(match near {
            Some(known) => format!("there is no such setting; did you mean {known}?"),
            None => format!("there is no such setting; there are {}", named(bios.values.keys().map(String::as_str))),
        });
    };
    let Some(entry) = entry else { return typed_as(now, value) };
    let flag = |key: &str| entry.get(key).and_then(Value::as_bool) == Some(true);
    if flag("ReadOnly") || flag("Immutable") {
        return Err("it cannot be changed (read only)".to_owned());
    }
    if flag("Hidden") || flag("GrayOut") {
        return Err("the firmware offers it on other machines or in other modes only (hidden)".to_owned());
    }
    let number = |key: &str| entry.get(key).and_then(Value::as_i64);
    match entry.get("Type").and_then(Value::as_str) {
        Some("Enumeration") => one_of(entry, value),
        Some("Integer") => whole(value, number("LowerBound"), number("UpperBound"), number("ScalarIncrement")),
        Some("Boolean") => truth(value).map(Value::Bool).ok_or_else(|| format!("{value} is neither true nor false")),
        Some("String") => {
            let text = value.as_str().ok_or_else(|| format!("{value} is not a text; put it in quotes"))?;
            let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            let (least, most) = (number("MinLength").unwrap_or(0), number("MaxLength").unwrap_or(i64::MAX));
            if length < least || length > most {
                return Err(format!("it has {length} characters; {least} to {most} are allowed"));
            }
            Ok(value.clone())
        }
        Some("Password") => {
            Err("a password cannot be read back, so that nothing could tell whether it was set; set it at the machine"
                .to_owned())
        }
        _ => typed_as(now, value),
    }
}

/// A choice of an enumeration. Without choices in the registry any text is one.
fn one_of(entry: &Map<String, Value>, value: &Value) -> Result<Value, String> {
    let choices = entry.get("Value").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let choices: Vec<&str> = choices.iter().filter_map(|choice| choice.get("ValueName")?.as_str()).collect();
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return Err(format!("{value} is not a text")),
    };
    if choices.is_empty() || choices.contains(&text.as_str()) {
        return Ok(Value::String(text));
    }
    let text: String = text.chars().take(64).collect();
    Err(format!("{text:?} is none of {}", named(choices.into_iter())))
}

fn whole(value: &Value, least: Option<i64>, most: Option<i64>, step: Option<i64>) -> Result<Value, String> {
    let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
    let number = number.ok_or_else(|| format!("{value} is not a whole number"))?;
    let (low, high) = (least.unwrap_or(i64::MIN), most.unwrap_or(i64::MAX));
    if number < low || number > high {
        let bound = |bound: Option<i64>| bound.map_or("any".to_owned(), |bound| bound.to_string());
        return Err(format!("{number} is not within {} to {}", bound(least), bound(most)));
    }
    if let Some(step) = step.filter(|step| *step > 1)
        && number.checked_sub(least.unwrap_or(0)).is_some_and(|above| above % step != 0)
    {
        return Err(format!("{number} is not in steps of {step} from {}", least.unwrap_or(0)));
    }
    Ok(Value::from(number))
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Without a registry, the type is that of the value which there is.
fn typed_as(now: &Value, value: &Value) -> Result<Value, String> {
    match now {
        Value::Bool(_) => truth(value).map(Value::Bool).ok_or_else(|| format!("{value} is neither true nor false")),
        Value::Number(_) => whole(value, None, None, None),
        Value::String(_) if value.is_string() => Ok(value.clone()),
        Value::String(_) => Err(format!("{value} is not a text; put it in quotes")),
        _ if value.is_string() || value.is_boolean() || value.is_number() => Ok(value.clone()),
        _ => Err(format!("{value} is neither a text, a number nor a flag")),
    }
}

/// What the registry's dependencies say against the settings as they would be (DSP0268, AttributeRegistry, Dependencies):
/// a setting that becomes read only or hidden because of another cannot be changed with it.
fn dependencies(bios: &Bios, wanted: &BiosValues) -> Vec<String> {
    let list = bios.registry.as_ref().and_then(|registry| registry.at(&["RegistryEntries", "Dependencies"]));
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut problems = Vec::new();
    for entry in list.iter().take(MOST_DEPENDENCIES) {
        let Some(dependency) = entry.get("Dependency") else { continue };
        let text = |key: &str| dependency.get(key).and_then(Value::as_str);
        let Some(target) = text("MapToAttribute").or_else(|| entry.get("DependencyFor")?.as_str()) else { continue };
        // A setting that stays as it is may be whatever it becomes.
        let Some(value) = wanted.get(target).filter(|value| bios.values.get(target) != Some(*value)) else { continue };
        let Some(property) = text("MapToProperty") else { continue };
        if !holds(bios, wanted, dependency.get("MapFrom")) {
            continue;
        }
        let to = dependency.get("MapToValue");
        let because = because(dependency.get("MapFrom"));
        match property {
            "ReadOnly" | "Hidden" | "GrayOut" if to.and_then(Value::as_bool) == Some(true) => {
                problems.push(format!("{target}: it cannot be changed while {because}"));
            }
            "CurrentValue" if to.is_some_and(|to| to != value) => {
                let to = to.map(Value::to_string).unwrap_or_default();
                problems.push(format!("{target}: it is {to} while {because}"));
            }
            "LowerBound" | "ScalarIncrement" | "UpperBound" | "MinLength" | "MaxLength" => {
                problems.extend(bound_problem(target, property, to, value, &because));
            }
            _ => {}
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

fn bound_problem(target: &str, property: &str, to: Option<&Value>, value: &Value, because: &str) -> Option<String> {
    let to = to?.as_i64()?;
    let length = |value: &Value| i64::try_from(value.as_str()?.chars().count()).ok();
    let (of, wrong) = match property {
        "LowerBound" => (value.as_i64()?, value.as_i64()? < to),
        "UpperBound" => (value.as_i64()?, value.as_i64()? > to),
        "MinLength" => (length(value)?, length(value)? < to),
        "MaxLength" => (length(value)?, length(value)? > to),
        _ => return None,
    };
    wrong.then(|| format!("{target}: {of} is beyond its {property}, which is {to} while {because}"))
}

/// Whether the conditions of a dependency are true of the settings as they would be.
fn holds(bios: &Bios, wanted: &BiosValues, from: Option<&Value>) -> bool {
    let Some(conditions) = from.and_then(Value::as_array).filter(|list| !list.is_empty()) else { return false };
    let mut result = true;
    for (index, condition) in conditions.iter().enumerate() {
        let text = |key: &str| condition.get(key).and_then(Value::as_str);
        // Of other properties than values nothing is known here; a condition that cannot be judged says nothing.
        if text("MapFromProperty").is_some_and(|property| property != "CurrentValue") {
            return false;
        }
        let Some(name) = text("MapFromAttribute") else { return false };
        let Some(value) = wanted.get(name).or_else(|| bios.values.get(name)) else { return false };
        let Some(other) = condition.get("MapFromValue") else { return false };
        let (a, b) = (value.as_f64(), other.as_f64());
        let ordered = |wanted: fn(f64, f64) -> bool| a.zip(b).is_some_and(|(a, b)| wanted(a, b));
        let is_true = match text("MapFromCondition").unwrap_or("EQU") {
            "EQU" => value == other,
            "NEQ" => value != other,
            "GTR" => ordered(|a, b| a > b),
            "GEQ" => ordered(|a, b| a >= b),
            "LSS" => ordered(|a, b| a < b),
            "LEQ" => ordered(|a, b| a <= b),
            _ => return false,
        };
        result = match (index, text("MapTerms")) {
            (0, _) => is_true,
            (_, Some("OR")) => result || is_true,
            _ => result && is_true,
        };
    }
    result
}

/// The conditions of a dependency, for people.
fn because(from: Option<&Value>) -> String {
    let conditions = from.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let said = conditions.iter().enumerate().map(|(index, condition)| {
        let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default();
        let word = match text("MapFromCondition") {
            "NEQ" => "is not",
            "GTR" => "is above",
            "GEQ" => "is at least",
            "LSS" => "is below",
            "LEQ" => "is at most",
            _ => "is",
        };
        let join = match (index, text("MapTerms")) {
            (0, _) => "",
            (_, "OR") => " or ",
            _ => " and ",
        };
        let value = condition.get("MapFromValue").map(Value::to_string).unwrap_or_default();
        format!("{join}{} {word} {value}", text("MapFromAttribute"))
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings and a registry of the kinds that machines have.
    fn bios() -> Bios {
        let attributes = json!({
            "ProcVirtualization": "Disabled", "QuietBoot": true, "NumCores": 16, "PowerCap": 400, "AssetTag": "a",
            "Serial": "x", "AdminPassword": null, "TurboMode": "Enabled", "TurboRatio": 20, "Vmd": "Off", "Plain": 3,
        });
        let value = |names: &[&str]| names.iter().map(|name| json!({"ValueName": name})).collect::<Vec<_>>();
        let when = |name: &str, is: Value| {
            json!([{"MapFromAttribute": name, "MapFromProperty": "CurrentValue",
            "MapFromCondition": "EQU", "MapFromValue": is}])
        };
        let registry = json!({"RegistryEntries": {
            "Attributes": [
                {"AttributeName": "ProcVirtualization", "Type": "Enumeration", "Value": value(&["Enabled", "Disabled"])},
                {"AttributeName": "QuietBoot", "Type": "Boolean", "DefaultValue": false},
                {"AttributeName": "NumCores", "Type": "Integer", "ReadOnly": true, "DefaultValue": 8},
                {"AttributeName": "PowerCap", "Type": "Integer", "LowerBound": 100, "UpperBound": 800, "ScalarIncrement": 50},
                {"AttributeName": "AssetTag", "Type": "String", "MinLength": 1, "MaxLength": 4, "DefaultValue": "none"},
                {"AttributeName": "Serial", "Type": "String", "Hidden": true},
                {"AttributeName": "AdminPassword", "Type": "Password"},
                {"AttributeName": "TurboMode", "Type": "Enumeration", "Value": value(&["Enabled", "Disabled"])},
                {"AttributeName": "TurboRatio", "Type": "Integer", "DefaultValue": 10},
                {"AttributeName": "Vmd", "Type": "Enumeration", "Value": value(&["On", "Off"]), "DefaultValue": "On"},
                {"AttributeName": "NotHere", "Type": "Boolean", "DefaultValue": true},
            ],
            "Dependencies": [
                {"Type": "Map", "DependencyFor": "TurboRatio", "Dependency": {"MapFrom": when("TurboMode", json!("Disabled")),
                    "MapToAttribute": "TurboRatio", "MapToProperty": "ReadOnly", "MapToValue": true}},
                {"Type": "Map", "DependencyFor": "TurboRatio", "Dependency": {"MapFrom": when("Vmd", json!("On")),
                    "MapToAttribute": "TurboRatio", "MapToProperty": "UpperBound", "MapToValue": 30}},
            ],
        }});
        let resource = |value: Value| Resource {
            bmc: "https://bmc".to_owned(),
            path: "/x".to_owned(),
            value: value.as_object().unwrap().clone(),
            etag: None,
        };
        Bios {
            values: attributes.as_object().unwrap().clone(),
            resource: resource(json!({"Attributes": attributes})),
            registry: Some(resource(registry)),
        }
    }

    fn check(bios: &Bios, wanted: Value) -> Result<BiosValues, String> {
        let mut values = BiosValues::new();
        let mut problems = Vec::new();
        for (name, value) in wanted.as_object().unwrap() {
            match checked(bios, name, value) {
                Ok(value) => drop(values.insert(name.clone(), value)),
                Err(problem) => problems.push(format!("{name}: {problem}")),
            }
        }
        if problems.is_empty() {
            problems.extend(dependencies(bios, &values));
        }
        if problems.is_empty() { Ok(values) } else { Err(problems.join("; ")) }
    }

    #[test]
    fn values_are_taken_in_the_type_of_the_setting_however_they_are_spelt() {
        let wanted = json!({"ProcVirtualization": "Enabled", "QuietBoot": "False", "PowerCap": "450", "AssetTag": "abcd",
            "Plain": "7"});
        let values = check(&bios(), wanted).unwrap();
        let expected = json!({"ProcVirtualization": "Enabled", "QuietBoot": false, "PowerCap": 450, "AssetTag": "abcd",
            "Plain": 7});
        assert_eq!(Value::Object(values), expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_valid() {
        let cases = [
            json!({"Nonsense": 1}),
            json!({"quietboot": true}),
            json!({"ProcVirtualization": "enabled"}),
            json!({"ProcVirtualization": []}),
            json!({"QuietBoot": "perhaps"}),
            json!({"NumCores": 8}),
            json!({"PowerCap": 900}),
            json!({"PowerCap": 425}),
            json!({"PowerCap": "many"}),
            json!({"AssetTag": "abcde"}),
            json!({"AssetTag": 5}),
            json!({"Serial": "y"}),
            json!({"AdminPassword": "secret"}),
            json!({"TurboMode": "Disabled", "TurboRatio": 25}),
            json!({"Vmd": "On", "TurboRatio": 35}),
        ];
        let lines: Vec<String> = cases.into_iter().map(|case| check(&bios(), case).unwrap_err()).collect();
        assert!(!lines.join("\n").contains("\"secret\""));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_flag_that_a_bmc_shows_as_a_text_is_given_as_a_text_and_is_the_same() {
        assert_eq!(shown_as(&json!("true"), json!(false)), json!("false"));
        assert_eq!(shown_as(&json!(true), json!(false)), json!(false));
        assert!(same(&json!("True"), &json!(true)) && same(&json!(5), &json!("5")));
        assert!(!same(&json!("a"), &json!("A")) && !same(&json!(5), &json!("6")));
    }

    #[test]
    fn a_reset_has_to_bring_the_defaults_of_what_can_be_set_and_is_decided_by_nothing_else() {
        let mut bios = bios();
        assert_eq!(Value::Object(defaults(&bios)), json!({"QuietBoot": false, "Vmd": "On"}));
        bios.registry = None;
        assert!(defaults(&bios).is_empty());
    }

    #[test]
    fn a_dependency_counts_with_the_values_that_will_be() {
        let bios = bios();
        check(&bios, json!({"TurboMode": "Enabled", "TurboRatio": 25})).unwrap();
        check(&bios, json!({"TurboMode": "Disabled", "TurboRatio": 20})).unwrap();
        check(&bios, json!({"Vmd": "On", "TurboRatio": 30})).unwrap();
    }
}
