//! Messages as they travel, checked into what they say, and back.

use super::{
    Command, DOCUMENT_LIMIT, Frame, FromAgent, FromDriver, Heartbeat, Hello, Reason, Refused, TEXT_LIMIT, Violation,
    Welcome,
};
use crate::rpc::{self, agent_frame, driver_frame};
use bytes::Bytes;
use hardware::Progress;
use uuid::Uuid;

fn id(field: &str, text: &str) -> Result<Uuid, Violation> {
    Uuid::try_parse(text).map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        Violation::malformed(format!("{field} {shown:?} is not a UUID"))
    })
}

fn text(field: &str, text: String) -> Result<String, Violation> {
    match text.len() {
        length if length > TEXT_LIMIT => {
            let text = format!("{field} has {length} bytes; {TEXT_LIMIT} are the most");
            Err(Violation::new(Reason::TooLarge, text))
        }
        _ => Ok(text),
    }
}

fn document(field: &str, bytes: Bytes) -> Result<Bytes, Violation> {
    match bytes.len() {
        length if length > DOCUMENT_LIMIT => {
            let text = format!("{field} has {length} bytes; {DOCUMENT_LIMIT} are the most");
            Err(Violation::new(Reason::TooLarge, text))
        }
        _ => Ok(bytes),
    }
}

fn said(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Cuts a text of ours to what a frame takes, at the border of a character.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_LIMIT {
        let end = (0..=TEXT_LIMIT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
        text.truncate(end);
    }
    text
}

impl TryFrom<rpc::AgentFrame> for Frame<FromAgent> {
    type Error = Violation;

    fn try_from(frame: rpc::AgentFrame) -> Result<Self, Violation> {
        use agent_frame::Body;
        let body = match frame.body {
            None => FromAgent::Unknown,
            Some(Body::Hello(hello)) => FromAgent::Hello(hello.try_into()?),
            Some(Body::Command(state)) => FromAgent::Command {
                document: document("CommandState.document", state.document)?,
                omitted: state.omitted,
            },
            Some(Body::Refused(refused)) => FromAgent::Refused(refused.try_into()?),
            Some(Body::Progress(progress)) => {
                let id = id("Progress.id", &progress.id)?;
                FromAgent::Progress { id, progress: progress.try_into()? }
            }
            Some(Body::Heartbeat(heartbeat)) => FromAgent::Heartbeat(Heartbeat {
                status: said(text("Heartbeat.status", heartbeat.status)?),
                message: said(text("Heartbeat.status_message", heartbeat.status_message)?),
            }),
            Some(Body::Listed(listed)) => FromAgent::Listed(listed.count),
            Some(Body::Acknowledge(rpc::Ack {})) => FromAgent::Ack,
            Some(Body::Close(close)) => FromAgent::Close(close.into()),
        };
        Ok(Self { seq: frame.seq, ack: frame.ack, body })
    }
}

impl From<Frame<FromAgent>> for rpc::AgentFrame {
    fn from(frame: Frame<FromAgent>) -> Self {
        use agent_frame::Body;
        let body = match frame.body {
            FromAgent::Hello(hello) => Some(Body::Hello(hello.into())),
            FromAgent::Command { document, omitted } => Some(Body::Command(rpc::CommandState { document, omitted })),
            FromAgent::Refused(refused) => Some(Body::Refused(rpc::Refused {
                id: refused.id.to_string(),
                status: refused.status.into(),
                faultstring: cut(refused.faultstring),
            })),
            FromAgent::Progress { id, progress } => Some(Body::Progress(rpc::Progress {
                id: id.to_string(),
                stage: cut(progress.stage),
                done: progress.done,
                total: progress.total,
                rate: progress.rate,
                eta: progress.eta,
                stalled: progress.stalled.map(cut),
            })),
            FromAgent::Heartbeat(heartbeat) => Some(Body::Heartbeat(rpc::Heartbeat {
                status: cut(heartbeat.status.unwrap_or_default()),
                status_message: cut(heartbeat.message.unwrap_or_default()),
            })),
            FromAgent::Listed(count) => Some(Body::Listed(rpc::Listed { count })),
            FromAgent::Ack => Some(Body::Acknowledge(rpc::Ack {})),
            FromAgent::Close(violation) => Some(Body::Close(violation.into())),
            FromAgent::Unknown => None,
        };
        Self { seq: frame.seq, ack: frame.ack, body }
    }
}

impl TryFrom<rpc::DriverFrame> for Frame<FromDriver> {
    type Error = Violation;

    fn try_from(frame: rpc::DriverFrame) -> Result<Self, Violation> {
        use driver_frame::Body;
        let body = match frame.body {
            None => FromDriver::Unknown,
            Some(Body::Welcome(welcome)) => FromDriver::Welcome(Welcome {
                resumed: welcome.resumed,
                last_received: welcome.last_received,
                protocol_minor: welcome.protocol_minor,
                driver_version: text("Welcome.driver_version", welcome.driver_version)?,
                heartbeat_timeout: welcome.heartbeat_timeout,
            }),
            Some(Body::Command(command)) => command_of(command)?,
            Some(Body::Cancel(cancel)) => FromDriver::Cancel(id("Cancel.id", &cancel.id)?),
            Some(Body::Acknowledge(rpc::Ack {})) => FromDriver::Ack,
            Some(Body::Close(close)) => FromDriver::Close(close.into()),
        };
        Ok(Self { seq: frame.seq, ack: frame.ack, body })
    }
}

impl From<Frame<FromDriver>> for rpc::DriverFrame {
    fn from(frame: Frame<FromDriver>) -> Self {
        use driver_frame::Body;
        let body = match frame.body {
            FromDriver::Welcome(welcome) => Some(Body::Welcome(rpc::Welcome {
                resumed: welcome.resumed,
                last_received: welcome.last_received,
                protocol_minor: welcome.protocol_minor,
                driver_version: cut(welcome.driver_version),
                heartbeat_timeout: welcome.heartbeat_timeout,
            })),
            FromDriver::Command(command) => Some(Body::Command(command.into())),
            FromDriver::Cancel(id) => Some(Body::Cancel(rpc::Cancel { id: id.to_string() })),
            FromDriver::Ack => Some(Body::Acknowledge(rpc::Ack {})),
            FromDriver::Close(violation) => Some(Body::Close(violation.into())),
            FromDriver::Unreadable(_) | FromDriver::Unknown => None,
        };
        Self { seq: frame.seq, ack: frame.ack, body }
    }
}

impl TryFrom<rpc::Hello> for Hello {
    type Error = Violation;

    fn try_from(hello: rpc::Hello) -> Result<Self, Violation> {
        Ok(Self {
            node: id("Hello.node_uuid", &hello.node_uuid)?,
            session: id("Hello.session_id", &hello.session_id)?,
            last_received: hello.last_received,
            protocol_minor: hello.protocol_minor,
            agent_version: text("Hello.agent_version", hello.agent_version)?,
            ferric_version: text("Hello.ferric_version", hello.ferric_version)?,
        })
    }
}

impl From<Hello> for rpc::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            node_uuid: hello.node.to_string(),
            session_id: hello.session.to_string(),
            last_received: hello.last_received,
            protocol_minor: hello.protocol_minor,
            agent_version: cut(hello.agent_version),
            ferric_version: cut(hello.ferric_version),
        }
    }
}

