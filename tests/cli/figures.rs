//! What a plan says, beside what its run counts.

use std::path::Path;

use serde_json::Value;

use crate::support::{Setting, Work, done, json, names};

/// gpt as the project's figures are given for: 4 layers, width 256, vocabulary 8192.
fn large(ranks: u64) -> Setting {
    Setting::new("gpt", ranks, &["layers=4", "hidden=256", "heads=4", "ffn=1024", "vocab=8192", "seq=256", "batch=8"])
}

fn planned(setting: &Setting, pins: &str) -> Value {
    serde_json::from_str(&done(&setting.arguments("plan", &["--pin", pins, "--format", "json"]))).unwrap()
}

fn numbers(list: &Value, key: &str) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|entry| entry[key].as_u64().unwrap()).collect()
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let work = Work::new();
    for (setting, pins) in
        [(Setting::gpt(4), ""), (Setting::gpt(2), "pp=2"), (Setting::new("llama", 4, &[]), "tp=4"), (Setting::new("mlp", 3, &[]), "")]
    {
        let plan = |name: &str| {
            let file = work.arg(name);
            let printed = done(&setting.arguments("plan", &["--pin", pins, "--format", "json", "-o", &file]));
            assert_eq!(std::fs::read_to_string(&file).unwrap(), printed, "`-o` and `--format json` differ");
            printed
        };
        let first = plan("first.json");
        assert_eq!(plan("second.json"), first, "{} {pins}", setting.model);
        let directory = work.compile("plan", &setting, pins);
        let program = std::fs::read(work.path("plan/program.json")).unwrap();
        assert_eq!(std::fs::read_to_string(work.path("plan/plan.json")).unwrap(), first);
        // compiled again into the same directory, beside what is none of its business
        std::fs::write(work.path("plan/notes.txt"), "mine").unwrap();
        work.compile("plan", &setting, pins);
        assert!(std::fs::read(work.path("plan/program.json")).unwrap() == program);
        assert_eq!(names(Path::new(&directory)), ["notes.txt", "plan.json", "program.json"]);
        assert_eq!(done(&["inspect", &directory, "--format", "json"]), first);
        assert_eq!(done(&["inspect", &work.arg("first.json")]), done(&["inspect", &directory]));
    }
    // what is there is replaced
    let two = Setting::new("mlp", 2, &[]);
    work.compile("plan", &two, "tp=2");
    assert_eq!(json(&work.path("plan/plan.json"))["model"], "mlp");
}

#[test]
fn a_plan_has_the_figures_of_every_rank() {
    let plan = planned(&Setting::gpt(4), "pp=2,dp=2,mbs=1");
    assert_eq!(plan["ranks"].as_array().unwrap().len(), 4);
    for key in ["parameter_bytes", "gemm_flops", "memory_bytes"] {
        assert!(numbers(&plan["ranks"], key).iter().all(|figure| *figure > 0), "{key}");
    }
}

/// With tp=4 each rank holds and computes a quarter, but for norms and biases.
#[test]
fn tensor_parallelism_really_shards() {
    let single = planned(&large(1), "");
    let split = planned(&large(4), "tp=4");
    for key in ["parameter_bytes", "gemm_flops"] {
        let whole = numbers(&single["ranks"], key)[0];
        for part in numbers(&split["ranks"], key) {
            assert!(part * 100 <= whole * 30, "{key}: {part} of {whole} is {} %", part * 100 / whole);
        }
    }
}

/// Megatron's count, found by the search from `tp=4` alone: two reductions of activations a layer and direction. A
/// reduce-scatter with its all-gather is one.
#[test]
fn two_reductions_of_activations_a_layer_and_direction() {
    let plan = planned(&large(4), "tp=4");
    let activation = serde_json::json!([8, 256, 256]);
    for phase in ["forward", "backward"] {
        let reductions: u64 = plan["communication"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| line["phase"] == phase && line["shape"] == activation)
            .filter(|line| {
                line["value"].as_str().unwrap().starts_with("layer.")
                    && ["all-reduce", "reduce-scatter"].contains(&line["kind"].as_str().unwrap())
            })
            .map(|line| line["count"].as_u64().unwrap())
            .sum();
        assert_eq!(reductions, 2 * 4, "{phase}: {:#}", plan["communication"]);
    }
}

