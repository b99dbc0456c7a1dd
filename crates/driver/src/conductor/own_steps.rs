//! The driver's own steps: settings and updates of firmware, made at the BMC. What takes long there is looked at every few
//! seconds by a turn of its own, so that nothing is lost with a conductor that ends meanwhile.

use super::Conductor;
use super::change::Draft;
use super::runner::{FIRMWARE_IMAGE, Outcome, Place, Trouble, Turn, failure, fatal, note_trouble, text_of};
use crate::effect::OutOfBand;
use crate::effect::firmware_image;
use crate::effect::media::file_of;
use crate::fault::Fault;
use crate::flow::own_steps::{self, Own, OwnStep, Updating, WantedUpdate};
use crate::flow::{Action, Flow, Intent};
use hardware::{
    BiosDifference, BiosValues, FirmwareComponent, FirmwareUpdate, OutOfBandError, StagedBios, Step, UpdateState,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Node, Store};
use transport::client::chain;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);
/// What one look may take.
const LOOK: Duration = Duration::from_secs(300);
/// How long settings may not be as wanted after a restart, when the machine has booted its ramdisk since: its firmware is
/// done with them.
const BOOTED: Duration = Duration::from_secs(120);
/// The same when nobody can tell whether it has booted; a large server tests its memory for a quarter of an hour.
const BOOTING: Duration = Duration::from_secs(1800);
/// How long an update may go on.
const UPDATE: Duration = Duration::from_secs(3000);
/// How long an update that does not get on is waited for before it is taken to wait for the restart.
const STILL: Duration = Duration::from_secs(120);
/// How long a version that is the same after an update is looked at again; and where the BMC does not say that the update is over.
const SAME: Duration = Duration::from_secs(60);
const UNSAID: Duration = Duration::from_secs(600);

/// How often a BMC may refuse to begin an update, and what passes between two tries.
const MOST_REFUSALS: u32 = 4;
const AGAIN: Duration = Duration::from_secs(15);

/// What a look brought.
enum Seen {
    Done(Box<Outcome>),
    /// Not yet, and how it is.
    Later(String),
    /// An update goes on.
    Updates(Going),
}

impl Seen {
    fn done(outcome: Outcome) -> Self {
        Self::Done(Box::new(outcome))
    }
}

/// An update that goes on.
struct Going {
    component: String,
    /// Where it is followed.
    task: String,
    /// What the BMC says.
    words: String,
    percent: Option<u8>,
}

impl std::fmt::Display for Going {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the update of {} goes on: {}", self.component, self.words)?;
        self.percent.map_or(Ok(()), |percent| write!(f, " ({percent} %)"))
    }
}

/// What a machine says to a step before anything is touched.
fn nothing_begun(error: OutOfBandError) -> Trouble {
    match Trouble::from(error) {
        Trouble::Final { text, on_agent } => Trouble::Final { text: format!("nothing was begun: {text}"), on_agent },
        other => other,
    }
}

impl<S: Store> Conductor<S> {
    /// Asks the machine whether steps can be done, before anything is.
    pub(super) async fn check_own_steps(&self, node: &Node, steps: &[Step]) -> Result<Outcome, Trouble> {
        let machine = self.machine(node).await?;
        for step in steps {
            match Own::of(node, step) {
                Some(Own::ApplyBios) => {
                    let wanted = own_steps::bios_values(step).map_err(fatal)?;
                    machine.check_bios(&wanted).await.map_err(nothing_begun)?;
                }
                Some(Own::UpdateFirmware) => {
                    let updates = own_steps::updates(step).map_err(fatal)?;
                    // What is checked first the BMC gets from here.
                    let fetched = |wanted: WantedUpdate| match wanted.checksum {
                        Some(_) => FirmwareUpdate { url: self.settings.media.url_of(""), ..wanted.update },
                        None => wanted.update,
                    };
                    let updates: Vec<FirmwareUpdate> = updates.into_iter().map(fetched).collect();
                    machine.check_updates(&updates).await.map_err(nothing_begun)?;
                }
                Some(Own::ResetBios) => machine.check_reset().await.map_err(nothing_begun)?,
                None => {}
            }
        }
        Ok(Outcome::default())
    }

