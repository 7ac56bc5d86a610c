//! The format's two examples, the public files, one test per kind of mistake, and damage at random.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use partita_ir::random::{DrawContext, stream, uniform_bits};

use super::*;
use crate::layout_problem::{GenerateOptions, generate, small};

const PLAIN: &str = r#"{"problem": {
  "name": "example",
  "nodes": {"intervals": [[0, 5], [2, 2]], "costs": [[15, 55], [65, 75, 85]], "usages": [[10, 15], [5, 5, 5]]},
  "edges": {"nodes": [[0, 1]], "costs": [[0, 7, 1000000000000000000, 7, 0, 7]]},
  "usage_limit": 50}}"#;

const HOLDS: &str = r#"{"problem": {
  "nodes": {"costs": [[15, 55], [65, 75, 85]]},
  "edges": {"nodes": [], "costs": []},
  "holds": {"limits": [50, 8], "spans": [[[0, 0, 5, [10, 15]], [1, 3, 4, [1, 0]]], []]}}}"#;

fn read(text: &str) -> Result<Problem> {
    Problem::from_bytes(text.as_bytes())
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

/// The error of a text in which `from` has become `to`.
fn mistake(text: &str, from: &str, to: &str) -> (String, &'static str, String) {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    let error = read(&text.replace(from, to)).expect_err(to);
    (error.path, error.code.strip_prefix("partita::layout_problem::").unwrap(), error.message)
}

/// Checks rows of: what becomes what, where the error is, its code and its message.
fn mistakes(text: &str, rows: &[(&str, &str, &str, &str, &str)]) {
    for (from, to, path, code, message) in rows {
        assert_eq!(mistake(text, from, to), ((*path).to_owned(), *code, (*message).to_owned()), "{from} -> {to}");
    }
}

#[test]
fn the_format_is_read() {
    let problem = read(PLAIN).unwrap();
    assert_eq!((problem.name.as_str(), &problem.limits[..], problem.nodes()), ("example", &[50][..], 2));
    assert_eq!((problem.cost(0), problem.cost(1)), (&[15, 55][..], &[65, 75, 85][..]));
    assert_eq!((problem.spans(0), problem.bytes(0, 0)), (&[Span { limit: 0, start: 0, end: 5 }][..], &[10, 15][..]));
    assert!(problem.spans(1).is_empty(), "an empty interval holds nothing");
    let edge = problem.edges()[0];
    assert_eq!((edge.a, edge.b, problem.table(edge.table)), (0, 1, &[0, 7, FORBIDDEN, 7, 0, 7][..]));
    assert_eq!(problem.total(&[1, 1]), Some(55 + 75));
}

#[test]
fn several_spans_and_limits_are_read() {
    let problem = read(HOLDS).unwrap();
    assert_eq!(problem.limits, [50, 8]);
    assert_eq!(problem.spans(0), [Span { limit: 0, start: 0, end: 5 }, Span { limit: 1, start: 3, end: 4 }]);
    assert_eq!((problem.bytes(0, 1), problem.spans(1).len()), (&[1, 0][..], 0));
    let both = PLAIN.replace("\"usage_limit\": 50", "\"holds\": {\"limits\": [9], \"spans\": [[], [[0, 1, 2, [3, 4, 5]]]]}");
    let problem = read(&both).unwrap();
    assert_eq!((&problem.limits[..], problem.spans(0).len(), problem.bytes(1, 0)), (&[9][..], 0, &[3, 4, 5][..]), "in place of intervals");
}

#[test]
fn order_unknown_keys_and_spelling_do_not_matter() {
    let text = r#"{"version": [1, {"x": null}], "problem": {"usage_limit": 5e1, "edges": {"weights": true,
        "costs": [[0.0, 7, 1e18, 7, 0, 7.0e0]], "nodes": [[0, 1]]}, "nodes": {"usages": [[10, 15], [5, 5, 5]],
        "costs": [[15, 55], [65, 75, 85]], "intervals": [[0, 5], [7, 7]]}, "name": "ex\u0061mple"}}"#;
    assert_eq!(read(text), read(PLAIN));
    for forbidden in ["1000000000000000001", "1000000000000000000.0", "9223372036854775808", "1e300"] {
        assert_eq!(read(&PLAIN.replace("1000000000000000000", forbidden)), read(PLAIN), "{forbidden}");
    }
    let bytes = [packed(&PLAIN.as_bytes()[..50]), packed(&PLAIN.as_bytes()[50..])].concat();
    assert_eq!(Problem::from_bytes(&bytes), read(PLAIN), "gzip in two members");
    assert_eq!(Problem::from_reader(&bytes[..]), read(PLAIN));
}

