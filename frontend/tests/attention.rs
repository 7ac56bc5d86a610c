//! The options of attention, as model files say them: against a softmax written out, and its slopes.

use std::collections::BTreeMap;

use partita_frontend::{Model, Source, load, render};
use partita_ir::graph::{Graph, Leaf};
use partita_ir::id::ValueId;
use partita_ir::interpret::{self, Tensor};
use partita_ir::step::{Options, training_step};
use partita_ir::train::{Optimizer, Schedule, Train};
use partita_ir::verify::verify;

const BATCH: usize = 2;
const SEQ: usize = 6;
const HEADS: usize = 2;
const DIM: usize = 4;

/// Queries, keys and values that are parameters, so that every element of them has a slope.
const HEAD: &str = "
model small
axis batch : batch
axis seq = 6 : seq
axis past = seq : seq
axis heads = 2 : head
axis dim = 4
axis vocab = 3 : vocab
axis buckets = 4
input tokens[batch, seq] : tokens
weight q[batch, seq, heads, dim] = normal(1)
weight k[batch, seq, heads, dim] = normal(1)
weight v[batch, seq, heads, dim] = normal(1)
weight near[buckets, heads] = normal(1)
weight gain[dim] = constant(0.7)
weight probe[batch, seq, heads, dim] = normal(1)
";

/// Of both samples: two documents, then a token 2 that a mask may hide from all.
const TOKENS: [f64; 12] = [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0];

fn model(body: &str) -> Model {
    let text = format!("{HEAD}{body}\nloss mean[batch, seq, heads, dim](y * probe)\ntrain {{ batch = 2\n precision = f64 }}\n");
    let source = Source { name: "small", text: &text };
    let model = load(source, &[]).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)));
    assert_eq!(verify(&model.graph), Vec::new(), "{body}");
    model
}

type Leaves = BTreeMap<(ValueId, u64), Tensor>;

fn named(graph: &Graph, name: &str) -> ValueId {
    graph.leaves(|_| true).find(|id| graph.value(*id).name == name).expect("a leaf has this name")
}

fn leaves(graph: &Graph) -> Leaves {
    let mut leaves = interpret::initial_leaves(graph, 3);
    leaves.insert((named(graph, "tokens"), 0), Tensor::new(vec![2, 6], TOKENS.to_vec()));
    leaves
}

/// What a score becomes before the softmax: by sample, position, past position, head and itself; `None` is hidden.
type Rule = fn(usize, usize, usize, usize, f64, &[f64]) -> Option<f64>;

/// Attention as it is defined.
fn expected(q: &[f64], k: &[f64], v: &[f64], near: &[f64], rule: Rule) -> Vec<f64> {
    let at = |b: usize, s: usize, h: usize, d: usize| ((b * SEQ + s) * HEADS + h) * DIM + d;
    let mut out = vec![0.0; BATCH * SEQ * HEADS * DIM];
    for (b, s, h) in (0..BATCH).flat_map(|b| (0..SEQ).flat_map(move |s| (0..HEADS).map(move |h| (b, s, h)))) {
        let score = |t: usize| {
            let dot: f64 = (0..DIM).map(|d| q[at(b, s, h, d)] * k[at(b, t, h, d)]).sum();
            rule(b, s, t, h, dot / 2.0, near).map(f64::exp)
        };
        let weights: Vec<f64> = (0..SEQ).map(|t| score(t).unwrap_or(0.0)).collect();
        let total: f64 = weights.iter().sum();
        for d in 0..DIM {
            let sum: f64 = (0..SEQ).map(|t| weights[t] * v[at(b, t, h, d)]).sum();
            out[at(b, s, h, d)] = if total == 0.0 { 0.0 } else { sum / total };
        }
    }
    out
}

/// Compares `y = attention[past, dim](q, k, v, OPTIONS)` with a rule, and its gradients with differences of the loss.
fn agrees(options: &str, rule: Rule) {
    let graph = model(&format!("y = attention[past, dim](q, k[seq -> past], v[seq -> past], {options})")).graph;
    let y = (0..graph.values.len()).rev().map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == "attention");
    let leaves = leaves(&graph);
    let env = interpret::run(&graph, leaves.clone(), 3, 1);
    let of = |name: &str| leaves[&(named(&graph, name), 0)].data.as_slice();
    let want = expected(of("q"), of("k"), of("v"), of("near"), rule);
    let got = &env.get(y.expect("the model attends"), 0).expect("it was computed").data;
    for (element, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!((got - want).abs() < 1e-12, "{options}: element {element} is {got}, not {want}");
    }
    slopes(&graph, &leaves, options);
}

