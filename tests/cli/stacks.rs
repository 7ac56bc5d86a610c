//! Plans that are estimated under a software stack.

use serde_json::Value;

use crate::support::{done, partita, refused};

/// gpt on 32 A100, small, in 16 bits.
fn arguments<'a>(stack: &'a str, pins: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["plan", "models/gpt.partita", "--cluster", "clusters/dgx-a100.toml", "--stack", stack, "--format", "json"];
    all.extend(["--set", "precision=bf16", "--set", "batch=64", "--set", "layers=8", "--set", "hidden=1024", "--set", "heads=16"]);
    set.iter().for_each(|set| all.extend(["--set", *set]));
    if !pins.is_empty() {
        all.extend(["--pin", pins]);
    }
    all
}

fn plan(stack: &str, pins: &str, set: &[&str]) -> Value {
    serde_json::from_str(&done(&arguments(stack, pins, set))).unwrap()
}

const PINNED: &str = "tp=2,pp=2,dp=8,mbs=2,vpp=1,cp=1,ep=1,etp=1,zero=1,sp=true,recompute=full,schedule=1f1b";

#[test]
fn a_pinned_plan_is_evaluated() {
    let plan = plan("megatron", PINNED, &[]);
    for key in ["step_seconds", "tokens_per_second", "mfu", "memory_bytes", "memory_reserved_bytes", "bubble_fraction", "usd_per_step"] {
        assert!(plan[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert_eq!(plan["fits"], true);
    assert_eq!(plan["strategy"], "dp=8 tp=2 cp=1 pp=2 vpp=1 mbs=2 zero=1 sp=true recompute=full schedule=1f1b");
    assert_eq!(plan["considered_in_all"], 0);
    assert_eq!(plan["warnings"].as_array().unwrap().len(), 0);
    // the parts of a step are the step, what is hidden aside
    let parts: f64 = plan["breakdown"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(kind, _)| !kind.ends_with("hidden"))
        .map(|(_, part)| part.as_f64().unwrap())
        .sum();
    let step = plan["step_seconds"].as_f64().unwrap();
    assert!((parts / step - 1.0).abs() < 1e-9, "{parts} {step}");
    let memory: u64 = plan["memory_breakdown"].as_object().unwrap().values().map(|part| part.as_u64().unwrap()).sum();
    assert!(memory.abs_diff(plan["memory_reserved_bytes"].as_u64().unwrap()) < 10);
    assert!(plan["memory_bytes"].as_u64() < plan["memory_reserved_bytes"].as_u64());
}

#[test]
fn the_same_plan_comes_again() {
    assert_eq!(done(&arguments("nemo", "", &[])), done(&arguments("nemo", "", &[])));
}

/// A plan that is pinned throughout is shown even if it does not fit; a search in which nothing fits fails.
#[test]
fn what_does_not_fit_is_told() {
    let large = ["hidden=32768", "ffn=131072", "heads=128"];
    let plan = plan("megatron", PINNED, &large);
    assert_eq!(plan["fits"], false);
    assert!(plan["warnings"][0].as_str().unwrap().contains("does not fit"), "{}", plan["warnings"]);
    let more = [&large[..], &["layers=96"]].concat();
    refused(&arguments("megatron", "", &more), "partita::plan::does_not_fit", &["GiB", "help:"]);
}

/// Layers need not divide: the ends, which have the embedding and the loss too, get less.
#[test]
fn uneven_layers_are_a_warning() {
    let plan = plan("megatron", "pp=4,tp=1,dp=8,mbs=1,vpp=1,zero=1,recompute=none", &["layers=10"]);
    let layers: Vec<u64> = plan["stages"].as_array().unwrap().iter().map(|stage| stage["layer"].as_u64().unwrap()).collect();
    assert_eq!(layers, [2, 3, 3, 2]);
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("10 iterations of `layer` do not divide into 4 chunks: 2 3 3 2"), "{warnings}");
}

#[test]
fn every_schedule_is_simulated() {
    let bubble = |schedule: &str, vpp: u64| {
        let pins = format!("pp=4,tp=1,dp=8,mbs=1,vpp={vpp},zero=1,recompute=none,schedule={schedule}");
        plan("megatron", &pins, &["vocab=64"])["bubble_fraction"].as_f64().unwrap()
    };
    let one = bubble("1f1b", 1);
    assert!((bubble("gpipe", 1) / one - 1.0).abs() < 0.05);
    for (schedule, vpp) in [("interleaved", 2), ("zb-h1", 1), ("zb-h2", 1), ("zb-v", 2), ("dualpipev", 2)] {
        assert!(bubble(schedule, vpp) < one, "{schedule}");
    }
}

#[test]
fn what_cannot_be_says_what_can() {
    refused(&arguments("nemo", "ep=3", &[]), "partita::pin::degrees", &["does not divide the 32 ranks", "1, 2, 4, 8, 16 and 32"]);
    refused(&arguments("nemo", "ep=2", &[]), "partita::pin::experts", &["has no experts", "ep=1"]);
    refused(&arguments("nemo", "pp=2,vpp=2,schedule=1f1b", &[]), "partita::pin::unsupported", &["schedule=interleaved"]);
    refused(&arguments("nemo", "pp=32", &[]), "partita::plan::too_many_stages", &["32 stages", "8"]);
    let outcome = partita(&arguments("megatrn", "", &[]));
    assert!(outcome.told().contains("there are partita, megatron-2021"), "{}", outcome.told());
}
