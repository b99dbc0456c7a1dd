//! Out-of-band: Redfish behind the traits of hardware.
