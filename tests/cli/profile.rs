//! `partita profile`, and plans that are priced by what it writes.

use serde_json::Value;

use crate::support::{Work, done, refused};

#[test]
fn a_quick_profile_is_a_cluster_file_by_which_plans_are_priced() {
    let work = Work::new();
    let file = work.arg("here.toml");
    done(&["profile", "--quick", "--ranks", "2", "-o", &file]);
    let text = std::fs::read_to_string(&file).unwrap();
    let cluster: toml::Table = text.parse().unwrap();
    let device = cluster["device"].as_table().unwrap();
    assert!(device.contains_key("cores") && device.contains_key("memory_bytes") && device["curves"].as_array().unwrap().len() >= 3);
    let plan = |pins: &str| -> Value {
        let json = done(&["plan", "models/mlp.partita", "--cluster", &file, "--pin", pins, "--format", "json"]);
        serde_json::from_str(&json).unwrap()
    };
    for pins in ["dp=2", "tp=2"] {
        let plan = plan(pins);
        let seconds = |key: &str| plan[key].as_f64().unwrap();
        let parts = seconds("compute_seconds") + seconds("boxing_seconds") + seconds("bubble_seconds");
        assert!(seconds("step_seconds") > 0.0 && (parts / seconds("step_seconds") - 1.0).abs() < 1e-9, "{plan}");
        assert!(seconds("searched_seconds") > 0.0);
    }
    // without curves nothing is priced
    let plain = done(&["plan", "models/mlp.partita", "--cluster", "clusters/local-2.toml", "--pin", "dp=2", "--format", "json"]);
    assert!(!plain.contains("searched_seconds"));
    let broken = work.file("broken.toml", text.replacen("sizes = [16, 128]", "sizes = [128, 16]", 1));
    refused(&["plan", "models/mlp.partita", "--cluster", &broken], "partita::cluster::not_ascending", &["has 16 after 128"]);
}
