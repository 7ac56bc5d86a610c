//! Runs that are killed, resumed, and resumed on other ranks.

use std::path::Path;
use std::process::Stdio;

use crate::agreement::assert_same_losses;
use crate::support::{Dice, Setting, Work, command, done, jsonl, losses, names, refused};

const STEPS: u64 = 6;

fn small() -> Setting {
    Setting::new("mlp", 2, &["dropout=0.1", "hidden=32"])
}

/// Killed at any moment, a run goes on to the same losses and the same bytes, and its log has each step once.
#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let work = Work::new();
    // large enough that steps, checkpoints and the start-up all take time to be killed in
    let setting = Setting::new("gpt", 4, &["hidden=64", "seq=64", "dropout=0.1", "layers=2"]);
    let directory = work.compile("plan", &setting, "dp=2,tp=2,zero=1");
    let (whole, saved) = (work.arg("whole.safetensors"), work.arg("saved.safetensors"));
    let expected = losses(&work.run(&directory, STEPS, &["--save", &whole]));
    let steps = STEPS.to_string();
    let mut dice = Dice(7);
    let mut killed = 0;
    for attempt in 0..4 {
        let (folder, log) = (work.arg(&format!("checkpoints-{attempt}")), work.arg(&format!("{attempt}.jsonl")));
        let arguments = ["run", &directory, "--steps", &steps, "--checkpoint", &folder, "--every", "2", "--log", &log, "--save", &saved];
        let mut resume = false;
        for _ in 0..8 {
            let more: &[&str] = if resume { &["--resume", "-q"] } else { &["-q"] };
            let mut child = command(&[&arguments, more].concat()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            // some after a while of start-up, some so many steps later, at whatever it does then
            let (looks, steps) = (dice.below(3000), dice.below(STEPS as usize));
            let done = |log: &str| std::fs::read_to_string(log).map_or(0, |text| text.lines().count());
            let until = if dice.below(2) == 0 { 0 } else { (done(&log) + steps).min(STEPS as usize - 1) };
            for _ in 0..looks {
                std::thread::yield_now();
            }
            while child.try_wait().unwrap().is_none() && done(&log) < until {
                std::thread::yield_now();
            }
            killed += u64::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            resume = Path::new(&folder).exists() && names(Path::new(&folder)).iter().any(|name| name.len() == "step-00000002".len());
        }
        let more: &[&str] = if resume { &["--resume", "-q"] } else { &["-q"] };
        done(&[&arguments, more].concat());
        let log = jsonl(Path::new(&log));
        let numbers: Vec<u64> = log.iter().map(|step| step["step"].as_u64().unwrap()).collect();
        // a run that was done before it was killed has nothing to write
        assert_eq!(numbers, (1..=STEPS).collect::<Vec<_>>());
        assert_eq!(losses(&log), expected);
        assert!(std::fs::read(&saved).unwrap() == std::fs::read(&whole).unwrap(), "saved bytes differ");
        // who is killed while it looks whether it can write leaves an empty file behind
        let left: Vec<String> = names(Path::new(&folder)).into_iter().filter(|name| !name.ends_with(".probe")).collect();
        assert!(left.iter().all(|name| name.starts_with("step-") && !name.contains('.')), "{left:?}");
    }
    assert!(killed >= 4, "only {killed} runs were killed before their end");
}

/// Names and shapes in a checkpoint know no layout, so it is resumed under any plan.
#[test]
fn a_checkpoint_is_resumed_on_other_ranks() {
    let work = Work::new();
    let gpt = |ranks| Setting::new("gpt", ranks, &["hidden=64", "seq=64", "dropout=0.1"]);
    let plans = [(1, ""), (4, "dp=2,tp=2,zero=3"), (2, "pp=2,mbs=2"), (4, "tp=4"), (3, "dp=3,zero=1"), (2, "cp=2,recompute=full")];
    let directories: Vec<String> =
        plans.iter().enumerate().map(|(n, (ranks, pins))| work.compile(&format!("plan-{n}"), &gpt(*ranks), pins)).collect();
    let expected = losses(&work.run(&directories[0], 6, &[]));
    let folder = work.arg("checkpoints");
    let mut found = Vec::new();
    for (n, directory) in directories.iter().enumerate() {
        let resume: &[&str] = if n == 0 { &[] } else { &["--resume"] };
        let more = [&["--checkpoint", &folder], resume].concat();
        let log = work.run(directory, n as u64 + 1, &more);
        found.push(losses(&log).last().copied().unwrap());
    }
    assert_same_losses("a step on each plan", &expected, &found);
}

