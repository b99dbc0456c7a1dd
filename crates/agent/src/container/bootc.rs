//! `execute_bootc_install`: a system that is installed out of a container image, by the image's own `bootc`.
//!
//! That program makes the partitions and writes the disk, as root of this machine, so this is the one place where programs
//! of an image run; `disable_bootc_deploy` refuses it. The registry's secret is gone before the container starts.
//!
//! The seal of other images cannot be kept here, since bootc writes its table when it likes. The disk is cleared before it
//! begins and when it has failed, was stopped, or left something that is no system; in between a machine that loses its power
//! may have a table with half a system behind it ([`disk_image::installed`]).

use super::{ContainerError, Host, Scratch, check_image};
use crate::command::{AgentError, Class};
use crate::prepare::{grant, no_software_raid};
use crate::state::Shared;
use crate::{root_disk, write};
use base64::Engine as _;
use disk_image::{ConfigDrive, DiskState, WriteError, installed};
use hardware::{DeviceId, Disk, Plan, Progress, StepControl};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// bootc is podman's: the option for the other runner is for steps.
pub(super) const RUNNER: &str = "podman";
/// What is left of the disk behind the root file system, in MiB: for the boot partitions and a config drive.
const BESIDE_ROOT: u64 = 768;
/// How long a container that has ended may hold the disk.
const RELEASE: Duration = Duration::from_secs(30);
/// What podman says of an image that has no bootc.
const NO_BOOTC: &str = "executable file `bootc` not found";

/// What is asked for.
pub(crate) struct Request {
    /// The image, a URL of a registry.
    pub(crate) source: String,
    /// The node's `instance_info`.
    pub(crate) instance_info: Value,
    /// Base64 of `user:password` in base64.
    pub(crate) pull_secret: Option<String>,
    /// As of any image.
    pub(crate) config_drive: Option<String>,
}

/// The container image that a URL names, as podman knows it, and its registry.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    name: String,
    registry: String,
}

/// What bootc is told of the node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    authorized_keys: Option<String>,
    tpm2_luks: bool,
}

/// Installs an image on the root disk and returns the sentence that the protocol wants.
pub(crate) async fn install(
    shared: &Shared,
    request: Request,
    control: &dyn StepControl,
) -> Result<String, AgentError> {
    let settings = shared.settings();
    if settings.disable_bootc_deploy {
        let details = "The bootc deploy interface is administratively disable. Deployment cannot proceed.";
        return Err(AgentError::failed(details));
    }
    let Some(host) = shared.containers() else { return Err(absent(&request.source)) };
    root_disk::may_write(shared, "installing a container image")?;
    let image = image(&request.source)?;
    let options = options(&request.instance_info)?;
    let secret =
        request.pull_secret.as_deref().filter(|text| !text.is_empty()).map(|text| auth(&image, text)).transpose()?;
    no_software_raid(shared.node().as_deref())?;
    let (disk, plan) = tokio::select! {
        chosen = root_disk::choose(shared) => chosen?,
        () = control.cancelled() => return Err(stopped(&request.source, "while the root disk was looked for")),
    };
    let drive = match request.config_drive.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(write::fetch_config_drive(text, &settings).await?),
    };
    pull(host, &image, secret.as_deref(), control).await?;
    if control.is_cancelled() {
        return Err(stopped(&request.source, "before the disk was touched"));
    }
    shared.set_partition_uuids(Map::new());
    let target = Target { shared, disk: &disk, plan: &plan };
    target.clear().await?;
    report(control, "install");
    let installed = run(host, &image, &options, &target, control).await;
    if let Err(error) = installed {
        let left = target.abandon().await;
        let (error, left) = match error {
            // Whatever was cleared, it may be written again.
            ContainerError::Left { why, ended } => {
                (*ended, format!("{}: the container may still run and write to it ({why})", DiskState::Unknown))
            }
            error => (error, left),
        };
        return Err(failure(&request.source, &disk, error, left));
    }
    target.finish(drive, control).await?;
    let message = format!("Container image ({}) written to device {}", request.source, disk.name);
    tracing::info!("{message}");
    Ok(message)
}

/// The answer where there is no podman.
fn absent(source: &str) -> AgentError {
    let reason = "Failed to pull container image: podman is not in this ramdisk; deploy a disk image instead, or add podman by an \
                  overlay";
    write::download_error(source, reason)
}

fn stopped(source: &str, when: &str) -> AgentError {
    let details = format!("installing {source} was stopped on request {when}; nothing was touched");
    AgentError::new(Class::CommandCancelled, details)
}

fn report(control: &dyn StepControl, stage: &str) {
    let stage = format!("bootc: {stage}");
    control.report(Progress { stage, done: 0, total: None, rate: 0, eta: None, stalled: None });
}