/// Bytes by kind of collective: the plan's, the run's, and for the collectives of one kind the textbook's
/// `T (p - 1)` for a gather or a scatter, twice that for an all-reduce.
#[test]
fn communication_is_what_was_planned() {
    let work = Work::new();
    for (ranks, pins) in [
        (4, "tp=4"),
        (4, "dp=4"),
        (4, "dp=2,tp=2,zero=3"),
        (3, "dp=3,zero=1"),
        (2, "cp=2"),
        (4, "pp=2,dp=2,mbs=1"),
        (8, "pp=2,dp=2,tp=2,mbs=1"),
        (3, "tp=3,sp=false"),
    ] {
        let directory = work.compile("plan", &Setting::gpt(ranks), pins);
        let plan = json(&work.path("plan/plan.json"));
        let log = work.run(&directory, 1, &[]);
        let mut kinds: Vec<&str> = plan["communication"].as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let measured = log[0]["comm_bytes_by_kind"].as_object().unwrap();
        assert_eq!(measured.keys().map(String::as_str).filter(|kind| measured[*kind] != 0).collect::<Vec<_>>(), kinds, "{pins}");
        for kind in kinds {
            let lines = plan["communication"].as_array().unwrap().iter().filter(|line| line["kind"] == kind);
            let planned: u64 = lines.map(|line| line["bytes"].as_u64().unwrap()).sum();
            assert_eq!(measured[kind].as_u64().unwrap(), planned, "{pins}: {kind}");
        }
        assert_eq!(log[0]["comm_bytes"], Value::from(numbers(&plan["ranks"], "comm_bytes")), "{pins}");
    }
}

#[test]
fn collectives_cost_what_the_textbook_says() {
    // every rank of tp=4 (p = 4) receives T (p - 1) / p of a gather or scatter of T bytes, all together T (p - 1)
    for (pins, p) in [("tp=4", 4), ("dp=4,zero=0", 4), ("dp=4,zero=1", 4), ("dp=4,zero=3", 4)] {
        let plan = planned(&large(4), pins);
        for line in plan["communication"].as_array().unwrap() {
            let elements: u64 = line["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product();
            let whole = elements * 4 * line["count"].as_u64().unwrap();
            let expected = match line["kind"].as_str().unwrap() {
                "all-gather" | "reduce-scatter" => whole * (p - 1),
                "all-reduce" => 2 * whole * (p - 1),
                "all-to-all" => whole * (p - 1) / p,
                kind => panic!("{kind} is not expected of {pins}"),
            };
            let bytes = line["bytes"].as_u64().unwrap();
            assert!(bytes.abs_diff(expected) * 100 <= expected, "{pins}: {line} should be {expected}");
        }
    }
}

/// Arenas are as planned, and the process grows by no more than they and the buffers of messages.
#[test]
fn memory_is_what_was_planned() {
    let work = Work::new();
    for (ranks, pins) in [(1, ""), (4, "dp=2,tp=2"), (4, "pp=4,mbs=1"), (8, "dp=8,zero=3")] {
        let directory = work.compile("plan", &large(ranks), pins);
        let plan = json(&work.path("plan/plan.json"));
        let summary: Value = serde_json::from_str(&done(&["run", &directory, "--steps", "2", "--format", "json"])).unwrap();
        let arenas: Vec<u64> = summary["arena_bytes"].as_array().unwrap().iter().map(|bytes| bytes.as_u64().unwrap()).collect();
        assert_eq!(arenas, numbers(&plan["ranks"], "memory_bytes"), "{pins}");
        let flops: Vec<u64> = summary["gemm_flops"].as_array().unwrap().iter().map(|flops| flops.as_u64().unwrap()).collect();
        // a product that loops do faster is one of the plan's and none of the run's
        for (counted, planned) in flops.iter().zip(numbers(&plan["ranks"], "gemm_flops")) {
            assert!(counted.abs_diff(planned) * 100 <= planned, "{pins}: {counted} FLOPs for {planned} planned");
        }
        let (before, peak) = (summary["anonymous_bytes"][0].as_u64().unwrap(), summary["anonymous_bytes"][1].as_u64().unwrap());
        if peak > 0 {
            let (planned, grown) = (arenas.iter().sum::<u64>(), peak - before);
            assert!(grown <= planned + planned / 10 + (16 << 20), "{pins}: {grown} bytes for {planned} planned");
        }
    }
}

/// Every device is paid for the whole step, stages included.
#[test]
fn a_step_costs_its_devices_and_its_time() {
    let work = Work::new();
    let cluster = |price: &str| {
        let file = work.arg("cluster.toml");
        let text = format!("name = 'paid'\n[device]\nkind = 'cpu-core'\n{price}\n[[level]]\nname = 'threads'\ncount = 4\n");
        std::fs::write(&file, text).unwrap();
        file
    };
    let usd = |price: &str| {
        let file = cluster(price);
        let arguments = ["plan", "models/gpt.partita", "--cluster", &file, "--pin", "pp=2,dp=2,mbs=1", "--format", "json"];
        let plan: Value = serde_json::from_str(&done(&arguments)).unwrap();
        let hours = plan["step_seconds"].as_f64().unwrap() / 3600.0;
        plan["usd_per_step"].as_f64().unwrap() / hours
    };
    assert!((usd("") - 4.0 * 0.05).abs() < 1e-9);
    assert!((usd("usd_per_hour = 2.5") - 10.0).abs() < 1e-9);
    assert_eq!(usd("usd_per_hour = 0"), 0.0);
}
