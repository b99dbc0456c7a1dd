//! What the API makes of bad input, of secrets, and of requests at the wrong listener.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::Router;
use axum::body::Body;
use driver::api::{self, Audience};
use driver::conductor::{Conductor, Parts, Settings};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use std::sync::Arc;
use store::MemoryStore;
use tower::ServiceExt as _;
use wire::ironic::ErrorBody;

struct Site {
    everybody: Router,
    agents: Router,
    _data: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let settings = Settings::new("here", data.path(), "http://127.0.0.1");
        let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
        let everybody = api::router(conductor.clone(), Audience::Everybody);
        let site = Self { everybody, agents: api::router(conductor, Audience::Agents), _data: data };
        let node = json!({"driver": "fake-hardware", "name": "n1", "driver_info": {"fake_password": "canary"}});
        assert_eq!(site.send("POST", "/v1/nodes", node.to_string()).await.0, 201);
        site
    }

    async fn ask(router: &Router, method: &str, path: &str, body: String) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("x-openstack-ironic-api-version", "1.115");
        let response = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = transport::body::read(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn send(&self, method: &str, path: &str, body: String) -> (u16, Value) {
        Self::ask(&self.everybody, method, path, body).await
    }

    /// Checks that a request is refused with this status, and that the text for people says each of `words`.
    async fn refuses(&self, method: &str, path: &str, body: &str, status: u16, words: &[&str]) {
        let (got, reply) = self.send(method, path, body.to_owned()).await;
        let shown = body.chars().take(80).collect::<String>();
        let text = serde_json::from_value::<ErrorBody>(reply).map(|body| body.text()).unwrap_or_default();
        assert_eq!(got, status, "{method} {path} {shown}: {text}");
        for word in words {
            assert!(text.contains(word), "{method} {path} {shown}: \"{text}\" does not say \"{word}\"");
        }
    }
}

