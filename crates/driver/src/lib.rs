//! The driver: REST API, conductor, flows, effects and agent sessions; the ferricd daemon.
