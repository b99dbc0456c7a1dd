//! How the memory budget is shared out: what the pipeline may hold at any moment.

/// Bytes of one block on its way to the disk, and of the head and the tail that are held back.
pub(crate) const BLOCK: usize = 1 << 20;
/// The smallest budget with which the pipeline runs.
pub(crate) const MINIMUM: u64 = 8 << 20;

/// The shares of a budget. Their sum never exceeds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Transported bytes that wait for the hash or the decompressor.
    pub(crate) queue: usize,
    /// Blocks of [`BLOCK`] bytes between decompressor and disk.
    pub(crate) blocks: usize,
    /// What a decompressor may allocate.
    pub(crate) window: u64,
}

/// The budget is too small for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory budget of {given} bytes is too small; at least {MINIMUM} are needed")]
pub struct BudgetError {
    given: u64,
}

impl Shares {
    pub(crate) fn of(budget: u64) -> Result<Self, BudgetError> {
        if budget < MINIMUM {
            return Err(BudgetError { given: budget });
        }
        let queue = (budget / 8).clamp(1 << 20, 8 << 20);
        let blocks = (budget / 8 / BLOCK as u64).clamp(2, 8);
        // Head and tail are held back; reading back and config drive share one more block after the data is written.
        let held = 2 * BLOCK as u64;
        let window = budget - queue - blocks * BLOCK as u64 - held;
        Ok(Self { queue: queue as usize, blocks: blocks as usize, window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_budget() {
        for mib in [8, 16, 64, 1024_u64] {
            let shares = Shares::of(mib << 20).unwrap();
            assert_eq!(shares.queue as u64 + (shares.blocks as u64 + 2) * BLOCK as u64 + shares.window, mib << 20);
        }
        assert!(Shares::of(MINIMUM - 1).is_err());
    }

    #[test]
    fn the_usual_budget_fits_the_window_of_every_zstd_level_without_ultra_or_long() {
        assert!(Shares::of(64 << 20).unwrap().window > (8 << 20) + (1 << 20));
    }
}