/// A command, or its refusal: one that cannot be read is no reason to end the connection, on which it would be repeated.
fn command_of(command: rpc::Command) -> Result<FromDriver, Violation> {
    let id = id("Command.id", &command.id)?;
    let name = text("Command.name", command.name)?;
    let unreadable = |status, faultstring| FromDriver::Unreadable(Refused { id, status, faultstring });
    if command.params.len() > DOCUMENT_LIMIT {
        return Ok(unreadable(413, format!("the arguments are larger than {DOCUMENT_LIMIT} bytes")));
    }
    Ok(match crate::json::read_within(&command.params, crate::json::COMMAND_LIMITS) {
        Ok(params) => FromDriver::Command(Command { id, name, params }),
        Err(error) => unreadable(400, format!("the arguments of {name:?} cannot be read: {error}")),
    })
}

impl From<Command> for rpc::Command {
    fn from(command: Command) -> Self {
        let params = serde_json::Value::Object(command.params).to_string();
        Self { id: command.id.to_string(), name: cut(command.name), params: params.into() }
    }
}

impl TryFrom<rpc::Refused> for Refused {
    type Error = Violation;

    fn try_from(refused: rpc::Refused) -> Result<Self, Violation> {
        let status = u16::try_from(refused.status).ok().filter(|status| (400..600).contains(status));
        Ok(Self {
            id: id("Refused.id", &refused.id)?,
            status: status.ok_or_else(|| {
                Violation::malformed(format!("Refused.status {} is no status of an error", refused.status))
            })?,
            faultstring: text("Refused.faultstring", refused.faultstring)?,
        })
    }
}

impl TryFrom<rpc::Progress> for Progress {
    type Error = Violation;

    fn try_from(progress: rpc::Progress) -> Result<Self, Violation> {
        Ok(Self {
            stage: text("Progress.stage", progress.stage)?,
            done: progress.done,
            total: progress.total,
            rate: progress.rate,
            eta: progress.eta,
            stalled: progress.stalled.map(|stalled| text("Progress.stalled", stalled)).transpose()?,
        })
    }
}

impl From<Violation> for rpc::Close {
    fn from(violation: Violation) -> Self {
        Self { reason: violation.reason.number(), text: cut(violation.text) }
    }
}

impl From<rpc::Close> for Violation {
    fn from(close: rpc::Close) -> Self {
        Self::new(Reason::of(close.reason), cut(close.text))
    }
}

impl Reason {
    fn number(self) -> i32 {
        match self {
            Self::GoingAway => rpc::Reason::GoingAway as i32,
            Self::Malformed => rpc::Reason::Malformed as i32,
            Self::Sequence => rpc::Reason::Sequence as i32,
            Self::TooLarge => rpc::Reason::TooLarge as i32,
            Self::Flood => rpc::Reason::Flood as i32,
            Self::Silent => rpc::Reason::Silent as i32,
            Self::Superseded => rpc::Reason::Superseded as i32,
            Self::Identity => rpc::Reason::Identity as i32,
            Self::Other(number) => number,
        }
    }

    fn of(number: i32) -> Self {
        match rpc::Reason::try_from(number) {
            Ok(rpc::Reason::GoingAway) => Self::GoingAway,
            Ok(rpc::Reason::Malformed) => Self::Malformed,
            Ok(rpc::Reason::Sequence) => Self::Sequence,
            Ok(rpc::Reason::TooLarge) => Self::TooLarge,
            Ok(rpc::Reason::Flood) => Self::Flood,
            Ok(rpc::Reason::Silent) => Self::Silent,
            Ok(rpc::Reason::Superseded) => Self::Superseded,
            Ok(rpc::Reason::Identity) => Self::Identity,
            Ok(rpc::Reason::Unspecified) | Err(_) => Self::Other(number),
        }
    }
}
