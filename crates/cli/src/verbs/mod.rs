//! The verbs about nodes: what can be looked at, and what can be asked for.

pub(crate) mod act;
mod deploy;
mod enroll;
mod erasures;
mod logs;
pub(crate) mod look;
mod provision;
mod set;
mod show;
pub(crate) mod way;
mod why;

pub(crate) use erasures::{ErasureVerb, ErasuresArgs, key as erasure_key, verify as verify_erasure};

use crate::api::{Api, ApiError, Node};
use crate::connect::{Connection, Surroundings};
use crate::error::Error;
use crate::output::Output;
use futures::{StreamExt as _, stream};
use std::sync::Arc;

/// Requests that are under way at once.
const AT_ONCE: usize = 8;

/// Nodes, by name or UUID.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodesArg {
    /// Name or UUID of a node; may be several
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// A service to ask, and where answers go.
pub(crate) struct Session {
    pub(crate) api: Arc<Api>,
    pub(crate) output: Output,
}

impl Session {
    /// As flags, environment and configuration say. `read_only`: nothing can be changed through it.
    pub(crate) fn new(connection: &Connection, read_only: bool) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        let around = Surroundings { variable: &variable, read: &crate::connect::read_file };
        let api = Api::new(connection.endpoint(&around)?)?;
        let api = if read_only { api.read_only() } else { api };
        Ok(Self { api: Arc::new(api), output: Output { format: connection.output } })
    }

    /// The nodes that are named, each once. All have to be there before anything is done to one.
    pub(crate) async fn nodes(&self, named: &NodesArg) -> Result<Vec<Node>, Error> {
        let found: Vec<Result<Node, ApiError>> =
            stream::iter(&named.nodes).map(|ident| self.api.node(ident)).buffered(AT_ONCE).collect().await;
        let mut nodes: Vec<Node> = Vec::new();
        let mut errors = Vec::new();
        for (ident, found) in named.nodes.iter().zip(found) {
            match found {
                Ok(node) if nodes.iter().any(|known| known.uuid() == node.uuid()) => {}
                Ok(node) => nodes.push(node),
                Err(error) => errors.push(Error::of(ident, error)),
            }
        }
        match errors.len() {
            0 => Ok(nodes),
            1 => Err(errors.remove(0)),
            failed => {
                // One that is not reached says the same as many.
                if let Some(at) = errors.iter().position(|error| error.exit() != crate::exit::Exit::Missing) {
                    return Err(errors.swap_remove(at));
                }
                errors.iter().for_each(|error| self.output.error(error));
                Err(Error::SomeMissing { missing: failed, all: named.nodes.len() })
            }
        }
    }
}

/// `ferric node erasures`.
pub(crate) async fn erasures(args: &ErasuresArgs, connection: &Connection) -> Result<(), Error> {
    erasures::show(&Session::new(connection, true)?, args).await
}