/// Gradients are the slopes of the loss.
fn slopes(graph: &Graph, leaves: &Leaves, what: &str) {
    let optimizer = Optimizer::Sgd { momentum: 0.0, decay: 0.0 };
    let train = Train {
        optimizer,
        lr: 1.0,
        schedule: Schedule::Constant,
        clip: None,
        batch: 2,
        precision: partita_ir::precision::Precision::F64,
        loss_scale: None,
        groups: Vec::new(),
    };
    let step = training_step(graph, &train, Options::default()).expect("attention has a gradient");
    let same = |id: ValueId| step.leaves(|_| true).find(|known| step.value(*known).name == graph.value(id).name);
    let moved =
        interpret::run(&step, leaves.iter().filter_map(|((id, n), tensor)| Some(((same(*id)?, *n), tensor.clone()))).collect(), 3, 0);
    let loss = &graph.loss[0];
    let mean = |leaves: Leaves| {
        let env = interpret::run(graph, leaves, 3, 0);
        env.get(loss.sum, 0).expect("it was computed").data[0] / env.get(loss.count, 0).expect("it was computed").data[0]
    };
    for ((id, _), tensor) in leaves {
        if !matches!(graph.leaf(*id), Some(Leaf::Param(_))) {
            continue;
        }
        let after = same(*id).and_then(|id| moved.assigned().get(&(id, 0)));
        for element in 0..tensor.data.len() {
            let shifted = |by: f64| {
                let mut leaves = leaves.clone();
                leaves.get_mut(&(*id, 0)).expect("it is a leaf").data[element] += by;
                mean(leaves)
            };
            let h = 1e-3;
            let slope = (8.0 * (shifted(h) - shifted(-h)) - (shifted(2.0 * h) - shifted(-2.0 * h))) / (12.0 * h);
            let gradient = after.map_or(0.0, |after| tensor.data[element] - after.data[element]);
            let name = &graph.value(*id).name;
            assert!((slope - gradient).abs() < 1e-9, "{what}: {name}[{element}] has gradient {gradient}, not {slope}");
        }
    }
}

fn token(b: usize, s: usize) -> f64 {
    TOKENS[b * SEQ + s]
}

#[test]
fn every_position_is_seen_without_options() {
    agrees("softcap = 0", |_, _, _, _, score, _| Some(score));
    agrees("mask = 1", |_, _, _, _, score, _| Some(score));
}

#[test]
fn a_window_is_a_mask_of_indices() {
    agrees("causal = seq, mask = index[seq] - index[past] < 3", |_, s, t, _, score, _| (t <= s && s - t < 3).then_some(score));
    agrees("mask = abs(index[seq] - index[past]) < 2", |_, s, t, _, score, _| (t.abs_diff(s) < 2).then_some(score));
}

#[test]
fn a_mask_may_differ_by_head() {
    let mask = "causal = seq, mask = max(index[heads] == 0, index[seq] - index[past] < 2)";
    agrees(mask, |_, s, t, h, score, _| (t <= s && (h == 0 || s - t < 2)).then_some(score));
}

#[test]
fn a_prefix_is_seen_by_all() {
    agrees("mask = max(index[past] <= index[seq], index[past] < 2)", |_, s, t, _, score, _| (t <= s || t < 2).then_some(score));
}

#[test]
fn tokens_of_a_mask_are_renamed_where_they_are_compared() {
    agrees("mask = tokens == tokens[seq -> past]", |b, s, t, _, score, _| (token(b, s) == token(b, t)).then_some(score));
}

#[test]
fn a_row_that_is_hidden_whole_gives_0_and_no_gradient() {
    let mask = "mask = (tokens[seq -> past] < 2) * (tokens < 2), softcap = 0.8, bias = index[past] * 0.1";
    agrees(mask, |b, s, t, _, score, _| (token(b, s) < 2.0 && token(b, t) < 2.0).then_some(0.8 * (score / 0.8).tanh() + t as f64 * 0.1));
}

#[test]
fn a_cap_comes_before_bias_and_mask() {
    agrees("causal = seq, softcap = 0.5", |_, s, t, _, score, _| (t <= s).then_some(0.5 * (score / 0.5).tanh()));
    agrees("softcap = 0.5, bias = 3 * index[past]", |_, _, t, _, score, _| Some(0.5 * (score / 0.5).tanh() + 3.0 * t as f64));
}

#[test]
fn queries_and_keys_may_be_normed() {
    let norm = "y = attention[past, dim](rms_norm[dim](q) * gain, (rms_norm[dim](k) * gain)[seq -> past], v[seq -> past], causal = seq)";
    let graph = model(norm).graph;
    let leaves = leaves(&graph);
    slopes(&graph, &leaves, "normed");
    let of = |name: &str| leaves[&(named(&graph, name), 0)].data.clone();
    let normed = |name: &str| -> Vec<f64> {
        let rows = of(name);
        let norm = |row: &[f64]| (row.iter().map(|x| x * x).sum::<f64>() / DIM as f64 + 1e-6).sqrt();
        rows.chunks(DIM).flat_map(|row| row.iter().map(|x| 0.7 * x / norm(row)).collect::<Vec<_>>()).collect()
    };
    let want = expected(&normed("q"), &normed("k"), &of("v"), &[], |_, s, t, _, score, _| (t <= s).then_some(score));
    let env = interpret::run(&graph, leaves.clone(), 3, 1);
    let y = (0..graph.values.len()).rev().map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == "attention");
    let got = &env.get(y.expect("the model attends"), 0).expect("it was computed").data;
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}\n{want:?}");
}

