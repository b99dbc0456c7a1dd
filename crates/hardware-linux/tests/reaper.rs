//! The reaper in a process of its own: beside other tests it would take the children that their libraries start.

#![allow(clippy::unwrap_used, reason = "a test")]

use hardware_linux::exec::{Exec, reap_orphans};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn the_reaper_leaves_children_alone_that_somebody_waits_for() {
    let waiting: Vec<_> = (0..8)
        .map(|number| thread::spawn(move || Exec::new("printf").arg(number.to_string()).run().unwrap()))
        .collect();
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        assert_eq!(reap_orphans(), 0);
    }
    for (number, child) in waiting.into_iter().enumerate() {
        assert_eq!(child.join().unwrap().success().unwrap(), number.to_string().as_bytes());
    }
}
