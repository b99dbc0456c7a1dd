//! `cargo xtask ramdisk`: kernel, initramfs, UKI and ISO of a profile, from the data in `ramdisk/`.

mod agent;
mod firmware;
mod grub;
mod layers;
mod modules;
mod packages;
mod profile;
mod programs;
#[cfg(test)]
mod readers;
mod reproducible;
mod sizes;

use crate::cmd;
use anyhow::{Context as _, Result};
use layers::Layer;
use media::pe;
use packages::Debian;
use profile::Profile;
use sha2::{Digest as _, Sha256};
use sizes::{File, Part, Report};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The part with firmware, which the budget leaves out.
const FIRMWARE: &str = "firmware";

/// The files that a build leaves in its output folder.
const ARTEFACTS: [&str; 5] = ["vmlinuz", "initramfs", "ferric.efi", "ferric.iso", "sizes.json"];

#[derive(clap::Args)]
pub struct Args {
    /// Profile: the name of a file in ramdisk/profiles, without .toml
    #[arg(long, default_value = "vm")]
    profile: String,
    /// Folder that takes vmlinuz, initramfs, ferric.efi, ferric.iso and sizes.json
    #[arg(long, default_value = "target/ramdisk")]
    out: PathBuf,
    /// Build HEAD in two fresh clones with empty target folders and caches, and compare all artefacts
    #[arg(long)]
    check_reproducible: bool,
    /// Download, unpack and compress everything again
    #[arg(long)]
    no_cache: bool,
    /// Pack the firmware that the profile's modules ask for; the machine's apt sources need Debian's non-free-firmware
    #[arg(long)]
    firmware: bool,
    /// Write the generated module list of the profile anew from the kernel package, and nothing else
    #[arg(long)]
    update_modules: bool,
    /// For work on the ramdisk itself: a static program to be /init instead of ferric-agent
    #[arg(long, hide = true, value_name = "PATH")]
    init: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    if args.check_reproducible {
        return reproducible::check(&args.profile, &args.out);
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    let cache = if args.no_cache { args.out.join(".cache") } else { cmd::cache().join("ramdisk") };
    if args.no_cache && cache.exists() {
        // An earlier run failed here.
        std::fs::remove_dir_all(&cache).with_context(|| format!("remove {}", cache.display()))?;
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    // Programs are started in other folders.
    let cache = cache.canonicalize()?;
    if args.update_modules {
        return update_modules(&args.profile, &cache);
    }
    let report = build(args, &cache)?;
    if args.no_cache {
        std::fs::remove_dir_all(&cache).with_context(|| format!("remove {}", cache.display()))?;
    }
    eprint!("{}", report.table());
    report.check_budget()
}

fn build(args: &Args, cache: &Path) -> Result<Report> {
    let root = cmd::root();
    let profile = Profile::load(&root, &args.profile)?;
    let mut debian = Debian::new(cache);

    let (vmlinuz, modules) = kernel(&profile, &mut debian)?;
    let program = match &args.init {
        Some(path) => path.clone(),
        None => agent::build(&root)?,
    };
    let os_release = os_release(&args.profile, &root)?;
    let firmware =
        if args.firmware { firmware::collect(&profile, &modules.firmware, &mut debian)? } else { BTreeMap::new() };
    let layers = layers(&profile, &mut debian, &modules, &firmware, &program, &os_release, cache)?;
    let initramfs = layers.iter().map(|layer| layer.packed.as_slice()).collect::<Vec<_>>().concat();

    let stub = debian.package(&profile.stub.package)?.files.join(&profile.stub.path);
    let stub = std::fs::read(&stub).with_context(|| format!("read the EFI stub {}", stub.display()))?;
    let uki = pe::build(
        &stub,
        &pe::Sections {
            os_release: &os_release,
            uname: &modules.release,
            cmdline: &profile.kernel.cmdline,
            linux: &vmlinuz,
            initrd: &initramfs,
        },
    )
    .context("make ferric.efi")?;
    let iso = media::boot::uefi_iso(&uki, &[], media::boot::VIRTUAL_MEDIA_LABEL).context("make ferric.iso")?;

    let mut parts =
        vec![Part { name: "kernel".to_owned(), packed: vmlinuz.len() as u64, unpacked: vmlinuz.len() as u64 }];
    parts.extend(layers.iter().map(|layer| Part {
        name: layer.name.to_owned(),
        packed: layer.packed.len() as u64,
        unpacked: layer.unpacked,
    }));
    let mut report = Report {
        profile: args.profile.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: modules.release.clone(),
        // Firmware is the operator's choice, and may be larger than all the rest.
        total: sizes::total(parts.iter().filter(|part| part.name != FIRMWARE)),
        parts,
        budget: profile.budget,
        files: BTreeMap::new(),
        packages: debian
            .packages()
            .map(|package| (package.record.name.clone(), package.record.version.clone()))
            .collect(),
    };
    let artefacts = [("vmlinuz", &vmlinuz), ("initramfs", &initramfs), ("ferric.efi", &uki), ("ferric.iso", &iso)];
    for (name, bytes) in artefacts {
        leave(&args.out, name, bytes)?;
        let file = File { bytes: bytes.len() as u64, sha256: hex::encode(Sha256::digest(bytes)) };
        report.files.insert(name.to_owned(), file);
    }
    let mut json = serde_json::to_vec_pretty(&report)?;
    json.push(b'\n');
    leave(&args.out, "sizes.json", &json)?;
    Ok(report)
}

fn update_modules(name: &str, cache: &Path) -> Result<()> {
    let root = cmd::root();
    let profile = Profile::load_without_list(&root, name)?;
    let (package, release) = kernel_package(&profile, &mut Debian::new(cache))?;
    let list = modules::list(&package.files, &release, &profile.classes, &profile.modules)?;
    let path = profile::list_path(&root, name);
    std::fs::create_dir_all(path.parent().unwrap_or(&root))?;
    std::fs::write(&path, list).with_context(|| format!("write {}", path.display()))
}

/// The kernel's image and the modules of the profile.
fn kernel(profile: &Profile, debian: &mut Debian) -> Result<(Vec<u8>, modules::Modules)> {
    let (package, release) = kernel_package(profile, debian)?;
    let image = package.files.join(format!("boot/vmlinuz-{release}"));
    let vmlinuz = std::fs::read(&image).with_context(|| format!("read the kernel {}", image.display()))?;
    let modules = modules::collect(&package.files, &release, &profile.modules, profile.kernel.compressed_modules)?;
    Ok((vmlinuz, modules))
}

/// The kernel's package and release. The profile names a package that depends on the newest kernel.
fn kernel_package(profile: &Profile, debian: &mut Debian) -> Result<(packages::Package, String)> {
    let newest = debian.package(&profile.kernel.package)?;
    let versioned = packages::first_dependency(&newest.record)?;
    let release = versioned
        .strip_prefix("linux-image-")
        .with_context(|| format!("{} depends on {versioned}, which is no kernel", profile.kernel.package))?
        .to_owned();
    Ok((debian.package(versioned)?, release))
}

/// What changes most often comes last.
fn layers(
    profile: &Profile,
    debian: &mut Debian,
    modules: &modules::Modules,
    firmware: &BTreeMap<String, programs::File>,
    program: &Path,
    os_release: &str,
    cache: &Path,
) -> Result<Vec<Layer>> {
    let mut programs = programs::collect(profile, debian)?;
    if let Some(grub) = &profile.grub {
        programs.extend(grub::files(grub, debian, cache)?);
    }
    let mut layers =
        vec![layers::system(profile, &cmd::root().join("ramdisk"), cache)?, layers::modules(modules, cache)?];
    if !firmware.is_empty() {
        layers.push(layers::files(FIRMWARE, firmware, cache)?);
    }
    layers.extend([layers::files("programs", &programs, cache)?, layers::agent(program, os_release, cache)?]);
    Ok(layers)
}

/// What the ramdisk calls itself (os-release(5)); the build id is the commit, where there is one.
fn os_release(profile: &str, root: &Path) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        "NAME=\"Ferric ramdisk\"\nID=ferric\nVERSION_ID={version}\nPRETTY_NAME=\"Ferric ramdisk {version} \
         ({profile})\"\nVARIANT_ID={profile}\n"
    );
    if root.join(".git").exists() {
        let git = |args: &[&str]| cmd::output(Command::new("git").arg("-C").arg(root).args(args));
        let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        let changed = if git(&["status", "--porcelain"])?.is_empty() { "" } else { "-changed" };
        text.push_str(&format!("BUILD_ID={}{changed}\n", commit.trim()));
    }
    Ok(text)
}

/// Writes a file so that nobody who serves the folder sees half of it.
fn leave(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let partial = dir.join(format!(".{name}.part"));
    std::fs::write(&partial, bytes).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, dir.join(name)).with_context(|| format!("write {}", dir.join(name).display()))
}