    /// Stages settings for the next start, which the steps around share.
    pub(super) async fn stage_bios(&self, node: &Node, flow: &Flow, own: &OwnStep) -> Result<Outcome, Trouble> {
        let machine = self.machine(node).await?;
        let (values, task, note) = match staged_bios(&*machine, node, own).await {
            Ok(staged) => staged,
            Err(Unstaged::AsWanted) => {
                let notes = vec!["BIOS settings are as wanted; nothing was changed, no restart".to_owned()];
                return Ok(Outcome { notes, ..Outcome::default() });
            }
            Err(Unstaged::Error(OutOfBandError::Refused(text))) if !flow.held().is_empty() => {
                return Ok(restart_first(Action::StageBios { own: own.clone() }, &text));
            }
            Err(Unstaged::Error(error)) => return Err(error.into()),
            Err(Unstaged::Arguments(text)) => return Err(fatal(text)),
        };
        let confirm = Action::ConfirmBios { own: own.clone(), values, task, again: false };
        Ok(Outcome { notes: vec![note], held: Some((own.clone(), confirm)), ..Outcome::default() })
    }

    /// Gets ready what an update needs: its image, where the driver has to have that, the versions of before, and the tasks that
    /// the BMC has already.
    pub(super) async fn prepare_update(&self, node: &Node, work: &Updating) -> Result<Outcome, Trouble> {
        let machine = self.machine(node).await?;
        let wanted = wanted(work)?;
        let mut work = work.clone();
        if work.before.is_empty() {
            work.before = versions(&*machine).await?;
        }
        if wanted.checksum.is_some() || !machine.fetches_images().await? {
            let (_, file) = self.image_place(node)?;
            let fetched = firmware_image::fetch(&wanted.update.url, wanted.checksum.as_deref(), &file).await;
            fetched.map_err(|error| fatal(chain(&error)))?;
        }
        work.tasks = machine.tasks().await?;
        Ok(Outcome { more: vec![Action::UpdateFirmware { work }], ..Outcome::default() })
    }

    /// Starts an update, once. When an earlier try was begun and its outcome is not known, since the driver died or the BMC's
    /// answer was lost, it is found out first whether the BMC has begun it.
    pub(super) async fn start_update(&self, node: &Node, flow: &Flow, work: &Updating) -> Result<Outcome, Trouble> {
        let machine = self.machine(node).await?;
        let wanted = wanted(work)?;
        let FirmwareUpdate { component, .. } = &wanted.update;
        let mut work = work.clone();
        let earlier = flow.intent.as_ref().filter(|intent| intent.attempt > 1);
        if let Some(intent) = earlier
            && begun_before(&*machine, &mut work, component, intent).await?
        {
            let notes = vec![format!("update of {component} was begun by an earlier try, and is followed")];
            return Ok(Outcome { notes, more: vec![Action::FollowFirmware { work }], ..Outcome::default() });
        }
        let mut update = wanted.update.clone();
        let begun = if machine.fetches_images().await? {
            if wanted.checksum.is_some() {
                // The BMC gets the very bytes that were checked.
                update.url = self.settings.media.url_of(self.image_place(node)?.0);
            }
            machine.start_update(&update, None).await
        } else {
            let (_, file) = self.image_place(node)?;
            machine.start_update(&update, Some(&file)).await
        };
        work.task = match begun {
            Err(OutOfBandError::Refused(text)) => return refused(flow, work, component, &text),
            begun => begun?,
        };
        work.refused = 0;
        // A query may hold a key to the image.
        let url = wanted.update.url.split('?').next().unwrap_or_default();
        let notes = vec![format!("update of {component} begun with {url}")];
        Ok(Outcome { notes, more: vec![Action::FollowFirmware { work }], ..Outcome::default() })
    }

