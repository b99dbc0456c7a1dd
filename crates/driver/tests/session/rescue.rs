//! A rescue that goes through a session alone.

use super::Site;
use super::peer::{Boot, Wire, result};
use super::rules::heard;
use driver::command::{Command, ProvisionArguments};
use lifecycle::provision::{State, Verb};
use wire::agent::CommandStatus;

/// A node whose rescue ramdisk has dialled in and is given its password.
async fn rescuing() -> (Site, Boot, Wire, wire::session::Command) {
    let site = Site::with(|node| {
        node.interfaces.insert("rescue".to_owned(), "agent".to_owned());
        node.provision_state = State::Active;
    })
    .await;
    let arguments =
        ProvisionArguments { rescue_password: Some("canary-rescue".to_owned()), ..ProvisionArguments::default() };
    let rescue = Command::Provision { verb: Verb::Rescue, arguments };
    site.conductor.command(&site.ident(), rescue).await.unwrap();
    site.reach(State::RescueWait).await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let (mut wire, _) = boot.dial().await;
    boot.beat(&wire).await;
    let command = boot.command(&mut wire).await.unwrap();
    assert_eq!(command.name, "rescue.finalize_rescue");
    (site, boot, wire, command)
}

#[tokio::test]
async fn a_rescue_is_done_when_the_agent_has_said_so_and_may_go_at_once() {
    let (site, mut boot, mut wire, command) = rescuing().await;
    // Its end is known after its acceptance, and then the agent is gone.
    boot.set(&wire, result(&command, CommandStatus::Running, None)).await;
    boot.set(&wire, result(&command, CommandStatus::Succeeded, None)).await;
    heard(&mut boot, &mut wire).await;
    drop(wire);
    site.reach(State::Rescue).await;
}

#[tokio::test]
async fn an_agent_that_is_gone_is_not_taken_for_one_that_has_its_password() {
    let (site, mut boot, wire, lost) = rescuing().await;
    // The driver dies, and the agent has never read what was on its way.
    drop(wire);
    let site = site.restart().await;
    boot.redirect(&site.offer);
    let (mut wire, welcome) = boot.dial().await;
    assert!(!welcome.resumed);
    let again = boot.command(&mut wire).await.unwrap();
    assert_eq!((again.id, &*again.name), (lost.id, "rescue.finalize_rescue"));
    assert_eq!(site.get().await.provision_state, State::RescueWait);
    boot.set(&wire, result(&again, CommandStatus::Succeeded, None)).await;
    site.reach(State::Rescue).await;
}
