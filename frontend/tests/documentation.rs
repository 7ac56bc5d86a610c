//! `docs/language.md`: its snippets compile, and its reference is that of the tables.
//!
//! A block ` ```partita ` is a whole model. ` ```partita head ` begins those marked `fragment` behind it, which get a loss
//! where they have none. One marked `fails CODE` is a fragment too, and must fail with that code.

use std::fs;
use std::path::PathBuf;

use partita_frontend::{Source, load, reference, render};

const BEGINS: &str = "<!-- reference begins -->\n";
const ENDS: &str = "<!-- reference ends -->";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/language.md")
}

/// The marks of a block of the file, its line, and its text.
fn blocks(text: &str) -> Vec<(String, usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(marks)) => open = Some((marks.to_owned(), number + 1, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, _, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// A fragment behind its head.
fn whole(head: &str, fragment: &str) -> String {
    let has_loss = fragment.lines().any(|line| line.starts_with("loss cross_entropy") || line.starts_with("loss mean"));
    let loss = if has_loss { "" } else { "loss mean[batch, seq](index[batch] + index[seq])\n" };
    format!("{head}{fragment}{loss}")
}

#[test]
fn snippets_compile() {
    let text = fs::read_to_string(path()).expect("the file is there");
    let mut head = String::new();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (marks, line, block) in blocks(&text) {
        let Some(marks) = marks.strip_prefix("partita") else { continue };
        let marks: Vec<&str> = marks.split_whitespace().collect();
        let (model, code) = match marks[..] {
            [] => (block, None),
            ["head"] => {
                head.clone_from(&block);
                (whole(&block, ""), None)
            }
            ["fragment"] => (whole(&head, &block), None),
            ["fails", code] => (whole(&head, &block), Some(code)),
            _ => panic!("line {line}: unknown marks {marks:?}"),
        };
        seen += 1;
        let source = Source { name: "language.md", text: &model };
        match (load(source, &[]), code) {
            (Ok(_), None) => {}
            (Err(errors), Some(code)) if errors.iter().any(|error| error.code == code) => {}
            (Ok(_), Some(code)) => wrong.push(format!("line {line} compiles, and should say {code}")),
            (Err(errors), _) => wrong.push(format!("line {line}:\n{}", render(&[source], &errors, false))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "only {seen} blocks");
}

#[test]
fn the_reference_is_that_of_the_tables() {
    let text = fs::read_to_string(path()).expect("the file is there");
    let (before, rest) = text.split_once(BEGINS).expect("the reference begins");
    let (known, after) = rest.split_once(ENDS).expect("the reference ends");
    let now = reference().unwrap_or_else(|error| panic!("{error}"));
    if std::env::var_os("PARTITA_BLESS").is_some() {
        fs::write(path(), format!("{before}{BEGINS}{now}{ENDS}{after}")).expect("the file can be written");
    } else {
        let differs = known.lines().zip(now.lines()).find(|(known, now)| known != now);
        assert!(known == now, "the reference is stale, first at {differs:?}\nPARTITA_BLESS=1 accepts what the tables say");
    }
}