/// Host and path of the URL, without its scheme, query and fragment.
fn image(source: &str) -> Result<Image, AgentError> {
    let name = source.split_once("://").map_or(source, |(_, rest)| rest);
    let name = name.split(['?', '#']).next().unwrap_or_default();
    check_image(name)?;
    let registry = name.split_once('/').map_or(name, |(registry, _)| registry);
    Ok(Image { name: name.to_owned(), registry: registry.to_owned() })
}

fn options(instance_info: &Value) -> Result<Options, AgentError> {
    let wrong = |key: &str, wanted: &str| Err(AgentError::params(format!("instance_info.{key} must be {wanted}")));
    let authorized_keys = match instance_info.get("bootc_authorized_keys") {
        None | Some(Value::Null) => None,
        Some(Value::String(keys)) => Some(keys.clone()).filter(|keys| !keys.is_empty()),
        Some(_) => return wrong("bootc_authorized_keys", "a text, as in the file authorized_keys"),
    };
    let tpm2_luks = match instance_info.get("bootc_tpm2_luks") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(wanted)) => *wanted,
        Some(Value::String(text)) if ["true", "1", "yes", "on"].contains(&text.to_lowercase().as_str()) => true,
        Some(Value::String(text)) if ["false", "0", "no", "off", ""].contains(&text.to_lowercase().as_str()) => false,
        Some(_) => return wrong("bootc_tpm2_luks", "true or false"),
    };
    Ok(Options { authorized_keys, tpm2_luks })
}

/// The file by which podman logs in to the registry (containers-auth.json(5)).
fn auth(image: &Image, pull_secret: &str) -> Result<Vec<u8>, AgentError> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(pull_secret.trim());
    let Some(auth) = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Err(AgentError::params("the pull secret is not base64 of a text"));
    };
    Ok(json!({"auths": {&image.registry: {"auth": auth}}}).to_string().into_bytes())
}

/// Pulls the image. The secret is on a file system for that time alone.
async fn pull(host: &Host, image: &Image, secret: Option<&[u8]>, control: &dyn StepControl) -> Result<(), AgentError> {
    report(control, "pull");
    let failed = |error: ContainerError| {
        let reason = transport::client::chain(&error);
        match error.class() {
            Some(Class::CommandCancelled) => stopped(&image.name, "while it was pulled"),
            _ => write::download_error(&image.name, &format!("Failed to pull container image: {reason}")),
        }
    };
    let file = host.root.join("run").join(format!("ferric-registry-{}.json", uuid::Uuid::new_v4()));
    let file = secret.map(|secret| Scratch::write(file, secret)).transpose().map_err(failed)?;
    // ironic-python-agent's `--retry-delay` is left out: the podman of Debian 12 does not know it, and retries by itself.
    let options: Vec<String> = file.iter().map(|file| format!("--authfile={}", file.0.display())).collect();
    let pulled = host.pull(RUNNER, &options, &image.name, control).await;
    drop(file);
    pulled.map_err(failed)
}

/// The arguments of `podman run`, as ironic-python-agent has them.
fn arguments(
    image: &Image,
    options: &Options,
    keys: Option<&Path>,
    selinux: bool,
    size: u64,
    device: &Path,
) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["--rm", "--privileged", "--pid=host", "--pull=never"]);
    add(&["-v", "/var/lib/containers:/var/lib/containers", "-v", "/dev:/dev"]);
    if keys.is_some() {
        add(&["-v", "/tmp:/tmp"]);
    }
    if selinux {
        add(&["--security-opt", "label=type:unconfined_t"]);
    }
    let root = (size >> 20).saturating_sub(BESIDE_ROOT);
    add(&[&image.name, "bootc", "install", "to-disk", "--wipe", "--skip-fetch-check", &format!("--root-size={root}M")]);
    if options.tpm2_luks {
        add(&["--block-setup=tpm2-luks"]);
    }
    if let Some(keys) = keys {
        add(&[&format!("--root-ssh-authorized-keys={}", keys.display())]);
    }
    if !selinux {
        add(&["--disable-selinux"]);
    }
    add(&[&device.to_string_lossy()]);
    all
}

async fn run(
    host: &Host,
    image: &Image,
    options: &Options,
    target: &Target<'_>,
    control: &dyn StepControl,
) -> Result<(), ContainerError> {
    let lost = |error: AgentError| ContainerError::Lost { what: "podman run".to_owned(), why: error.details };
    let device = target.claim().await.map_err(lost)?;
    let file = host.root.join("tmp").join(format!("ferric-keys-{}", uuid::Uuid::new_v4()));
    let keys = options.authorized_keys.as_ref().map(|keys| Scratch::write(file, keys.as_bytes())).transpose()?;
    let selinux = host.root.join("sys/fs/selinux/enforce").exists();
    let keys = keys.as_ref().map(|file| file.0.as_path());
    host.run(RUNNER, arguments(image, options, keys, selinux, target.disk.size, &device), control).await
}

