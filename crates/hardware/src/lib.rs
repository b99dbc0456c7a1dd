//! What a machine is: inventory, steps, grants and proofs, and the traits behind which real, simulated and read-only
//! machines stand. Nothing here touches the outside.

pub mod grant;
pub mod hint;
pub mod inventory;
pub mod machine;
pub mod manager;
pub mod outofband;
pub mod step;

pub use grant::{DeviceId, EraseGrant, EraseProof, Outcome, Plan, Refusal, WriteGrant};
pub use inventory::{BootInfo, BootMode, Cpu, Disk, Firmware, Interface, Inventory, Memory, SystemVendor};
pub use machine::{Contents, Machine, MachineError, PowerAction};
pub use manager::{HardwareManager, Managers, StepCall, StepControl, StepError, Support, Unattended};
pub use outofband::{
    BiosSetting, BootControl, BootDevice, FirmwareComponent, Indicator, Light, Management, OutOfBandError, Power,
    PowerState, VirtualMedia,
};
pub use step::{Progress, Step, StepKind};
