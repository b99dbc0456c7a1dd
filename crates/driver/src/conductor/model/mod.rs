//! A walk through everything that can happen to a node: the real table, flows, conductor, workers' bells and store, with an
//! operator, an agent, a BMC, the time, crashes and a second conductor that do what they like, one at a time and in the middle of
//! each other's work (at every place between two commits or effects).
//!
//! What is looked for in every moment that can be reached:
//! - There is a way out: with the BMC up or down and nobody calling, the node comes to rest in a stable or failed state.
//! - No wake-up is lost: a worker that sleeps longer than a moment has nothing to do, and something that ends its sleep.
//! - One owner: a conductor that was taken over from changes nothing any more, wherever it was.
//! - An image is written once for one flow, whatever is killed, lost or asked for again.
//! - What is called done is done: an active node has its whole image, an available one was erased.
//! - No flow asks the table for what it does not have, and who waits is told for what and until when.

mod machine;
mod site;
#[path = "../../../tests/conductor/sim/store.rs"]
mod store;

use super::Settings;
use crate::erasure::Signer;
use lifecycle::provision::State;
use machine::Disk;
use site::{After, Fuse, Interrupt, Moment, Move, Rules, Weather, Worker, run, why};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// What nobody minds to wait for.
const MOMENTARY: Duration = Duration::from_secs(60);
/// More moments than there are.
const MOST: usize = 20_000;

/// A moment that was reached.
struct Known {
    moment: Moment,
    from: Option<(usize, String)>,
    /// Where it goes by itself, with the BMC up and down.
    onwards: [Option<usize>; 2],
}

struct Walk {
    rules: Arc<Rules>,
    known: Vec<Known>,
    places: HashMap<String, usize>,
    queue: VecDeque<usize>,
    runs: usize,
}

impl Walk {
    fn add(&mut self, moment: Moment, from: Option<(usize, String)>) -> usize {
        let key = moment.key(&self.rules.settings);
        if let Some(&index) = self.places.get(&key) {
            return index;
        }
        let index = self.known.len();
        assert!(index < MOST, "there is no end to it:\n{}\n{key}", self.story(index - 1));
        self.places.insert(key, index);
        self.known.push(Known { moment, from, onwards: [None; 2] });
        self.queue.push_back(index);
        index
    }

    /// How a moment was reached.
    fn story(&self, mut index: usize) -> String {
        let mut lines = vec![self.known[index].moment.outline()];
        while let Some((before, what)) = &self.known[index].from {
            lines.push(format!("{} -> {what}", self.known[*before].moment.state()));
            index = *before;
        }
        lines.reverse();
        lines.join("\n")
    }

    /// Makes a move, looks at what came of it and keeps it.
    async fn go(&mut self, from: usize, what: Move, interrupt: Option<(usize, Interrupt)>) -> (usize, usize) {
        self.runs += 1;
        let After { mut moment, places, wrong } = run(&self.rules, &self.known[from].moment, what, interrupt).await;
        let mut label = format!("{what:?}");
        if let Some((place, interrupt)) = interrupt {
            let _ = write!(label, ", {interrupt:?} at place {place}");
        }
        let wrong = wrong.or_else(|| is_wrong(&self.known[from].moment, &moment));
        if let Some(wrong) = wrong {
            let (runs, known) = (self.runs, self.known.len());
            panic!("{wrong}:\n{}\n{label}\n{}\n({known} moments, {runs} runs)", self.story(from), moment.outline());
        }
        moment.tidy();
        (self.add(moment, Some((from, label))), places)
    }

    /// What has to hold in a moment by itself.
    async fn look(&mut self, index: usize) {
        let moment = self.known[index].moment.clone();
        let Worker::Asleep(pause) = moment.worker else { return };
        if moment.record.is_none() {
            return;
        }
        let Some(pause) = pause else { panic!("nothing ends this sleep:\n{}", self.story(index)) };
        if pause > MOMENTARY {
            let key = moment.key(&self.rules.settings);
            let mut after = run(&self.rules, &moment, Move::Turn(Weather::Fair), None).await.moment;
            after.tidy();
            self.runs += 1;
            assert!(after.key(&self.rules.settings) == key, "this is slept over for {pause:?}:\n{}", self.story(index));
        }
        let why = why(&self.rules, &moment).await;
        let work = why.work.as_ref();
        let told = work.is_some_and(|work| work.waits_for.is_some() || work.trouble.is_some())
            && (why.deadline.is_some() || !moment.is_busy())
            && (why.hold.is_some() == moment.node.reservation.is_some());
        assert!(told, "nobody is told what is waited for: {}\n{}", why.summary, self.story(index));
    }

