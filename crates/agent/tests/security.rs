//! Bad inputs out of the security history of the field that touch an agent's API, each under the name by which it is known.
//! Those of images are with `disk-image`, those of virtual media with `config`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::{Settings, Token};
use base64::Engine as _;
use hardware_sim::{SimMachine, disk};
use http::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Rest, TOKEN, rig, settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn machine() -> SimMachine {
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    machine
}

/// LP#2160196: the list of commands could be read by anybody until the first token was seen.
#[tokio::test]
async fn lp_2160196_nothing_is_told_before_a_token_is_known() {
    let rig = rig(machine(), Settings { agent_token: None, ..settings() });
    let rest = Rest::serve(&rig.dispatcher).await;
    for query in ["", "?agent_token=", "?agent_token=None", "?agent_token=null", "?agent_token=******"] {
        for (method, path) in
            [(Method::GET, "/v1/commands/"), (Method::POST, "/v1/commands/"), (Method::GET, "/v1/commands/x")]
        {
            assert_eq!(rest.send(method, &format!("{path}{query}"), "").await.status, 401, "{path}{query}");
        }
    }
    rig.agent.set_token(Token::new(TOKEN.to_owned()));
    assert_eq!(rest.get("/v1/commands/").await.status, 401);
    assert_eq!(rest.get(&format!("/v1/commands/?agent_token={TOKEN}")).await.status, 200);
}

/// CVE-2026-50589, OSSN-0099: deeply nested JSON ended an API, before any look at who sent it.
#[tokio::test]
async fn cve_2026_50589_deep_and_huge_bodies_are_refused_and_the_agent_lives() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let path = format!("/v1/commands/?agent_token={TOKEN}");
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    // Ironic admits 25 levels in its own requests; what was under its document then comes as params.node here.
    let node = json!({"extra": serde_json::from_str::<Value>(&nested(24)).unwrap()});
    let answer = rest.command("clean.get_clean_steps", json!({"node": node, "ports": []}), true).await;
    assert_eq!((answer.status, &answer.body["command_status"]), (200, &json!("SUCCEEDED")), "{answer:?}");
    for levels in [31, 1000, 100_000] {
        let body = format!("{{\"name\": \"standby.sync\", \"params\": {{\"x\": {}}}}}", nested(levels));
        let answer = rest.send(Method::POST, &path, body.clone()).await;
        assert!(answer.status == 400 && answer.body.to_string().contains("32 levels"), "{levels}: {answer:?}");
        // Who may not give commands is not read at all.
        assert_eq!(rest.send(Method::POST, "/v1/commands/", body).await.status, 401);
    }
    // Two bytes each in the text, thirty and more in memory.
    let zeros = format!("{{\"name\": \"standby.sync\", \"params\": {{\"x\": [{}0]}}}}", "0,".repeat(15_000_000));
    let answer = rest.send(Method::POST, &path, zeros).await;
    assert!(answer.status == 413 && answer.body.to_string().contains("200000 values"), "{answer:?}");
    // A gigabyte is announced; the answer comes without it.
    let mut stream = tokio::net::TcpStream::connect(rest.authority()).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(rest.command("standby.sync", json!({}), true).await.body["command_status"], "SUCCEEDED");
}

/// Bodies that do not come keep those of their own kind waiting, never a short command.
#[tokio::test]
async fn bodies_that_never_arrive_hold_no_command_up() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let mut stalled = Vec::new();
    for length in
        ["Content-Length: 100", "Content-Length: 100", "Content-Length: 2000000", "Transfer-Encoding: chunked"]
    {
        let mut stream = tokio::net::TcpStream::connect(rest.authority()).await.unwrap();
        let head = format!("POST /v1/commands/?agent_token={TOKEN} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n");
        stream.write_all(format!("{head}{length}\r\n\r\n").as_bytes()).await.unwrap();
        // The server asks for a body when it begins to read it.
        let mut answer = [0; 12];
        tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        stalled.push(stream);
    }
    let answer = tokio::time::timeout(Duration::from_secs(10), rest.command("standby.sync", json!({}), true)).await;
    assert_eq!(answer.unwrap().body["command_status"], "SUCCEEDED");
}

