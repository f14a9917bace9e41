//! Gives a crate's oracles what is kept in `corpus/`, so that what was found once stays found. Each crate that has
//! oracles includes this file in its tests.

use std::fs;
use std::path::Path;

type Oracle = (&'static str, fn(&[u8]));

/// Runs each oracle on the files of its name.
pub fn replay(oracles: &[Oracle]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let corpus = corpus.map(|folder| folder.join("tests/fuzz/corpus")).find(|path| path.is_dir());
    let corpus = corpus.expect("the corpus is below the workspace's root");
    for (name, oracle) in oracles {
        let files =
            fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.expect("the folder can be listed").path();
            // Shown if the oracle fails.
            println!("{}", path.display());
            oracle(&fs::read(&path).expect("it can be read"));
            count += 1;
        }
        assert!(count > 0, "{name}: there is nothing in its corpus");
    }
}
