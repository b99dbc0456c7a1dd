//! The Ironic that people run today: API and conductor in one process, with SQLite and without authentication.

use crate::Api;
use crate::ferricd::API;
use crate::image_server::ImageServer;
use crate::lab::{GATEWAY, Lab, Process, output, tail};
use crate::stories::Service;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Debian's GRUB with all modules, of package grub-efi-amd64-bin. It reads `EFI/debian/grub.cfg` of the medium that it
/// was started from.
const GRUB: &str = "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi";

/// What our kernel gets besides what Ironic adds itself: the same consoles as in `ferric.efi`.
const KERNEL_PARAMETERS: &str = "console=tty0 console=ttyS0,115200n8 quiet";

/// Where Ironic's folder of boot media is served for BMCs.
const FILES_PORT: u16 = 8090;

/// Where the web server for it logs, in the folder of logs.
const BOOT_MEDIA_LOG: &str = "boot-media.log";

/// Ironic and the web server for the boot media that it makes.
#[derive(Debug)]
pub struct Ironic {
    process: Process,
    files: Process,
    logs: PathBuf,
    driver_info: Vec<String>,
}

impl Ironic {
    /// Makes a database, starts Ironic and waits until its API has a conductor. `images` gets kernel, initramfs and
    /// boot loader, for [`Self::driver_info`].
    ///
    /// # Errors
    /// When it ends or does not answer in time; the error carries the end of its log.
    pub async fn start(lab: &Lab, images: &ImageServer) -> Result<Self> {
        Self::start_with(lab, images, &lab.artifacts().ramdisk).await
    }

    /// As [`Self::start`], with the ramdisk of another profile.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(lab: &Lab, images: &ImageServer, ramdisk: &Path) -> Result<Self> {
        let python = lab.artifacts().ironic.clone().context("no Ironic: `cargo xtask interop ironic` installs it")?;
        let dir = lab.dir().join("ironic");
        for name in ["http", "certificates", "tmp", "masters"] {
            fs::create_dir_all(dir.join(name)).with_context(|| format!("create {}", dir.join(name).display()))?;
        }
        let loader = dir.join("esp.img");
        fs::write(&loader, boot_loader()?).context("write the boot loader's image")?;
        let driver_info = vec![
            format!("deploy_kernel={}", images.offer("vmlinuz", &ramdisk.join("vmlinuz"))),
            format!("deploy_ramdisk={}", images.offer("initramfs", &ramdisk.join("initramfs"))),
            format!("bootloader={}", images.offer("esp.img", &loader)),
        ];

        let config = dir.join("ironic.conf");
        fs::write(&config, settings(&dir, &lab.logs()))?;
        let program = |name: &str| {
            let mut command = Command::new(python.join("bin").join(name));
            command.arg("--config-file").arg(&config).env("no_proxy", "*").env("HOME", &dir).current_dir(&dir);
            command
        };
        output(program("ironic-dbsync").arg("create_schema")).await.context("make Ironic's database")?;
        let mut files = Command::new(python.join("bin/python"));
        files
            .env("PYTHONUNBUFFERED", "1")
            .args(["-m", "http.server", "--bind", &GATEWAY.to_string(), "--directory"])
            .arg(dir.join("http"))
            .arg(FILES_PORT.to_string());
        let files = Process::start("Ironic's boot media", &mut files, &lab.logs().join(BOOT_MEDIA_LOG))?;
        let process = Process::start("ironic", &mut program("ironic"), &lab.logs().join("ironic.out.log"))?;
        let mut ironic = Self { process, files, logs: lab.logs(), driver_info };
        ironic.wait_for_conductor().await?;
        Ok(ironic)
    }

    async fn wait_for_conductor(&mut self) -> Result<()> {
        let api = Api::new(API);
        crate::until("Ironic with a conductor", Duration::from_secs(120), async || {
            self.check()?;
            let drivers = api.get("/v1/drivers").await.unwrap_or_default();
            Ok(drivers["drivers"].as_array().is_some_and(|drivers| !drivers.is_empty()).then_some(()))
        })
        .await
    }

    /// The script with which iPXE finds the node's own: what DHCP names as the boot file.
    #[must_use]
    pub fn ipxe_script() -> String {
        format!("http://{GATEWAY}:{FILES_PORT}/boot.ipxe")
    }

    /// What was asked of the web server for boot media, one request a line.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn fetched(&self) -> Result<String> {
        let log = self.logs.join(BOOT_MEDIA_LOG);
        fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))
    }

    /// What makes a node boot our ramdisk, as pairs for `--driver-info`: what an operator changes who swaps the ramdisk.
    #[must_use]
    pub fn driver_info(&self) -> &[String] {
        &self.driver_info
    }

    /// Archives of agents' logs that Ironic has stored.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub fn collected_logs(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.logs).with_context(|| format!("read {}", self.logs.display()))?;
        let paths = entries.collect::<std::io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path());
        Ok(paths.filter(|path| path.to_string_lossy().ends_with(".tar.gz")).collect())
    }

    fn log(&self) -> PathBuf {
        self.logs.join("ironic.log")
    }
}