    /// The place and the file of the image that the driver holds.
    fn image_place<'a>(&self, node: &'a Node) -> Result<(&'a str, PathBuf), Trouble> {
        let place = text_of(node, FIRMWARE_IMAGE);
        let found = place.and_then(|place| Some((place, file_of(&self.settings.media.data_dir, place)?)));
        found.ok_or_else(|| fatal("no place was chosen for the image"))
    }

    /// Removes the image of an update that has failed; best effort.
    pub(super) async fn drop_image(&self, node: &Node, action: &Action) {
        let updates = action.own_step().is_some_and(|own| Own::of(node, &own.step) == Some(Own::UpdateFirmware));
        let Some(place) = text_of(node, FIRMWARE_IMAGE).filter(|_| updates) else { return };
        if let Err(error) = self.settings.media.remove(place).await {
            tracing::warn!(node = %node.uuid, error = chain(&error), "the image of the firmware stays");
        }
    }

    /// Looks once at what goes on at the BMC.
    pub(super) async fn poll(self: &Arc<Self>, node: &Node, flow: &Flow, action: &Action) -> Result<Turn, Fault> {
        let place = Place::of(flow);
        let since = match &flow.intent {
            Some(intent) => intent.since,
            None => {
                let (.., now) = self.change(node.uuid, |draft| Ok(begin(draft, place, action))).await?;
                now
            }
        };
        let age = Duration::try_from(self.parts.clock.now().duration_since(since)).unwrap_or_default();
        let seen = tokio::time::timeout(LOOK, self.look_at(node, action, age)).await;
        let seen = seen.unwrap_or_else(|_| Err(Trouble::Bmc("the BMC took too long to answer".to_owned())));
        let limit = limit(action);
        let later = match seen {
            Ok(Seen::Done(outcome)) => {
                self.settle(node.uuid, place, action, &outcome).await?;
                return Ok(Turn::Again);
            }
            Ok(Seen::Later(how)) => {
                let stage = match action {
                    Action::ConfirmBios { .. } => format!("waits for the BIOS settings: {how}"),
                    _ => how.clone(),
                };
                self.told_update(node, action, "", stage, None);
                how
            }
            Ok(Seen::Updates(going)) => {
                let stage = format!("{}: {}", going.component, going.words);
                self.told_update(node, action, &going.task, stage, going.percent);
                going.to_string()
            }
            // A BMC that updates itself is not there for a while.
            Err(Trouble::Bmc(reason) | Trouble::Later(reason)) => {
                self.progress_stalls(node, &reason);
                let told = flow.intent.as_ref().and_then(|intent| intent.trouble.as_ref());
                if told != Some(&reason) && age < limit {
                    tracing::info!(action = action.describe(), reason, "looked at again");
                    self.change(node.uuid, |draft| {
                        note_trouble(draft, place, &reason);
                        Ok(())
                    })
                    .await?;
                }
                reason
            }
            Err(Trouble::Final { text, .. }) => return self.is_not_so(node, flow, action, text).await,
        };
        if age >= limit {
            let text = format!("not done within {} s: {later}", limit.as_secs());
            return self.is_not_so(node, flow, action, text).await;
        }
        tracing::debug!(action = action.describe(), how = later, "not yet");
        Ok(Turn::Wait(Some(self.left(node).map_or(PAUSE, |left| left.min(PAUSE)))))
    }

    /// Something is not as wanted, and will not be. Settings that shared their start with an update of firmware are staged once
    /// more. Otherwise what shares the restart is looked at all the same, so that each is told as it is; the flow fails at the
    /// end of them.
    async fn is_not_so(&self, node: &Node, flow: &Flow, action: &Action, text: String) -> Result<Turn, Fault> {
        if let Action::ConfirmBios { own, again: true, .. } = action {
            self.settle(node.uuid, Place::of(flow), action, &staged_again(own, &text)).await?;
            return Ok(Turn::Again);
        }
        let next = flow.actions.get(flow.cursor + 1);
        let others = next.is_some_and(|next| next.confirms() || *next == Action::EndOwnSteps);
        if !others || !action.confirms() {
            return self.trouble(node, flow, action, fatal(text)).await;
        }
        tracing::warn!(action = action.describe(), reason = text, "failed");
        self.drop_image(node, action).await;
        let failure = failure(node, flow, action, &text, false).text;
        let place = Place::of(flow);
        self.change(node.uuid, |draft| {
            if let Some(flow) = draft.flow.as_mut().filter(|flow| Place::of(flow) == place) {
                flow.failures.push(failure.clone());
                flow.advance(&[]);
            }
            Ok(())
        })
        .await?;
        self.clear_progress(node.uuid);
        Ok(Turn::Again)
    }

    async fn look_at(&self, node: &Node, action: &Action, age: Duration) -> Result<Seen, Trouble> {
        let machine = self.machine(node).await?;
        match action {
            Action::ConfirmBios { own, values, task, .. } => {
                let reset = Own::of(node, &own.step) == Some(Own::ResetBios);
                confirm_bios(&*machine, values, task.as_deref(), reset).await
            }
            Action::FollowFirmware { work } => follow(&*machine, work, age).await,
            Action::ConfirmFirmware { work } => {
                let seen = confirm_firmware(&*machine, work, age).await?;
                if let (Seen::Done(_), Some(place)) = (&seen, text_of(node, FIRMWARE_IMAGE)) {
                    self.settings.media.remove(place).await.map_err(|error| fatal(chain(&error)))?;
                }
                Ok(seen)
            }
            _ => Ok(Seen::Done(Box::default())),
        }
    }
}