#[test]
fn a_directory_with_checkpoints_is_not_run_over() {
    let work = Work::new();
    let directory = work.compile("plan", &small(), "dp=2");
    let folder = work.arg("checkpoints");
    work.run(&directory, 3, &["--checkpoint", &folder]);
    let again = ["run", &directory, "--steps", "2", "--checkpoint", &folder];
    refused(&again, "partita::checkpoint::occupied", &["newest of step 3", "--resume", "another directory"]);
    assert_eq!(names(Path::new(&folder)), ["step-00000003"]);
}

#[test]
fn a_resumed_run_that_is_done_does_nothing_and_says_so() {
    let work = Work::new();
    let directory = work.compile("plan", &small(), "dp=2");
    let (folder, log) = (work.arg("checkpoints"), work.arg("run.jsonl"));
    let before = work.run(&directory, 3, &["--checkpoint", &folder]);
    let said = done(&["run", &directory, "--steps", "2", "--checkpoint", &folder, "--resume", "--log", &log]);
    assert!(said.contains("nothing to do: the checkpoint is of step 3 and `--steps` is 2"), "{said}");
    assert_eq!(jsonl(Path::new(&log)), before, "the log stays");
    // its parameters can still be had
    let saved = work.arg("saved.safetensors");
    done(&["run", &directory, "--steps", "3", "--checkpoint", &folder, "--resume", "--save", &saved, "-q"]);
    assert!(Path::new(&saved).exists());
}

#[test]
fn checkpoints_of_other_runs_are_refused() {
    let work = Work::new();
    let directory = work.compile("plan", &small(), "dp=2");
    let other = work.compile("other", &small().with(&["hidden=48"]), "dp=2");
    let folder = work.arg("checkpoints");
    refused(&["run", &directory, "--checkpoint", &folder, "--resume"], "partita::checkpoint::nothing_to_resume", &["leave out `--resume`"]);
    work.run(&directory, 2, &["--checkpoint", &folder, "--seed", "3"]);
    let resume = |directory: &str, seed: &str, words: &[&str]| {
        refused(&["run", directory, "--checkpoint", &folder, "--resume", "--seed", seed], "partita::checkpoint::incompatible", words);
    };
    resume(&directory, "4", &["seed 3", "4"]);
    resume(&other, "3", &["[256, 32]", "[256, 48]"]);
    let deeper = work.compile("deeper", &small().with(&["layers=3"]), "dp=2");
    resume(&deeper, "3", &["it lacks `layer.2."]);
    // damaged ones are passed over, and told
    let state = Path::new(&folder).join("step-00000002/state.safetensors");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    let call = ["run", &directory, "--checkpoint", &folder, "--resume", "--seed", "3"];
    refused(&call, "partita::checkpoint::nothing_to_resume", &["step-00000002", "no complete safetensors file"]);
    refused(&call[..4], "partita::checkpoint::occupied", &["step 2"]);
}

#[test]
fn logs_are_replaced_unless_resumed() {
    let work = Work::new();
    let directory = work.compile("plan", &small(), "dp=2");
    let log = work.file("run.jsonl", "not a log\n{\"step\":1}\n");
    let steps = |log: &str| jsonl(Path::new(log)).iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
    done(&["run", &directory, "--steps", "2", "--log", &log, "-q"]);
    assert_eq!(steps(&log), [1, 2]);
    let line = &jsonl(Path::new(&log))[0];
    for key in ["step", "loss", "seconds", "tokens_per_second", "predicted_seconds", "grad_norm", "lr"] {
        assert!(line[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {line}");
    }
    assert_eq!(line["comm_bytes"].as_array().unwrap().len(), 2);
    // a run of no steps has an empty log
    let none = work.file("none.jsonl", "{\"step\":1}\n");
    done(&["run", &directory, "--steps", "0", "--log", &none, "-q"]);
    assert_eq!(std::fs::read_to_string(&none).unwrap(), "");
    let folder = work.arg("checkpoints");
    done(&["run", &directory, "--steps", "2", "--checkpoint", &folder, "-q"]);
    // lines of steps that are run again go, and so does one that was cut short
    let text = std::fs::read_to_string(&log).unwrap() + "{\"step\":3,\"loss\":9}\n{\"step\":4,\"lo";
    std::fs::write(&log, text).unwrap();
    done(&["run", &directory, "--steps", "4", "--checkpoint", &folder, "--resume", "--log", &log, "-q"]);
    assert_eq!(steps(&log), [1, 2, 3, 4]);
}
