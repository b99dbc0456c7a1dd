//! Gates: what other requests may do to a node in a given state.

use super::state::State;

/// What a heartbeat of the agent does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeartbeatEffect {
    /// It is recorded and the waiting flow goes on.
    Act,
    /// It is recorded: the agent is alive.
    Record,
    /// It is answered as usual and otherwise ignored.
    Ignore,
}

impl State {
    /// Whether `PATCH` of the node is allowed; otherwise it is answered 409.
    ///
    /// `has_target`: `target_provision_state` is set, so a transition is under way or has failed. `minor`: the API
    /// version of the request; up to 1.38 a node that is being inspected could be changed.
    pub const fn allows_patch(self, has_target: bool, minor: u16) -> bool {
        match self {
            State::Inspecting => minor < 39,
            State::DeployFailed
            | State::InspectFailed
            | State::InspectWait
            | State::CleanFailed
            | State::Error
            | State::Verifying
            | State::AdoptFailed
            | State::RescueFailed
            | State::UnrescueFailed
            | State::ServiceHold
            | State::ServiceFailed => true,
            State::Enroll
            | State::Manageable
            | State::Available
            | State::Cleaning
            | State::CleanWait
            | State::CleanHold
            | State::Deploying
            | State::DeployWait
            | State::DeployHold
            | State::Active
            | State::Deleting
            | State::Adopting
            | State::Rescuing
            | State::RescueWait
            | State::Rescue
            | State::Unrescuing
            | State::Servicing
            | State::ServiceWait => !has_target,
        }
    }

    /// Whether `driver` and the `*_interface` fields may change (else 409); in maintenance they always may.
    /// The same states are asked for `resource_class`.
    pub const fn allows_interface_change(self, maintenance: bool) -> bool {
        maintenance
            || matches!(
                self,
                State::Enroll | State::Inspecting | State::InspectWait | State::Manageable | State::Available
            )
    }

    /// Whether the node may be deleted; in maintenance it always may, so that a hopeless node can be removed.
    /// `available` counts because Ironic's `allow_deleting_available_nodes` is on by default.
    pub const fn allows_delete(self, maintenance: bool) -> bool {
        maintenance || matches!(self, State::Enroll | State::Manageable | State::AdoptFailed | State::Available)
    }

    /// Whether a ramdisk may look this node up; otherwise the look-up is answered as if there were no such node.
    pub const fn allows_lookup(self, fast_track: bool) -> bool {
        match self {
            State::Deploying
            | State::DeployWait
            | State::Cleaning
            | State::CleanWait
            | State::Inspecting
            | State::InspectWait
            | State::Rescuing
            | State::RescueWait
            | State::ServiceWait => true,
            State::Enroll | State::Manageable | State::Available | State::Servicing | State::ServiceHold => fast_track,
            State::Verifying
            | State::InspectFailed
            | State::CleanHold
            | State::CleanFailed
            | State::DeployHold
            | State::DeployFailed
            | State::Active
            | State::Deleting
            | State::Error
            | State::Adopting
            | State::AdoptFailed
            | State::Rescue
            | State::RescueFailed
            | State::Unrescuing
            | State::UnrescueFailed
            | State::ServiceFailed => false,
        }
    }

    /// What a heartbeat does in this state.
    pub const fn heartbeat(self, fast_track: bool) -> HeartbeatEffect {
        match self {
            State::DeployWait | State::CleanWait | State::RescueWait | State::ServiceWait => HeartbeatEffect::Act,
            State::Cleaning
            | State::Deploying
            | State::Rescuing
            | State::Servicing
            | State::DeployHold
            | State::CleanHold
            | State::ServiceHold => HeartbeatEffect::Record,
            State::Enroll | State::Manageable | State::Available => {
                if fast_track {
                    HeartbeatEffect::Record
                } else {
                    HeartbeatEffect::Ignore
                }
            }
            State::Verifying
            | State::Inspecting
            | State::InspectWait
            | State::InspectFailed
            | State::CleanFailed
            | State::DeployFailed
            | State::Active
            | State::Deleting
            | State::Error
            | State::Adopting
            | State::AdoptFailed
            | State::Rescue
            | State::RescueFailed
            | State::Unrescuing
            | State::UnrescueFailed
            | State::ServiceFailed => HeartbeatEffect::Ignore,
        }
    }
}