#[test]
fn without_a_limit_nothing_is_held() {
    let problem = read(&PLAIN.replace(",\n  \"usage_limit\": 50", "")).unwrap();
    assert!(problem.limits.is_empty() && problem.spans(0).is_empty() && problem.peaks(&[0, 0]).is_empty());
}

#[test]
fn public_files_have_their_nodes_and_edges() {
    let data =
        std::env::var_os("PARTITA_DATA").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let folder = data.join("iopddl");
    if !folder.is_dir() {
        eprintln!("skipped: the public layout problems are not at {}; PARTITA_DATA says where they are", folder.display());
        return;
    }
    for (name, nodes, edges, most_strategies) in [
        ("B", 816, 1096, 39),
        ("G", 816, 1023, 39),
        ("K", 34_932, 49_674, 129),
        ("N", 40_958, 41_606, 41),
        ("P", 65_335, 100_547, 7),
        ("V", 816, 1023, 178),
    ] {
        let problem = Problem::read(folder.join(format!("{name}.json.gz"))).unwrap();
        assert_eq!(problem.name, format!("asplos-2025-iopddl-{name}"));
        assert_eq!((problem.nodes(), problem.edges().len(), problem.limits.len()), (nodes, edges, 1), "{name}");
        assert_eq!((0..nodes).map(|node| problem.strategies(node)).max(), Some(most_strategies), "{name}");
        // the contest set each limit 10 % above what the leanest strategies need
        let lean = |node: usize| {
            let least = |bytes: &[u64]| (0..bytes.len() as u32).min_by_key(|strategy| bytes[*strategy as usize]).unwrap();
            if problem.spans(node).is_empty() { 0 } else { least(problem.bytes(node, 0)) }
        };
        let peak = problem.peaks(&(0..nodes).map(lean).collect::<Vec<u32>>())[0] as f64;
        assert!((1.09..1.11).contains(&(problem.limits[0] as f64 / peak)), "{name}: {peak} under {:?}", problem.limits);
        let mut text = Vec::new();
        problem.write_to(&mut text).unwrap();
        assert_eq!(Problem::from_bytes(&text), Ok(problem));
    }
}

#[test]
fn mistake_file_that_is_not_there() {
    let error = Problem::read("no/such/problem.json").unwrap_err();
    let text = "no/such/problem.json: cannot be read: No such file or directory (os error 2) (partita::layout_problem::io)";
    assert_eq!(error.to_string(), text);
}

#[test]
fn mistake_in_a_file_is_told_with_its_name() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(PLAIN.replace("0, 7, 1000", "0, 1000").as_bytes()).unwrap();
    let text = format!(
        "{}: problem.edges.costs[0]: the table has 5 entries; nodes of 2 and 3 strategies need 2 x 3 = 6 (partita::layout_problem::wrong_length)",
        file.path().display()
    );
    assert_eq!(Problem::read(file.path()).unwrap_err().to_string(), text);
}

#[test]
fn mistake_truncated_text() {
    for end in 0..PLAIN.len() {
        let error = read(&PLAIN[..end]).unwrap_err();
        assert_eq!(error.code, "partita::layout_problem::truncated", "{end}: {error}");
        assert!(error.message.starts_with("the text ends at byte "), "{error}");
    }
    let at = PLAIN.find("7, 0, 7]").unwrap();
    let error = read(&PLAIN[..at]).unwrap_err();
    assert_eq!(error.path, "problem.edges.costs[0][3]");
    assert_eq!(error.message, format!("the text ends at byte {at}, and a number should follow"));
    assert_eq!(error.help, "the file is not complete: write or download it again");
}