#[tokio::test]
async fn bad_bodies_are_refused_and_the_field_is_named() {
    let site = Site::new().await;
    let nodes = "/v1/nodes";
    let provision = "/v1/nodes/n1/states/provision";
    let deep = |levels: usize| format!("{{\"extra\":{}1{}}}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let wide = json!({"driver": "fake-hardware", "description": "x".repeat(5_000_000)}).to_string();
    let cases: &[(&str, &str, &str, u16, &[&str])] = &[
        ("POST", nodes, "{\"driver\":", 400, &["not valid"]),
        ("POST", nodes, "\u{fffd}", 400, &["not valid"]),
        ("POST", nodes, "[]", 400, &["object"]),
        ("POST", nodes, "{}", 400, &["driver"]),
        ("POST", nodes, r#"{"driver":"fake-hardware","colour":1,"size":2}"#, 400, &["colour", "size"]),
        ("POST", nodes, r#"{"driver":5}"#, 400, &["driver", "string"]),
        ("POST", nodes, r#"{"driver":"fake-hardware","properties":[]}"#, 400, &["properties", "object"]),
        ("POST", nodes, r#"{"driver":"fake-hardware","maintenance":"perhaps"}"#, 400, &["maintenance"]),
        ("POST", nodes, r#"{"driver":"fake-hardware","uuid":"x"}"#, 400, &["uuid"]),
        ("POST", nodes, r#"{"driver":"fake-hardware","name":"n1"}"#, 409, &["n1"]),
        ("POST", nodes, &deep(25), 400, &["25 levels"]),
        ("POST", nodes, &wide, 413, &["4194304"]),
        ("POST", "/v1/ports", r#"{"address":"x","node_uuid":"x"}"#, 400, &["address"]),
        ("PATCH", "/v1/nodes/n1", r#"[{"op":"add","path":"/name/x","value":1}]"#, 400, &["name"]),
        ("PATCH", "/v1/nodes/n1", r#"[{"op":"add","path":"/extra","value":1}]"#, 400, &["extra", "object"]),
        ("PATCH", "/v1/nodes/n1", r#"[{"op":"remove","path":"/driver"}]"#, 400, &["driver"]),
        ("PATCH", "/v1/nodes/n1", r#"[{"op":"add","path":"/extra/~9","value":1}]"#, 400, &["path"]),
        ("PUT", provision, r#"{"target":"active"}"#, 400, &["active", "enroll", "manage"]),
        ("PUT", provision, r#"{"target":"jump"}"#, 400, &["jump", "provide"]),
        ("PUT", provision, r#"{"target":5}"#, 400, &["target"]),
        ("PUT", provision, r#"{"target":"clean","clean_steps":[{"interface":"deploy"}]}"#, 400, &["step"]),
        ("PUT", provision, r#"{"target":"active","configdrive":{"password":1}}"#, 400, &["password", "meta_data"]),
        ("PUT", provision, r#"{"target":"active","configdrive":"<html>"}"#, 400, &["configdrive"]),
        ("PUT", provision, r#"{"target":"manage","colour":1}"#, 400, &["colour"]),
        ("PUT", provision, r#"{"target":"rescue"}"#, 400, &["A non-empty \"rescue_password\" is required"]),
        ("PUT", provision, r#"{"target":"rescue","rescue_password":" "}"#, 400, &["A non-empty \"rescue_password\""]),
        ("PUT", provision, r#"{"target":"rescue","rescue_authorized_keys":" "}"#, 400, &["rescue_password"]),
        (
            "PUT",
            provision,
            r#"{"target":"rescue","rescue_authorized_keys":7}"#,
            400,
            &["rescue_authorized_keys", "text"],
        ),
        ("PUT", provision, r#"{"target":"rescue","rescue_authorized_keys":"x"}"#, 400, &["\"x\"", "ssh-ed25519"]),
        ("PUT", provision, r#"{"target":"manage","rescue_authorized_keys":"x"}"#, 400, &["rescue_authorized_keys"]),
        (
            "PUT",
            provision,
            r#"{"target":"clean","clean_steps":[{"interface":"deploy","step":"x","when":1}]}"#,
            400,
            &["when", "limit_child_node_execution"],
        ),
        (
            "POST",
            "/v1/runbooks",
            r#"{"name":"CUSTOM_R","steps":[{"interface":"disk","step":"x","args":{},"order":1}]}"#,
            400,
            &["disk", "vendor, power, management"],
        ),
        (
            "POST",
            "/v1/runbooks",
            r#"{"name":"CUSTOM_R","steps":[{"interface":"bios","step":"x","args":{},"rank":1}]}"#,
            400,
            &["rank", "interface, step, args, order"],
        ),
        (
            "POST",
            "/v1/inspection_rules",
            r#"{"actions":[{"op":"set-attribute","args":{"path":"a"}}]}"#,
            400,
            &["set-attribute takes path, value"],
        ),
        (
            "POST",
            "/v1/inspection_rules",
            r#"{"actions":[{"op":"fail","args":{"msg":"a","y":1}}]}"#,
            400,
            &["fail takes msg"],
        ),
        (
            "POST",
            "/v1/inspection_rules",
            r#"{"actions":[{"op":"fail","args":{"msg":"a"},"if":1}]}"#,
            400,
            &["op, args, loop"],
        ),
        ("PUT", "/v1/nodes/n1/states/power", r#"{"target":"power on","timeout":-1}"#, 400, &["timeout"]),
        ("PUT", "/v1/nodes/n1/traits", r#"{"traits":["small"]}"#, 400, &["small"]),
        ("PUT", "/v1/nodes/nobody/states/provision", r#"{"target":"manage"}"#, 404, &["nobody"]),
        ("GET", "/v1/nodes?fields=uuid,colour", "", 400, &["colour"]),
        ("GET", "/v1/nodes?limit=1&limit=2", "", 400, &["limit"]),
        ("GET", "/v1/nodes/%zz", "", 400, &["%zz"]),
        ("GET", "/v1/nodes/nobody", "", 404, &["nobody"]),
    ];
    for (method, path, body, status, words) in cases {
        site.refuses(method, path, body, *status, words).await;
    }
}

#[tokio::test]
async fn cve_2016_4985_a_lookup_that_matches_nothing_tells_nothing_whatever_the_reason() {
    let site = Site::new().await;
    let (_, node) = site.send("GET", "/v1/nodes/n1", String::new()).await;
    let uuid = node["uuid"].as_str().unwrap();
    let port = json!({"node_uuid": uuid, "address": "52:54:00:00:00:01"}).to_string();
    assert_eq!(site.send("POST", "/v1/ports", port).await.0, 201);
    let known = format!("/v1/lookup?node_uuid={uuid}");
    let paths = [
        known.as_str(),
        "/v1/lookup?addresses=52:54:00:00:00:01",
        "/v1/lookup?addresses=52:54:00:00:00:99",
        "/v1/lookup?node_uuid=99999999-9999-4999-8999-999999999999",
    ];
    let mut answers = Vec::new();
    for path in paths {
        answers.push(Site::ask(&site.agents, "GET", path, String::new()).await);
    }
    assert_eq!(answers[0].0, 404);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn mask_configdrive_secrets_appear_in_no_answer() {
    let site = Site::new().await;
    let set = json!([{"op": "add", "path": "/instance_info/configdrive", "value": "canary"},
        {"op": "add", "path": "/driver_info/api_token", "value": {"inner": "canary"}}]);
    let mut answers = vec![site.send("PATCH", "/v1/nodes/n1", set.to_string()).await];
    for path in
        ["/v1/nodes/n1", "/v1/nodes/detail", "/v1/nodes?fields=driver_info,instance_info", "/v1/nodes/n1/history"]
    {
        answers.push(site.send("GET", path, String::new()).await);
    }
    for (status, answer) in answers {
        assert_eq!(status, 200);
        assert!(!answer.to_string().contains("canary"), "{answer}");
    }
}

#[tokio::test]
async fn agents_see_nothing_of_what_operators_do() {
    let site = Site::new().await;
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/v1", 200),
        ("GET", "/v1/nodes", 404),
        ("GET", "/v1/nodes/n1", 404),
        ("POST", "/v1/nodes", 404),
        ("DELETE", "/v1/nodes/n1", 404),
        ("PUT", "/v1/nodes/n1/states/provision", 404),
        ("GET", "/boot/nowhere/boot.iso", 404),
        ("GET", "/boot/../ferric.db", 404),
        ("GET", "/boot/%2e%2e/ferric.db", 404),
    ] {
        assert_eq!(Site::ask(&site.agents, method, path, String::new()).await.0, status, "{method} {path}");
    }
}

#[tokio::test]
async fn cve_2026_90458_vendor_passthru_is_refused_by_every_method_on_every_path() {
    let site = Site::new().await;
    for owner in ["/v1/nodes/n1", "/v1/drivers/fake-hardware", "/v1/drivers/redfish"] {
        let (status, methods) = site.send("GET", &format!("{owner}/vendor_passthru/methods"), String::new()).await;
        assert_eq!((status, methods), (200, json!({})), "{owner}");
        for name in ["send_raw", "bmc_reset", "create_subscription", "accounts", "..", "%2e%2e", "first_method"] {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let path = format!("{owner}/vendor_passthru/{name}");
                let body = if method == "GET" || method == "DELETE" { "" } else { "{\"bar\":\"baz\"}" };
                site.refuses(method, &path, body, 400, &["vendor passthru is not offered"]).await;
                let path = format!("{owner}/vendor_passthru?method={name}");
                site.refuses(method, &path, body, 400, &["vendor passthru is not offered"]).await;
            }
        }
    }
}

#[tokio::test]
async fn cve_2026_50589_deep_and_huge_bodies_are_refused_before_anybody_says_who_he_is() {
    let site = Site::new().await;
    let deep = format!("{{\"inventory\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = format!("{{\"agent_status_message\":\"{}\"}}", "x".repeat(1 << 20));
    let node = "/v1/heartbeat/99999999-9999-4999-8999-999999999999";
    for (path, body, status) in
        [("/v1/continue_inspection", &deep, 400), (node, &deep, 413), (node, &huge, 413), ("/v1/lookup", &huge, 405)]
    {
        assert_eq!(Site::ask(&site.agents, "POST", path, body.clone()).await.0, status, "{path}");
    }
    let lookup = format!("/v1/lookup?addresses={}", "52:54:00:00:00:01,".repeat(2000));
    assert_eq!(Site::ask(&site.agents, "GET", &lookup, String::new()).await.0, 404);
}

#[tokio::test]
async fn cve_2026_44918_nothing_is_moved_to_the_node_of_another() {
    let site = Site::new().await;
    let (_, first) = site.send("GET", "/v1/nodes/n1", String::new()).await;
    let (_, second) = site.send("POST", "/v1/nodes", json!({"driver": "fake-hardware"}).to_string()).await;
    let group = json!({"node_uuid": second["uuid"]}).to_string();
    let (status, group) = site.send("POST", "/v1/portgroups", group).await;
    assert_eq!(status, 201);
    let port = json!({"node_uuid": first["uuid"], "address": "52:54:00:00:00:01"});
    let (_, made) = site.send("POST", "/v1/ports", port.to_string()).await;
    let join = json!([{"op": "add", "path": "/portgroup_uuid", "value": group["uuid"]}]).to_string();
    let path = format!("/v1/ports/{}", made["uuid"].as_str().unwrap());
    site.refuses("PATCH", &path, &join, 400, &["another node"]).await;
    let nowhere = "99999999-9999-4999-8999-999999999999";
    for field in ["node_uuid", "portgroup_uuid"] {
        let move_it = json!([{"op": "add", "path": format!("/{field}"), "value": nowhere}]).to_string();
        site.refuses("PATCH", &path, &move_it, 400, &[nowhere, "could not be found"]).await;
    }
    for field in ["chassis_uuid", "parent_node"] {
        let move_it = json!([{"op": "add", "path": format!("/{field}"), "value": nowhere}]).to_string();
        site.refuses("PATCH", "/v1/nodes/n1", &move_it, 400, &[nowhere, "could not be found"]).await;
    }
}

#[tokio::test]
async fn a_change_made_from_what_is_not_so_any_more_is_refused() {
    let site = Site::new().await;
    let change = async |path: &str, tag: &str, value: u64| {
        let body = json!([{"op": "add", "path": "/extra/count", "value": value}]).to_string();
        let request = Request::builder().method("PATCH").uri(path).header("x-openstack-ironic-api-version", "1.115");
        let request = request.header("if-match", tag).body(Body::from(body)).unwrap();
        site.everybody.clone().oneshot(request).await.unwrap()
    };
    let tag = async |path: &str| {
        let request = Request::builder().uri(path).header("x-openstack-ironic-api-version", "1.115");
        let response = site.everybody.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        response.headers()["etag"].to_str().unwrap().to_owned()
    };
    let (_, chassis) = site.send("POST", "/v1/chassis", "{}".to_owned()).await;
    let chassis = format!("/v1/chassis/{}", chassis["uuid"].as_str().unwrap());
    let (_, node) = site.send("GET", "/v1/nodes/n1", String::new()).await;
    let of_node = |more: Value| {
        let mut body = json!({"node_uuid": node["uuid"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let (_, port) = site.send("POST", "/v1/ports", of_node(json!({"address": "52:54:00:00:00:09"}))).await;
    let port = format!("/v1/ports/{}", port["uuid"].as_str().unwrap());
    let (_, group) = site.send("POST", "/v1/portgroups", of_node(json!({}))).await;
    let group = format!("/v1/portgroups/{}", group["uuid"].as_str().unwrap());
    let connector = of_node(json!({"type": "ip", "connector_id": "192.0.2.1"}));
    let (_, connector) = site.send("POST", "/v1/volume/connectors", connector).await;
    let connector = format!("/v1/volume/connectors/{}", connector["uuid"].as_str().unwrap());
    let off = json!({"target": "power off"}).to_string();
    assert_eq!(site.send("PUT", "/v1/nodes/n1/states/power", off).await.0, 202);
    while site.send("GET", "/v1/nodes/n1", String::new()).await.1["power_state"] != "power off" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for path in ["/v1/nodes/n1", &chassis, &port, &group, &connector] {
        let read = tag(path).await;
        let first = change(path, &read, 1).await;
        assert_eq!(first.status(), 200);
        assert_ne!(first.headers()["etag"].to_str().unwrap(), read);
        assert_eq!(change(path, &read, 2).await.status(), 412, "{path}");
        assert_eq!(change(path, "\"nonsense\"", 2).await.status(), 412, "{path}");
        let several = format!("\"7777\", {}", tag(path).await);
        assert_eq!(change(path, &several, 3).await.status(), 200, "{path}");
        assert_eq!(change(path, "*", 4).await.status(), 200, "{path}");
        if path == "/v1/nodes/n1" {
            continue;
        }
        for (tag, status) in [(read, 412), (tag(path).await, 204)] {
            let request =
                Request::builder().method("DELETE").uri(path).header("x-openstack-ironic-api-version", "1.115");
            let request = request.header("if-match", tag).body(Body::empty()).unwrap();
            assert_eq!(site.everybody.clone().oneshot(request).await.unwrap().status(), status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_change_made_from_what_was_deleted_is_refused_though_the_version_is_the_same() {
    let site = Site::new().await;
    let uuid = "6f1b8b5e-5c3e-4a51-9d0e-0a1c3f4b5d6e";
    for (all, body) in [("nodes", json!({"driver": "fake-hardware", "uuid": uuid})), ("chassis", json!({"uuid": uuid}))]
    {
        let path = format!("/v1/{all}/{uuid}");
        let request = |method: &str, tag: &str, body: String| {
            let request =
                Request::builder().method(method).uri(&path).header("x-openstack-ironic-api-version", "1.115");
            site.everybody.clone().oneshot(request.header("if-match", tag).body(Body::from(body)).unwrap())
        };
        let mut tags = Vec::new();
        for _ in 0..2 {
            let create = Request::builder().method("POST").uri(format!("/v1/{all}"));
            let create = create.header("x-openstack-ironic-api-version", "1.115");
            let create = create.body(Body::from(body.to_string())).unwrap();
            let created = site.everybody.clone().oneshot(create).await.unwrap();
            assert_eq!(created.status(), 201, "{all}");
            let read = request("GET", "*", String::new()).await.unwrap();
            assert_eq!(created.headers()["etag"], read.headers()["etag"], "{all}");
            tags.push(read.headers()["etag"].to_str().unwrap().to_owned());
            if tags.len() == 1 {
                assert_eq!(site.send("DELETE", &path, String::new()).await.0, 204);
            }
        }
        let change = json!([{"op": "add", "path": "/extra/count", "value": 1}]).to_string();
        assert_eq!(request("PATCH", &tags[0], change.clone()).await.unwrap().status(), 412, "{all}");
        assert_eq!(request("PATCH", &tags[1], change).await.unwrap().status(), 200, "{all}");
    }
}

#[tokio::test]
async fn bad_records_are_refused_and_the_field_is_named() {
    let site = Site::new().await;
    let step = r#"{"interface":"bios","step":"x","args":{},"priority":1}"#;
    let twice = format!(r#"{{"name":"CUSTOM_A","steps":[{step},{step}]}}"#);
    let cases: &[(&str, &str, u16, &[&str])] = &[
        ("/v1/chassis", r#"{"description":5}"#, 400, &["description"]),
        ("/v1/chassis", r#"{"colour":5}"#, 400, &["colour"]),
        ("/v1/portgroups", r#"{"node_uuid":"x"}"#, 400, &["node_uuid"]),
        ("/v1/portgroups", "{}", 400, &["node_uuid"]),
        ("/v1/deploy_templates", r#"{"name":"CUSTOM_A","steps":[]}"#, 400, &["steps"]),
        ("/v1/deploy_templates", &twice, 400, &["bios.x"]),
        ("/v1/runbooks", r#"{"name":"a b","steps":[{}]}"#, 400, &["a b"]),
        (
            "/v1/runbooks",
            r#"{"name":"a","steps":[{"interface":"x","step":"y","order":1}]}"#,
            400,
            &["'x'", "interface"],
        ),
        ("/v1/inspection_rules", r#"{"actions":[{"op":"jump","args":{}}]}"#, 400, &["jump", "set-attribute"]),
        ("/v1/inspection_rules", r#"{"actions":[{"op":"fail","args":{}}]}"#, 400, &["msg"]),
        (
            "/v1/inspection_rules",
            r#"{"conditions":[{"op":"matches","args":{"value":"x","regex":"(?=x)"}}],"actions":[{"op":"fail","args":["x"]}]}"#,
            400,
            &["conditions[0]", "regular expression"],
        ),
        ("/v1/allocations", "{}", 400, &["resource_class"]),
        ("/v1/allocations", r#"{"resource_class":"a","candidate_nodes":["nobody"]}"#, 400, &["nobody"]),
        ("/v1/volume/targets", r#"{"boot_index":"x"}"#, 400, &["boot_index"]),
        ("/v1/events", r#"{"events":[{"event":"x"}]}"#, 400, &["x", "network.bind_port"]),
        ("/v1/nodes/n1/vmedia", r#"{"device_type":"cdrom","image_url":"file:///etc/shadow"}"#, 400, &["http"]),
        ("/v1/nodes/n1/vmedia", r#"{"device_type":"tape","image_url":"http://a/b"}"#, 400, &["tape", "cdrom"]),
    ];
    for (path, body, status, words) in cases {
        site.refuses("POST", path, body, *status, words).await;
    }
}

#[tokio::test]
async fn an_allocation_finds_a_node_and_gives_it_back_when_it_goes() {
    let site = Site::new().await;
    let (_, other) = site.send("POST", "/v1/nodes", json!({"driver": "fake-hardware", "name": "n2"}).to_string()).await;
    let show = async |path: &str| site.send("GET", path, String::new()).await.1;
    let until = async |path: &str, field: &str, wanted: &str| {
        let seen = tokio::time::timeout(std::time::Duration::from_secs(30), async {
            while show(path).await[field] != wanted {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        seen.await.unwrap_or_else(|_| panic!("{field} of {path} never was {wanted}"));
    };
    let class = json!([{"op": "add", "path": "/resource_class", "value": "small"}]).to_string();
    assert_eq!(site.send("PATCH", "/v1/nodes/n2", class).await.0, 200);
    for (target, state) in [("manage", "manageable"), ("provide", "available")] {
        let verb = json!({"target": target}).to_string();
        assert_eq!(site.send("PUT", "/v1/nodes/n2/states/provision", verb).await.0, 202);
        until("/v1/nodes/n2", "provision_state", state).await;
    }
    let claim = json!({"resource_class": "small", "name": "claim"}).to_string();
    let (status, made) = site.send("POST", "/v1/allocations", claim).await;
    assert_eq!((status, &made["state"]), (201, &json!("allocating")));
    until("/v1/allocations/claim", "state", "active").await;
    assert_eq!(show("/v1/allocations/claim").await["node_uuid"], other["uuid"]);
    let node = show("/v1/nodes/n2").await;
    assert_eq!((&node["allocation_uuid"], &node["instance_uuid"]), (&made["uuid"], &made["uuid"]));
    assert_eq!(show("/v1/nodes/n2/allocation").await["uuid"], made["uuid"]);
    // There is no second node to be had.
    let second = json!({"resource_class": "small", "name": "second"}).to_string();
    assert_eq!(site.send("POST", "/v1/allocations", second).await.0, 201);
    until("/v1/allocations/second", "state", "error").await;
    assert_eq!(site.send("DELETE", "/v1/allocations/claim", String::new()).await.0, 204);
    let node = show("/v1/nodes/n2").await;
    assert_eq!((&node["allocation_uuid"], &node["instance_uuid"]), (&Value::Null, &Value::Null));
    site.refuses("GET", "/v1/nodes/n2/allocation", "", 404, &["Allocation"]).await;
}

/// Status, headers and body of a request in a version.
async fn asked(site: &Site, minor: u16, method: &str, path: &str, body: Value) -> (u16, HeaderMap, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let version = format!("1.{minor}");
    let request = Request::builder().method(method).uri(path).header("x-openstack-ironic-api-version", version);
    let response = site.everybody.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = transport::body::read(body, 1 << 20).await.unwrap();
    (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn paths_may_leave_the_version_out_and_had_endings_once() {
    let site = Site::new().await;
    for path in ["/nodes/n1", "/nodes/n1/states", "/ports/detail", "/drivers/fake-hardware/properties"] {
        assert_eq!(asked(&site, 115, "GET", path, Value::Null).await.0, 200, "{path}");
    }
    assert_eq!(asked(&site, 90, "GET", "/v1/nodes/n1.json", Value::Null).await.0, 200);
    assert_eq!(asked(&site, 91, "GET", "/v1/nodes/n1.json", Value::Null).await.0, 404);
    let (status, _, node) = asked(&site, 115, "GET", "/v1/nodes/n1", Value::Null).await;
    assert_eq!(status, 200);
    let bookmark = node["links"][1]["href"].as_str().unwrap().split_once("//").unwrap().1.split_once('/').unwrap().1;
    assert_eq!(asked(&site, 115, "GET", &format!("/{bookmark}"), Value::Null).await.2["uuid"], node["uuid"]);
    let uuid = node["uuid"].as_str().unwrap();
    assert_eq!(asked(&site, 115, "GET", "/v1/nodes/n1/ports/detail", Value::Null).await.0, 200);
    // This node has no console.
    assert_eq!(asked(&site, 115, "GET", &format!("/v1/nodes/states/console/{uuid}"), Value::Null).await.0, 400);
    assert_eq!(asked(&site, 23, "GET", "/v1/nodes/n1/portgroups", Value::Null).await.0, 404);
    assert_eq!(asked(&site, 24, "GET", "/v1/nodes/n1/portgroups/detail", Value::Null).await.0, 200);
    assert_eq!(asked(&site, 4, "GET", "/v1/nodes/n1", Value::Null).await.0, 404);
}

#[tokio::test]
async fn an_older_version_is_told_of_each_route_what_ironic_tells_it() {
    let site = Site::new().await;
    let told = [
        (11, "PUT", "/v1/nodes/n1/states/raid", 406),
        (11, "GET", "/v1/drivers/fake-hardware/raid/logical_disk_properties", 406),
        (36, "GET", "/v1/nodes/n1/traits", 406),
        (36, "PUT", "/v1/nodes/n1/traits", 405),
        (36, "DELETE", "/v1/nodes/n1/traits", 404),
        (88, "PUT", "/v1/nodes/n1/vmedia", 404),
        (115, "PUT", "/v1/nodes/n1/vmedia", 405),
    ];
    for (minor, method, path, status) in told {
        assert_eq!(asked(&site, minor, method, path, json!({})).await.0, status, "{method} {path} at 1.{minor}");
    }
    let (_, headers, _) = asked(&site, 115, "PUT", "/v1/nodes/n1", json!({})).await;
    assert_eq!(headers["allow"], "GET, PATCH, DELETE");
}

#[tokio::test]
async fn filters_and_attributes_that_make_no_sense_are_refused() {
    let site = Site::new().await;
    for query in ["fault=tired", "fault=", "maintenance=", "provision_state=", "instance_uuid="] {
        site.refuses("GET", &format!("/v1/nodes?{query}"), "", 400, &[]).await;
    }
    site.refuses("GET", &format!("/v1/nodes?chassis_uuid={}", uuid::Uuid::nil()), "", 404, &["Chassis"]).await;
    for query in ["limit=0", "sort_key=colour", "sort_dir=up"] {
        site.refuses("GET", &format!("/v1/conductors?{query}"), "", 400, &[]).await;
    }
    site.refuses("GET", "/v1/conductors?marker=nobody", "", 404, &["nobody"]).await;
    for field in ["protected", "retired"] {
        let patch = json!([{"op": "add", "path": format!("/{field}_reason"), "value": "x"}]).to_string();
        site.refuses("PATCH", "/v1/nodes/n1", &patch, 400, &["can only be set when", field]).await;
    }
    let patch = json!([{"op": "add", "path": "/parent_node", "value": "nobody"}]).to_string();
    site.refuses("PATCH", "/v1/nodes/n1", &patch, 400, &["parent_node", "nobody"]).await;
    let child = json!({"driver": "fake-hardware", "parent_node": "n1"});
    let (status, child) = site.send("POST", "/v1/nodes", child.to_string()).await;
    let (_, parent) = site.send("GET", "/v1/nodes/n1", String::new()).await;
    assert_eq!((status, &child["parent_node"]), (201, &parent["uuid"]));
    site.refuses("GET", "/v1/nodes/nobody/allocation", "", 400, &["nobody"]).await;
    site.refuses("POST", "/v1/heartbeat", r#"{"callback_url": "https://x"}"#, 400, &["node_ident"]).await;
}

#[tokio::test]
async fn ports_of_a_portgroup_are_on_one_physical_network() {
    let site = Site::new().await;
    let (_, node) = site.send("GET", "/v1/nodes/n1", String::new()).await;
    let node = node["uuid"].as_str().unwrap().to_owned();
    let (status, group) = site.send("POST", "/v1/portgroups", json!({"node_uuid": node}).to_string()).await;
    assert_eq!(status, 201);
    let port = |number: u8, network: &str| {
        json!({
            "node_uuid": node, "address": format!("52:54:00:00:01:{number:02x}"), "portgroup_uuid": group["uuid"],
            "physical_network": network, "name": format!("port-{number}"),
        })
    };
    assert_eq!(site.send("POST", "/v1/ports", port(1, "red").to_string()).await.0, 201);
    let path = format!("/v1/portgroups/{}", group["uuid"].as_str().unwrap());
    assert_eq!(site.send("GET", &path, String::new()).await.1["physical_network"], "red");
    site.refuses("POST", "/v1/ports", &port(2, "blue").to_string(), 409, &["blue", "red"]).await;
    assert_eq!(site.send("POST", "/v1/ports", port(2, "red").to_string()).await.0, 201);
    let patch = json!([{"op": "replace", "path": "/physical_network", "value": "blue"}]).to_string();
    site.refuses("PATCH", "/v1/ports/port-2", &patch, 409, &["blue", "red"]).await;
    assert_eq!(site.send("GET", "/v1/ports/port-2", String::new()).await.1["name"], "port-2");
    site.refuses("GET", "/v1/ports/port-3", "", 404, &["port-3"]).await;
    let patch = json!([{"op": "replace", "path": "/name", "value": "port-1"}]).to_string();
    site.refuses("PATCH", "/v1/ports/port-2", &patch, 409, &["port-1", "already exists"]).await;
    site.refuses("POST", "/v1/ports", &port(3, "").to_string(), 400, &["physical_network"]).await;
}

#[tokio::test]
async fn a_portgroup_takes_no_network_of_a_port_that_was_refused() {
    let site = Site::new().await;
    let (_, node) = site.send("GET", "/v1/nodes/n1", String::new()).await;
    let (_, group) = site.send("POST", "/v1/portgroups", json!({"node_uuid": node["uuid"]}).to_string()).await;
    let port = |tail: &str, name: &str, of_group: bool| {
        let mut port = json!({"node_uuid": node["uuid"], "address": format!("52:54:00:00:01:{tail}"), "name": name});
        if of_group {
            (port["portgroup_uuid"], port["physical_network"]) = (group["uuid"].clone(), json!("green"));
        }
        port.to_string()
    };
    assert_eq!(site.send("POST", "/v1/ports", port("01", "port-1", false)).await.0, 201);
    assert_eq!(site.send("POST", "/v1/ports", port("02", "port-2", false)).await.0, 201);
    site.refuses("POST", "/v1/ports", &port("01", "port-3", true), 409, &["MAC address", "already exists"]).await;
    site.refuses("POST", "/v1/ports", &port("03", "port-1", true), 409, &["A port with name port-1 already"]).await;
    let patch = json!([
        {"op": "replace", "path": "/name", "value": "port-1"},
        {"op": "add", "path": "/portgroup_uuid", "value": group["uuid"]},
        {"op": "add", "path": "/physical_network", "value": "green"},
    ]);
    site.refuses("PATCH", "/v1/ports/port-2", &patch.to_string(), 409, &["A port with name port-1 already"]).await;
    let path = format!("/v1/portgroups/{}", group["uuid"].as_str().unwrap());
    assert_eq!(site.send("GET", &path, String::new()).await.1["physical_network"], Value::Null);
}

#[tokio::test]
async fn a_port_keeps_its_wiring_while_its_node_is_used() {
    let site = Site::new().await;
    let body = json!({"node_ident": "n1", "address": "52:54:00:00:02:01"});
    let (_, port) = site.send("POST", "/v1/ports", body.to_string()).await;
    let path = format!("/v1/ports/{}", port["uuid"].as_str().unwrap());
    let set =
        |field: &str, value: Value| json!([{"op": "add", "path": format!("/{field}"), "value": value}]).to_string();
    let (address, instance) = (set("address", json!("52:54:00:00:02:02")), uuid::Uuid::new_v4());
    assert_eq!(site.send("PATCH", &path, set("pxe_enabled", json!(false))).await.0, 200);
    assert_eq!(site.send("PATCH", "/v1/nodes/n1", set("instance_uuid", json!(instance))).await.0, 200);
    site.refuses("PATCH", &path, &address, 409, &["hardware address"]).await;
    assert_eq!(site.send("PUT", "/v1/nodes/n1/maintenance", "{}".to_owned()).await.0, 202);
    assert_eq!(site.send("PATCH", &path, address).await.0, 200);
}
