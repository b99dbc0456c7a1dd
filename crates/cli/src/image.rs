//! `ferric image write|info|verify`.

mod access;
mod output;
mod target;

pub(crate) use output::Output;

use crate::exit::Exit;
use access::Where;
use clap::ValueEnum;
use disk_image::decompress::Compression;
use disk_image::disk::OpenError;
use disk_image::source::{Source, SourceError};
use disk_image::sums::{ReadSumsError, SumsError};
use disk_image::{BUDGET, Cause, Info, PartitionInfo, Plan, VerifyError, WriteError, Written};
use output::mib;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What is done with an image.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Write an image to a disk or file. The target does not boot before all of the image is verified
    Write(WriteArgs),
    /// Show format, packing, size and partitions, from the head of the image alone
    Info(InfoArgs),
    /// Compare a disk or file with the image, every byte, without writing. What an installed system changed differs
    Verify(VerifyArgs),
}

impl Verb {
    /// Whether a program reads the output.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Write(args) => args.image.json,
            Self::Info(args) => args.image.json,
            Self::Verify(args) => args.image.json,
        }
    }
}

/// Which image, and how to reach it.
#[derive(Debug, clap::Args)]
struct Image {
    #[command(flatten)]
    from: Where,
    /// Memory for windows, tables and buffers of the image
    #[arg(long, value_name = "MIB", default_value_t = BUDGET >> 20, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    budget: u64,
    /// One JSON object a line on standard output; `event` is progress, error, or done
    #[arg(long)]
    json: bool,
}

/// What the image has to be.
#[derive(Debug, clap::Args)]
struct Expected {
    /// What the image is declared to be, and must be; without it, what its first bytes say
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// How the image is declared to be packed, and must be; without it, how its first bytes say
    #[arg(long, value_enum)]
    packing: Option<Packing>,
    /// Digest of the image as it is transported: sha256:HEX (sha384, sha512), or the URL of a file of digests, with
    /// `sha256:` in front where that algorithm has to be the one
    #[arg(long)]
    checksum: Option<String>,
    /// Accept MD5 digests. Anybody can make another image with the same one
    #[arg(long)]
    allow_md5: bool,
}

/// Arguments of `write`.
#[derive(Debug, clap::Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    image: Image,
    /// Block device, or file; a file that does not exist is made, as large as the image
    target: PathBuf,
    #[command(flatten)]
    expected: Expected,
    /// How much is read back when all is written
    #[arg(long, value_enum, default_value_t = Verify::Sampled)]
    verify: Verify,
    /// Overwrite a target that exists, without asking
    #[arg(short, long)]
    yes: bool,
    /// Show what would be overwritten, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Give the disk a GUID of its own in a GUID partition table, in place of the image's; partitions keep theirs
    #[arg(long)]
    new_disk_guid: bool,
    /// Size of a file that is made, bytes
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
}