#[test]
fn mistake_damaged_gzip() {
    let whole = packed(PLAIN.as_bytes());
    for bytes in [&whole[..2], &whole[..whole.len() / 2], &whole[..whole.len() - 1], &[whole.as_slice(), &[0x1F, 0x8B]].concat()] {
        let error = Problem::from_bytes(bytes).unwrap_err();
        assert_eq!((error.path.as_str(), error.code), ("", "partita::layout_problem::compression"), "{error}");
        assert!(error.message.starts_with("the compressed text is damaged after its first "), "{error}");
    }
    let mut wrong_sum = whole;
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    assert_eq!(Problem::from_bytes(&wrong_sum).unwrap_err().code, "partita::layout_problem::compression");
}

#[test]
fn mistake_text_that_is_not_json() {
    mistakes(
        PLAIN,
        &[
            ("[15, 55]", "[15 55]", "problem.nodes.costs[0]", "syntax", "`,` or `]` should stand at byte 92, and `5` does"),
            ("\"usage_limit\": 50}}", "\"usage_limit\": 50}}}", "", "syntax", "the end of the text should stand at byte 249, and `}` does"),
            ("\"name\": ", "\"name\" ", "problem.name", "syntax", "`:` should stand at byte 23, and `\"` does"),
            (
                "[0, 5]",
                "[0, nan]",
                "problem.nodes.intervals[0][1]",
                "syntax",
                "a number should stand at byte 65, and NaN and infinity are no numbers of JSON",
            ),
        ],
    );
}

#[test]
fn mistake_wrong_type() {
    mistakes(
        PLAIN,
        &[
            ("\"example\"", "3", "problem.name", "wrong_type", "must be a text in quotes, and a number stands here, at byte 24"),
            (
                "[15, 55]",
                "15",
                "problem.nodes.costs[0]",
                "wrong_type",
                "must be a list of numbers, one per strategy, and a number stands here, at byte 88",
            ),
            (
                "[15, 55]",
                "[15, \"55\"]",
                "problem.nodes.costs[0][1]",
                "wrong_type",
                "must be a number, and a text in quotes stands here, at byte 93",
            ),
            (
                ": 50",
                ": null",
                "problem.usage_limit",
                "wrong_type",
                "must be a number of bytes (leave the key out for no limit), and null stands here, at byte 245",
            ),
            ("{\"problem\": {", "[{", "", "wrong_type", "must be an object with the key `problem`, and a list stands here, at byte 0"),
        ],
    );
}

#[test]
fn mistake_missing_or_doubled_keys() {
    let missing = "the key is missing";
    mistakes(
        PLAIN,
        &[
            ("\"problem\"", "\"problems\"", "problem", "missing_key", missing),
            ("\"edges\"", "\"edge\"", "problem.edges", "missing_key", missing),
            ("\"intervals\"", "\"interval\"", "problem.nodes.intervals", "missing_key", missing),
            ("\"usages\"", "\"usage\"", "problem.nodes.usages", "missing_key", missing),
            ("\"usages\"", "\"intervals\"", "problem.nodes.intervals", "duplicate_key", "the key comes twice"),
        ],
    );
    mistakes(
        HOLDS,
        &[
            ("\"holds\"", "\"hold\"", "problem.nodes.intervals", "missing_key", missing),
            ("\"spans\"", "\"span\"", "problem.holds.spans", "missing_key", missing),
            ("\"limits\"", "\"limit\"", "problem.holds.limits", "missing_key", missing),
        ],
    );
}

#[test]
fn mistake_lengths_that_do_not_agree() {
    mistakes(
        PLAIN,
        &[
            (
                "[[0, 5], [2, 2]]",
                "[[0, 5]]",
                "problem.nodes.intervals",
                "wrong_length",
                "1 entries for 2 nodes in problem.nodes.costs; there must be one each",
            ),
            (
                "[[10, 15], [5, 5, 5]]",
                "[[10, 15], [5, 5, 5], [1]]",
                "problem.nodes.usages",
                "wrong_length",
                "3 entries for 2 nodes in problem.nodes.costs; there must be one each",
            ),
            ("[5, 5, 5]", "[5, 5]", "problem.nodes.usages[1]", "wrong_length", "2 usages for 3 strategies; there must be one each"),
            ("[2, 2]", "[2, 2, 2]", "problem.nodes.intervals[1]", "wrong_length", "3 numbers are not an interval `[start, end]`"),
            (
                "[[0, 1]]",
                "[]",
                "problem.edges.nodes",
                "wrong_length",
                "0 entries for 1 tables in problem.edges.costs; there must be one each",
            ),
        ],
    );
}

