//! Runs in 16 bits: beside f32, under every kind of plan, through overflows and checkpoints.

use crate::support::{Setting, Work, done, losses};

const STEPS: u64 = 4;
/// Losses of a run in 16 bits beside those in f32, relative.
const BESIDE_F32: f64 = 2e-2;
/// Losses under a plan beside those of one rank, relative. Sums that are rounded in another order differ by roundings of
/// single elements, 2^-9 of each at most, which average out in a loss.
const BESIDE_ONE: f64 = 2e-3;

fn gpt(ranks: u64, set: &[&str]) -> Setting {
    Setting::new("gpt", ranks, &["hidden=64", "seq=32", "layers=2", "lr=1e-3"]).with(set)
}

fn near(what: &str, expected: &[f64], found: &[f64], tolerance: f64) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (step, (a, b)) in expected.iter().zip(found).enumerate() {
        assert!((a - b).abs() <= tolerance * a.abs(), "{what}: step {} has loss {b} beside {a}", step + 1);
    }
}

#[test]
fn sixteen_bits_train_as_32_do_under_every_plan() {
    let work = Work::new();
    let train = |name: &str, ranks, set: &[&str], pins: &str| losses(&work.run(&work.compile(name, &gpt(ranks, set), pins), STEPS, &[]));
    let wide = train("wide", 1, &["precision=f32"], "");
    let narrow = "precision=bf16(gradient = bf16, master = bf16, moments = bf16)";
    for precision in ["precision=bf16", "precision=fp16", narrow] {
        let single = train("single", 1, &[precision], "");
        assert_ne!(single, wide, "{precision}");
        near(precision, &wide, &single, BESIDE_F32);
        for (pins, ranks) in [("tp=2", 2), ("dp=2,zero=1", 2), ("dp=2,zero=3", 2), ("pp=2,mbs=2", 2), ("dp=2,tp=2,recompute=full", 4)] {
            near(&format!("{precision} {pins}"), &single, &train("plan", ranks, &[precision], pins), BESIDE_ONE);
        }
    }
}

/// With a scale that always overflows, parameters stay to the byte what they were, wherever they lie.
#[test]
fn steps_with_an_overflow_change_nothing() {
    let work = Work::new();
    let saved = work.arg("saved.safetensors");
    let bytes = |setting: &Setting, pins: &str, steps: u64| {
        let log = work.run(&work.compile("plan", setting, pins), steps, &["--save", &saved]);
        assert!(log.iter().all(|step| step["skipped"] == true && step["grad_norm"].is_null()), "{pins}: {log:?}");
        std::fs::read(&saved).unwrap()
    };
    let begun = bytes(&gpt(1, &["precision=fp16"]), "", 0);
    for (pins, ranks) in [("", 1), ("dp=2,zero=1", 2), ("tp=2", 2), ("pp=2,mbs=2", 2), ("dp=2,tp=2,zero=3", 4)] {
        let setting = gpt(ranks, &["precision=fp16", "loss_scale=1e30"]);
        assert!(bytes(&setting, pins, 2) == begun, "{pins}");
    }
    let printed = done(&["run", &work.arg("plan"), "--steps", "2"]);
    assert!(printed.contains("skipped: overflow") && printed.contains("skipped 2 steps"), "{printed}");
}

/// A dynamic scale falls until nothing overflows; all plans skip the same steps.
#[test]
fn a_scale_that_is_too_large_falls() {
    let work = Work::new();
    let set = ["precision=fp16", "start=1e9", "interval=3"];
    let run = |ranks, pins: &str| -> Vec<(f64, bool)> {
        let log = work.run(&work.compile("plan", &gpt(ranks, &set), pins), 11, &[]);
        log.iter().map(|step| (step["loss_scale"].as_f64().unwrap(), step["skipped"] == true)).collect()
    };
    let single = run(1, "");
    let skipped = single.iter().take_while(|step| step.1).count();
    assert!((2..10).contains(&skipped), "{single:?}");
    assert_eq!(single[skipped].0, 1e9 * 0.5f64.powi(skipped as i32));
    for (pins, ranks) in [("dp=2,zero=1", 2), ("tp=2", 2), ("pp=2,mbs=4", 2)] {
        assert_eq!(run(ranks, pins)[..skipped], single[..skipped], "{pins}");
    }
}

#[test]
fn a_resumed_run_in_16_bits_has_its_copies_and_its_scale() {
    let work = Work::new();
    let setting = gpt(2, &["precision=fp16", "start=1e9"]);
    let directory = work.compile("plan", &setting, "dp=2,zero=1");
    let whole = work.run(&directory, 8, &[]);
    let folder = work.arg("checkpoints");
    work.run(&directory, 5, &["--checkpoint", &folder]);
    let rest = work.run(&directory, 8, &["--checkpoint", &folder, "--resume"]);
    assert_eq!(losses(&whole)[5..], losses(&rest)[5..]);
    assert_eq!(whole[7]["loss_scale"], rest[7]["loss_scale"]);
    // elsewhere too, and parameters alone begin a run of another precision
    let other = work.compile("other", &gpt(2, &["precision=fp16", "start=1e9"]), "tp=2");
    near("on tensor ranks", &losses(&whole), &losses(&work.run(&other, 8, &[])), BESIDE_ONE);
    let (saved, wide) = (work.arg("saved.safetensors"), work.compile("wide", &gpt(1, &["precision=f32"]), ""));
    let narrow = work.compile("narrow", &gpt(1, &["precision=bf16"]), "");
    work.run(&narrow, 2, &["--save", &saved]);
    let (from_narrow, as_narrow) = (work.run(&wide, 1, &["--init", &saved]), work.run(&narrow, 1, &["--init", &saved]));
    near("from bf16", &losses(&from_narrow), &losses(&as_narrow), BESIDE_ONE);
}

#[test]
fn parameters_of_16_bits_take_half_and_a_copy_is_the_optimizers() {
    let parts = |precision: &str| {
        let setting = gpt(1, &[precision]);
        let plan: serde_json::Value = serde_json::from_str(&done(&setting.arguments("plan", &["--format", "json"]))).unwrap();
        ["parameters", "gradients", "optimizer"].map(|kind| plan["memory_breakdown"][kind].as_u64().unwrap())
    };
    let [parameters, gradients, optimizer] = parts("precision=f32");
    assert_eq!(parts("precision=bf16"), [parameters / 2, gradients, optimizer / 2 * 3]);
    assert_eq!(parts("precision=bf16(gradient = bf16, master = bf16, moments = bf16)"), [parameters / 2, gradients / 2, optimizer / 2]);
}
