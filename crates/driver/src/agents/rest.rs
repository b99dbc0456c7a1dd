//! The agent's REST API, dialled. The rules are those of Ironic's agent client: 60 s for an answer; 409 or "agent is
//! busy" in the text means busy; an answer with a `TypeError` means that a parameter is not known.

use super::{Agent, AgentAddress, AgentError, Agents, uuid_of};
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
/// The largest answer: the logs of a ramdisk, in base64.
const LARGEST: usize = 32 << 20;

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
        let settings = Settings {
            trust,
            connect_timeout: CONNECT_TIMEOUT,
            timeout: TIMEOUT,
            body_limit: LARGEST,
            ..Settings::default()
        };
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
        self.send_to("", method, wait, body).await
    }

    /// `id`: of a command; empty for all of them.
    async fn send_to(&self, id: &str, method: Method, wait: Option<bool>, body: Bytes) -> Result<Reply, AgentError> {
        let wait = wait.map(|wait| format!("wait={wait}&")).unwrap_or_default();
        // The token is URL-safe: nobody else has a say in it, since only tokens of our making are accepted.
        let (base, token) = (self.address.url.trim_end_matches('/'), &self.address.token);
        let url = format!("{base}/v1/commands/{id}?{wait}agent_token={token}");
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

    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), AgentError>> {
        Box::pin(async move {
            let id = uuid_of(id)?.to_string();
            self.send_to(&id, Method::DELETE, Some(false), Bytes::new()).await.map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::extract::RawQuery;
    use axum::routing::{delete, get};
    use serde_json::{Map, json};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::SystemTime;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use transport::tls::Identity;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn result(status: &str) -> serde_json::Value {
        json!({"id": "1", "command_name": "sync", "command_status": status, "command_error": null, "command_result": null})
    }

    /// An agent that is busy unless it is asked to wait, and knows the token `T`.
    async fn serve(identity: &Identity, stop: CancellationToken) -> SocketAddr {
        let list = async |RawQuery(query): RawQuery| match query.as_deref() {
            Some("agent_token=T") => (http::StatusCode::OK, json!({"commands": [result("RUNNING")]}).to_string()),
            _ => {
                let body = HttpFault::new(401, "401 Unauthorized: Token invalid.");
                (http::StatusCode::UNAUTHORIZED, json!(body).to_string())
            }
        };
        let run = async |RawQuery(query): RawQuery| match query.as_deref() {
            Some("wait=true&agent_token=T") => (http::StatusCode::OK, result("SUCCEEDED").to_string()),
            _ => {
                let body = HttpFault::new(409, "Agent is busy: executing command execute_deploy_step");
                (http::StatusCode::CONFLICT, json!(body).to_string())
            }
        };
        let cancel = async |RawQuery(query): RawQuery| match query.as_deref() {
            Some("wait=false&agent_token=T") => (http::StatusCode::OK, result("RUNNING").to_string()),
            _ => (http::StatusCode::UNAUTHORIZED, json!(HttpFault::new(401, "Token invalid.")).to_string()),
        };
        let one = "/v1/commands/5c6d1f0e-0000-4000-8000-000000000001";
        let router = Router::new().route("/v1/commands/", get(list).post(run)).route(one, delete(cancel));
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Some(identity.server_config("1.3").unwrap());
        let settings = transport::server::Settings { tls, ..Default::default() };
        tokio::spawn(transport::server::serve(listener, router, settings, stop));
        address
    }

    fn sync() -> CommandRequest {
        CommandRequest { name: "standby.sync".to_owned(), params: Map::new() }
    }

    #[tokio::test]
    async fn an_agent_is_spoken_to_by_its_own_certificate_and_token_only() {
        let own = Identity::generate("agent", LOCAL, SystemTime::now()).unwrap();
        let other = Identity::generate("agent", LOCAL, SystemTime::now()).unwrap();
        let stop = CancellationToken::new();
        let address = serve(&own, stop.clone()).await;
        let agents = RestAgents::default();
        let reach = |token: &str, identity: &Identity| {
            agents.reach(&AgentAddress {
                url: format!("https://{address}"),
                token: token.to_owned(),
                certificate: Some(identity.certificate.clone()),
            })
        };
        let agent = reach("T", &own).unwrap();
        assert_eq!(agent.commands().await.unwrap().len(), 1);
        assert!(agent.execute(sync(), true).await.is_ok());
        assert!(matches!(agent.execute(sync(), false).await, Err(AgentError::Busy(text)) if text.contains("busy")));
        agent.cancel("5c6d1f0e-0000-4000-8000-000000000001").await.unwrap();
        let path = agent.cancel("../../status").await;
        assert!(matches!(path, Err(AgentError::Protocol(_))), "{path:?}");

        let wrong = reach("U", &own).unwrap().commands().await;
        assert!(matches!(wrong, Err(AgentError::Refused { status: 401, .. })), "{wrong:?}");
        let stranger = reach("T", &other).unwrap().commands().await;
        assert!(
            matches!(&stranger, Err(AgentError::Unreachable(text)) if !text.contains("agent_token")),
            "{stranger:?}"
        );
        stop.cancel();
    }
}
