//! The layout problem of a plan, written and solved again.

use serde_json::Value;

use crate::support::{Setting, Work, done, partita, refused};

/// Writes the problem of a setting's plan; gives what the plan costs in it.
fn emitted(setting: &Setting, pins: &str, file: &str, more: &[&str]) -> i64 {
    let outcome = partita(&setting.arguments("plan", &[&["--pin", pins, "--emit-layout-problem", file], more].concat()));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.trim().ends_with(&format!("written to {file}")), "{}", outcome.stderr);
    let (_, after) = outcome.stderr.split_once("where the plan costs ").expect("the cost is told");
    after.split_once(',').unwrap().0.parse().unwrap()
}

/// The least cost of a problem, proven.
fn least(file: &str) -> i64 {
    let answer: Value = serde_json::from_str(&done(&["solve", file, "--format", "json"])).unwrap();
    assert_eq!((&answer["stop"], &answer["lower_bound"]), (&"optimal".into(), &answer["cost"]));
    answer["cost"].as_i64().unwrap()
}

#[test]
fn a_problem_costs_what_its_plan_does() {
    let work = Work::new();
    let llama = Setting::new("llama", 4, &["hidden=64", "seq=64", "heads=8", "kv_heads=2"]);
    for (name, setting, pins) in [
        ("tensor.json", Setting::gpt(4), "tp=4"),
        ("data.json.gz", Setting::gpt(4), "dp=2,tp=2,zero=3"),
        ("stages.json", Setting::gpt(8), "pp=2,dp=2,tp=2,mbs=1,zero=1"),
        ("refined.json", llama, "tp=4,sp=true"),
        ("one_rank.json", Setting::new("mlp", 1, &[]), ""),
    ] {
        let file = work.arg(name);
        let cost = emitted(&setting, pins, &file, &[]);
        assert_eq!(least(&file), cost, "{name}");
        let packed = std::fs::read(&file).unwrap().starts_with(&[0x1f, 0x8b]);
        assert_eq!(packed, name.ends_with(".gz"), "{name}");
    }
}

/// All layers alike is a choice of the unrolled problem; with one layer there is no other.
#[test]
fn unrolled_layers_cost_no_more_than_rolled_ones() {
    let work = Work::new();
    for (layers, pins) in [("layers=1", "dp=2,tp=2"), ("layers=3", "dp=2,tp=2,zero=1"), ("layers=2", "pp=2,tp=2,mbs=2")] {
        let gpt = Setting::gpt(4).with(&[layers]);
        let (rolled, unrolled) = (work.arg("rolled.json"), work.arg("unrolled.json"));
        let cost = emitted(&gpt, pins, &rolled, &[]);
        assert_eq!(emitted(&gpt, pins, &unrolled, &["--unroll-layout-problem"]), cost, "what the plan costs is as planned");
        let nodes = |file: &str| {
            let problem: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            problem["problem"]["nodes"]["costs"].as_array().unwrap().len()
        };
        match layers {
            "layers=1" => assert_eq!((least(&unrolled), nodes(&unrolled)), (cost, nodes(&rolled))),
            _ => assert!(least(&unrolled) <= cost && nodes(&unrolled) > nodes(&rolled), "{layers}"),
        }
    }
}

#[test]
fn a_problem_that_cannot_be_written_is_an_error() {
    let work = Work::new();
    let gpt = Setting::gpt(4);
    for (path, words) in [(work.arg("none/problem.json"), "there is no directory"), (work.arg(""), "cannot write")] {
        refused(&gpt.arguments("plan", &["--pin", "dp=4", "--emit-layout-problem", &path]), "partita::file", &[words]);
    }
    assert_eq!(partita(&gpt.arguments("plan", &["--unroll-layout-problem"])).code, 2, "there is nothing to unroll");
}
