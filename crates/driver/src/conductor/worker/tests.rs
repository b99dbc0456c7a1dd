//! Every interleaving of wakers and workers, on the real [`Workers`]: no wake-up is lost, and a node never has two
//! workers. Each call takes its lock once, so the calls are the steps between which everything can happen.

use super::*;

/// How many changes are made, each by a waker of its own.
const CHANGES: u32 = 3;

/// What a waker does next: it changes the store, then rings.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Waker {
    Change,
    Ring,
    Done,
}

/// What a worker does next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Worker {
    Note,
    Read(u64),
    Leave(u64),
    Gone,
}

struct World {
    workers: Workers,
    node: Uuid,
    /// Changes in the store that nobody has worked on.
    undone: u32,
    wakers: Vec<Waker>,
    crew: Vec<Worker>,
}

impl World {
    fn new() -> Self {
        let wakers = vec![Waker::Change; CHANGES as usize];
        Self { workers: Workers::default(), node: Uuid::nil(), undone: 0, wakers, crew: Vec::new() }
    }

    /// Who can make a step: wakers first, then workers.
    fn ready(&self) -> Vec<usize> {
        let wakers = self.wakers.iter().map(|waker| *waker != Waker::Done);
        let crew = self.crew.iter().map(|worker| *worker != Worker::Gone);
        wakers.chain(crew).enumerate().filter(|(_, ready)| *ready).map(|(index, _)| index).collect()
    }

    fn step(&mut self, who: usize) {
        if let Some(waker) = self.wakers.get(who).copied() {
            self.wakers[who] = match waker {
                Waker::Change => {
                    self.undone += 1;
                    Waker::Ring
                }
                _ => {
                    if self.workers.ring(self.node).is_some() {
                        self.crew.push(Worker::Note);
                    }
                    Waker::Done
                }
            };
            return;
        }
        let who = who - self.wakers.len();
        self.crew[who] = match self.crew[who] {
            Worker::Note => Worker::Read(self.workers.rung(self.node)),
            Worker::Read(seen) if self.undone == 0 => Worker::Leave(seen),
            Worker::Read(_) => {
                self.undone -= 1;
                Worker::Note
            }
            Worker::Leave(seen) if self.workers.leave(self.node, seen) => Worker::Gone,
            Worker::Leave(_) | Worker::Gone => Worker::Note,
        };
        let at_work = self.crew.iter().filter(|worker| **worker != Worker::Gone).count();
        assert!(at_work <= 1, "{at_work} workers for one node: {:?}", self.crew);
    }
}

/// Walks all schedules: each is replayed from the beginning and then takes the first choice that was not tried.
#[test]
fn no_wake_up_is_lost_and_no_node_has_two_workers() {
    let mut schedule: Vec<usize> = Vec::new();
    let mut walked = 0;
    loop {
        let mut world = World::new();
        let mut choices = Vec::new();
        loop {
            let ready = world.ready();
            if ready.is_empty() {
                break;
            }
            let choice = schedule.get(choices.len()).copied().unwrap_or(0);
            choices.push((choice, ready.len()));
            world.step(ready[choice]);
        }
        assert_eq!(world.undone, 0, "a change was never worked on: {choices:?}");
        assert!(world.workers.lock().is_empty(), "a seat is kept for nobody: {choices:?}");
        walked += 1;
        while choices.last().is_some_and(|(choice, of)| choice + 1 == *of) {
            choices.pop();
        }
        let Some((last, _)) = choices.pop() else { break };
        schedule = choices.into_iter().map(|(choice, _)| choice).chain([last + 1]).collect();
    }
    assert!(walked > 1000, "only {walked} schedules");
}
