//! Steps that look after a machine: firmware, boot entries, files, health. On a node that is in use its disks stay as they
//! are, but for what the step is about.

use crate::command::{AgentError, Class};
use crate::state::Shared;
use crate::{files, firmware, health, nvram};
use hardware::{Step, StepCall, StepError, StepKind};
use serde_json::{Map, Value, json};

/// The steps of a kind.
pub(crate) fn steps(kind: StepKind, shared: &Shared) -> Vec<Step> {
    let offer = |interface: &str, step: &str, priority: i64, argsinfo: Value| {
        let mut offered = Step::new(interface, step, priority);
        offered.reboot_requested = Some(false);
        offered.argsinfo = Some(argsinfo);
        offered
    };
    let clean = kind == StepKind::Clean;
    let mut steps = Vec::new();
    if kind != StepKind::Service {
        let mut nvram = offer("deploy", "clean_uefi_nvram", 0, nvram::arguments());
        nvram.abortable = clean.then_some(true);
        steps.push(nvram);
    }
    if !clean {
        steps.push(offer("deploy", "inject_files", shared.settings().inject_files_priority, files::arguments()));
    }
    if kind != StepKind::Deploy {
        steps.push(offer("firmware", "update_firmware", 0, firmware::arguments()));
        let mut health = offer("deploy", "check_hardware", 0, health::arguments());
        health.abortable = Some(true);
        let mut test = offer("deploy", "test_disks", 0, health::test_arguments());
        test.abortable = Some(true);
        steps.extend([health, test]);
    }
    steps
}

/// Runs a step, if it is one of these.
pub(crate) async fn run(shared: &Shared, call: StepCall) -> Result<Value, StepError> {
    match call.step.step.as_str() {
        "clean_uefi_nvram" => nvram::clean(shared, call).await,
        "inject_files" => files::inject(shared, call).await,
        "update_firmware" => firmware::update(shared, call).await,
        "check_hardware" => health::check(shared, call).await,
        "test_disks" => health::test(shared, call).await,
        other => Err(StepError::Incompatible(other.to_owned())),
    }
}

/// `argsinfo` of a step: name, what it is, whether it must be there.
pub(crate) fn argsinfo(arguments: &[(&str, &str, bool)]) -> Value {
    let one = |(name, description, required): &(&str, &str, bool)| {
        ((*name).to_owned(), json!({"description": description, "required": required}))
    };
    Value::Object(arguments.iter().map(one).collect())
}

/// The arguments of a call, which may only be those that `known` describes; those that must be there are.
pub(crate) fn arguments<'a>(call: &'a StepCall, known: &Value) -> Result<&'a Map<String, Value>, StepError> {
    let none = Map::new();
    let known = known.as_object().unwrap_or(&none);
    let step = &call.step;
    let function = format!("GenericHardwareManager.{}()", step.step);
    if let Some(name) = step.args.keys().find(|name| !known.contains_key(*name)) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(StepError::Arguments(format!(
            "{function} got an unexpected keyword argument '{name}'; it takes {}",
            names.join(", ")
        )));
    }
    let required = |(_, about): &(&String, &Value)| about["required"] == true;
    match known.iter().filter(required).find(|(name, _)| !step.args.contains_key(*name)) {
        None => Ok(&step.args),
        Some((name, _)) => {
            Err(StepError::Arguments(format!("{function} missing 1 required positional argument: '{name}'")))
        }
    }
}

/// A truth among the arguments.
pub(crate) fn truth(args: &Map<String, Value>, name: &str, default: bool) -> Result<bool, StepError> {
    match args.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(truth)) => Ok(*truth),
        Some(other) => Err(params(format!("{name} must be true or false, not {other}"))),
    }
}

/// The parameters are wrong.
pub(crate) fn params(details: impl Into<String>) -> StepError {
    failed(&AgentError::new(Class::InvalidCommandParamsError, details))
}

pub(crate) fn failed(error: &AgentError) -> StepError {
    StepError::Failed { class: error.class.name(), details: error.details.clone() }
}

/// A failure of the step itself, in the class of its kind.
pub(crate) fn broken(kind: StepKind, details: impl Into<String>) -> StepError {
    StepError::Failed { class: crate::extension::steps::failure_class(kind).name(), details: details.into() }
}
