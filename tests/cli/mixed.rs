//! Plans for clusters of several kinds of devices.

use serde_json::Value;

use crate::support::{Work, done};

/// The plan of a model on a cluster of this text.
fn plan(model: &[&str], cluster: &str, pins: &str) -> Value {
    let work = Work::new();
    let file = work.file("cluster.toml", format!("name = 'x'\n{cluster}"));
    let arguments = [&["plan"], model, &["--cluster", &file, "--pin", pins, "--format", "json"]].concat();
    serde_json::from_str(&done(&arguments)).unwrap()
}

const GPT: [&str; 1] = ["models/gpt.partita"];

fn group(device: &str, nodes: u64) -> String {
    format!(
        "[[group]]\ndevice = {{ {device} }}\n[[group.level]]\nname = 'node'\ncount = 4\n[[group.level]]\nname = 'network'\ncount = {nodes}\n"
    )
}

/// Whatever the pins: the same decisions, and the same figures to the last digit.
#[test]
fn two_equal_groups_are_planned_as_one_cluster() {
    let device = "kind = 'v100-16gb'";
    let joining = "bandwidth_gb_per_s = 0.3\nlatency_us = 40\n";
    let network = "[[level]]\nname = 'node'\ncount = 4\n[[level]]\nname = 'network'\ncount = 1\n";
    let uniform = format!("device = {{ {device} }}\n{network}[[level]]\nname = 'all'\ncount = 2\n{joining}");
    let mixed = format!("{0}{0}[[level]]\nname = 'all'\n{joining}", group(device, 1));
    for pins in ["dp=8", "dp=2,tp=4", "pp=2,dp=2,tp=2,mbs=1", "pp=4,dp=2,mbs=2,zero=1", "cp=2,dp=4"] {
        assert_eq!(plan(&GPT, &mixed, pins), plan(&GPT, &uniform, pins), "{pins}");
    }
}

/// Stages of the slow group get fewer layers; the step costs what both groups do.
#[test]
fn stages_are_timed_on_their_own_devices() {
    let joining = "[[level]]\nname = 'spine'\nbandwidth_gb_per_s = 10\n";
    let device = |flops: f64, price: u64| {
        format!("kind = 'v100-16gb', launch_us = 0, memory_gb_per_s = 1e5, flops = {{ f32 = {flops} }}, usd_per_hour = {price}")
    };
    let (fast, slow) = (device(3e12, 6), device(1e12, 1));
    let mut model = GPT.to_vec();
    model.extend(["layers=8", "hidden=1024", "heads=8", "ffn=4096", "batch=16"].iter().flat_map(|set| ["--set", *set]));
    let on =
        |first: &str, second: &str| plan(&model, &format!("{}{}{joining}", group(first, 1), group(second, 1)), "pp=2,dp=4,mbs=2,vpp=1");
    let layers = |plan: &Value| plan["stages"].as_array().unwrap().iter().map(|stage| stage["layer"].as_u64().unwrap()).collect::<Vec<_>>();
    let seconds = |plan: &Value| plan["step_seconds"].as_f64().unwrap();
    let (mixed, turned) = (on(&fast, &slow), on(&slow, &fast));
    assert_eq!((layers(&mixed), layers(&turned)), (vec![6, 2], vec![2, 6]));
    let (all_fast, all_slow) = (on(&fast, &fast), on(&slow, &slow));
    assert!(seconds(&all_fast) < seconds(&mixed) && seconds(&mixed) < 0.6 * seconds(&all_slow));
    let per_hour = mixed["usd_per_step"].as_f64().unwrap() / seconds(&mixed) * 3600.0;
    assert!((per_hour - 4.0 * (6.0 + 1.0)).abs() < 1e-9, "{per_hour}");
}

/// As stages that lie in one group each, and as one stage in both.
#[test]
fn the_example_is_planned() {
    let cluster = include_str!("../../clusters/mixed-a100-v100.toml").replace("name = \"mixed-a100-v100\"", "");
    for (pins, stages) in [("pp=4,tp=8,mbs=1,vpp=1", 4), ("dp=32", 1)] {
        let planned = plan(&GPT, &cluster, pins);
        assert_eq!(planned["stages"].as_array().unwrap().len(), stages);
        assert_eq!(planned["devices"], 32);
    }
}
