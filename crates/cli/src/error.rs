//! Why a verb failed, how the program ends, and what to do about it.

use crate::api::ApiError;
use crate::connect::ConnectError;
use crate::exit::Exit;
use crate::image;
use crate::input::InputError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Input(#[from] InputError),
    /// Arguments that cannot be meant.
    #[error("{text}")]
    Usage { text: String, remedy: String },
    #[error(transparent)]
    Api(Box<ApiError>),
    /// What the service said about a node.
    #[error("{node}")]
    Node {
        node: String,
        #[source]
        source: Box<ApiError>,
        remedy: Option<String>,
    },
    /// The state of a node does not have this verb; found before anybody is asked.
    #[error("{verb} is not possible while {node} is {state:?}")]
    TooEarly { node: String, verb: &'static str, state: String, remedy: String },
    /// A node ended otherwise than was asked for.
    #[error("{node} is now {state:?}: {why}")]
    Ended { node: String, state: String, why: String },
    #[error("{node} is still {state:?} after {seconds} s")]
    Late { node: String, state: String, seconds: u64 },
    #[error("{0}; nothing was changed")]
    Declined(String),
    #[error("stopped watching; what was begun goes on")]
    Interrupted { nodes: String },
    #[error("{0}")]
    Differs(String),
    #[error("write the result: {0}")]
    Unwritten(String),
    /// Each that is missing has told so already.
    #[error("{missing} of {all} nodes are not there; nothing was asked for the others")]
    SomeMissing { missing: usize, all: usize },
    /// Each of several nodes has told its own already.
    #[error("{failed} of {all} nodes failed")]
    Some { failed: usize, all: usize, exit: Exit },
}

/// What to do about a refusal that a setting of the node is the reason of; by the words of Ironic's refusals, which are
/// ferricd's too.
fn settings(node: &str, error: &ApiError) -> Option<String> {
    let ApiError::Refused { text, .. } = error else { return None };
    let says = |words: &str| text.contains(words);
    if says("because it's in maintenance") {
        return Some(format!("`ferric maintenance off {node}` takes it back"));
    }
    if says("protected") {
        return Some(format!("`ferric node set {node} --protected no` allows it"));
    }
    if says("is locked") {
        return Some(format!("try again in a moment; `ferric node why {node}` says what holds it"));
    }
    if says("image_source") || says("image_checksum") || says("image_os_hash") {
        return Some("give --image URL with --checksum sha256:HEX".to_owned());
    }
    if says("driver_info") || says("redfish_") {
        return Some(format!("`ferric node set {node} --driver-info KEY=VALUE` sets it"));
    }
    None
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

impl Error {
    /// A mistake in the arguments, and what would be right.
    pub(crate) fn usage(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { text: text.into(), remedy: remedy.into() }
    }

    /// What the service said of a node.
    pub(crate) fn of(node: &str, source: ApiError) -> Self {
        match source {
            // These name the node or have nothing to do with it.
            source @ (ApiError::NoNode { .. }
            | ApiError::Unreachable { .. }
            | ApiError::Understood { .. }
            | ApiError::Denied { .. }
            | ApiError::Broken { .. }
            | ApiError::CutOff { .. }
            | ApiError::Lacking { .. }) => source.into(),
            source => {
                let remedy = settings(node, &source);
                Self::Node { node: format!("node {node:?}"), source: Box::new(source), remedy }
            }
        }
    }

    /// How the program ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Image(error) => error.exit(),
            Self::Connect(_) | Self::Input(_) | Self::Usage { .. } => Exit::Usage,
            Self::Api(error) | Self::Node { source: error, .. } => error.exit(),
            Self::TooEarly { .. } => Exit::Refused,
            Self::Ended { .. } => Exit::Failed,
            Self::Late { .. } => Exit::Late,
            Self::Declined(_) | Self::Interrupted { .. } => Exit::Cancelled,
            Self::Differs(_) => Exit::Differs,
            Self::Unwritten(_) => Exit::Fault,
            Self::SomeMissing { .. } => Exit::Missing,
            Self::Some { exit, .. } => *exit,
        }
    }

    /// What to do, when there is something.
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Self::Image(_)
            | Self::Declined(_)
            | Self::Differs(_)
            | Self::Unwritten(_)
            | Self::SomeMissing { .. }
            | Self::Some { .. } => None,
            Self::Connect(error) => Some(error.remedy()),
            Self::Input(error) => error.remedy(),
            Self::Usage { remedy, .. } | Self::TooEarly { remedy, .. } => {
                Some(remedy.clone()).filter(|remedy| !remedy.is_empty())
            }
            Self::Api(error) => error.remedy(),
            Self::Node { source, remedy, .. } => remedy.clone().or_else(|| source.remedy()),
            Self::Ended { node, .. } => Some(format!(
                "`ferric node why {node}` says what can be done, `ferric node history {node}` what happened"
            )),
            // Power has no state of its own to be watched in.
            Self::Late { node, state, .. } if state.starts_with("power") => {
                Some(format!("it goes on; `ferric node show {node}` shows what became of it"))
            }
            Self::Late { node, .. } => Some(format!(
                "it goes on; `ferric watch {node}` shows it, `ferric node why {node}` says what it waits for"
            )),
            Self::Interrupted { nodes } if nodes.split(' ').count() > 3 => {
                Some("`ferric watch` shows all that goes on, `ferric abort NODE` ends what waits".to_owned())
            }
            Self::Interrupted { nodes } => {
                Some(format!("`ferric watch {nodes}` shows it again, `ferric abort {nodes}` ends what waits"))
            }
        }
    }
}