#[test]
fn mistake_edges() {
    mistakes(
        PLAIN,
        &[
            (
                "[0, 1]",
                "[0, 2]",
                "problem.edges.nodes[0][1]",
                "no_such_node",
                "the edge joins node 2, and there are 2 nodes, counted from 0",
            ),
            (
                "[0, 1]",
                "[18446744073709551615, 1]",
                "problem.edges.nodes[0][0]",
                "no_such_node",
                "the edge joins node 18446744073709551615, and there are 2 nodes, counted from 0",
            ),
            (
                "[0, 1]",
                "[1, 1]",
                "problem.edges.nodes[0]",
                "edge_to_itself",
                "the edge joins node 1 to itself; add the diagonal of its table to the node's costs instead",
            ),
            ("[0, 1]", "[0]", "problem.edges.nodes[0]", "wrong_length", "1 numbers are not an edge `[first node, second node]`"),
            ("[0, 1]", "[0, 1, 0]", "problem.edges.nodes[0]", "wrong_length", "3 numbers are not an edge `[first node, second node]`"),
            (
                "[0, 7, 1000000000000000000, 7, 0, 7]",
                "[]",
                "problem.edges.costs[0]",
                "wrong_length",
                "the table has 0 entries; nodes of 2 and 3 strategies need 2 x 3 = 6",
            ),
        ],
    );
}

#[test]
fn mistake_nodes_without_strategies() {
    let message = "the node has no strategies; it needs at least one, of cost 0 if it costs nothing";
    mistakes(PLAIN, &[("[15, 55]", "[]", "problem.nodes.costs[0]", "no_strategies", message)]);
}

#[test]
fn mistake_numbers() {
    mistakes(
        PLAIN,
        &[
            ("[0, 5]", "[-1, 5]", "problem.nodes.intervals[0][0]", "out_of_range", "-1 is negative, and this is a number"),
            ("[0, 5]", "[6, 5]", "problem.nodes.intervals[0]", "out_of_range", "the interval starts at 6 and ends before, at 5"),
            ("[10, 15]", "[10, -15]", "problem.nodes.usages[0][1]", "out_of_range", "-15 is negative, and this is a number of bytes"),
            (
                "[10, 15]",
                "[1e20, 15]",
                "problem.nodes.usages[0][0]",
                "out_of_range",
                "100000000000000000000 is not below 2^64, and this is a number of bytes",
            ),
            (
                "[10, 15]",
                "[10, 9223372036854775808]",
                "problem.nodes.usages",
                "out_of_range",
                "the largest bytes of all spans of limit 0 add up to 9223372036854775808, which is not below 2^63",
            ),
            ("[15, 55]", "[15, 5.5]", "problem.nodes.costs[0][1]", "not_whole", "5.5 is not a whole number"),
            (
                "[15, 55]",
                "[15, NaN]",
                "problem.nodes.costs[0][1]",
                "syntax",
                "a number should stand at byte 93, and NaN and infinity are no numbers of JSON",
            ),
            (
                "[15, 55]",
                "[15, -1e18]",
                "problem.nodes.costs[0][1]",
                "out_of_range",
                "-1000000000000000000 is not above -1000000000000000000",
            ),
            ("[0, 7, ", "[0, 7e-1, ", "problem.edges.costs[0][1]", "not_whole", "7e-1 is not a whole number"),
            (
                "50}}",
                "-50}}",
                "problem.usage_limit",
                "out_of_range",
                "-50 is negative, and this is a number of bytes (leave the key out for no limit)",
            ),
        ],
    );
}

