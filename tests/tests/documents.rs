//! What docs/reliability.md names is there: tests, files and targets of the Makefile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn what_is_said_to_show_the_guarantees_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let mut functions = BTreeSet::new();
    for folder in ["outbox", "generator", "deliverer", "tests"] {
        functions_in(&root.join(folder), &mut functions);
    }
    let (mut found, mut missing) = ([0; 3], Vec::new());
    // What stands in backticks is every second piece.
    for code in text.split('`').skip(1).step_by(2) {
        let last = code.rsplit("::").next().unwrap();
        let there = if let Some(command) = code.strip_prefix("make ") {
            found[0] += 1;
            let target = command.split(' ').next().unwrap();
            makefile.lines().any(|line| line.starts_with(&format!("{target}:")))
        } else if code.starts_with("tests/") || code.starts_with("outbox/tests/") {
            found[1] += 1;
            root.join(code).exists()
        } else if last.matches('_').count() > 3 {
            found[2] += 1;
            functions.contains(last)
        } else {
            true
        };
        if !there {
            missing.push(code);
        }
    }
    assert_eq!(missing, [""; 0]);
    assert!(found.iter().all(|&count| count > 4), "{found:?}");
}

/// The names of all functions in the Rust files below a folder.
fn functions_in(folder: &Path, functions: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            functions_in(&path, functions);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let names = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
            functions.extend(names.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}
