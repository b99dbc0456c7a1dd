//! Updates of firmware through the UpdateService (DSP0268, UpdateService, Task; DSP0266, "Multipart HTTP push updates").

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::{FirmwareUpdate, UpdateState};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The update service of a BMC.
pub(crate) struct UpdateService(Resource);

/// Path of the action that has the BMC fetch an image.
const SIMPLE: [&str; 2] = ["Actions", "#UpdateService.SimpleUpdate"];

impl UpdateService {
    /// Whether it fetches images by itself.
    pub(crate) fn fetches(&self) -> bool {
        self.action().is_some()
    }

    fn action(&self) -> Option<&str> {
        self.0.text(&[SIMPLE[0], SIMPLE[1], "target"])
    }

    /// The word for the protocol of a URL, if the service takes it.
    fn protocol(&self, url: &str) -> Result<String, RedfishError> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_uppercase()).unwrap_or_default();
        let known = self.0.texts(&[SIMPLE[0], SIMPLE[1], "TransferProtocol@Redfish.AllowableValues"]);
        match known {
            Some(known) if !known.is_empty() && !known.contains(&scheme.as_str()) => Err(RedfishError::Wish {
                bmc: self.0.bmc.clone(),
                problem: format!("it fetches no firmware by {scheme}; it does by {}", known.join(", ")),
            }),
            _ => Ok(scheme),
        }
    }

    /// When an update is to be applied, if the BMC lets that be said.
    fn apply_time(&self, component: &str) -> Option<&'static str> {
        let wanted = if component == "bmc" { "Immediate" } else { "OnReset" };
        let known = self.0.texts(&[SIMPLE[0], SIMPLE[1], "@Redfish.OperationApplyTimeSupport", "SupportedValues"])?;
        known.contains(&wanted).then_some(wanted)
    }
}

impl Redfish {
    /// The update service.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] where there is none that works.
    pub(crate) async fn update_service(&self) -> Result<UpdateService, RedfishError> {
        let root = self.connection.root().await?;
        let link = root.link(&["UpdateService"]);
        let link =
            link.ok_or_else(|| root.unsupported("it has no UpdateService, so that firmware cannot be updated"))?;
        let service = self.connection.get(&root.path, link).await?;
        if service.at(&["ServiceEnabled"]).and_then(Value::as_bool) == Some(false) {
            return Err(service.unsupported("updates of firmware are switched off; switch them on at the BMC"));
        }
        let service = UpdateService(service);
        if !service.fetches() && service.0.text(&["MultipartHttpPushUri"]).is_none() {
            return Err(service.0.unsupported("it has neither SimpleUpdate nor MultipartHttpPushUri"));
        }
        Ok(service)
    }

    /// Whether these updates can be made.
    ///
    /// # Errors
    /// [`RedfishError::Wish`] naming the parts and protocols that there are, [`RedfishError::Unsupported`] where there are no updates.
    pub async fn check_update_of(&self, updates: &[FirmwareUpdate]) -> Result<(), RedfishError> {
        let service = self.update_service().await?;
        if service.fetches() {
            for update in updates {
                service.protocol(&update.url)?;
            }
        }
        let known: Vec<String> = self.read_firmware().await?.into_iter().map(|part| part.component).collect();
        let wanted = updates.iter().map(|update| &update.component);
        let unknown: Vec<&str> = wanted.filter(|name| !known.contains(name)).map(String::as_str).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let (unknown, known) = (unknown.join(", "), known.join(", "));
        let problem = format!("there is no firmware of {unknown}; there is of {known}");
        Err(RedfishError::Wish { bmc: self.connection.bmc(), problem })
    }

    /// Starts an update: has the BMC fetch the image, or pushes that in a file. Returns the path at which it can be followed.
    ///
    /// # Errors
    /// What the BMC says; [`RedfishError::Unsupported`] when it fetches nothing and there is no file.
    pub async fn begin_update(
        &self,
        update: &FirmwareUpdate,
        image: Option<&Path>,
    ) -> Result<Option<String>, RedfishError> {
        let service = self.update_service().await?;
        let target = self.part_of(&update.component).await?;
        let Some(action) = service.action() else {
            let link = service.0.text(&["MultipartHttpPushUri"]);
            let (Some(link), Some(image)) = (link, image) else {
                return Err(service.0.unsupported("it fetches no images and takes none"));
            };
            tracing::info!(bmc = service.0.bmc, component = update.component, "pushing firmware");
            return self.connection.push(&service.0.path, link, &json!({"Targets": [target]}), image).await;
        };
        let mut body = json!({
            "ImageURI": update.url,
            "TransferProtocol": service.protocol(&update.url)?,
            "Targets": [target],
        });
        if let Some(time) = service.apply_time(&update.component) {
            body["@Redfish.OperationApplyTime"] = json!(time);
        }
        tracing::info!(bmc = service.0.bmc, component = update.component, "having the BMC fetch firmware");
        match self.connection.begin(&service.0.path, action, &body).await {
            // Some find out from the image what it is for, and take no word for it.
            Err(RedfishError::Refused { status: 400, message, .. }) if message.contains("Targets") => {
                if let Some(body) = body.as_object_mut() {
                    body.remove("Targets");
                }
                self.connection.begin(&service.0.path, action, &body).await
            }
            other => other,
        }
    }

