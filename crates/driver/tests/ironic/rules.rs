//! Inspection rules beside Ironic's own engine, on the same findings.

use crate::replay::{ask, recorded, router};
use axum::Router;
use driver::rules::{Facts, PortFacts, Rule, run};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Cases whose outcome differs, and why.
const KEPT: &[(&str, &str)] = &[
    ("action: unset-plugin-data", "the reference never removes anything: what it looks at is no dict"),
    ("action: unset-plugin-data of an only key", "as above"),
    ("action: unset-plugin-data at the top", "as above"),
    ("action: set-attribute of the description", "the keys of an object come in the order of their names"),
    (
        "action: set-attribute with a value that does not fit",
        "told when the node is written, with all else that a rule did",
    ),
];

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

#[test]
fn rules_do_to_a_node_what_ironic_s_engine_does() {
    let recorded = recorded("rules");
    let (mut unexpected, mut texts, mut used) = (String::new(), String::new(), vec![false; KEPT.len()]);
    for case in recorded["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let rules: Vec<Rule> = case["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| Rule::read(rule["uuid"].as_str().unwrap().to_owned(), rule.as_object().unwrap()))
            .collect();
        let mut port = object(&recorded["port"]);
        port.remove("uuid");
        let mut facts = Facts {
            node: object(&recorded["node"]),
            fixed: Map::new(),
            traits: vec!["CUSTOM_OLD".to_owned()],
            ports: vec![PortFacts { uuid: recorded["port"]["uuid"].as_str().unwrap().to_owned(), fields: port }],
            inventory: recorded["inventory"].clone(),
            plugin_data: recorded["plugin_data"].clone(),
        };
        let theirs = &case["result"];
        let difference = match (run(&rules, &mut facts), theirs["error"].as_str()) {
            (Err(ours), Some(theirs)) => {
                let theirs: String = theirs.chars().take(300).collect();
                texts.push_str(&format!("{name}\n  theirs {theirs}\n  ours   {ours}\n"));
                None
            }
            (Err(ours), None) => Some(format!("fails: {ours}")),
            (Ok(_), Some(theirs)) => Some(format!("should fail: {theirs}")),
            (Ok(_), None) => {
                let mut port = facts.ports[0].fields.clone();
                port.insert("uuid".to_owned(), Value::from(facts.ports[0].uuid.clone()));
                let ours = json!({
                    "error": null, "node": facts.node, "traits": facts.traits, "port": port,
                    "plugin_data": facts.plugin_data,
                });
                (ours != *theirs).then(|| format!("theirs {theirs}\n  ours   {ours}"))
            }
        };
        let Some(difference) = difference else { continue };
        match KEPT.iter().position(|(kept, _)| *kept == name) {
            Some(index) => used[index] = true,
            None => unexpected.push_str(&format!("{name}: {difference}\n")),
        }
    }
    assert!(unexpected.is_empty(), "differences that nobody gave a reason for:\n{unexpected}");
    assert!(used.iter().all(|used| *used), "a reason for a difference that there is not");
    insta::assert_snapshot!("texts_of_failures", texts);
}

/// Where Ironic takes the text as it is, an action would write it to the node. In a condition a key that is not there stays, as
/// recorded above.
#[test]
fn a_rule_with_a_place_holder_of_nothing_fails_and_says_what_there_is() {
    let condition = |op: &str, value: &str| json!([{"op": op, "args": {"value": value}}]);
    let write = |value: &str| json!([{"op": "set-attribute", "args": {"path": "extra/a", "value": value}}]);
    let fine = write("fine");
    for (conditions, actions, expected) in [
        (
            json!([]),
            write("{inventory[nothing]}"),
            Err("set-attribute: the place-holder {inventory[nothing]} stands for nothing"),
        ),
        (json!([]), write("{invntory[cpu]}"), Err("place-holders begin with inventory, node, plugin_data")),
        (condition("is-empty", "{invntory[cpu]}"), fine.clone(), Err("is-empty: the place-holder {invntory[cpu]}")),
        (condition("is-empty", "{inventory[nothing]}"), fine, Ok("fine")),
        (json!([]), write("{\"a\": 1}"), Ok("{\"a\": 1}")),
        (json!([]), write("{inventory[cpu]}"), Ok("4")),
    ] {
        let rule = json!({"conditions": conditions, "actions": actions});
        let rules = [Rule::read("r".to_owned(), rule.as_object().unwrap())];
        let mut facts = Facts {
            node: object(&json!({"extra": {}})),
            fixed: Map::new(),
            traits: Vec::new(),
            ports: Vec::new(),
            inventory: json!({"cpu": 4}),
            plugin_data: json!({}),
        };
        match (run(&rules, &mut facts), expected) {
            (Ok(_), Ok(value)) => assert_eq!(facts.node["extra"]["a"], value),
            (Err(ours), Err(words)) => assert!(ours.to_string().contains(words), "{ours}"),
            (ours, _) => {
                panic!("{expected:?}: {}", ours.map_or_else(|error| error.to_string(), |_| "taken".to_owned()))
            }
        }
    }
}

