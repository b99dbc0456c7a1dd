//! The words: states, events and verbs.

use crate::names::named;

named! {
    /// The provision state of a node, with Ironic's literal name.
    "provision state", UnknownState,
    pub enum State {
        /// Known, not managed; where a new node starts.
        Enroll = "enroll",
        /// Power credentials are being checked.
        Verifying = "verifying",
        /// Managed, not offered to anybody.
        Manageable = "manageable",
        /// Clean and free to be deployed.
        Available = "available",
        /// Inspection is being started or its result taken in.
        Inspecting = "inspecting",
        /// The ramdisk is inspecting.
        InspectWait = "inspect wait",
        /// Inspection failed.
        InspectFailed = "inspect failed",
        /// A cleaning step is being started or its result taken in.
        Cleaning = "cleaning",
        /// A cleaning step runs on the machine.
        CleanWait = "clean wait",
        /// Cleaning is paused by a hold step.
        CleanHold = "clean hold",
        /// Cleaning failed.
        CleanFailed = "clean failed",
        /// A deploy step is being started or its result taken in.
        Deploying = "deploying",
        /// A deploy step runs on the machine.
        DeployWait = "wait call-back",
        /// The deploy is paused by a hold step.
        DeployHold = "deploy hold",
        /// The deploy failed.
        DeployFailed = "deploy failed",
        /// Carries an instance.
        Active = "active",
        /// The instance is being taken off.
        Deleting = "deleting",
        /// Taking the instance off failed.
        Error = "error",
        /// A machine that runs an instance already is being taken over.
        Adopting = "adopting",
        /// Adoption failed.
        AdoptFailed = "adopt failed",
        /// The rescue ramdisk is being started.
        Rescuing = "rescuing",
        /// The rescue ramdisk is expected to call.
        RescueWait = "rescue wait",
        /// The rescue ramdisk runs and the tenant can log in to it.
        Rescue = "rescue",
        /// Rescue failed.
        RescueFailed = "rescue failed",
        /// The instance is being booted again after a rescue.
        Unrescuing = "unrescuing",
        /// Ending the rescue failed.
        UnrescueFailed = "unrescue failed",
        /// A service step is being started or its result taken in.
        Servicing = "servicing",
        /// A service step runs on the machine.
        ServiceWait = "service wait",
        /// Servicing is paused by a hold step.
        ServiceHold = "service hold",
        /// Servicing failed.
        ServiceFailed = "service failed",
    }
}

named! {
    /// What can happen to a node: an operator's verb or a turn of a flow.
    "provision event", UnknownEvent,
    pub enum Event {
        /// Put an instance on it.
        Deploy = "deploy",
        /// Put the same instance on it again.
        Rebuild = "rebuild",
        /// Take the instance off.
        Delete = "delete",
        /// Bring it under management, or back to it.
        Manage = "manage",
        /// Clean it and offer it.
        Provide = "provide",
        /// Find out what it is made of.
        Inspect = "inspect",
        /// Run cleaning steps.
        Clean = "clean",
        /// Take over a running machine.
        Adopt = "adopt",
        /// Boot the rescue ramdisk.
        Rescue = "rescue",
        /// Boot the instance again.
        Unrescue = "unrescue",
        /// Run service steps.
        Service = "service",
        /// Go on after a hold.
        Unhold = "unhold",
        /// Stop what is waiting.
        Abort = "abort",
        /// The flow reached its end.
        Done = "done",
        /// The flow failed, or its deadline passed.
        Fail = "fail",
        /// The flow waits for the machine.
        Wait = "wait",
        /// A hold step pauses the flow.
        Hold = "hold",
        /// The machine called; the flow goes on.
        Resume = "resume",
        /// Ours: the operator ends work that is stuck inside the driver.
        BreakOut = "break out",
    }
}

named! {
    /// What an operator may ask for in `PUT states/provision` (`target`).
    "provision verb", UnknownVerb,
    pub enum Verb {
        /// Deploy.
        Active = "active",
        /// Deploy, by its newer name.
        Deploy = "deploy",
        /// Take the instance off.
        Deleted = "deleted",
        /// Take the instance off, by its newer name.
        Undeploy = "undeploy",
        /// Deploy again.
        Rebuild = "rebuild",
        /// To manageable.
        Manage = "manage",
        /// Clean and offer.
        Provide = "provide",
        /// Inspect.
        Inspect = "inspect",
        /// Stop what is waiting.
        Abort = "abort",
        /// Clean with given steps.
        Clean = "clean",
        /// Take over a running machine.
        Adopt = "adopt",
        /// Boot the rescue ramdisk.
        Rescue = "rescue",
        /// End the rescue.
        Unrescue = "unrescue",
        /// Go on after a hold.
        Unhold = "unhold",
        /// Run service steps.
        Service = "service",
        /// Ours: end work that is stuck inside the driver, where Ironic has no way out but a restart.
        BreakOut = "break out",
    }
}