/// The root disk, and who may write to it.
struct Target<'a> {
    shared: &'a Shared,
    disk: &'a Disk,
    plan: &'a Plan,
}

impl Target<'_> {
    /// The device, once more looked at.
    async fn claim(&self) -> Result<PathBuf, AgentError> {
        let grant = grant(self.plan, &self.disk.name)?;
        Ok(self.shared.on_machine(move |machine| machine.claim(grant.device())).await?)
    }

    /// Takes from the disk everything by which it could boot.
    async fn clear(&self) -> Result<(), AgentError> {
        let class = Class::ImageWriteError;
        let path = self.claim().await.map_err(|error| with_state(error, DiskState::Untouched))?;
        let disk = self.open(class, &path).map_err(|error| with_state(error, DiskState::Untouched))?;
        self.on_disk(class, disk, installed::clear).await
    }

    /// The same when the container has ended; what is on the disk now.
    async fn abandon(&self) -> String {
        let class = Class::ImageWriteError;
        let cleared = match self.open_afterwards(class).await {
            Ok(disk) => self.on_disk(class, disk, installed::clear).await,
            Err(error) => Err(error),
        };
        match cleared {
            Ok(()) => DiskState::NoTable.to_string(),
            Err(error) => format!("{}: {}", DiskState::Unknown, error.details),
        }
    }

    /// Looks at what was installed, and adds the config drive.
    async fn finish(&self, drive: Option<ConfigDrive>, control: &dyn StepControl) -> Result<(), AgentError> {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let class = Class::DeploymentError;
        let mut finishing = std::pin::pin!(async {
            let disk = self.open_afterwards(class).await.map_err(|error| with_state(error, DiskState::Unknown))?;
            self.on_disk(class, disk, move |disk| installed::finish(disk, drive, &stop)).await
        });
        let finished = tokio::select! {
            finished = &mut finishing => finished,
            () = control.cancelled() => {
                cancel.cancel();
                finishing.await
            }
        };
        let partitions = finished.map_err(|error| match control.is_cancelled() {
            true => AgentError::new(Class::CommandCancelled, error.details),
            false => error,
        })?;
        tracing::info!(disk = self.disk.name, partitions = partitions.len(), "installed by bootc");
        let device = DeviceId::of(self.disk);
        if let Err(error) = self.shared.on_machine(move |machine| machine.reread_partitions(&device)).await {
            tracing::warn!(error = %transport::client::chain(&error), "the partition table could not be read again");
        }
        Ok(())
    }

    /// Opens the claimed disk, which nobody else holds.
    fn open(&self, class: Class, path: &Path) -> Result<Box<dyn disk_image::Disk>, AgentError> {
        disk_image::disk::open(path).map_err(|error| self.failed(class, &transport::client::chain(&error)))
    }

    /// The same when the container has ended. It may hold the disk a moment longer, and a volume that it made does so until it is
    /// taken away.
    async fn open_afterwards(&self, class: Class) -> Result<Box<dyn disk_image::Disk>, AgentError> {
        let path = self.claim().await?;
        let begun = Instant::now();
        loop {
            let error = match self.open(class, &path) {
                Ok(disk) => return Ok(disk),
                Err(error) => error,
            };
            let grant = grant(self.plan, &self.disk.name)?;
            let kept = match self.shared.on_machine(move |machine| machine.release(&grant)).await {
                Ok(released) => {
                    released.iter().for_each(|what| tracing::info!(disk = self.disk.name, "{what}"));
                    String::new()
                }
                Err(error) => format!("; {}", transport::client::chain(&error)),
            };
            if begun.elapsed() >= RELEASE {
                return Err(AgentError::new(error.class, error.details + &kept));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Does blocking work on the disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        class: Class,
        disk: Box<dyn disk_image::Disk>,
        work: impl FnOnce(Box<dyn disk_image::Disk>) -> Result<T, Box<WriteError>> + Send + 'static,
    ) -> Result<T, AgentError> {
        match tokio::task::spawn_blocking(move || work(disk)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(with_state(self.failed(class, &transport::client::chain(&error.cause)), error.state)),
            Err(error) => Err(with_state(self.failed(class, &error.to_string()), DiskState::Unknown)),
        }
    }

    fn failed(&self, class: Class, reason: &str) -> AgentError {
        AgentError::new(class, format!("Writing image to device {} failed: {reason}", self.disk.name))
    }
}

/// The error, and what is on the disk now.
fn with_state(error: AgentError, state: DiskState) -> AgentError {
    AgentError::new(error.class, format!("{}; {state}", error.details))
}

/// How the installation failed, and what it left.
fn failure(source: &str, disk: &Disk, error: ContainerError, left: String) -> AgentError {
    let device = &disk.name;
    match error {
        ContainerError::Cancelled(_) => {
            let details = format!("installing {source} was stopped on request; {device}: {left}");
            AgentError::new(Class::CommandCancelled, details)
        }
        ContainerError::Failed { output, .. } if output.contains(NO_BOOTC) => {
            let reason = "Container does not contain the required bootc binary and thus cannot be deployed.";
            write::download_error(source, &format!("{reason} {device}: {left}"))
        }
        ContainerError::Failed { code, output, .. } => {
            let details =
                format!("Writing image to device {device} failed with exit code {code}. output: {output}; {left}");
            AgentError::new(Class::ImageWriteError, details)
        }
        other => {
            let reason = transport::client::chain(&other);
            AgentError::new(
                Class::ImageWriteError,
                format!("Writing image to device {device} failed: {reason}; {left}"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_to_podman_by_its_host_and_path() {
        let known = |source: &str| image(source).map(|image| (image.name, image.registry)).unwrap_or_default();
        let pair = |name: &str, registry: &str| (name.to_owned(), registry.to_owned());
        assert_eq!(known("oci://quay.io/a/b:1"), pair("quay.io/a/b:1", "quay.io"));
        assert_eq!(known("docker://r:5000/a@sha256:00?x=1#y"), pair("r:5000/a@sha256:00", "r:5000"));
        assert_eq!(known("quay.io/a"), pair("quay.io/a", "quay.io"));
        for wrong in ["", "oci://", "oci://--tls-verify=false", "-v", "oci://a b", "oci://a\n"] {
            assert_eq!(image(wrong).unwrap_err().class, Class::InvalidCommandParamsError, "{wrong:?}");
        }
    }

    #[test]
    fn what_the_node_says_of_bootc_has_types() {
        let info = json!({"bootc_authorized_keys": "ssh-ed25519 AAAA", "bootc_tpm2_luks": "True"});
        let read = options(&info).unwrap();
        assert_eq!(read, Options { authorized_keys: Some("ssh-ed25519 AAAA".to_owned()), tpm2_luks: true });
        for none in [Value::Null, json!({}), json!({"bootc_authorized_keys": "", "bootc_tpm2_luks": "false"})] {
            assert_eq!(options(&none).unwrap(), Options::default());
        }
        for wrong in [json!({"bootc_authorized_keys": ["a"]}), json!({"bootc_tpm2_luks": "perhaps"})] {
            assert!(options(&wrong).unwrap_err().details.starts_with("instance_info.bootc_"), "{wrong}");
        }
    }

    #[test]
    fn podman_is_called_with_what_ironic_python_agent_calls_it_with() {
        let image = image("oci://quay.io/a/b:1").unwrap();
        let words = |options: &Options, keys, selinux| {
            arguments(&image, options, keys, selinux, 10 << 30, Path::new("/dev/sda")).join(" ")
        };
        let plain = words(&Options::default(), None, false);
        insta::assert_snapshot!(plain, @"--rm --privileged --pid=host --pull=never -v /var/lib/containers:/var/lib/containers -v /dev:/dev quay.io/a/b:1 bootc install to-disk --wipe --skip-fetch-check --root-size=9472M --disable-selinux /dev/sda");
        let luks = Options { tpm2_luks: true, ..Options::default() };
        let all = words(&luks, Some(Path::new("/tmp/keys")), true);
        insta::assert_snapshot!(all, @"--rm --privileged --pid=host --pull=never -v /var/lib/containers:/var/lib/containers -v /dev:/dev -v /tmp:/tmp --security-opt label=type:unconfined_t quay.io/a/b:1 bootc install to-disk --wipe --skip-fetch-check --root-size=9472M --block-setup=tpm2-luks --root-ssh-authorized-keys=/tmp/keys /dev/sda");
    }

    #[test]
    fn a_pull_secret_that_is_none_is_refused_without_being_told() {
        let image = image("oci://quay.io/a").unwrap();
        // base64 of base64 of user:password
        let file = auth(&image, "ZFhObGNqcHdZWE56ZDI5eVpBPT0=").unwrap();
        assert_eq!(file, br#"{"auths":{"quay.io":{"auth":"dXNlcjpwYXNzd29yZA=="}}}"#);
        let error = auth(&image, "canary!").unwrap_err();
        assert!(!error.details.contains("canary"), "{error}");
    }
}
