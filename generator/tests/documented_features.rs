//! The table of features in docs/formats.md: each example can be read, each test that it names is there,
//! and no key of a definition is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use outbox_generator::formats::Definitions;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

struct Row {
    table: String,
    example: String,
    test: String,
}

/// The rows of the table; each has its last three cells in backticks.
fn rows() -> Vec<Row> {
    let document = fs::read_to_string(project("docs/formats.md")).expect("the document");
    let (_, section) =
        document.split_once("## Every feature, with an example").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("a section behind it");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [_, table, example, test] = cells[..] else { panic!("four cells: {line}") };
        Row { table: code(table), example: code(example), test: code(test) }
    };
    rows.map(row).collect()
}

/// A definition file with the example in its table, and else what must be there.
fn definition(Row { table, example, .. }: &Row) -> String {
    let has = |key: &str| example.contains(&format!("{key} = "));
    let columns = if has("columns") { "" } else { "columns = [\"source.ip\"], " };
    let format = "format = [{ name = \"other\", columns = [\"source.ip\"] }]\n";
    match table.as_str() {
        "[[format]]" => format!("format = [{{ name = \"x\", {columns}{example} }}]"),
        list if list.starts_with("[[") => {
            format!("{} = [{{ {example} }}]\n{format}", list.trim_matches(['[', ']']))
        }
        table => {
            let keys: Vec<&str> = table.trim_matches(['[', ']']).split('.').collect();
            let (open, close) = (keys.join(" = { "), " }".repeat(keys.len()));
            format!("{open} = {{ {example}{close}\n{format}")
        }
    }
}

#[test]
fn every_example_can_be_read() {
    let rows = rows();
    assert!(rows.len() > 20);
    for row in rows {
        let folder = tempfile::tempdir().expect("a folder");
        let text = definition(&row);
        fs::write(folder.path().join("10-example.toml"), &text).expect("a file");
        if let Err(error) = Definitions::load(folder.path()) {
            panic!("{error}\n{text}");
        }
    }
}

#[test]
fn every_test_is_there() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("a file").path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).expect("a source file"));
            }
        }
    }
    let mut text = String::new();
    for folder in ["generator/src", "generator/tests", "tests/tests"] {
        sources(&project(folder), &mut text);
    }
    for Row { test, .. } in rows() {
        assert!(
            text.contains(&format!("#[test]\nfn {test}()"))
                || text.contains(&format!("#[test]\n    fn {test}()")),
            "no test is named {test}"
        );
    }
}

#[test]
fn every_key_has_an_example() {
    let mut keys = BTreeSet::new();
    for file in ["generator/src/formats/read.rs", "generator/src/formats/read/xarf.rs"] {
        let text = fs::read_to_string(project(file)).expect("a source file");
        for asked in ["get(\"", "require(\"", "table, \"", "root, \""] {
            let found = text.split(asked).skip(1).filter_map(|rest| rest.split_once('"'));
            keys.extend(found.map(|(key, _)| key.to_owned()));
        }
    }
    assert!(keys.len() > 30, "{keys:?}");
    let rows = rows();
    for key in keys {
        let shown = |row: &Row| {
            let named = |text: &str| text.contains(&key);
            named(&row.table) || row.example.contains(&format!("{key} = "))
        };
        // What every format has, the name, would be the same in each row.
        assert!(key == "name" || rows.iter().any(shown), "`{key}` has no example");
    }
}
