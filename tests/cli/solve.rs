//! Layout problems in, the cheapest strategies and a bound out.

use partita_planner::layout_problem::{GenerateOptions, generate};
use serde_json::Value;

use crate::support::{Work, done, partita, refused};

/// Two nodes of two strategies that may not both be the cheap one.
const TINY: &str = r#"{"problem": {"name": "tiny", "usage_limit": 10,
    "nodes": {"intervals": [[0, 2], [1, 3]], "costs": [[1, 5], [1, 4]], "usages": [[8, 1], [8, 1]]},
    "edges": {"nodes": [[0, 1]], "costs": [[0, 3, 0, 1000000000000000000]]}}}"#;

fn solved(file: &str, more: &[&str]) -> Value {
    serde_json::from_str(&done(&[&["solve", file, "--format", "json"], more].concat())).unwrap()
}

#[test]
fn a_small_problem_is_solved_and_proven() {
    let work = Work::new();
    let answer = solved(&work.file("tiny.json", TINY), &[]);
    // both cheap ones take 16 of 10 bytes; (cheap, lean) costs 1 + 4 + 3, (lean, cheap) 5 + 1 + 0, (lean, lean) is forbidden
    assert_eq!((&answer["cost"], &answer["lower_bound"], &answer["stop"]), (&6.into(), &6.into(), &"optimal".into()));
    assert_eq!((&answer["choice"], &answer["gap"]), (&serde_json::json!([1, 0]), &serde_json::json!(0.0)));
    assert!(done(&["solve", &work.file("tiny.json", TINY)]).contains("no answer is cheaper"));
}

#[test]
fn what_cannot_be_solved_is_refused() {
    let work = Work::new();
    let file = |name: &str, from: &str, to: &str| work.file(name, TINY.replace(from, to));
    let infeasible = file("infeasible.json", "\"usage_limit\": 10", "\"usage_limit\": 1");
    refused(&["solve", &infeasible], "partita::solve::infeasible", &["forbidden pair"]);
    let answer: Value = serde_json::from_str(&partita(&["solve", &infeasible, "--format", "json"]).stdout).unwrap();
    assert_eq!((&answer["choice"], &answer["stop"]), (&Value::Null, &"infeasible".into()));
    refused(&["solve", &file("edge.json", "[[0, 1]]", "[[0, 7]]")], "partita::layout_problem", &["problem.edges.nodes[0]", "7"]);
    refused(&["solve", &file("negative.json", "[0, 2]", "[-1, 2]")], "partita::layout_problem", &["problem.nodes.intervals[0]"]);
    refused(&["solve", &work.file("cut.json", &TINY[..TINY.len() / 2])], "partita::layout_problem", &["cut.json"]);
    refused(&["solve", &work.arg("none.json")], "partita::", &["none.json"]);
    for wrong in [&["--time-limit", "-1"], &["--work", "x"], &["--threads", "0"]] {
        assert_eq!(partita(&["solve", "x.json", wrong[0], wrong[1]]).code, 2);
    }
}

#[test]
fn limits_of_work_and_time_give_the_best_so_far() {
    let work = Work::new();
    let file = work.arg("generated.json.gz");
    generate(&GenerateOptions { nodes: 600, seed: 3, ..GenerateOptions::default() }).write(&file).unwrap();
    let of_work = |threads: &str| {
        let mut answer = solved(&file, &["--work", "200000", "--threads", threads]);
        answer["seconds"].take();
        answer
    };
    let first = of_work("1");
    assert_eq!(of_work("2"), first);
    assert_eq!(first["choice"].as_array().unwrap().len(), 600);
    let (cost, bound) = (first["cost"].as_f64().unwrap(), first["lower_bound"].as_f64().unwrap());
    assert!(bound <= cost && first["gap"].as_f64().unwrap() >= 0.0, "{cost} {bound}");
    assert!(["work_limit", "optimal"].contains(&first["stop"].as_str().unwrap()));
    let short = solved(&file, &["--time-limit", "0.5"]);
    assert!(["time_limit", "optimal"].contains(&short["stop"].as_str().unwrap()));
}
