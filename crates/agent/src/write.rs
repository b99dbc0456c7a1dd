//! From the protocol's words to the image pipeline's plan, and from its errors to the protocol's classes.

use crate::checksum;
use crate::command::{AgentError, Class};
use crate::config::Settings;
use crate::config::settings::Login;
use crate::prepare::Checksum;
use crate::session::ironic;
use crate::state::Shared;
use base64::Engine as _;
use disk_image::fetch::FetchError;
use disk_image::source::{self, Access, Source};
use disk_image::{
    Cause, ConfigDrive, Digest, Format, PartitionError, Partitioning, Patience, Plan, Qcow2Error, Verify, WriteError,
};
use hardware::{DeviceId, Progress, StepControl, WriteGrant};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use transport::client;
use transport::proxy::Proxies;
use wire::agent::ImageInfo;

/// An image and where it goes.
pub struct Job<'a> {
    /// The image.
    pub info: &'a ImageInfo,
    /// What it has to be; `None` for what it turns out to be.
    pub format: Option<Format>,
    /// How it is verified.
    pub checksum: Checksum,
    /// The config drive: base64 of gzip, or a URL of one.
    pub configdrive: Option<String>,
    /// Of a partition image: the disk around it.
    pub partitioning: Option<Partitioning>,
    /// The disk.
    pub device: DeviceId,
    /// Patience, budget and trust.
    pub settings: &'a Settings,
}

/// Fetches, verifies, writes and seals. The grant is used up; the device is looked at again before it is opened.
pub async fn write(
    shared: &Shared,
    job: Job<'_>,
    grant: WriteGrant,
    control: &dyn StepControl,
) -> Result<disk_image::Written, AgentError> {
    let access = access(&job)?;
    let patience = patience(job.settings);
    let sources = sources(job.info, &access)?;
    // Nothing is touched yet, so this is left where it is when the command is cancelled.
    let (digest, config_drive) = tokio::select! {
        fetched = fetch_small(&job, &access) => fetched?,
        () = control.cancelled() => {
            let details = format!("stopped on request before image {} was fetched; nothing was touched", job.info.id);
            return Err(AgentError::new(Class::CommandCancelled, details));
        }
    };
    let path = shared.on_machine(move |machine| machine.claim(grant.device())).await?;
    let disk = tokio::task::spawn_blocking(move || disk_image::disk::open(&path))
        .await
        .map_err(|error| write_error(&job, &format!("opening it ended unexpectedly: {error}")))?
        .map_err(|error| write_error(&job, &client::chain(&error)))?;
    let budget = job.settings.image_budget;
    let plan = Plan {
        sources,
        format: job.format,
        packing: None,
        digest: Some(digest),
        config_drive,
        partitioning: job.partitioning.clone(),
        budget,
        verify: if job.settings.image_verify_full { Verify::Full } else { Verify::Sampled },
        new_disk_guid: job.settings.image_new_disk_guid,
        patience,
    };
    let stop = CancellationToken::new();
    let mut writing = std::pin::pin!(disk_image::write(plan, disk, |progress| report(control, progress), stop.clone()));
    let result = tokio::select! {
        biased;
        result = &mut writing => result,
        () = control.cancelled() => {
            stop.cancel();
            writing.await
        }
    };
    let written = result.map_err(|error| classify(&job, &error))?;
    tracing::info!(
        disk = job.device.node,
        bytes_in = written.bytes_in,
        bytes_out = written.bytes_out,
        partitions = written.partitions.len(),
        "image written, verified and sealed"
    );
    Ok(written)
}

/// What is needed before the image: its digest and the config drive.
async fn fetch_small(job: &Job<'_>, access: &Access) -> Result<(Digest, Option<ConfigDrive>), AgentError> {
    let digest = checksum::resolve(job, access).await?;
    let drive = match job.configdrive.as_deref() {
        None => None,
        Some(text) => Some(config_drive(text, access, job.settings).await?),
    };
    Ok((digest, drive))
}