/// Arguments of `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    image: Image,
}

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    image: Image,
    /// Block device or file
    target: PathBuf,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Raw,
    Qcow2,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verify {
    Sampled,
    Full,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Access(#[from] access::AccessError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("read the head of {url}")]
    Info {
        url: String,
        #[source]
        cause: Box<Cause>,
    },
    #[error("read the digests in {url}")]
    ReadSums {
        url: String,
        #[source]
        cause: Box<ReadSumsError>,
    },
    #[error("use the digests in {url}")]
    Sums {
        url: String,
        #[source]
        source: SumsError,
    },
    #[error("use --checksum {given:?}")]
    Checksum {
        given: String,
        #[source]
        source: disk_image::digest::DigestError,
    },
    #[error("{target} exists; what is on it would be lost. Give --yes to overwrite it")]
    Exists { target: String },
    #[error("{target} is the image itself: writing would destroy it")]
    Same { target: String },
    #[error("--size is for a file that is made; {target} exists and keeps its size")]
    SizeGiven { target: String },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("write image")]
    Write(#[source] Box<WriteError>),
    #[error("write image; the file that was made for it is removed again")]
    WriteNew(#[source] Box<WriteError>),
    #[error("verify image")]
    Verify(#[source] Box<VerifyError>),
    #[error("cancelled; nothing was written")]
    Cancelled,
    #[error("not confirmed; nothing was written")]
    Declined,
}

impl Error {
    /// How the program ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Access(_)
            | Self::Checksum { .. }
            | Self::Exists { .. }
            | Self::Same { .. }
            | Self::SizeGiven { .. } => Exit::Usage,
            Self::Source(error) => match error {
                SourceError::Address { .. } | SourceError::NotAllowed { .. } => Exit::Usage,
                SourceError::File { .. }
                | SourceError::Status { .. }
                | SourceError::Reply { .. }
                | SourceError::Connection { .. }
                | SourceError::Changed { .. }
                | SourceError::NoResume { .. } => Exit::Source,
            },
            Self::Info { cause, .. } => Exit::from(&**cause),
            Self::ReadSums { cause, .. } => match &**cause {
                ReadSumsError::Fetch(cause) => Exit::from(cause),
                ReadSumsError::TooLong => Exit::Source,
            },
            Self::Sums { .. } => Exit::Source,
            Self::Open(_) => Exit::Target,
            Self::Write(error) | Self::WriteNew(error) => Exit::from(&**error),
            Self::Verify(error) => Exit::from(&**error),
            Self::Cancelled | Self::Declined => Exit::Cancelled,
        }
    }

    /// What is on the target of a write that failed, in words; none for what never writes.
    pub(crate) fn target_state(&self) -> Option<String> {
        match self {
            Self::Write(error) => Some(error.state.to_string()),
            Self::WriteNew(_) => Some("removed".to_owned()),
            _ => None,
        }
    }
}

/// Does what was asked for.
pub(crate) async fn run(verb: Verb, output: &Output) -> Result<(), Error> {
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(cancel_on_signal(cancel.clone()));
    let result = match verb {
        Verb::Write(args) => write(args, output, cancel).await,
        Verb::Info(args) => until(&cancel, info(args, output)).await,
        Verb::Verify(args) => verify(args, output, cancel).await,
    };
    signals.abort();
    result
}

/// Ctrl-C and SIGTERM end a write in order.
async fn cancel_on_signal(cancel: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers, a signal ends the program as it ends any other.
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
}

/// For what is done before anything is written.
async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        result = work => result,
    }
}

async fn write(args: WriteArgs, output: &Output, cancel: CancellationToken) -> Result<(), Error> {
    let WriteArgs { image, target, expected, verify, yes, dry_run, new_disk_guid, size } = args;
    let mut plan = until(&cancel, plan(&image, &expected, output)).await?;
    plan.verify = match verify {
        Verify::Sampled => disk_image::Verify::Sampled,
        Verify::Full => disk_image::Verify::Full,
    };
    plan.new_disk_guid = new_disk_guid;
    if plan.sources.iter().filter_map(|source| source.file()).any(|file| target::is_same(&file, &target)) {
        return Err(Error::Same { target: target.display().to_string() });
    }
    let found = target::find(&target);
    if dry_run {
        output.result(&found.document(), &format!("{}\nA dry run: nothing was written.", found.text()));
        return Ok(());
    }
    let agreed = !yes && !image.json && target.exists() && crate::output::can_ask();
    if agreed {
        crate::consent::confirm("image write", "destroys data", 1, &format!("{}\n", found.text()))
            .map_err(|_| Error::Declined)?;
    }
    let target = until(&cancel, target::open(&image, &target, yes || agreed, size)).await?;
    let target::Target { disk, made } = target;
    let name = disk.name().to_owned();
    let result = disk_image::write(plan, disk, |progress| output.progress(&progress), cancel).await;
    let written = result.map_err(|error| match made {
        Some(path) if std::fs::remove_file(&path).is_ok() => Error::WriteNew(Box::new(error)),
        _ => Error::Write(Box::new(error)),
    })?;
    report("written to", &name, &written, output);
    Ok(())
}

async fn verify(args: VerifyArgs, output: &Output, cancel: CancellationToken) -> Result<(), Error> {
    let VerifyArgs { image, target, expected } = args;
    let plan = until(&cancel, plan(&image, &expected, output)).await?;
    let result = disk_image::verify(plan, &target, |progress| output.progress(&progress), cancel).await;
    let written = result.map_err(|error| Error::Verify(Box::new(error)))?;
    report("is what is on", &target.display().to_string(), &written, output);
    Ok(())
}