#[test]
fn mistake_spans() {
    mistakes(
        HOLDS,
        &[
            (
                "[1, 3, 4, [1, 0]]",
                "[2, 3, 4, [1, 0]]",
                "problem.holds.spans[0][1][0]",
                "no_such_limit",
                "span 1 is of limit 2, and there are 2 limits, counted from 0",
            ),
            (
                "[1, 3, 4, [1, 0]]",
                "[4294967296, 3, 4, [1, 0]]",
                "problem.holds.spans[0][1][0]",
                "no_such_limit",
                "span 1 is of limit 4294967296, and there are 2 limits, counted from 0",
            ),
            (
                "[1, 3, 4, [1, 0]]",
                "[1, 5, 4, [1, 0]]",
                "problem.holds.spans[0][1]",
                "out_of_range",
                "span 1 starts at 5 and ends before, at 4; equal times stand for a span that holds nothing",
            ),
            (
                "[1, 3, 4, [1, 0]]",
                "[1, 3, 4, [1]]",
                "problem.holds.spans[0][1][3]",
                "wrong_length",
                "1 numbers of bytes for 2 strategies; there must be one each",
            ),
            (
                "[1, 3, 4, [1, 0]]",
                "[1, 3, 4]",
                "problem.holds.spans[0][1]",
                "wrong_length",
                "3 entries are no span `[limit, start, end, [bytes per strategy]]`",
            ),
            (
                "[1, 3, 4, [1, 0]]",
                "[1, 3, 4, [1, 0], 0]",
                "problem.holds.spans[0][1][4]",
                "wrong_length",
                "more than 4 entries are no span `[limit, start, end, [bytes per strategy]]`",
            ),
            (", []]}", "]}", "problem.holds.spans", "wrong_length", "1 entries for 2 nodes in problem.nodes.costs; there must be one each"),
        ],
    );
}

/// Damages the texts of small problems at random: reading ends in an error or in a problem that can be written and
/// read again, never in a panic.
#[test]
fn damage_is_never_a_panic() {
    let stream = stream(DrawContext::default(), 1);
    let mut drawn = 0;
    let mut below = |end: usize| {
        drawn += 1;
        uniform_bits(stream, drawn) as usize % end
    };
    let pieces: [&[u8]; 14] =
        [b"[", b"]", b"{", b"}", b",", b":", b"\"", b"-", b"e", b".", b"0", b"99999999999999999999", b"null", b"\xFF"];
    let mut errors = 0;
    for round in 0..6000 {
        let mut text = match round % 3 {
            0 => PLAIN.as_bytes().to_vec(),
            1 => HOLDS.as_bytes().to_vec(),
            _ => {
                let mut text = Vec::new();
                small(round).write_to(&mut text).unwrap();
                text
            }
        };
        let pack_first = below(5) == 0;
        if pack_first {
            text = packed(&text);
        }
        for _ in 0..1 + below(3) {
            let at = below(text.len());
            let end = (at + below(12)).min(text.len());
            match below(5) {
                0 => text.truncate(at.max(1)),
                1 => text[at] = below(256) as u8,
                2 => drop(text.drain(at..end)),
                3 => drop(text.splice(at..at, pieces[below(pieces.len())].iter().copied())),
                _ => {
                    let copy = text[at..end].to_vec();
                    let to = below(text.len());
                    text.splice(to..to, copy);
                }
            }
            if text.is_empty() {
                break;
            }
        }
        if !pack_first && below(8) == 0 {
            text = packed(&text);
        }
        match Problem::from_bytes(&text) {
            Err(error) => {
                errors += 1;
                assert!(!error.to_string().is_empty() && error.code.starts_with("partita::layout_problem::"));
            }
            Ok(problem) => {
                let mut again = Vec::new();
                problem.write_to(&mut again).unwrap();
                assert_eq!(Problem::from_bytes(&again), Ok(problem));
            }
        }
    }
    assert!(errors > 3000 && errors < 6000, "{errors}");
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let generated = generate(&GenerateOptions::default());
    for (index, problem) in (0..200).map(small).chain([generated]).enumerate() {
        let mut text = Vec::new();
        problem.write_to(&mut text).unwrap();
        assert_eq!(Problem::from_bytes(&text).as_ref(), Ok(&problem));
        if index % 50 == 0 {
            let [plain, packed] = ["problem.json", "problem.json.gz"].map(|name| folder.path().join(name));
            problem.write(&plain).unwrap();
            problem.write(&packed).unwrap();
            assert_eq!(std::fs::read(&plain).unwrap(), text);
            assert!(std::fs::read(&packed).unwrap().starts_with(GZIP_MAGIC));
            assert_eq!(Problem::read(packed), Ok(problem));
        }
    }
}