/// Saves that something is looked at from now on; returns since when.
fn begin(draft: &mut Draft, place: Place, action: &Action) -> jiff::Timestamp {
    let now = draft.now;
    if !place.is_in(draft) {
        return now;
    }
    draft.show_step(action);
    let Some(flow) = draft.flow.as_mut() else { return now };
    let fresh = Intent { attempt: 1, digest: String::new(), id: None, command: None, since: now, trouble: None };
    flow.intent.get_or_insert(fresh).since
}

fn limit(action: &Action) -> Duration {
    match action {
        Action::ConfirmBios { own, .. } if own.ramdisk => BOOTED,
        Action::ConfirmBios { .. } => BOOTING,
        _ => UPDATE,
    }
}

/// Why settings were not staged.
enum Unstaged {
    /// They are as wanted.
    AsWanted,
    /// They are none.
    Arguments(String),
    /// The BMC.
    Error(OutOfBandError),
}

impl From<OutOfBandError> for Unstaged {
    fn from(error: OutOfBandError) -> Self {
        Self::Error(error)
    }
}

/// Stages settings; returns how they are wanted, and what the history says of it.
async fn staged_bios(
    machine: &dyn OutOfBand,
    node: &Node,
    own: &OwnStep,
) -> Result<(BiosValues, Option<String>, String), Unstaged> {
    if Own::of(node, &own.step) == Some(Own::ResetBios) {
        return Ok((machine.reset_bios().await?, None, "BIOS settings are reset at the next start".to_owned()));
    }
    let wanted = own_steps::bios_values(&own.step).map_err(Unstaged::Arguments)?;
    let values = machine.check_bios(&wanted).await?;
    let StagedBios { changes, task } = machine.stage_bios(&values).await?;
    if changes.is_empty() {
        return Err(Unstaged::AsWanted);
    }
    Ok((values, task, format!("BIOS settings change at the next start: {}", changes.join(", "))))
}

/// Stages settings once more that new firmware may have lost, with a restart of their own.
fn staged_again(own: &OwnStep, text: &str) -> Outcome {
    let note = format!(
        "BIOS settings are not as wanted after the start that they shared with an update of firmware ({text}), and are staged \
         once more"
    );
    let restart = Action::RestartForSteps { kind: own.kind, ramdisk: own.ramdisk, confirm: Vec::new() };
    Outcome { notes: vec![note], more: vec![Action::StageBios { own: own.clone() }, restart], ..Outcome::default() }
}

/// A BMC that does not take something while other things wait for the restart gets that restart first.
fn restart_first(action: Action, text: &str) -> Outcome {
    let note =
        format!("the machine is restarted for what was staged so far, since the BMC takes no more before that: {text}");
    Outcome { notes: vec![note], more: vec![action], restart_first: true, ..Outcome::default() }
}

/// What follows when a BMC refuses to begin an update: the restart for what was staged, if anything was, else another try in a
/// while, for BMCs are busy now and then.
fn refused(flow: &Flow, mut work: Updating, component: &str, text: &str) -> Result<Outcome, Trouble> {
    // Those before this part are looked at here or never, also where they need no restart: what goes on begins with this one.
    let earlier = work.at > work.first;
    if (earlier && work.restart) || !flow.held().is_empty() {
        let outcome = restart_first(Action::PrepareFirmware { work: work.rest() }, text);
        let held = earlier.then(|| (work.own.clone(), Action::ConfirmFirmware { work }));
        return Ok(Outcome { held, ..outcome });
    }
    work.refused += 1;
    if work.refused > MOST_REFUSALS {
        return Err(fatal(text));
    }
    let notes = vec![format!("the BMC does not begin the update of {component}, and is asked again: {text}")];
    let pause = Action::Pause { step: work.own.step.clone(), seconds: Some(AGAIN.as_secs()) };
    Ok(Outcome { notes, more: vec![pause, Action::UpdateFirmware { work }], ..Outcome::default() })
}