    /// The paths of all tasks that the BMC lists (DSP0268, TaskService); `None` where it has no list that can be read.
    ///
    /// # Errors
    /// When the BMC does not answer.
    pub async fn list_tasks(&self) -> Result<Option<Vec<String>>, RedfishError> {
        let root = self.connection.root().await?;
        let Some(link) = root.link(&["Tasks"]) else { return Ok(None) };
        let list = async {
            let service = self.connection.get(&root.path, link).await?;
            match service.link(&["Tasks"]) {
                Some(link) => self.connection.members(&service.path, link).await.map(Some),
                None => Ok(None),
            }
        };
        match list.await {
            // A list of more than anybody reads, or that is not for us.
            Err(RedfishError::Malformed { .. } | RedfishError::Denied { .. }) => Ok(None),
            Err(error) if error.is_missing() => Ok(None),
            other => other,
        }
    }

    /// The tasks that came since `known` and may be updates: a task that tells by which request it was begun (DSP0268, Task,
    /// `Payload`) has to tell one of ours.
    ///
    /// # Errors
    /// When the BMC does not answer.
    pub async fn list_updates_since(&self, known: &[String]) -> Result<Option<Vec<String>>, RedfishError> {
        let Some(all) = self.list_tasks().await? else { return Ok(None) };
        let service = self.update_service().await?;
        let ours = [service.action(), service.0.text(&["MultipartHttpPushUri"])];
        let ours: Vec<String> = ours
            .into_iter()
            .flatten()
            .map(|link| self.connection.path(&service.0.path, link))
            .collect::<Result<_, _>>()?;
        let mut found = Vec::new();
        for task in all.into_iter().filter(|task| !known.contains(task)) {
            let told = match self.connection.look(&task).await {
                Ok(told) => told.unwrap_or_default(),
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(error),
            };
            let begun_by = told.get("Payload").and_then(|payload| payload.get("TargetUri")).and_then(Value::as_str);
            let begun_by = begun_by.map(|link| self.connection.path(&task, link)).transpose()?;
            if begun_by.is_none_or(|begun_by| ours.contains(&begun_by)) {
                found.push(task);
            }
        }
        Ok(Some(found))
    }

    /// How an update goes on.
    ///
    /// # Errors
    /// When the BMC does not answer, as it does not while it starts anew.
    pub async fn read_update(&self, task: &str) -> Result<UpdateState, RedfishError> {
        match self.connection.look(task).await {
            Ok(None) => Ok(UpdateState::Running(None, "accepted".to_owned())),
            Ok(Some(task)) => Ok(state_of(&task)),
            // A monitor is gone when its task has ended, and some BMCs forget their tasks when they start anew.
            Err(error) if error.is_missing() => Ok(UpdateState::Unsaid),
            // At its end a monitor answers as the request itself would have (DSP0266, "Asynchronous operations").
            Err(RedfishError::Refused { status: status @ (400 | 406 | 409..=422), message, .. }) => {
                Ok(UpdateState::Failed(format!("HTTP {status}: {message}")))
            }
            Err(error) => Err(error),
        }
    }

    /// The resource of a part whose firmware is told.
    async fn part_of(&self, component: &str) -> Result<String, RedfishError> {
        let system = self.system().await?;
        match component {
            "bios" => Ok(system.path),
            "bmc" => {
                let manager = self.managers_of(&system).await?.into_iter().next();
                manager.ok_or_else(|| system.unsupported("it does not say what manages it"))
            }
            other => {
                let card = self.card_called(&system, other.strip_prefix("nic:").unwrap_or(other)).await?;
                card.ok_or_else(|| system.unsupported(format!("there is no {other}")))
            }
        }
    }
}

/// The state of a task. What is no task is what a monitor answers when its task is over, well or not.
fn state_of(task: &Map<String, Value>) -> UpdateState {
    let text = |key: &str| task.get(key).and_then(Value::as_str).unwrap_or_default();
    let percent = task.get("PercentComplete").and_then(Value::as_u64).and_then(|percent| u8::try_from(percent).ok());
    let said = messages(task);
    let words = |state: &str| if said.is_empty() { state.to_owned() } else { format!("{state}: {said}") };
    match text("TaskState") {
        "" => UpdateState::Unsaid,
        "Completed" if text("TaskStatus") == "Critical" => UpdateState::Failed(words("Completed, Critical")),
        "Completed" => UpdateState::Done,
        state @ ("Exception" | "Killed" | "Cancelled") => UpdateState::Failed(words(state)),
        "Pending" => UpdateState::AtRestart,
        state => UpdateState::Running(percent, words(state)),
    }
}

fn messages(task: &Map<String, Value>) -> String {
    let list = task.get("Messages").and_then(Value::as_array);
    let text =
        |message: &Value| Some(message.get("Message").or_else(|| message.get("MessageId"))?.as_str()?.to_owned());
    let all: Vec<String> = list.into_iter().flatten().filter_map(text).collect();
    all.join(" ").chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_done_when_it_says_so_and_well_only_when_it_says_that() {
        let state = |value: Value| state_of(value.as_object().unwrap());
        assert_eq!(state(json!({"TaskState": "Completed", "TaskStatus": "OK"})), UpdateState::Done);
        assert_eq!(state(json!({"Description": "a monitor's last answer"})), UpdateState::Unsaid);
        let failed = json!({"TaskState": "Exception", "Messages": [{"Message": "The image is for another machine."}]});
        let text = "Exception: The image is for another machine.".to_owned();
        assert_eq!(state(failed), UpdateState::Failed(text));
        let lying = json!({"TaskState": "Completed", "TaskStatus": "Critical"});
        assert_eq!(state(lying), UpdateState::Failed("Completed, Critical".to_owned()));
        let running = json!({"TaskState": "Running", "PercentComplete": 40});
        assert_eq!(state(running), UpdateState::Running(Some(40), "Running".to_owned()));
        assert_eq!(state(json!({"TaskState": "Pending"})), UpdateState::AtRestart);
    }
}
