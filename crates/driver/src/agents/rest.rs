//! The agent's REST API, dialled. The rules are those of Ironic's agent client: 60 s for an answer; 409 or "agent is
//! busy" in the text means busy; an answer with a `TypeError` means that a parameter is not known.

use super::{Agent, AgentAddress, AgentError, Agents};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request};
use http_body_util::Full;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use transport::client::{Client, Reply, Settings, Trust, chain};
use wire::agent::{CommandList, CommandRequest, CommandResult, HttpFault};

/// Reaches agents by HTTP. Ways are kept, with their connections, as long as an agent stays the same.
#[derive(Default)]
pub struct RestAgents {
    known: Mutex<HashMap<String, Arc<RestAgent>>>,
}

/// Ways that are kept; when there are more, all are forgotten and made again as needed.
const KEPT: usize = 4096;

/// How long an agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Agents are on the same site: one that cannot be connected to in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer: a list of steps or of results.
const LARGEST: usize = 4 << 20;

impl Agents for RestAgents {
    fn reach(&self, address: &AgentAddress) -> Result<Arc<dyn Agent>, AgentError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = known.get(&address.url).filter(|agent| agent.address == *address) {
            return Ok(agent.clone());
        }
        let trust = match &address.certificate {
            Some(pem) => Trust::Only(pem.clone()),
            None => Trust::Public,
        };
        let settings = Settings { trust, connect_timeout: CONNECT_TIMEOUT, timeout: TIMEOUT, body_limit: LARGEST };
        let client = Client::new(settings).map_err(|error| AgentError::Protocol(chain(&error)))?;
        let agent = Arc::new(RestAgent { client, address: address.clone() });
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(address.url.clone(), agent.clone());
        Ok(agent)
    }
}

struct RestAgent {
    client: Client,
    address: AgentAddress,
}

impl RestAgent {
    async fn send(&self, method: Method, wait: Option<bool>, body: Bytes) -> Result<Reply, AgentError> {
        let wait = wait.map(|wait| format!("wait={wait}&")).unwrap_or_default();
        // The token is URL-safe: nobody else has a say in it, since only tokens of our making are accepted.
        let url =
            format!("{}/v1/commands/?{wait}agent_token={}", self.address.url.trim_end_matches('/'), self.address.token);
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|error| AgentError::Protocol(error.to_string()))?;
        let reply = self.client.send(request).await.map_err(|error| AgentError::Unreachable(chain(&error)))?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        let text = reply.json::<HttpFault>().map_or_else(|_| reply.text(), |fault| fault.faultstring);
        if reply.status == http::StatusCode::CONFLICT || text.to_ascii_lowercase().contains("agent is busy") {
            return Err(AgentError::Busy(text));
        }
        Err(AgentError::Refused { status: reply.status.as_u16(), text })
    }
}

impl Agent for RestAgent {
    fn commands(&self) -> BoxFuture<'_, Result<Vec<CommandResult>, AgentError>> {
        Box::pin(async move {
            let reply = self.send(Method::GET, None, Bytes::new()).await?;
            let list: CommandList = reply.json().map_err(|error| AgentError::Protocol(chain(&error)))?;
            Ok(list.commands)
        })
    }

    fn execute(&self, command: CommandRequest, wait: bool) -> BoxFuture<'_, Result<CommandResult, AgentError>> {
        Box::pin(async move {
            let body = serde_json::to_vec(&command).map_err(|error| AgentError::Protocol(error.to_string()))?;
            let reply = self.send(Method::POST, Some(wait), body.into()).await?;
            let result: CommandResult = reply.json().map_err(|error| AgentError::Protocol(chain(&error)))?;
            match &result.command_error {
                Some(error) if error.class == "TypeError" => {
                    Err(AgentError::Refused { status: reply.status.as_u16(), text: error.details.clone() })
                }
                _ => Ok(result),
            }
        })
    }
}