async fn confirm_bios(
    machine: &dyn OutOfBand,
    values: &BiosValues,
    task: Option<&str>,
    reset: bool,
) -> Result<Seen, Trouble> {
    let (differences, said) = machine.bios_differences(values).await?;
    if differences.is_empty() {
        let names: Vec<&str> = values.keys().map(String::as_str).collect();
        let note = match (reset, names.len()) {
            (true, 0) => "the BMC accepted the reset of the BIOS settings; whether it was made cannot be verified, since it tells \
                          no defaults"
                .to_owned(),
            (true, count) => format!("BIOS settings were reset: {count} were compared with their defaults"),
            (false, _) => format!("BIOS settings are as wanted: {}", names.join(", ")),
        };
        return Ok(Seen::done(Outcome { notes: vec![note], ..Outcome::default() }));
    }
    let text = |difference: &BiosDifference| {
        let seen = difference.seen.as_ref().map_or_else(|| "not told any more".to_owned(), Value::to_string);
        format!("{} is {seen} and not {}", difference.name, difference.wanted)
    };
    let mut how = differences.iter().map(text).collect::<Vec<_>>().join(", ");
    // A BMC that has given the change up will not make it by being waited for.
    if let Some(task) = task
        && let UpdateState::Failed(words) = machine.update_state(task).await?
    {
        return Err(fatal(format!("the BMC did not change the BIOS settings: {words} ({how})")));
    }
    if !said.is_empty() {
        how.push_str(&format!("; the BMC says: {}", said.join(" ")));
    }
    Ok(Seen::Later(how))
}

async fn follow(machine: &dyn OutOfBand, work: &Updating, age: Duration) -> Result<Seen, Trouble> {
    let updates = own_steps::updates(&work.own.step).map_err(fatal)?;
    let wanted = wanted(work)?;
    let component = &wanted.update.component;
    let state = match &work.task {
        Some(task) => machine.update_state(task).await?,
        None => UpdateState::Unsaid,
    };
    let mut next = work.clone();
    // The BMC starts itself anew; everything else is used from the machine's next start on.
    next.restart |= component != "bmc";
    match state {
        UpdateState::Failed(words) => return Err(fatal(format!("the BMC did not update {component}: {words}"))),
        UpdateState::Running(percent, words) => {
            let stands = component != "bmc" && percent.unwrap_or_default() == 0 && age >= STILL;
            if !stands {
                let task = work.task.clone().unwrap_or_default();
                return Ok(Seen::Updates(Going { component: component.clone(), task, words, percent }));
            }
            next.staged.extend(work.task.clone().map(|task| (component.clone(), task)));
        }
        UpdateState::AtRestart => next.staged.extend(work.task.clone().map(|task| (component.clone(), task))),
        UpdateState::Done => next.said.push(component.clone()),
        // A BMC that tells nothing of an update may still be at it, and power must not be cut then.
        UpdateState::Unsaid if work.task.is_none() && component != "bmc" && age < STILL => {
            return Ok(Seen::Later(format!(
                "the BMC tells nothing of the update of {component}, and is given time for it"
            )));
        }
        UpdateState::Unsaid => {}
    }
    next.at += 1;
    next.task = None;
    let mut more = Vec::new();
    if let Some(seconds) = wanted.wait {
        more.push(Action::Pause { step: work.own.step.clone(), seconds: Some(seconds) });
    }
    let mut held = None;
    if next.at < updates.len() {
        more.push(Action::PrepareFirmware { work: next });
    } else if next.restart {
        held = Some((next.own.clone(), Action::ConfirmFirmware { work: next }));
    } else {
        more.extend([Action::ConfirmFirmware { work: next }, Action::EndOwnSteps]);
    }
    Ok(Seen::done(Outcome { more, held, ..Outcome::default() }))
}