const MAC: &str = "52:54:00:12:34:56";

struct Site(Router);

impl Site {
    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = json!({
            "method": method, "path": path, "body": body, "headers": {"X-OpenStack-Ironic-API-Version": "1.115"},
        });
        let (status, _, answer) = ask(&self.0, &request).await;
        (status, answer)
    }

    async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    async fn until(&self, state: &str) -> Value {
        let there = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let node = self.must("GET", "/v1/nodes/n1", Value::Null).await;
                if node["provision_state"] == state && node["reservation"].is_null() {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        there.await.unwrap_or_else(|_| panic!("the node never was {state}"))
    }

    /// Inspects the node anew: its ramdisk sends an inventory.
    async fn inspect(&self) {
        self.must("PUT", "/v1/nodes/n1/states/provision", json!({"target": "inspect"})).await;
        self.until("inspect wait").await;
        let body = json!({
            "inventory": {
                "interfaces": [{"name": "eth0", "mac_address": MAC, "ipv4_address": "192.0.2.9"}],
                "cpu": {"count": 4, "architecture": "x86_64"}, "bmc_password": "canary",
            },
            "error": null, "colour": "red",
        });
        self.must("POST", "/v1/continue_inspection", body).await;
    }
}

#[tokio::test]
async fn rules_of_the_api_and_of_the_site_change_what_is_inspected_and_one_that_fails_fails_it_by_its_name() {
    let data = tempfile::tempdir().unwrap();
    let own = json!({"actions": [{"op": "add-trait", "args": {"name": "CUSTOM_SEEN"}}]});
    let own = Rule::read("site".to_owned(), own.as_object().unwrap());
    let site = Site(router(data.path(), |settings| settings.inspection_rules = vec![own]).await);
    let node =
        site.must("POST", "/v1/nodes", json!({"driver": "fake-hardware", "name": "n1", "inspect_interface": "agent"}));
    let node = node.await;
    let port = site.must("POST", "/v1/ports", json!({"node_uuid": node["uuid"], "address": MAC})).await;
    let rule = json!({
        "description": "cores", "priority": 10,
        "conditions": [{"op": "eq", "args": {"values": ["{inventory[cpu][count]}", "4"]}}],
        "actions": [
            {"op": "set-attribute", "args": {"path": "extra/cores", "value": "{inventory[cpu][count]} {inventory[bmc_password]}"}},
            {"op": "set-attribute", "args": {"path": "resource_class", "value": "four"}},
            {"op": "set-plugin-data", "args": {"path": "seen.colour", "value": "{plugin_data[colour]}"}},
            {"op": "set-port-attribute", "args": {"port_id": port["uuid"], "path": "extra/speed", "value": 10}},
        ],
    });
    site.must("POST", "/v1/inspection_rules", rule).await;
    site.must("PUT", "/v1/nodes/n1/states/provision", json!({"target": "manage"})).await;
    site.until("manageable").await;
    site.inspect().await;
    let node = site.until("manageable").await;
    assert_eq!(node["extra"], json!({"cores": "4 ***"}));
    assert_eq!((&node["resource_class"], &node["traits"]), (&json!("four"), &json!(["CUSTOM_SEEN"])));
    let found = site.must("GET", "/v1/nodes/n1/inventory", Value::Null).await;
    assert_eq!(found["plugin_data"]["seen"], json!({"colour": "red"}));
    let ports = site.must("GET", "/v1/ports/detail", Value::Null).await;
    assert_eq!(ports["ports"][0]["extra"], json!({"speed": 10}));

    // The next one fails after it has set something, which is not kept.
    let rule = json!({
        "description": "no small ones", "priority": 99,
        "actions": [
            {"op": "set-attribute", "args": {"path": "extra/half", "value": "done"}},
            {"op": "fail", "args": {"msg": "it is too small"}},
        ],
    });
    let rule = site.must("POST", "/v1/inspection_rules", rule).await;
    site.inspect().await;
    let node = site.until("inspect failed").await;
    let error = node["last_error"].as_str().unwrap();
    for word in [rule["uuid"].as_str().unwrap(), "no small ones", "it is too small"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(node["extra"].get("half").is_none(), "{}", node["extra"]);

    // What was bought is not what came: every difference is named, with what was found.
    for (description, template, bought) in
        [("cores as bought", "{inventory[cpu][count]}", "8"), ("colour as bought", "{plugin_data[colour]}", "blue")]
    {
        let rule = json!({
            "description": description,
            "conditions": [{"op": "!eq", "args": {"values": [template, bought]}}],
            "actions": [{"op": "fail", "args": {"msg": format!("bought was {bought}")}}],
        });
        site.must("POST", "/v1/inspection_rules", rule).await;
    }
    site.inspect().await;
    let node = site.until("inspect failed").await;
    let error = node["last_error"].as_str().unwrap();
    for words in [
        "(cores as bought): bought was 8 (inventory[cpu][count] is 4)",
        "(colour as bought): bought was blue (plugin_data[colour] is red)",
        "it is too small",
    ] {
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_rule_makes_no_port_of_a_name_that_another_has_or_off_the_network_of_its_portgroup() {
    let data = tempfile::tempdir().unwrap();
    let site = Site(router(data.path(), |_| {}).await);
    let node = json!({"driver": "fake-hardware", "name": "n1", "inspect_interface": "agent"});
    let node = site.must("POST", "/v1/nodes", node).await["uuid"].clone();
    let group = site.must("POST", "/v1/portgroups", json!({"node_uuid": node})).await["uuid"].clone();
    let other = json!({
        "node_uuid": node, "address": "52:54:00:12:34:57", "name": "uplink", "portgroup_uuid": group,
        "physical_network": "red",
    });
    let other = site.must("POST", "/v1/ports", other).await["uuid"].clone();
    let port = json!({"node_uuid": node, "address": MAC, "portgroup_uuid": group, "physical_network": "red"});
    let port = site.must("POST", "/v1/ports", port).await["uuid"].clone();
    site.must("PUT", "/v1/nodes/n1/states/provision", json!({"target": "manage"})).await;
    site.until("manageable").await;
    let set = |port: &Value, path: &str, value: &str| json!({"op": "set-port-attribute", "args": {"port_id": port, "path": path, "value": value}});
    let blue = |port: &Value| set(port, "physical_network", "blue");
    let taken = |name: &str| format!("A port with name {name} already exists");
    for (actions, words, name, network) in [
        (json!([set(&port, "name", "uplink")]), taken("uplink"), Value::Null, "red"),
        (json!([set(&port, "name", "same"), set(&other, "name", "same")]), taken("same"), Value::Null, "red"),
        (json!([blue(&port)]), "Port with physical network blue cannot become a member".to_owned(), Value::Null, "red"),
        (json!([set(&port, "name", "downlink"), blue(&port), blue(&other)]), String::new(), json!("downlink"), "blue"),
    ] {
        let rule = site.must("POST", "/v1/inspection_rules", json!({"actions": &actions})).await;
        site.inspect().await;
        let node = site.until(if words.is_empty() { "manageable" } else { "inspect failed" }).await;
        assert!(node["last_error"].as_str().unwrap_or_default().contains(&words), "{}", node["last_error"]);
        for (port, name) in [(&port, name), (&other, json!("uplink"))] {
            let shown = site.must("GET", &format!("/v1/ports/{}", port.as_str().unwrap()), Value::Null).await;
            assert_eq!((&shown["name"], &shown["physical_network"]), (&name, &json!(network)), "{actions}");
        }
        site.must("DELETE", &format!("/v1/inspection_rules/{}", rule["uuid"].as_str().unwrap()), Value::Null).await;
    }
}
