//! How the built program reaches servers: mirrors, proxies, trust, credentials, and what its exit codes say.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises do not hold")]

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Redirect, Response};
use http::{StatusCode, header};
use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};
use sha2::Digest as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use transport::tls::Identity;

/// A whole disk of 4 MiB with one partition.
fn image() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..4 << 20).map(|at| (at / 512 % 251) as u8).collect();
    let mut gpt = Gpt::new(Guid([0xd1; 16]), 512, bytes.len() as u64 / 512).unwrap();
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 2048..=4095, "root")).unwrap();
    Mbr { signature: 7, ..Mbr::protective(gpt.disk_sectors()) }.write(&mut bytes).unwrap();
    gpt.write_primary(&mut bytes).unwrap();
    gpt.write_backup(&mut bytes).unwrap();
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// A request as it came: the address, and the values of two headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    target: String,
    authorization: Option<String>,
    proxy_authorization: Option<String>,
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer)
    }

    fn start_with(
        tls: Option<(&Identity, Option<&str>)>,
        answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let log = seen.clone();
        let router = Router::new().fallback(move |request: Request| {
            let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let seen = Seen {
                target: request.uri().to_string(),
                authorization: text(header::AUTHORIZATION),
                proxy_authorization: text(header::PROXY_AUTHORIZATION),
            };
            log.lock().unwrap().push(seen.clone());
            std::future::ready(answer(&seen))
        });
        let tls = tls.map(|(identity, clients)| identity.server_config_for("1.2", clients).unwrap());
        let settings = transport::server::Settings { tls, ..transport::server::Settings::default() };
        runtime.spawn(transport::server::serve(listener, router, settings, stop.clone()));
        Self { url, seen, stop, _runtime: runtime }
    }

    /// Serves the image to everybody.
    fn open() -> Self {
        Self::start(|_| image().into_response())
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn disk(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    /// Writes the image to a new file, without anything of this process' environment.
    fn write(&self, url: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let _ = std::fs::remove_file(self.disk());
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferric"));
        command.env_clear().envs(environment.iter().copied());
        command
            .args(["image", "write", url])
            .arg(self.disk())
            .args(["--retries", "0", "--stall", "20"])
            .args(arguments);
        command.output().unwrap()
    }

    fn assert_written(&self, output: &Output) {
        assert_exit(output, 0);
        assert!(std::fs::read(self.disk()).unwrap() == image());
    }
}

fn assert_exit(output: &Output, code: i32) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A self-signed certificate for this host, and its key, as PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_mirror_is_tried_when_the_first_address_fails_and_gets_none_of_its_credentials() {
    let lab = Lab::new();
    let gone = Server::start(|_| StatusCode::NOT_FOUND.into_response());
    let wrong = Server::start(|_| vec![7; 4 << 20].into_response());
    let good = Server::open();
    let login = lab.file("login", "user:secret\n");
    let digest = sha256(&image());
    let (first, second, third) =
        (format!("{}/disk.raw", gone.url), format!("{}/a/disk.raw", wrong.url), format!("{}/b/disk.raw", good.url));
    let arguments =
        ["--mirror", &second, "--mirror", &third, "--checksum", &digest, "--basic-file", &login, "--size", "4194304"];
    let output = lab.write(&first, &arguments, &[]);
    // What is no disk image at all is found out before a byte is written; that is no reason to believe another server.
    assert_exit(&output, 4);
    let arguments = ["--mirror", &third, "--checksum", &digest, "--basic-file", &login];
    lab.assert_written(&lab.write(&first, &arguments, &[]));
    assert!(gone.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=")));
    assert!(!good.seen().is_empty() && good.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn credentials_out_of_files_go_to_the_images_own_server_and_not_after_a_redirection() {
    let lab = Lab::new();
    let store = Server::open();
    let to = format!("{}/stored", store.url);
    let door = Server::start(move |_| Redirect::temporary(&to).into_response());
    let cases = [
        ("--basic-file", "user:pa:ss", "Basic dXNlcjpwYTpzcw=="),
        ("--bearer-file", "token", "Bearer token"),
        ("--authorization-file", "Custom abc", "Custom abc"),
    ];
    for (option, content, wanted) in cases {
        let file = lab.file("credentials", &format!("{content}\n"));
        lab.assert_written(&lab.write(&format!("{}/disk.raw", door.url), &[option, &file], &[]));
        assert_eq!(door.seen().last().unwrap().authorization.as_deref(), Some(wanted));
        assert_eq!(store.seen().last().unwrap().authorization, None);
    }
    for (option, content) in [("--basic-file", "nobody"), ("--bearer-file", ""), ("--bearer-file", "two\nlines")] {
        let file = lab.file("credentials", content);
        let output = lab.write(&door.url, &[option, &file], &[]);
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(&file) && !stderr(&output).contains("nobody"), "{}", stderr(&output));
    }
}

#[test]
fn a_proxy_comes_from_the_environment_or_from_an_option_and_no_proxy_spares_hosts() {
    let lab = Lab::new();
    let proxy = Server::open();
    let address = proxy.url.replace("http://", "http://me:secret@");
    let far = "http://images.invalid/disk.raw";
    lab.assert_written(&lab.write(far, &[], &[("http_proxy", &address)]));
    let seen = proxy.seen().pop().unwrap();
    assert_eq!((seen.target.as_str(), seen.proxy_authorization.as_deref()), (far, Some("Basic bWU6c2VjcmV0")));
    lab.assert_written(&lab.write(far, &["--proxy", &proxy.url], &[("http_proxy", "http://127.0.0.1:1")]));
    lab.assert_written(&lab.write(far, &[], &[("all_proxy", &proxy.url), ("https_proxy", "http://127.0.0.1:1")]));
    // Capitals come from whoever asks a CGI program.
    let asked = proxy.seen().len();
    for (arguments, environment) in [
        (&[][..], &[("HTTP_PROXY", address.as_str())][..]),
        (&[], &[("http_proxy", &address), ("no_proxy", "other,.invalid")]),
        (&["--no-proxy", "images.invalid"], &[("http_proxy", &address)]),
        (&["--proxy", ""], &[("http_proxy", &address)]),
    ] {
        let output = lab.write(far, arguments, environment);
        assert_exit(&output, 3);
        assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
    }
    assert_eq!(proxy.seen().len(), asked);
    let output = lab.write(far, &["--proxy", "socks5://user:secret@127.0.0.1:1"], &[]);
    assert_exit(&output, 2);
    assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
}

#[test]
fn a_server_is_believed_by_its_certificate_or_because_it_was_asked_for() {
    let lab = Lab::new();
    let (certificate, key) = certificate();
    let identity = Identity::from_pem(certificate.clone(), key);
    let server = Server::start_with(Some((&identity, None)), |_| image().into_response());
    let url = format!("{}/disk.raw", server.url);
    let refused = lab.write(&url, &[], &[]);
    assert_exit(&refused, 3);
    assert!(stderr(&refused).contains("certificate"), "{}", stderr(&refused));
    let ca = lab.file("ca.pem", &certificate);
    lab.assert_written(&lab.write(&url, &["--ca", &ca], &[]));
    lab.assert_written(&lab.write(&url, &["--insecure"], &[]));
    assert_exit(&lab.write(&url, &["--insecure", "--ca", &ca], &[]), 2);
    assert_exit(&lab.write(&url, &["--ca", "/does/not/exist"], &[]), 2);
}

#[test]
fn a_client_certificate_is_shown_to_the_images_own_server_alone() {
    let lab = Lab::new();
    let (certificate, key) = certificate();
    let identity = Identity::from_pem(certificate.clone(), key.clone());
    let server = Server::start_with(Some((&identity, Some(&certificate))), |_| image().into_response());
    let (cert, key) = (lab.file("cert.pem", &certificate), lab.file("key.pem", &key));
    let url = format!("{}/disk.raw", server.url);
    lab.assert_written(&lab.write(&url, &["--ca", &cert, "--cert", &cert, "--key", &key], &[]));
    assert_exit(&lab.write(&url, &["--ca", &cert], &[]), 3);
    assert_exit(&lab.write(&url, &["--ca", &cert, "--cert", &cert], &[]), 2);
    // As a mirror it is another server, which gets no identity.
    let gone = Server::start(|_| StatusCode::NOT_FOUND.into_response());
    let arguments = ["--mirror", &url, "--ca", &cert, "--cert", &cert, "--key", &key];
    assert_exit(&lab.write(&gone.url, &arguments, &[]), 3);
}

#[test]
fn digests_come_from_files_of_several_algorithms_and_md5_only_where_it_is_allowed() {
    let lab = Lab::new();
    let server = Server::start(move |seen| match seen.target.as_str() {
        "/disk.raw" => image().into_response(),
        "/SUMS" => {
            let (sha256, sha512) = (sha2::Sha256::digest(image()), sha2::Sha512::digest(image()));
            format!("SHA256 (disk.raw) = {}\r\nSHA512 (disk.raw) = {}\r\n", hex::encode(sha256), hex::encode(sha512))
                .into_response()
        }
        "/SHORT" => "abcdef0123\n".into_response(),
        "/WEAK" => format!("{}  disk.raw\n", "0".repeat(32)).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    });
    let url = format!("{}/disk.raw", server.url);
    let run = |sums: &str, more: &[&str]| {
        let sums = sums.replace('@', &server.url);
        lab.write(&url, &[&["--checksum", &sums, "--json"], more].concat(), &[])
    };
    for (given, wanted) in [("@/SUMS", "sha512:"), ("sha256:@/SUMS", "sha256:")] {
        let output = run(given, &[]);
        lab.assert_written(&output);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.lines().last().unwrap().contains(&format!("\"digest\":\"{wanted}")), "{text}");
    }
    assert_exit(&run("@/WEAK", &[]), 3);
    assert_exit(&run("@/WEAK", &["--allow-md5"]), 4);
    assert_exit(&run("@/GONE", &[]), 3);
    // The same words whether it comes from a server or out of a file.
    let file = format!("file://{}", lab.file("SHORT", "abcdef0123\n"));
    let (served, local) = (run("@/SHORT", &[]), run(&file, &[]));
    for output in [&served, &local] {
        assert_exit(output, 3);
        assert!(stderr(output).contains("\"abcdef0123\" has the length of no supported hash"), "{}", stderr(output));
    }
    assert_exit(&run("abcdef0123", &[]), 2);
}

#[test]
fn the_exit_code_says_whose_fault_it_is() {
    let lab = Lab::new();
    let server = Server::open();
    let url = format!("{}/disk.raw", server.url);
    let exit = |url: &str, arguments: &[&str]| lab.write(url, arguments, &[]).status.code();
    assert_eq!(exit(&url, &["--no-such-option"]), Some(2));
    assert_eq!(exit("ftp://host/image", &[]), Some(2));
    assert_eq!(exit(&url, &["--budget", "1"]), Some(2));
    assert_eq!(exit("file:///does/not/exist", &[]), Some(3));
    assert_eq!(exit("http://127.0.0.1:1/disk.raw", &[]), Some(3));
    assert_eq!(exit(&url, &["--checksum", &sha256(b"something else")]), Some(4));
    assert_eq!(exit(&url, &["--format", "qcow2"]), Some(4));
    assert_eq!(exit(&url, &["--size", "1000"]), Some(5));
    let help = Command::new(env!("CARGO_BIN_EXE_ferric")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for code in 0..=7 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code} is not explained: {help}");
    }
}

#[test]
fn a_new_disk_guid_is_made_on_request_and_partitions_keep_theirs() {
    let lab = Lab::new();
    let server = Server::open();
    let output = lab.write(&format!("{}/disk.raw", server.url), &["--new-disk-guid", "--verify", "full"], &[]);
    assert_exit(&output, 0);
    let (disk, old) = (std::fs::read(lab.disk()).unwrap(), image());
    let (new, old) = (Gpt::parse_primary(&disk, 512).unwrap(), Gpt::parse_primary(&old, 512).unwrap());
    assert_ne!(new.disk_guid, old.disk_guid);
    assert!(new.used().eq(old.used()));
    assert_eq!(Gpt::parse_backup(&disk[disk.len() - 34 * 512..], disk.len() as u64 / 512, 512).unwrap(), new);
}