/// What somebody who finds a node in a state has to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Stays until an operator asks for something.
    Stable,
    /// The driver itself works and holds the node: other requests are answered with "locked".
    Working,
    /// The machine works; the driver waits to be called.
    Waiting,
    /// A step asked to pause until an operator says `unhold`.
    Held,
    /// A flow failed; stays until an operator asks for something.
    Failed,
}

impl State {
    /// What kind of state this is.
    pub const fn kind(self) -> Kind {
        match self {
            State::Enroll | State::Manageable | State::Available | State::Active | State::Error | State::Rescue => {
                Kind::Stable
            }
            State::Verifying
            | State::Inspecting
            | State::Cleaning
            | State::Deploying
            | State::Deleting
            | State::Adopting
            | State::Rescuing
            | State::Unrescuing
            | State::Servicing => Kind::Working,
            State::InspectWait | State::CleanWait | State::DeployWait | State::RescueWait | State::ServiceWait => {
                Kind::Waiting
            }
            State::CleanHold | State::DeployHold | State::ServiceHold => Kind::Held,
            State::InspectFailed
            | State::CleanFailed
            | State::DeployFailed
            | State::AdoptFailed
            | State::RescueFailed
            | State::UnrescueFailed
            | State::ServiceFailed => Kind::Failed,
        }
    }

    /// Whether Ironic calls the state stable: it has no target and nothing is going on.
    pub const fn is_stable(self) -> bool {
        matches!(self.kind(), Kind::Stable)
    }

    /// Where a node in this state is going, unless the request that started it said otherwise
    /// (manual cleaning goes to `manageable`). `None` in stable states.
    pub const fn target(self) -> Option<State> {
        match self {
            State::Enroll | State::Manageable | State::Available | State::Active | State::Error | State::Rescue => None,
            State::Verifying | State::Inspecting | State::InspectWait | State::InspectFailed => Some(State::Manageable),
            State::Cleaning | State::CleanWait | State::CleanHold | State::CleanFailed | State::Deleting => {
                Some(State::Available)
            }
            State::Rescuing | State::RescueWait | State::RescueFailed => Some(State::Rescue),
            State::Deploying
            | State::DeployWait
            | State::DeployHold
            | State::DeployFailed
            | State::Adopting
            | State::AdoptFailed
            | State::Unrescuing
            | State::UnrescueFailed
            | State::Servicing
            | State::ServiceWait
            | State::ServiceHold
            | State::ServiceFailed => Some(State::Active),
        }
    }
}

impl Verb {
    /// The event that the verb asks for.
    pub const fn event(self) -> Event {
        match self {
            Verb::Active | Verb::Deploy => Event::Deploy,
            Verb::Deleted | Verb::Undeploy => Event::Delete,
            Verb::Rebuild => Event::Rebuild,
            Verb::Manage => Event::Manage,
            Verb::Provide => Event::Provide,
            Verb::Inspect => Event::Inspect,
            Verb::Abort => Event::Abort,
            Verb::Clean => Event::Clean,
            Verb::Adopt => Event::Adopt,
            Verb::Rescue => Event::Rescue,
            Verb::Unrescue => Event::Unrescue,
            Verb::Unhold => Event::Unhold,
            Verb::Service => Event::Service,
            Verb::BreakOut => Event::BreakOut,
        }
    }

    /// The minor API version from which the verb is known; an older request is answered 406.
    /// (Ironic API reference, "Change Node Provision State".) Our own verb is known to all versions.
    pub const fn since(self) -> u16 {
        match self {
            Verb::Active | Verb::Deleted | Verb::Rebuild | Verb::BreakOut => 1,
            Verb::Manage | Verb::Provide => 4,
            Verb::Inspect => 6,
            Verb::Abort => 13,
            Verb::Clean => 15,
            Verb::Adopt => 17,
            Verb::Rescue | Verb::Unrescue => 38,
            Verb::Deploy | Verb::Undeploy => 73,
            Verb::Unhold => 85,
            Verb::Service => 87,
        }
    }

    /// Whether the verb is ours and unknown to Ironic.
    pub const fn is_ours(self) -> bool {
        matches!(self, Verb::BreakOut)
    }
}
