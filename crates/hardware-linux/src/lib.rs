//! The in-band implementation of hardware: sysfs, ioctl, SMBIOS. The only place that runs a program.
