//! The machines of the hardware types: Redfish BMCs, and fakes.

use super::{Machines, OutOfBand};
use crate::hardware_type::{Interface, interface_of};
use bmc::{Limits, Redfish, Settings};
use futures::future::BoxFuture;
use hardware::{BootDevice, BootMode, Indicator, Light, OutOfBandError, PowerState};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Node;
use transport::client::chain;
use uuid::Uuid;

/// Machines as the interfaces of their nodes say.
#[derive(Default)]
pub struct HardwareMachines {
    open: Mutex<HashMap<Uuid, (Settings, Arc<Redfish>)>>,
}

impl HardwareMachines {
    /// None are open yet.
    pub fn new() -> Self {
        Self::default()
    }

    async fn redfish(&self, node: &Node) -> Result<Arc<Redfish>, OutOfBandError> {
        let settings = Settings::from_driver_info(&node.driver_info)
            .map_err(|error| OutOfBandError::Settings(format!("driver_info: {}", chain(&error))))?;
        if let Some((known, redfish)) = self.lock().get(&node.uuid)
            && *known == settings
        {
            return Ok(redfish.clone());
        }
        let redfish = Redfish::new(settings.clone(), Limits::default()).await.map_err(OutOfBandError::from)?;
        let redfish = Arc::new(redfish);
        let before = self.lock().insert(node.uuid, (settings, redfish.clone()));
        if let Some((_, before)) = before {
            before.close().await;
        }
        Ok(redfish)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, (Settings, Arc<Redfish>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machines for HardwareMachines {
    fn of<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Arc<dyn OutOfBand>, OutOfBandError>> {
        Box::pin(async move {
            let power = interface_of(node, Interface::Power);
            match power {
                "fake" => Ok(Arc::new(Fake::of(node)) as Arc<dyn OutOfBand>),
                "redfish" => Ok(self.redfish(node).await? as Arc<dyn OutOfBand>),
                other => Err(OutOfBandError::Settings(format!("the power interface {other:?} is not known"))),
            }
        })
    }

    fn release(&self, node: Uuid) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let open = self.lock().remove(&node);
            if let Some((_, redfish)) = open {
                redfish.close().await;
            }
        })
    }
}

/// The lights of a fake: component, name, whether read only, states. Ironic's.
const FAKE_INDICATORS: &[(&str, &str, bool, &[Light])] = &[
    ("chassis", "led-0", true, &[Light::Off, Light::On]),
    ("system", "led", false, &[Light::Blinking, Light::Off, Light::On]),
];

/// No machine at all: the power state is what the node says, everything else succeeds.
struct Fake {
    power: Mutex<PowerState>,
}

impl Fake {
    fn of(node: &Node) -> Self {
        let power = if node.power_state.as_deref() == Some(POWER_ON) { PowerState::On } else { PowerState::Off };
        Self { power: Mutex::new(power) }
    }
}

/// The API's name of [`PowerState::On`].
pub const POWER_ON: &str = "power on";
/// The API's name of [`PowerState::Off`].
pub const POWER_OFF: &str = "power off";

/// The API's name of a power state.
pub fn power_name(state: PowerState) -> &'static str {
    match state {
        PowerState::On => POWER_ON,
        PowerState::Off => POWER_OFF,
    }
}

impl OutOfBand for Fake {
    fn power_state(&self) -> BoxFuture<'_, Result<PowerState, OutOfBandError>> {
        let state = *self.power.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(async move { Ok(state) })
    }

    fn set_power(&self, state: PowerState) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        *self.power.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Box::pin(async { Ok(()) })
    }

    fn shut_down(&self, _within: Duration) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        self.set_power(PowerState::Off)
    }

    fn boot_device(&self) -> BoxFuture<'_, Result<Option<(BootDevice, bool)>, OutOfBandError>> {
        // Ironic's fake management answers so, too.
        Box::pin(async { Ok(Some((BootDevice::Pxe, false))) })
    }

    fn set_boot_device(&self, _device: BootDevice, _persistent: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }

    fn insert(&self, _url: &str) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }

    fn eject(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }

    fn set_boot_mode(&self, _mode: BootMode) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }

    fn set_secure_boot(&self, _on: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }

    fn indicators(&self) -> BoxFuture<'_, Result<Vec<Indicator>, OutOfBandError>> {
        let light = |(component, name, readonly, states): &(&str, &str, bool, &[Light])| Indicator {
            component: (*component).to_owned(),
            name: (*name).to_owned(),
            readonly: *readonly,
            states: states.to_vec(),
        };
        let all = FAKE_INDICATORS.iter().map(light).collect();
        Box::pin(async { Ok(all) })
    }

    fn indicator<'a>(
        &'a self,
        component: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Light>, OutOfBandError>> {
        let known = FAKE_INDICATORS.iter().any(|light| light.0 == component && light.1 == name);
        Box::pin(async move { Ok(known.then_some(Light::On)) })
    }

    fn is_fake(&self) -> bool {
        true
    }
}
