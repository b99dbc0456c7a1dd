//! Nothing is destroyed by accident: a dry run shows what would be lost, and a person is asked.

use crate::api::{Api, ApiError, Node};
use crate::destroy::{self, Does, Loss};
use crate::error::Error;
use crate::output::{self, Output};
use crate::table;
use crate::verbs::way;
use lifecycle::provision::Verb;
use serde_json::json;
use std::io::{BufRead as _, Write as _};

/// Options of verbs that destroy or interrupt.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ConsentArgs {
    /// Show what would be destroyed, and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    /// What was asked for.
    On,
    /// Nothing; what would be lost is shown.
    Home,
}

impl ConsentArgs {
    /// Shows what would be lost and asks, as the options say. Each node comes with what is done to it.
    pub(crate) async fn ask(
        self,
        api: &Api,
        output: Output,
        verb: Verb,
        nodes: &[(&Node, &Does)],
    ) -> Result<Go, Error> {
        if self.yes && !self.dry_run {
            return Ok(Go::On);
        }
        let losses = losses(api, way::word(verb), nodes).await?;
        let losses: Vec<Loss> = losses
            .into_iter()
            .zip(nodes)
            .map(|(loss, (node, _))| loss.refused(way::remedy(node.title(), node.state(), verb)))
            .collect();
        self.end(output, way::word(verb), nodes, losses)
    }

    /// As [`Self::ask`], of what is no provision verb.
    pub(crate) async fn ask_plainly(
        self,
        api: &Api,
        output: Output,
        action: &str,
        nodes: &[(&Node, &Does)],
    ) -> Result<Go, Error> {
        if self.yes && !self.dry_run {
            return Ok(Go::On);
        }
        self.end(output, action, nodes, losses(api, action, nodes).await?)
    }

    fn end(self, output: Output, action: &str, nodes: &[(&Node, &Does)], losses: Vec<Loss>) -> Result<Go, Error> {
        if self.dry_run {
            let text = format!("{}A dry run: nothing was changed.", destroy::text(&losses, table::width()));
            output.result(&text, &json!({"dry_run": true, "nodes": losses}));
            return Ok(Go::Home);
        }
        let costs = nodes.first().map_or("changes nothing", |(_, does)| does.costs());
        confirm(action, costs, nodes.len(), &destroy::text(&losses, table::width()))?;
        Ok(Go::On)
    }
}

async fn losses(api: &Api, action: &str, nodes: &[(&Node, &Does)]) -> Result<Vec<Loss>, Error> {
    let mut losses = Vec::with_capacity(nodes.len());
    for (node, does) in nodes {
        let loss: Result<Loss, ApiError> = destroy::loss(api, node, action, does).await;
        losses.push(loss.map_err(|error| Error::of(node.title(), error))?);
    }
    Ok(losses)
}

/// Asks the person at the terminal. `costs`: why it is not done unasked.
pub(crate) fn confirm(action: &str, costs: &str, nodes: usize, what: &str) -> Result<(), Error> {
    if !output::can_ask() {
        return Err(Error::usage(
            format!("{action} {costs}, and there is nobody to ask"),
            "--dry-run shows what would be lost; --yes does it without asking",
        ));
    }
    let mut err = std::io::stderr();
    let with = if nodes > 1 { format!(" with {nodes} nodes") } else { String::new() };
    let _ = write!(err, "{what}Go on{with}? Type yes: ");
    let _ = err.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "yes" | "y") {
        return Ok(());
    }
    Err(Error::Declined("not confirmed".to_owned()))
}
