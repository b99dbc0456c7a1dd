//! What a machine is: inventory, steps, grants and proofs, and the traits behind which real, simulated and read-only
//! machines stand. Nothing here touches the outside.

pub mod device;
pub mod firmware;
pub mod grant;
pub mod hint;
pub mod inventory;
pub mod machine;
pub mod maintain;
pub mod manager;
pub mod medium;
pub mod observed;
pub mod outofband;
pub mod step;

pub use device::{Bus, Device, DeviceError, Limits, NvmeCommand, NvmeCompletion, ScsiCompletion, Transfer};
pub use firmware::{BiosControl, BiosDifference, BiosValues, FirmwareControl, FirmwareUpdate, StagedBios, UpdateState};
pub use grant::{DeviceId, EraseGrant, EraseProof, Look, Outcome, Plan, Reading, Refusal, WriteGrant};
pub use inventory::{BootInfo, BootMode, Cpu, Disk, Firmware, Interface, Inventory, Memory, SystemVendor};
pub use machine::{BootLoader, Contents, Machine, MachineError, Opened, PowerAction};
pub use maintain::{BootEntry, Maintain, MemoryErrors, Mounted, Sensor};
pub use manager::{HardwareManager, Managers, StepCall, StepControl, StepError, Support, Unattended};
pub use medium::{MarkedMedium, Medium};
pub use observed::Observed;
pub use outofband::{
    BiosSetting, BootControl, BootDevice, FirmwareComponent, Indicator, Light, Management, OutOfBandError, Power,
    PowerState, VirtualMedia,
};
pub use step::{Progress, Step, StepKind};
