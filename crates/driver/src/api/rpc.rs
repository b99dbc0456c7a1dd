//! The stream of events for programs: `ferric.events.v1`, where the API for operators is and for whom that is.

use super::auth::Access;
use super::events::{Told, Watcher, no_seat};
use super::request::{node_ident, short};
use crate::conductor::Conductor;
use crate::events::Seat;
use crate::fault::Fault;
use axum::Router;
use futures::Stream;
use futures::stream::unfold;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use store::Store;
use tonic::{Request, Response, Status};
use wire::rpc::events::events_server::{Events, EventsServer};
use wire::rpc::events::{Event, WatchRequest};

/// The path of the call (gRPC over HTTP2, "Path").
const WATCH: &str = "/ferric.events.v1.Events/Watch";

/// Adds the call to a router.
pub(super) fn routed<S: Store>(router: Router, conductor: Arc<Conductor<S>>, access: Access) -> Router {
    router.route_service(WATCH, EventsServer::new(Watch { conductor, access }))
}

struct Watch<S: Store> {
    conductor: Arc<Conductor<S>>,
    access: Access,
}

/// A fault as gRPC tells it.
fn status(fault: &Fault) -> Status {
    Status::new(fault.grpc_code(), fault.to_string())
}

#[tonic::async_trait]
impl<S: Store> Events for Watch<S> {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if let Some(users) = &self.access.users {
            users.check(&request.metadata().clone().into_headers()).await.map_err(|fault| status(&fault))?;
        }
        let WatchRequest { node, after } = request.into_inner();
        let node = match node.as_str() {
            "" => None,
            text => {
                let ident = node_ident(text, true).map_err(|fault| status(&fault))?;
                Some(self.conductor.find(&ident).await.map_err(|fault| status(&fault))?.uuid)
            }
        };
        let events = self.conductor.events();
        let place = match after.as_str() {
            "" => events.now(),
            text => text.parse().map_err(|()| {
                let text = format!("after \"{}\" is no id that this stream has given", short(text));
                Status::invalid_argument(text)
            })?,
        };
        let seat = events.seat().ok_or_else(|| status(&no_seat()))?;
        let watcher = Watcher::new(self.conductor.clone(), place, node, self.access.draining.clone());
        Ok(Response::new(Box::pin(stream(watcher, seat))))
    }
}

fn stream<S: Store>(watcher: Watcher<S>, seat: Seat) -> impl Stream<Item = Result<Event, Status>> + Send {
    unfold((watcher, VecDeque::<Told>::new(), seat), |(mut watcher, mut waiting, seat)| async move {
        while waiting.is_empty() {
            waiting.extend(watcher.next().await?);
        }
        let Told { id, kind, data } = waiting.pop_front()?;
        let event = Event { id: id.to_string(), kind: kind.to_owned(), data: data.into() };
        Some((Ok(event), (watcher, waiting, seat)))
    })
}
