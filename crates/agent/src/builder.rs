//! Putting an agent together.

use crate::command::Dispatcher;
use crate::config::Settings;
use crate::contain;
use crate::container::{self, manager::ContainerHardwareManager};
use crate::extension;
use crate::external::ExternalManager;
use crate::logs::LogBuffer;
use crate::manager::GenericHardwareManager;
use crate::state::{Agent, Shared};
use hardware::manager::NoManager;
use hardware::{HardwareManager, Machine, Managers};
use std::sync::Arc;
use tokio::sync::watch;

/// The parts of an agent. The generic hardware manager is always among its managers.
pub struct Builder {
    machine: Arc<dyn Machine>,
    settings: Settings,
    logs: LogBuffer,
    managers: Vec<Box<dyn HardwareManager>>,
    ready: watch::Receiver<bool>,
    containers: Option<container::Host>,
}

impl Agent {
    /// Begins an agent for this machine.
    pub fn builder(machine: Arc<dyn Machine>, settings: Settings) -> Builder {
        Builder {
            machine,
            settings,
            logs: LogBuffer::default(),
            managers: Vec::new(),
            ready: watch::channel(true).1,
            containers: None,
        }
    }
}

impl Builder {
    /// Adds a hardware manager. One that knows the machine better than the generic one goes first.
    #[must_use]
    pub fn manager(mut self, manager: impl HardwareManager + 'static) -> Self {
        self.managers.push(Box::new(manager));
        self
    }

    /// Adds the hardware managers that are programs of their own, as [`crate::external::load`] found them.
    #[must_use]
    pub fn executables(mut self, managers: Vec<ExternalManager>) -> Self {
        self.managers.extend(managers.into_iter().map(|manager| Box::new(manager) as Box<dyn HardwareManager>));
        self
    }

    /// Adds what needs containers: bootc, and the steps of [`ContainerHardwareManager`].
    #[must_use]
    pub fn containers(mut self, host: Option<container::Host>) -> Self {
        self.containers = host;
        self
    }

    /// The log that `collect_system_logs` sends.
    #[must_use]
    pub fn logs(mut self, logs: LogBuffer) -> Self {
        self.logs = logs;
        self
    }

    /// Tells when the machine's devices have shown up; without it they are taken to be there.
    #[must_use]
    pub fn ready(mut self, ready: watch::Receiver<bool>) -> Self {
        self.ready = ready;
        self
    }

    /// The agent and its dispatcher.
    pub fn build(self) -> Result<(Arc<Agent>, Arc<Dispatcher>), NoManager> {
        let shared = Shared::new(self.machine, self.settings, self.ready);
        let mut managers = self.managers;
        if let Some(host) = self.containers {
            shared.set_containers(host);
            managers.push(Box::new(ContainerHardwareManager::new(Arc::clone(&shared))));
        }
        managers.push(Box::new(GenericHardwareManager::new(Arc::clone(&shared))));
        // A manager that panics is left out, and does not end the machine.
        let managers = contain::marked(|| Managers::load(managers))?;
        let agent = Agent::new(shared, managers, self.logs);
        let dispatcher = Dispatcher::new(Arc::clone(&agent), extension::standard());
        Ok((agent, dispatcher))
    }
}
