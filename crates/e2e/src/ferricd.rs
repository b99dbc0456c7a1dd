//! The driver as a process that can be killed and started again.

use crate::api::Api;
use crate::lab::{GATEWAY, Lab, Process, tail};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// Where the API listens.
pub(crate) const API: &str = "http://127.0.0.1:6385";

/// `ferricd` with its data folder in the lab.
#[derive(Debug)]
pub struct Ferricd {
    program: PathBuf,
    ramdisk: PathBuf,
    rescue_ramdisk: Option<PathBuf>,
    data: PathBuf,
    log: PathBuf,
    settings: Vec<(&'static str, &'static str)>,
    process: Option<Process>,
}

impl Ferricd {
    /// Starts it and waits until `GET /v1` answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time; the error carries the end of its log.
    pub async fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, &[]).await
    }

    /// As [`Self::start`], with settings from its environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(lab: &Lab, settings: &[(&'static str, &'static str)]) -> Result<Self> {
        let mut ferricd = Self::of(lab, settings);
        ferricd.start_again().await?;
        Ok(ferricd)
    }

    /// As [`Self::start`], with another ramdisk for its nodes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_ramdisk(lab: &Lab, ramdisk: &Path) -> Result<Self> {
        let mut ferricd = Self { ramdisk: ramdisk.to_owned(), ..Self::of(lab, &[]) };
        ferricd.start_again().await?;
        Ok(ferricd)
    }

    /// As [`Self::start`], with another ramdisk for rescues.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_rescue_ramdisk(lab: &Lab, ramdisk: &Path) -> Result<Self> {
        let mut ferricd = Self { rescue_ramdisk: Some(ramdisk.to_owned()), ..Self::of(lab, &[]) };
        ferricd.start_again().await?;
        Ok(ferricd)
    }

    fn of(lab: &Lab, settings: &[(&'static str, &'static str)]) -> Self {
        Self {
            program: lab.artifacts().ferricd.clone(),
            ramdisk: lab.artifacts().ramdisk.clone(),
            rescue_ramdisk: None,
            data: lab.dir().join("ferricd"),
            log: lab.logs().join("ferricd.log"),
            settings: settings.to_vec(),
            process: None,
        }
    }

    /// Starts it over the data folder that the last run left.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.data).with_context(|| format!("create {}", self.data.display()))?;
        let mut command = Command::new(&self.program);
        command
            .env("NO_COLOR", "1")
            .envs(self.settings.iter().copied())
            .envs(self.rescue_ramdisk.iter().map(|folder| ("FERRIC_RESCUE_RAMDISK_DIR", folder)))
            .args(["--listen", "127.0.0.1:6385", "--agent-listen", &format!("{GATEWAY}:6386")])
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--ramdisk-dir")
            .arg(&self.ramdisk);
        let mut process = Process::start("ferricd", &mut command, &self.log)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let api = Api::new(API);
        while api.get("/v1").await.is_err() {
            process.check()?;
            if Instant::now() > deadline {
                bail!("ferricd does not answer GET /v1 within 60 s; its log ends with: {}", tail(&self.log, 1500));
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.take().context("ferricd does not run")?.kill().await
    }

    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().context("ferricd does not run")?.check()
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &PathBuf {
        &self.data
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