#[test]
fn a_bias_may_be_read_from_a_table_by_distance() {
    // through a name, a block and a renamed axis: all of it one expression
    let far = "block far(most) {\n back = index[past] - index[seq]\n return min(abs(back), most)\n}\n";
    let text = format!(
        "{far}bias = gather[buckets](near, far(3))\ny = attention[past, dim](q, k[seq -> past], v[seq -> past], softcap = 2, bias = bias)"
    );
    let graph = model(&text).graph;
    let leaves = leaves(&graph);
    slopes(&graph, &leaves, "by distance");
    let of = |name: &str| leaves[&(named(&graph, name), 0)].data.clone();
    let rule: Rule = |_, s, t, h, score, near| Some(2.0 * (score / 2.0).tanh() + near[t.abs_diff(s).min(3) * HEADS + h]);
    let want = expected(&of("q"), &of("k"), &of("v"), &of("near"), rule);
    let env = interpret::run(&graph, leaves.clone(), 3, 1);
    let y = (0..graph.values.len()).rev().map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == "attention");
    let got = &env.get(y.expect("the model attends"), 0).expect("it was computed").data;
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}\n{want:?}");
    // the table is read by indices alone, never by a tensor of rounded numbers
    let op = graph.ops.iter().find(|op| graph.value(op.result()).name == "bias").expect("the bias is an operator");
    assert_eq!(op.operands, [named(&graph, "near")]);
}

/// Whether a position is seen, by sample, query position and past position.
type Seen = fn(usize, usize, usize) -> bool;

#[test]
fn each_comparison_of_a_mask_counts() {
    const WINDOW: &str = "index[seq] - index[past] < 3";
    const PREFIX: &str = "max(index[past] <= index[seq], index[past] < 2)";
    const DOCUMENT: &str = "tokens == tokens[seq -> past]";
    let window: Seen = |_, s, t| t <= s && s - t < 3;
    let prefix: Seen = |_, s, t| t <= s || t < 2;
    let document: Seen = |b, s, t| token(b, s) == token(b, t);
    // a mask with one comparison broken, and who sees whom then
    let broken: [(&str, Seen, &str, Seen); 9] = [
        (WINDOW, window, "index[seq] - index[past] <= 3", |_, s, t| t <= s && s - t <= 3),
        (WINDOW, window, "index[seq] - index[past] < 2", |_, s, t| t <= s && s - t < 2),
        (WINDOW, window, "index[past] - index[seq] < 3", |_, s, t| t <= s),
        (PREFIX, prefix, "max(index[past] < index[seq], index[past] < 2)", |_, s, t| t < s || t < 2),
        (PREFIX, prefix, "max(index[past] <= index[seq], index[past] <= 2)", |_, s, t| t <= s || t <= 2),
        (PREFIX, prefix, "max(index[past] <= index[seq], index[seq] < 2)", |_, s, t| t <= s || s < 2),
        (DOCUMENT, document, "tokens != tokens[seq -> past]", |b, s, t| token(b, s) != token(b, t)),
        (DOCUMENT, document, "tokens <= tokens[seq -> past]", |b, s, t| token(b, s) <= token(b, t)),
        (DOCUMENT, document, "tokens >= tokens[seq -> past]", |b, s, t| token(b, s) >= token(b, t)),
    ];
    let values = |mask: &str| {
        let causal = if mask.contains("index[seq] - index[past]") || mask.starts_with("index[past] -") { "causal = seq, " } else { "" };
        let graph = model(&format!("y = attention[past, dim](q, k[seq -> past], v[seq -> past], {causal}mask = {mask})")).graph;
        let y = (0..graph.values.len()).rev().map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == "attention");
        interpret::run(&graph, leaves(&graph), 3, 1).get(y.expect("the model attends"), 0).expect("it was computed").data.clone()
    };
    for (mask, right, mutated, wrong) in broken {
        let (before, after) = (values(mask), values(mutated));
        let mut changed = 0;
        for (b, s) in (0..BATCH).flat_map(|b| (0..SEQ).map(move |s| (b, s))) {
            let row = (b * SEQ + s) * HEADS * DIM..(b * SEQ + s + 1) * HEADS * DIM;
            let expected = (0..SEQ).any(|t| right(b, s, t) != wrong(b, s, t));
            assert_eq!(before[row.clone()] != after[row], expected, "{mask} beside {mutated}: sample {b}, position {s}");
            changed += usize::from(expected);
        }
        assert!(changed > 0, "{mutated} is another mask than {mask}");
    }
}
