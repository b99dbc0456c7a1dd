//! Chance that can be had again: what happens hangs on the seed and on whom it happens to for which time, and not on the
//! order in which tasks take their turns.

/// Chances of one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 up to, but not including, 1 for what happens to `who` for the `time`-th time.
    pub(crate) fn roll(self, what: &str, who: u64, time: u64) -> f64 {
        let mut hash = mix(self.0);
        for byte in what.bytes() {
            hash = mix(hash ^ u64::from(byte));
        }
        hash = mix(mix(hash ^ who) ^ time);
        // The upper 53 bits are what a double holds.
        (hash >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something happens that does so in `share` of all cases.
    pub(crate) fn happens(self, share: f64, what: &str, who: u64, time: u64) -> bool {
        self.roll(what, who, time) < share
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): each bit of the result hangs on all bits of what is given.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_has_the_same_chances_and_another_one_others() {
        let rolls = |seed| (0..100).map(|who| Dice::new(seed).roll("reset", who, 1)).collect::<Vec<_>>();
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
    }

    #[test]
    fn something_happens_about_as_often_as_it_should() {
        let dice = Dice::new(1);
        for what in ["loss", "reset"] {
            let times = (0..10_000).filter(|who| dice.happens(0.1, what, *who, 3)).count();
            assert!((900..1100).contains(&times), "{what}: {times}");
        }
        assert!(!dice.happens(0.0, "loss", 1, 1) && dice.happens(1.0, "loss", 1, 1));
    }
}