async fn confirm_firmware(machine: &dyn OutOfBand, work: &Updating, age: Duration) -> Result<Seen, Trouble> {
    let mut said: Vec<&str> = work.said.iter().map(String::as_str).collect();
    for (component, task) in &work.staged {
        match machine.update_state(task).await? {
            UpdateState::Done => said.push(component),
            UpdateState::Unsaid => {}
            UpdateState::Failed(words) => return Err(fatal(format!("the BMC did not update {component}: {words}"))),
            UpdateState::AtRestart => {
                return Ok(Seen::Later(format!("the update of {component} waits for the restart")));
            }
            UpdateState::Running(percent, words) => {
                let (component, task) = (component.clone(), task.clone());
                return Ok(Seen::Updates(Going { component, task, words, percent }));
            }
        }
    }
    let now = match machine.firmware().await {
        Ok(parts) => by_component(parts),
        // A machine that starts, and a BMC that does, may not know yet.
        Err(OutOfBandError::Unsupported(text)) => return Ok(Seen::Later(text)),
        Err(error) => return Err(error.into()),
    };
    let updates = own_steps::updates(&work.own.step).map_err(fatal)?;
    let of = |versions: &BTreeMap<String, String>, part: &str| {
        versions.get(part).cloned().unwrap_or_else(|| "an unknown version".to_owned())
    };
    let mut notes = Vec::new();
    for wanted in updates.iter().take(work.at).skip(work.first) {
        let part = wanted.update.component.as_str();
        let (before, after) = (of(&work.before, part), of(&now, part));
        let is_other = work.before.contains_key(part) && now.contains_key(part) && before != after;
        if !is_other {
            let said = said.contains(&part);
            if age < if said { SAME } else { UNSAID } {
                return Ok(Seen::Later(format!("{part} has {after}, and had {before}")));
            }
            if !said {
                return Err(fatal(format!(
                    "nothing shows that {part} was updated: it has {after}, and had {before}, and the BMC does not say that the \
                     update was completed; look at the BMC's own log"
                )));
            }
            if before == after {
                notes.push(format!("{part} was updated and tells the version that it told before: {after}"));
            } else {
                notes.push(format!("{part} was updated, as the BMC says; it had {before} and has {after}"));
            }
        } else {
            notes.push(format!("{part} was updated from {before} to {after}"));
        }
    }
    Ok(Seen::done(Outcome { notes, firmware_image_gone: true, ..Outcome::default() }))
}

/// The update that is next or under way.
fn wanted(work: &Updating) -> Result<WantedUpdate, Trouble> {
    let updates = own_steps::updates(&work.own.step).map_err(fatal)?;
    updates.into_iter().nth(work.at).ok_or_else(|| fatal("there is no such update"))
}

/// Whether the BMC has begun an update at an earlier try: it has a new task of one, which is followed then, or the part has another
/// version. What nobody can tell is not tried again: a part whose firmware is being written must not be disturbed.
async fn begun_before(
    machine: &dyn OutOfBand,
    work: &mut Updating,
    component: &str,
    earlier: &Intent,
) -> Result<bool, Trouble> {
    let found = match &work.tasks {
        Some(known) => machine.updates_since(known).await?,
        None => None,
    };
    let lists = found.is_some();
    work.task = found.and_then(|tasks| tasks.last().cloned());
    let now = versions(machine).await?;
    let versions = now.get(component).zip(work.before.get(component));
    if work.task.is_some() || versions.is_some_and(|(now, before)| now != before) {
        return Ok(true);
    }
    if lists {
        return Ok(false);
    }
    let trouble = earlier.trouble.as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
    Err(fatal(format!(
        "whether the BMC has begun the update of {component} is not known: its answer was lost{trouble}, it lists no tasks, and \
         the version is the same as before. Nothing was begun a second time. See at the BMC that no update is under way, then \
         ask for the step again"
    )))
}

/// Versions of a machine's firmware, by component.
async fn versions(machine: &dyn OutOfBand) -> Result<BTreeMap<String, String>, Trouble> {
    Ok(by_component(machine.firmware().await?))
}

fn by_component(parts: Vec<FirmwareComponent>) -> BTreeMap<String, String> {
    parts.into_iter().map(|part| (part.component, part.version)).collect()
}