fn report(control: &dyn StepControl, progress: disk_image::Progress) {
    if let Some(reason) = &progress.stalled {
        tracing::warn!(done = progress.done, "the image does not move: {reason}");
    }
    control.report(Progress {
        stage: progress.stage.as_str().to_owned(),
        done: progress.done,
        total: progress.total,
        rate: progress.rate,
        eta: progress.eta,
        stalled: progress.stalled,
    });
}

pub(crate) fn patience(settings: &Settings) -> Patience {
    Patience {
        connect: settings.image_timeout,
        stall: settings.image_timeout,
        retries: settings.image_retries,
        interval: settings.image_retry_interval,
        total: settings.image_max_duration,
    }
}

/// Trust, and credentials for the origin of the image alone.
fn access(job: &Job<'_>) -> Result<Access, AgentError> {
    let base = client::Settings {
        proxies: proxies(job.info)?,
        connect_timeout: job.settings.image_timeout,
        timeout: job.settings.image_timeout,
        ..client::Settings::default()
    };
    let checksum = match &job.checksum {
        Checksum::Named { value, .. } | Checksum::Guessed(value) => value,
    };
    let urls = job.info.urls.iter().chain([checksum]).chain(&job.configdrive);
    let client = ironic::client(job.settings, urls, base).map_err(|error| AgentError::failed(client::chain(&error)))?;
    let authorization = authorization(job.info, job.settings.image_server_login.as_ref())?;
    Ok(Access { client: Some(client), authorization, file_roots: job.settings.image_roots.clone() })
}

/// `proxies` and `no_proxy` of the image. They are for what belongs to it: digest and config drive take them too.
fn proxies(info: &ImageInfo) -> Result<Proxies, AgentError> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let given = info.other.get("proxies");
    let proxies = Proxies {
        http: text(given.and_then(|given| given.get("http"))),
        https: text(given.and_then(|given| given.get("https"))),
        except: text(info.other.get("no_proxy")).unwrap_or_default(),
    };
    proxies.check().map_err(|error| AgentError::params(format!("Image 'proxies': {error}")))?;
    Ok(proxies)
}