/// A driver of another make sends a setting as another type: the node and the rest of the settings still count.
#[tokio::test]
async fn a_lookup_reply_of_odd_types_is_taken_over_but_for_those() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let info = |config: Value| json!({"node_info": {"node": {"uuid": "a-node"}, "config": config}});
    let odd = json!({
        "heartbeat_timeout": 300.0, "agent_token_required": "yes", "tls_min_version": 1.3,
        "agent_md5_checksum_enable": true,
    });
    let before = rig.agent.shared.settings();
    let answer = rest.command("poll.set_node_info", info(odd), true).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{answer:?}");
    let after = rig.agent.shared.settings();
    assert!(after.md5_enabled && !before.md5_enabled);
    assert_eq!((after.heartbeat_timeout, &after.tls_min_version), (before.heartbeat_timeout, &before.tls_min_version));
    let answer = rest.command("poll.set_node_info", info(json!({"agent_token": 7})), true).await;
    assert!(answer.body.to_string().contains("agent_token"), "{answer:?}");
    assert_ne!(answer.body["command_status"], "SUCCEEDED");
}

/// CVE-2026-43003, OSSN-0100: the agent ran a boot loader's installer out of the tenant's image.
#[tokio::test]
async fn cve_2026_43003_no_installer_of_the_image_is_run_even_where_it_is_allowed() {
    let rig = rig(machine(), Settings { enable_bios_bootloader_install: true, ..settings() });
    let rest = Rest::serve(&rig.dispatcher).await;
    let params = json!({"root_uuid": "0f3c1d6e-0000-4000-8000-000000000000", "target_boot_mode": "bios"});
    let answer = rest.command("image.install_bootloader", params, true).await.body;
    assert_eq!(answer["command_error"]["type"], "InvalidImage", "{answer}");
    assert!(answer["command_error"]["details"].as_str().unwrap().contains("never runs programs"), "{answer}");
    assert!(rig.machine.events().is_empty());
}

/// CVE-2026-54422 and OSSN-0107: containers with the registry's secret within reach, and an allow-list that nobody enforced.
/// Here no container runs, and the secret is in no answer.
#[tokio::test]
async fn cve_2026_54422_a_pull_secret_comes_back_in_no_answer_and_no_container_runs() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let params = json!({"image_source": "oci://registry/image", "pull_secret": "canary-of-the-registry"});
    let answer = rest.command("standby.execute_bootc_install", params, true).await.body;
    assert_eq!(answer["command_status"], "FAILED");
    for step in ["generic_container_step", "container_clean_step", "execute_bootc_install"] {
        let params = json!({"step": {"step": step, "args": {"container_url": "x"}}, "node": {}, "ports": []});
        let answer = rest.command("clean.execute_clean_step", params, true).await.body;
        assert_eq!(answer["command_error"]["type"], "HardwareManagerMethodNotFound", "{answer}");
    }
    assert!(!json!(rest.list().await).to_string().contains("canary"));
}

/// CVE-2026-54423: `vendor.send_raw` as a step. Only what a manager offers is run, by whatever name it is asked.
#[tokio::test]
async fn cve_2026_54423_steps_that_no_manager_has_are_refused() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    for step in
        ["send_raw", "vendor.send_raw", "__init__", "initialize", "evaluate_hardware_support", "list_hardware_info", ""]
    {
        let params = json!({"step": {"interface": "vendor", "step": step}, "node": {}, "ports": []});
        let answer = rest.command("deploy.execute_deploy_step", params, true).await.body;
        assert_eq!(answer["command_error"]["type"], "HardwareManagerMethodNotFound", "{step}: {answer}");
    }
}

