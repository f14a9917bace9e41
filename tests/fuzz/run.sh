#!/usr/bin/env bash
# Fuzzing: gives each oracle random input for some minutes, one after the other.
#
#   run.sh [MINUTES [ORACLE]...]
#
# What it finds on the way is kept in target/fuzz, for the next time; what breaks an oracle is in tests/fuzz/artifacts.
# README.md beside this tells what to do with it.
set -euo pipefail
cd "$(dirname "$0")/../.."

minutes=${1:-10}
shift || true

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "cargo-fuzz is not installed: cargo install --locked cargo-fuzz" >&2
    exit 1
fi
if ! rustc +nightly --version >/dev/null 2>&1; then
    echo "there is no nightly compiler: rustup toolchain install nightly --profile minimal" >&2
    exit 1
fi

oracles=("$@")
if [ $# = 0 ]; then
    mapfile -t oracles < <(ls tests/fuzz/corpus)
fi

# There is no unsafe code in here for a sanitizer to watch. Checks of the code itself are on: see Cargo.toml.
options=(--fuzz-dir tests/fuzz --release --sanitizer none oracle)
cargo +nightly fuzz build "${options[@]}"

mkdir -p tests/fuzz/artifacts
broken=()
for oracle in "${oracles[@]}"; do
    found=target/fuzz/$oracle
    mkdir -p "$found"
    log=$found.log
    if ORACLE=$oracle nice cargo +nightly fuzz run "${options[@]}" "$found" "tests/fuzz/corpus/$oracle" -- \
        -max_total_time=$((minutes * 60)) -rss_limit_mb=2048 -timeout=30 -print_final_stats=1 \
        -artifact_prefix="tests/fuzz/artifacts/$oracle-" >"$log" 2>&1; then
        state=ok
    else
        state=BROKEN
        broken+=("$oracle")
    fi
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/^#.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$log" | tail -1)
    echo "$oracle: $state, ${executed:-?} inputs in $minutes min, ${coverage:-no coverage}"
done

if [ ${#broken[@]} -gt 0 ]; then
    echo "what broke ${broken[*]} is in tests/fuzz/artifacts, and how in target/fuzz/*.log" >&2
    exit 1
fi