    async fn everything(&mut self) {
        let mut tried = HashSet::new();
        while let Some(index) = self.queue.pop_front() {
            self.look(index).await;
            let moves = self.known[index].moment.moves();
            let outline = self.known[index].moment.outline();
            for what in &moves {
                let (next, places) = self.go(index, *what, None).await;
                match what {
                    Move::Turn(Weather::Fair) => {
                        let [up, down] = &mut self.known[index].onwards;
                        *up = Some(next);
                        down.get_or_insert(next);
                    }
                    Move::Turn(Weather::BmcDown) => self.known[index].onwards[1] = Some(next),
                    Move::Deadline => self.known[index].onwards = [Some(next); 2],
                    _ => {}
                }
                let is_meant = !matches!(what, Move::Turn(weather) if *weather != Weather::Fair);
                if !is_meant || !tried.insert((outline.clone(), *what)) {
                    continue;
                }
                for place in 1..=places {
                    for interrupt in interrupts(&self.known[index].moment, *what, &moves) {
                        self.go(index, *what, Some((place, interrupt))).await;
                    }
                }
            }
        }
    }

    /// Every moment comes to rest by itself.
    fn all_come_to_rest(&self) {
        for side in 0..2 {
            let mut rests: Vec<bool> = self.known.iter().map(|known| known.moment.rests()).collect();
            loop {
                let more: Vec<usize> = (0..rests.len())
                    .filter(|index| !rests[*index] && self.known[*index].onwards[side].is_some_and(|next| rests[next]))
                    .collect();
                if more.is_empty() {
                    break;
                }
                more.into_iter().for_each(|index| rests[index] = true);
            }
            if let Some(stuck) = rests.iter().position(|rests| !rests) {
                panic!("with the BMC {} there is no way out of this:\n{}", ["up", "down"][side], self.story(stuck));
            }
        }
    }
}

/// What may come in the middle of a move.
fn interrupts(moment: &Moment, what: Move, moves: &[Move]) -> Vec<Interrupt> {
    let asked = matches!(what, Move::Turn(_)).then(|| moment.verbs()).unwrap_or_default();
    let others = moves.iter().copied().chain(asked).filter(|other| match other {
        Move::Turn(weather) => *weather == Weather::Fair && !matches!(what, Move::Turn(_)),
        Move::Nap | Move::Verb(_) if !matches!(what, Move::Turn(_)) => false,
        other => *other != what,
    });
    // A worker that works does not sleep, and deadlines pass all the same.
    let late = matches!(what, Move::Turn(_)).then_some(Move::Deadline);
    [Interrupt::Kill, Interrupt::TakeOver].into_iter().chain(others.chain(late).map(Interrupt::Other)).collect()
}

/// What must not follow what.
fn is_wrong(before: &Moment, after: &Moment) -> Option<String> {
    if after.is_busy() && after.record.is_none() {
        return Some(format!("the node is in \"{}\" and nobody works on it", after.state()));
    }
    if after.record.is_some() && !after.is_busy() && after.flow().is_some_and(|flow| flow.kind.states().is_some()) {
        return Some(format!("the node is in \"{}\" and a flow of another state goes on", after.state()));
    }
    if after.node.reservation.is_some() && after.record.is_none() {
        return Some("the node is held for nothing".to_owned());
    }
    if after.state() == before.state() || !before.finished(after) {
        return None;
    }
    let done = match (before.state(), after.state()) {
        (State::Deploying, State::Active) => after.machine.disk == Disk::Image,
        (State::Cleaning, State::Available) => after.machine.disk == Disk::Blank,
        (State::Rescuing, State::Rescue) => after.machine.agent.as_ref().is_some_and(|agent| agent.rescued),
        _ => true,
    };
    (!done).then(|| format!("\"{}\" is called done, and is not", before.state()))
}

#[test]
fn whatever_happens_to_a_node_it_comes_to_rest_nothing_is_done_twice_and_nobody_is_slept_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("model", folder.path(), "http://192.0.2.1:6385");
    settings.bmc_attempts = 2;
    settings.sync_power_state_interval = Duration::ZERO;
    let signer = Signer::open(&settings.erasure_key).unwrap();
    let first = Moment::first(&settings);
    let mut walk = Walk {
        rules: Arc::new(Rules { settings, signer }),
        known: Vec::new(),
        places: HashMap::new(),
        queue: VecDeque::new(),
        runs: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    walk.add(first, None);
    runtime.block_on(walk.everything());
    walk.all_come_to_rest();
    let reached: HashSet<State> = walk.known.iter().map(|known| known.moment.state()).collect();
    let missed: Vec<_> = State::ALL.iter().filter(|state| !reached.contains(state)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
    assert!(walk.known.len() > 500, "{} moments in {} runs", walk.known.len(), walk.runs);
}
