//! One oracle, named by the environment variable `ORACLE`, under libFuzzer.
//!
//! The oracles are in the crates, beside what they are about. There, a test on stable Rust gives them all that is in
//! `corpus/`; here, they get what libFuzzer makes of it. `make fuzz` runs one after the other.

#![no_main]

use std::process::exit;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

type Oracle = fn(&[u8]);

static ORACLE: LazyLock<Oracle> = LazyLock::new(|| {
    let all = [
        outbox::oracles::ALL,
        outbox_config::oracles::ALL,
        outbox_deliverer::oracles::ALL,
        outbox_generator::oracles::ALL,
    ];
    let wanted = std::env::var("ORACLE").unwrap_or_default();
    let found = all.iter().copied().flatten().find(|(name, _)| *name == wanted);
    found.map_or_else(
        || {
            let names: Vec<&str> = all.iter().copied().flatten().map(|(name, _)| *name).collect();
            eprintln!("ORACLE={wanted:?} is none: name one of {}", names.join(" "));
            exit(2);
        },
        |(_, oracle)| *oracle,
    )
});

fuzz_target!(|data: &[u8]| ORACLE(data));
