//! Mistakes and what is said of them: each `tests/diagnostics/NAME.partita` beside `NAME.txt`.
//!
//! A first line `# --set name=value ...` gives settings. `PARTITA_BLESS=1` writes what is said now into the `.txt` files.

use std::fs;
use std::path::Path;

use partita_frontend::{Setting, Source, load, render};

#[test]
fn mistakes_are_told_as_before() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut paths: Vec<_> =
        fs::read_dir(&folder).expect("the folder is there").map(|entry| entry.expect("it can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "partita"));
    paths.sort();
    assert!(paths.len() >= 20, "the cases are there");
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("the case can be read");
        let settings: Vec<Setting> = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# --set "))
            .into_iter()
            .flat_map(str::split_whitespace)
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| Setting { name: name.to_owned(), value: value.to_owned() })
            .collect();
        let source = Source { name: &name, text: &text };
        let told = match load(source, &settings) {
            Ok(_) => "no error\n".to_owned(),
            Err(errors) => render(&[source], &errors, false),
        };
        let told: String = told.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        let expected = path.with_extension("txt");
        if std::env::var_os("PARTITA_BLESS").is_some() {
            fs::write(&expected, &told).expect("the expected text can be written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != told {
            wrong.push(format!("{name} now says:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nPARTITA_BLESS=1 accepts this", wrong.join("\n"));
}
