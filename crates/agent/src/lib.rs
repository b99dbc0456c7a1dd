//! The agent: PID 1 of the ramdisk, lookup, heartbeat, REST API and the steps.