/// `image_request_authorization` is base64 of a whole header value; `http_basic` gives user and password. An image that says
/// nothing is asked for with the `login` of the settings.
fn authorization(info: &ImageInfo, login: Option<&Login>) -> Result<Option<http::HeaderValue>, AgentError> {
    let base64 = &base64::engine::general_purpose::STANDARD;
    let text = |key: &str| info.other.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let value = if let Some(packed) = text("image_request_authorization") {
        base64.decode(packed).map_err(|_| AgentError::params("image_request_authorization is not base64"))?
    } else if text("image_server_auth_strategy") == Some("http_basic") {
        let (Some(user), Some(password)) = (text("image_server_user"), text("image_server_password")) else {
            let details = "image_server_auth_strategy http_basic needs image_server_user and image_server_password";
            return Err(AgentError::params(details));
        };
        basic(user, password)
    } else if let (Some(login), None) = (login, text("image_server_auth_strategy")) {
        basic(&login.user, &login.password)
    } else {
        return Ok(None);
    };
    let mut value = http::HeaderValue::from_bytes(&value)
        .map_err(|_| AgentError::params("the authorization for the image is not a header value"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// RFC 7617.
fn basic(user: &str, password: &str) -> Vec<u8> {
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {login}").into_bytes()
}

fn sources(info: &ImageInfo, access: &Access) -> Result<Vec<Arc<dyn Source>>, AgentError> {
    let sources = info.urls.iter().map(|url| source::from_url(url, access));
    sources.collect::<Result<_, _>>().map_err(|error| download_error(&info.id, &client::chain(&error)))
}

/// The config drive of a command that has no image of the usual kind.
pub(crate) async fn fetch_config_drive(text: &str, settings: &Settings) -> Result<ConfigDrive, AgentError> {
    let base = client::Settings {
        connect_timeout: settings.image_timeout,
        timeout: settings.image_timeout,
        ..client::Settings::default()
    };
    let url = [text.to_owned()];
    let client =
        ironic::client(settings, url.iter(), base).map_err(|error| AgentError::failed(client::chain(&error)))?;
    let access = Access { client: Some(client), authorization: None, file_roots: Vec::new() };
    config_drive(text, &access, settings).await
}

async fn config_drive(text: &str, access: &Access, settings: &Settings) -> Result<ConfigDrive, AgentError> {
    let drive = if crate::prepare::is_url(text) {
        // The image's credentials are not for whoever serves the config drive.
        let access = Access { client: access.client.clone(), authorization: None, file_roots: Vec::new() };
        match source::from_url(text, &access) {
            Ok(source) => {
                ConfigDrive::fetch(source.as_ref(), settings.image_retries, settings.image_retry_interval).await
            }
            Err(error) => return Err(AgentError::new(Class::DeploymentError, client::chain(&error))),
        }
    } else {
        ConfigDrive::from_wire(text)
    };
    drive.map_err(|error| AgentError::new(Class::DeploymentError, client::chain(&error)))
}

pub(crate) fn download_error(image: &str, reason: &str) -> AgentError {
    AgentError::new(Class::ImageDownloadError, format!("Download of image {image} failed: {reason}"))
}

fn write_error(job: &Job<'_>, reason: &str) -> AgentError {
    let (device, image) = (&job.device, &job.info.id);
    AgentError::new(Class::ImageWriteError, format!("Writing image {image} to device {device} failed: {reason}"))
}

/// The protocol's class for what went wrong, with the whole reason and what is on the disk now.
fn classify(job: &Job<'_>, error: &WriteError) -> AgentError {
    let image = &job.info.id;
    let reason = client::chain(&error.cause);
    let state = error.state;
    let class = match &error.cause {
        Cause::Fetch(FetchError::Cancelled | FetchError::Stopped) | Cause::Cancelled => {
            let details = format!("writing image {image} was stopped on request; {}: {state}", error.disk);
            return AgentError::new(Class::CommandCancelled, details);
        }
        Cause::Fetch(FetchError::TooLong(_)) => Class::ImageDownloadTimeoutError,
        Cause::Fetch(FetchError::Source { .. } | FetchError::GaveUp { .. } | FetchError::TooMany { .. })
        | Cause::NoSource => Class::ImageDownloadError,
        Cause::Digest { source_name, got, want, .. } => {
            let details = format!(
                "Image failed to verify against checksum. location: {source_name}; image ID: {image}; image checksum: \
                 {want}; verification checksum: {got}; {}: {state}",
                error.disk
            );
            return AgentError::new(Class::ImageChecksumError, details);
        }
        Cause::Qcow2(Qcow2Error::Differs { .. }) => Class::ImageChecksumError,
        Cause::Partition(PartitionError::Format(_) | PartitionError::Boot(_) | PartitionError::Grub(_)) => {
            return write_error(job, &format!("{reason}; {}: {state}", error.disk));
        }
        Cause::Decompress(_) | Cause::Image(_) | Cause::Partition(_) | Cause::Qcow2(_) => {
            let details = format!("image {image} cannot be used: {reason}; {}: {state}", error.disk);
            return AgentError::new(Class::InvalidImage, details);
        }
        Cause::ConfigDrive(_) => {
            return AgentError::new(Class::DeploymentError, format!("{reason}; {}: {state}", error.disk));
        }
        Cause::Budget(_) | Cause::Disk(_) | Cause::ReadBack { .. } | Cause::Stage(_) => {
            return write_error(job, &format!("{reason}; {}: {state}", error.disk));
        }
    };
    AgentError::new(class, format!("Download of image {image} failed: {reason}; {}: {state}", error.disk))
}
