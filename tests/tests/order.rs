//! Recorded runs keep the order of docs/outbox-format.md, and a breach of each rule would be found.

use std::collections::BTreeMap;

use outbox_tests::programs;
use outbox_tests::trace::order::{Report, Rule, check};
use outbox_tests::trace::worlds::{self, World};

#[test]
fn both_programs_keep_the_order_and_every_rule_is_looked_at() {
    let mut looked_at: BTreeMap<Rule, usize> = BTreeMap::new();
    let mut traces: Vec<_> = World::ALL.iter().map(|world| world.record(programs!())).collect();
    traces.push(worlds::many(programs!()));
    for trace in &traces {
        let report = check(trace);
        assert_kept(&report);
        println!("{} events of {} processes", trace.events.len(), trace.processes.len());
        for (rule, times) in report.looked_at {
            *looked_at.entry(rule).or_default() += times;
        }
    }
    for rule in Rule::ALL {
        println!("{:5} {rule:?}", looked_at.get(&rule).copied().unwrap_or_default());
    }
    for rule in Rule::ALL {
        assert!(looked_at.contains_key(&rule), "{rule:?} was never looked at");
    }
}

#[track_caller]
fn assert_kept(report: &Report) {
    let words: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(words.is_empty(), "{}", words.join("\n"));
}