/// A server that answers every request in one way and keeps what it was asked.
async fn server(answer: String) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(String::new()));
    let ears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).await.unwrap_or_default();
            ears.lock().unwrap().push_str(&String::from_utf8_lossy(&request[..length]).to_lowercase());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, heard)
}

/// An image through a proxy: what the operator of a site without a way out sends with it.
#[tokio::test]
async fn an_image_is_asked_of_its_proxy_unless_its_host_is_excepted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(8 << 30).unwrap();
    let machine = SimMachine::new();
    machine.add_file_disk("/dev/vda", file).unwrap();
    let rig = rig(machine, settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
    let (proxy, asked) = server(nothing.clone()).await;
    let (origin, direct) = server(nothing).await;
    let mut info = json!({
        "id": "i", "urls": ["http://image.invalid/image", format!("{origin}/image")], "checksum": "0".repeat(64),
        "proxies": {"http": proxy}, "no_proxy": "127.0.0.1",
    });
    let answer = rest.command("standby.prepare_image", json!({"image_info": info}), true).await.body;
    assert_eq!(answer["command_error"]["type"], "ImageDownloadError", "{answer}");
    assert!(asked.lock().unwrap().starts_with("get http://image.invalid/image http/1.1"), "{}", asked.lock().unwrap());
    assert!(!asked.lock().unwrap().contains("127.0.0.1/"), "{}", asked.lock().unwrap());
    assert!(direct.lock().unwrap().starts_with("get /image http/1.1"), "{}", direct.lock().unwrap());
    info["proxies"] = json!({"http": "user:canary@nowhere"});
    let answer = rest.command("standby.prepare_image", json!({"image_info": info}), true).await.body;
    assert!(answer["command_error"]["details"].as_str().unwrap().contains("Image 'proxies'"), "{answer}");
    assert!(!answer.to_string().contains("canary"), "{answer}");
    info["proxies"] = json!("http://proxy");
    assert_eq!(rest.command("standby.prepare_image", json!({"image_info": info}), true).await.status, 400);
}

/// CVE-2026-90461 and CVE-2026-42997: credentials for an image followed its URL to other hosts.
#[tokio::test]
async fn cve_2026_90461_credentials_of_an_image_go_to_its_own_origin_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(8 << 30).unwrap();
    let machine = SimMachine::new();
    machine.add_file_disk("/dev/vda", file).unwrap();
    let rig = rig(machine, settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
    let (thief, stolen) = server(nothing).await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: {thief}/image\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let (origin, asked) = server(redirect).await;
    let authorization = base64::engine::general_purpose::STANDARD.encode("Bearer canary");
    let login = |info: &mut Value| {
        info["image_server_auth_strategy"] = json!("http_basic");
        info["image_server_user"] = json!("user");
        info["image_server_password"] = json!("canary");
    };
    let token = |info: &mut Value| info["image_request_authorization"] = json!(authorization);
    for add in [&login as &dyn Fn(&mut Value), &token] {
        // The digest and the config drive are somewhere else too.
        let mut info = json!({"id": "i", "urls": [format!("{origin}/image")], "checksum": "0".repeat(64)});
        add(&mut info);
        let mut elsewhere = info.clone();
        elsewhere["checksum"] = json!(format!("{thief}/SHA256SUMS"));
        for (info, drive) in [(info.clone(), None), (elsewhere, None), (info, Some(format!("{thief}/drive")))] {
            let params = json!({"image_info": info, "configdrive": drive});
            let answer = rest.command("standby.prepare_image", params, true).await.body;
            assert_eq!(answer["command_status"], "FAILED", "{answer}");
            assert!(!answer.to_string().contains("canary"), "{answer}");
        }
    }
    assert!(asked.lock().unwrap().contains("authorization: "), "the origin was not asked with credentials");
    assert!(!stolen.lock().unwrap().contains("authorization"), "{}", stolen.lock().unwrap());
}