impl Service for Ironic {
    fn check(&mut self) -> Result<()> {
        self.process.check().with_context(|| format!("its log ends with: {}", tail(&self.log(), 1500)))?;
        self.files.check()
    }
}

/// The settings of Ironic. What is not here is Ironic's default: in particular, agents must speak TLS.
fn settings(dir: &Path, logs: &Path) -> String {
    let (dir, logs) = (dir.display(), logs.display());
    format!(
        "[DEFAULT]\n\
         auth_strategy = noauth\n\
         host = interop\n\
         my_ip = {GATEWAY}\n\
         # API and conductor in one process talk without a message queue.\n\
         rpc_transport = none\n\
         debug = True\n\
         log_file = {logs}/ironic.log\n\
         state_path = {dir}\n\
         tempdir = {dir}/tmp\n\
         grub_config_path = EFI/debian/grub.cfg\n\
         enabled_hardware_types = redfish\n\
         enabled_bios_interfaces = no-bios\n\
         enabled_boot_interfaces = redfish-virtual-media,ipxe\n\
         enabled_console_interfaces = no-console\n\
         enabled_deploy_interfaces = direct\n\
         enabled_firmware_interfaces = no-firmware\n\
         enabled_inspect_interfaces = agent\n\
         enabled_management_interfaces = redfish\n\
         enabled_network_interfaces = noop\n\
         enabled_power_interfaces = redfish\n\
         enabled_raid_interfaces = no-raid\n\
         enabled_rescue_interfaces = no-rescue,agent\n\
         enabled_storage_interfaces = noop\n\
         enabled_vendor_interfaces = no-vendor\n\
         [agent]\n\
         certificates_path = {dir}/certificates\n\
         deploy_logs_local_path = {logs}\n\
         [api]\n\
         host_ip = 0.0.0.0\n\
         port = 6385\n\
         [database]\n\
         connection = sqlite:///{dir}/ironic.sqlite\n\
         [deploy]\n\
         http_root = {dir}/http\n\
         http_url = http://{GATEWAY}:{FILES_PORT}\n\
         iso_master_path = {dir}/masters\n\
         [dhcp]\n\
         # The lab's own DHCP names the boot script.\n\
         dhcp_provider = none\n\
         [inventory]\n\
         data_backend = database\n\
         [oslo_concurrency]\n\
         lock_path = {dir}/tmp\n\
         [pxe]\n\
         images_path = {dir}/images\n\
         kernel_append_params = {KERNEL_PARAMETERS}\n\
         instance_master_path = {dir}/masters\n\
         tftp_master_path = {dir}/masters\n\
         tftp_root = {dir}/tftp\n\
         [redfish]\n\
         kernel_append_params = {KERNEL_PARAMETERS}\n\
         [service_catalog]\n\
         endpoint_override = http://{GATEWAY}:6385\n"
    )
}

/// A file system image with GRUB, from which Ironic makes bootable media.
fn boot_loader() -> Result<Vec<u8>> {
    let grub = fs::read(GRUB).with_context(|| format!("read {GRUB} (package grub-efi-amd64-bin)"))?;
    let mut image = Cursor::new(vec![0; 8 << 20]);
    ensure!(grub.len() < 7 << 20, "{GRUB} has {} bytes, which is more than its image has room for", grub.len());
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new().volume_label(*b"BOOTLOADER "))?;
    image.set_position(0);
    {
        let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new())?;
        volume.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
        let mut file = volume.root_dir().create_file("EFI/BOOT/BOOTX64.EFI")?;
        file.write_all(&grub)?;
        file.flush()?;
    }
    Ok(image.into_inner())
}