async fn plan(image: &Image, expected: &Expected, output: &Output) -> Result<Plan, Error> {
    let (source, mirrors) = (image.from.source()?, image.from.mirrors()?);
    let digest = match &expected.checksum {
        Some(given) => Some(access::digest(&image.from, given, expected.allow_md5).await?),
        None => {
            output.note("no --checksum is given: nothing vouches for the content of the image");
            None
        }
    };
    let mut plan = Plan::new(source, digest);
    plan.sources.extend(mirrors);
    plan.format = expected.format.map(|format| match format {
        Format::Raw => disk_image::Format::Raw,
        Format::Qcow2 => disk_image::Format::Qcow2,
    });
    plan.packing = expected.packing.map(|packing| match packing {
        Packing::None => Compression::None,
        Packing::Gzip => Compression::Gzip,
        Packing::Xz => Compression::Xz,
        Packing::Zstd => Compression::Zstd,
    });
    (plan.budget, plan.patience) = (image.budget << 20, image.from.patience());
    Ok(plan)
}

fn report(what: &str, name: &str, written: &Written, output: &Output) {
    let digest = written.digest.as_ref().map(ToString::to_string);
    let json = json!({"event": "done", "target": name, "bytes_in": written.bytes_in, "bytes_out": written.bytes_out,
                      "digest": digest, "disk_guid": written.disk_guid, "partitions": partitions(&written.partitions)});
    let mut text = format!(
        "the image {what} {name}: {} transported, {} unpacked\n",
        mib(written.bytes_in),
        mib(written.bytes_out)
    );
    if let Some(digest) = digest {
        writeln!(text, "digest      {digest}").ok();
    }
    lines(&mut text, &written.partitions);
    output.result(&json, &text);
}

/// What an image says about itself.
async fn inspect(image: &Image) -> Result<Info, Error> {
    let (patience, budget) = (image.from.patience(), image.budget << 20);
    let look = async |source: &dyn Source| {
        let info = disk_image::info(source, &patience, budget).await;
        info.map_err(|cause| Error::Info { url: source.name().to_owned(), cause: Box::new(cause) })
    };
    let mut found = look(&*image.from.source()?).await;
    for mirror in image.from.mirrors()? {
        // Only another server can do better; another copy of what is no image cannot.
        if !found.as_ref().is_err_and(|error| error.exit() == Exit::Source) {
            break;
        }
        found = look(&*mirror).await;
    }
    found
}

async fn info(args: InfoArgs, output: &Output) -> Result<(), Error> {
    let info = inspect(&args.image).await?;
    let json = json!({"event": "done", "format": info.format.name(), "packing": info.compression.name(),
                      "transported": info.transported, "virtual_size": info.virtual_size, "needed": info.needed,
                      "sector_size": info.sector_size, "disk_guid": info.disk_guid,
                      "partitions": partitions(&info.partitions)});
    let size = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{bytes} ({})", mib(bytes)));
    let mut text = format!("format      {}\npacking     {}\n", info.format.name(), info.compression.name());
    writeln!(text, "transported {}", size(info.transported)).ok();
    writeln!(text, "disk in it  {}", size(info.virtual_size)).ok();
    writeln!(text, "needs       {}", size(Some(info.needed))).ok();
    writeln!(text, "sectors     {} bytes", info.sector_size).ok();
    lines(&mut text, &info.partitions);
    output.result(&json, &text);
    Ok(())
}

fn partitions(all: &[PartitionInfo]) -> Vec<Value> {
    let one = |partition: &PartitionInfo| {
        let PartitionInfo { number, offset, size, kind, uuid, name } = partition;
        json!({"number": number, "offset": offset, "size": size, "type": kind, "uuid": uuid, "name": name})
    };
    all.iter().map(one).collect()
}

fn lines(text: &mut String, partitions: &[PartitionInfo]) {
    for PartitionInfo { number, offset, size, kind, uuid, name } in partitions {
        writeln!(text, "partition {number}: at {offset}, {}, type {kind}, {uuid} {name:?}", mib(*size)).ok();
    }
}
