//! States of a model: the same under every plan, saved, and resumed.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::{Setting, Work, done, losses};

const STEPS: u64 = 4;

/// A count of tokens, a moving average of each layer's outputs, and a bias that is moved by the sign of what it is short of.
const MODEL: &str = "
model states
set layers = 2
set hidden = 24
set vocab = 32
set seq = 12
axis batch : batch
axis seq : seq
axis vocab : vocab
axis hidden
axis inner = hidden
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
weight embedding[vocab, hidden] = normal(0.1)
state counts[vocab] = zeros
update counts = counts + sum[batch, seq](where(tokens == index[vocab], 1, 0))
x = gather[vocab](embedding, tokens) * (1 + 0.01 * tanh(sum[vocab](counts)))

block layer(x[batch, seq, hidden]) {
    weight w[hidden, inner] = normal(0.3)
    state average[hidden] = constant(0.5)
    state bias[hidden] = zeros
    y = x + einsum[batch, seq, inner](x, w)[inner -> hidden] + bias
    now = mean[batch, seq](y)
    update average = 0.9 * average + 0.1 * now
    update bias = bias + 0.01 * sign(mean[hidden](now) - now)
    return y * tanh(average)
}
repeat layers {
    x = layer(x)
}
loss cross_entropy[vocab](einsum[batch, seq, vocab](x, embedding), targets)
train {
    optimizer adamw(beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1)
    lr = 1e-2
    batch = 8
    precision = f64
}
";

/// The tensors of a safetensors file of 64-bit numbers: the length of a header, the header, the data.
fn tensors(path: &str) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..start]).unwrap();
    let numbers = |entry: &Value| {
        let end = |n: usize| start + entry["data_offsets"][n].as_u64().unwrap() as usize;
        bytes[end(0)..end(1)].chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, entry)| (name.clone(), numbers(entry))).collect()
}

#[test]
fn plans_keep_the_same_states() {
    let work = Work::new();
    let model = work.file("states.partita", MODEL);
    let saved = work.arg("saved.safetensors");
    let run = |ranks, pins: &str| {
        let directory = work.compile("plan", &Setting::new(&model, ranks, &[]), pins);
        let losses = losses(&work.run(&directory, STEPS, &["--save", &saved]));
        (losses, tensors(&saved))
    };
    let (single, states) = run(1, "");
    let names: Vec<&str> = states.keys().map(String::as_str).filter(|name| !name.ends_with('w') && *name != "embedding").collect();
    assert_eq!(names, ["counts", "layer.0.average", "layer.0.bias", "layer.1.average", "layer.1.bias"]);
    assert_eq!(states["counts"].iter().sum::<f64>(), (STEPS * 8 * 12) as f64);
    for (ranks, pins) in [
        (1, "mbs=2"),
        (2, "dp=2,mbs=1"),
        (2, "tp=2"),
        (2, "cp=2"),
        (2, "pp=2,mbs=2"),
        (4, "dp=4,zero=3"),
        (4, "dp=2,tp=2,zero=2,recompute=full"),
        (4, "pp=2,tp=2,mbs=4"),
        (3, "dp=3,zero=1"),
    ] {
        let (found, held) = run(ranks, pins);
        let worst = single.iter().zip(&found).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
        assert!(worst < 1e-12, "{pins}: losses differ by {worst:e}");
        for (name, want) in &states {
            let apart = want.iter().zip(&held[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-9, "{pins}: {name} differs by {apart:e}");
        }
    }
}

#[test]
fn states_are_resumed_and_begun_from_files() {
    let work = Work::new();
    let model = work.file("states.partita", MODEL);
    let directory = work.compile("plan", &Setting::new(&model, 2, &[]), "dp=2");
    let (whole, saved, folder) = (work.arg("whole.safetensors"), work.arg("saved.safetensors"), work.arg("checkpoints"));
    work.run(&directory, STEPS, &["--save", &whole]);
    done(&["run", &directory, "--steps", "2", "--checkpoint", &folder, "-q"]);
    let other = work.compile("other", &Setting::new(&model, 4, &[]), "tp=2,pp=2");
    work.run(&other, STEPS, &["--checkpoint", &folder, "--resume", "--save", &saved]);
    let (want, found) = (tensors(&whole), tensors(&saved));
    assert_eq!(want["counts"], found["counts"]);
    assert!(want["layer.1.average"].iter().zip(&found["layer.1.average"]).all(|(a, b)| (a - b).abs() < 1e-9));
    // a run that begins with a file begins with its states
    done(&["run", &directory, "--steps", "1", "--init", &whole, "--save", &saved, "-q"]);
    assert_eq!(tensors(&saved)["counts"].iter().sum::<f64>(), ((STEPS + 1) * 8 * 12) as f64);
    assert!(Path::new(&saved).exists());
}

#[test]
fn check_counts_states_apart() {
    let work = Work::new();
    let model = work.file("states.partita", MODEL);
    let text = done(&["check", &model]);
    assert!(text.contains("1,920 parameters") && text.contains("states     128 numbers"), "{text}");
}
