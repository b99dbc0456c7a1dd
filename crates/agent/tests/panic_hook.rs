//! What PID 1's panic hook is told. A hook belongs to the whole process, so this test has one of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::contain;
use serde_json::json;
use std::sync::Arc;
use support::Rest;
use support::odd::{odd_rig, step};

/// What PID 1 does, in a process that may die of it: the hook asks where the panic is.
#[tokio::test(flavor = "multi_thread")]
async fn the_hook_that_ends_the_machine_is_told_to_leave_commands_alone() {
    let fatal = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&fatal);
    std::panic::set_hook(Box::new(move |_| {
        seen.store(!contain::is_contained(), std::sync::atomic::Ordering::SeqCst);
    }));
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    rest.command("deploy.execute_deploy_step", step("panics"), true).await;
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the step's panic would have ended the machine");
    rest.command("faulty.now", json!({}), true).await;
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the command's panic would have ended the machine");
    let refused = rest.command("faulty.never", json!({}), true).await;
    assert_eq!(refused.status, 500, "{}", refused.body);
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the validator's panic would have ended the machine");
    // As a lookup asks for the inventory: outside of any request or command.
    let asked = rig.agent.shared.on_machine::<(), _>(|_| panic!("a parser fell over")).await;
    assert!(asked.unwrap_err().to_string().contains("ended unexpectedly"));
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the inventory's panic would have ended the machine");
    assert_eq!(rest.command("standby.sync", json!({}), true).await.body["command_status"], "SUCCEEDED");
    // Nothing else is let off.
    let _ = tokio::spawn(async { panic!("elsewhere") }).await;
    assert!(fatal.load(std::sync::atomic::Ordering::SeqCst), "a panic elsewhere would have gone unseen");
}
