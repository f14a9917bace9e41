//! Moments and choices that nobody would think of, the same for the same seed.

use std::time::Duration;

/// Numbers that look like chance (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed, or from the one in the environment variable `OUTBOX_TEST_SEED`. It is printed,
    /// so that what a failing test did can be done again.
    pub fn seeded(seed: u64) -> Self {
        let given = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or(seed);
        println!("OUTBOX_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A number from 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end
    }

    /// A time shorter than `longest`, to the tenth of a millisecond.
    pub fn moment(&mut self, longest: Duration) -> Duration {
        let tenths = u64::try_from(longest.as_micros() / 100).expect("it is short");
        Duration::from_micros(100 * self.below(tenths.max(1)))
    }
}
