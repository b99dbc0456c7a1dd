//! Why a node is where it is, in its words.

use super::flows::clean;
use super::sim::Site;
use driver::conductor::Why;
use lifecycle::provision::{State, Verb};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

fn text(title: &str, why: &Why) -> String {
    let mut text = format!("# {title}\n{}\n", why.summary);
    if let Some(work) = &why.work {
        let _ =
            writeln!(text, "work: {} ({} of {}), waits for {:?}", work.action, work.number, work.of, work.waits_for);
    }
    if let Some(hold) = &why.hold {
        let _ = writeln!(text, "held by {} for {}", hold.holder, hold.reason);
    }
    if let Some(until) = &why.deadline {
        let _ = writeln!(text, "until: {} s of {} s, then {}", until.left.as_secs(), until.limit.as_secs(), until.then);
    }
    for possible in &why.possible {
        let verb = possible.verb.map_or("", Verb::as_str);
        let _ = writeln!(text, "- {verb}: {}", possible.what);
    }
    text.replace(&why.node.uuid.to_string(), "<uuid>")
}

#[tokio::test(start_paused = true)]
async fn a_node_says_why_it_is_where_it_is() {
    let site = Site::new().await;
    let mut said = Vec::new();
    let mut say = async |title: &str| said.push(text(title, &site.conductor().why(&site.ident()).await.unwrap()));
    say("enrolled").await;
    site.make_manageable().await;
    let list = json!([{"interface": "power", "step": "hold"}, {"interface": "deploy", "step": "erase_pstore"}]);
    site.verb_with(Verb::Clean, clean(list)).await.unwrap();
    site.reach(State::CleanHold).await;
    say("held").await;
    site.verb(Verb::Unhold).await.unwrap();
    while site.node().await.clean_step["step"] != json!("erase_pstore") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    say("a step runs").await;
    site.settle(State::Manageable).await;

    site.machine.lock().bmc_down = 2;
    site.verb(Verb::Inspect).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    say("the BMC does not answer").await;
    site.machine.lock().dead = true;
    site.reach(State::InspectWait).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    say("the ramdisk does not call").await;
    let node = site.settle(State::InspectFailed).await;
    assert!(node.last_error.is_some());
    say("failed").await;
    insta::assert_snapshot!(said.join("\n"));
}
