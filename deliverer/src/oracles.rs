//! What must be true of any input, by where it comes from: for fuzzing (tests/fuzz) and, with what that found, for the
//! tests. The oracles themselves stand beside what they are about.

use crate::{bounces, queue, smtp, status};

/// A name, and what must be true of any input that it is given.
pub type Oracle = (&'static str, fn(&[u8]));

/// All oracles.
pub const ALL: &[Oracle] = &[
    ("reply", smtp::oracles::reply),
    ("wire", smtp::oracles::wire),
    ("bounce", bounces::oracles::bounce),
    ("selector", queue::oracles::selector),
    ("service", status::oracles::service),
];

#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzing_found_stays_found() {
        super::replay::replay(super::ALL);
    }
}
