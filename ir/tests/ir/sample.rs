//! Random graphs: legal, deterministic, finite, varied, and with a loss that depends on what they learn.

use std::collections::BTreeSet;

use partita_ir::graph::{Kind, Leaf};
use partita_ir::id::ValueId;
use partita_ir::interpret::run;
use partita_ir::sample::{self, Options};
use partita_ir::verify::verify;

const SEEDS: u64 = 150;

fn both() -> impl Iterator<Item = (u64, Options)> {
    (0..SEEDS).flat_map(|seed| [(seed, Options::default()), (seed, Options::smooth())])
}

#[test]
fn all_are_legal() {
    for (seed, options) in both() {
        let graph = sample::graph(seed, options);
        let found: Vec<String> = verify(&graph).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "seed {seed}: {found:#?}");
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        assert_eq!(sample::graph(seed, Options::default()), sample::graph(seed, Options::default()));
    }
    assert_ne!(sample::graph(0, Options::default()), sample::graph(1, Options::default()));
}

#[test]
fn values_are_finite_and_moderate() {
    for (seed, options) in both() {
        let graph = sample::graph(seed, options);
        let env = run(&graph, sample::leaves(&graph, seed), seed, 0);
        let loss = graph.loss[0].clone();
        let sum = env.get(loss.sum, 0).unwrap().data[0];
        assert!(sum.is_finite() && sum.abs() < 1e6, "seed {seed}: loss {sum}");
        let results = graph.ops.iter().flat_map(|op| &op.results);
        // masked scores are the only infinities
        let bad = |value: &&ValueId| env.get(**value, 0).is_some_and(|tensor| tensor.data.iter().any(|x| x.is_nan()));
        assert_eq!(results.clone().find(bad), None, "seed {seed}");
    }
}

#[test]
fn most_parameters_move_the_loss() {
    let (mut moved, mut all) = (0, 0);
    for seed in 0..30 {
        let graph = sample::graph(seed, Options::smooth());
        let leaves = sample::leaves(&graph, seed);
        let loss = graph.loss[0].clone();
        let before = run(&graph, leaves.clone(), seed, 0).get(loss.sum, 0).unwrap().data[0];
        let params: Vec<ValueId> = graph.params().collect();
        for param in params {
            let mut shifted = leaves.clone();
            let tensor = shifted.get_mut(&(param, 0)).unwrap();
            tensor.data.iter_mut().enumerate().for_each(|(i, x)| *x += 0.01 * (1.0 + i as f64).sin());
            let after = run(&graph, shifted, seed, 0).get(loss.sum, 0).unwrap().data[0];
            all += 1;
            moved += u32::from(before != after);
        }
    }
    assert!(moved * 10 >= all * 8, "{moved} of {all} parameters move the loss");
}

#[test]
fn every_kind_of_thing_occurs() {
    let (mut names, mut repeats, mut reversed, mut inside) = (BTreeSet::new(), 0, 0, 0);
    let (mut taken, mut collected, mut states) = (0, 0, 0);
    for seed in 0..SEEDS {
        let graph = sample::graph(seed, Options::default());
        for op in &graph.ops {
            match &op.kind {
                Kind::Map(rule) => {
                    names.insert(graph.value(op.result()).name.clone());
                    names.extend(rule.reduce.map(|reduce| format!("by {}", reduce.word())));
                }
                Kind::Repeat(repeat) => {
                    repeats += 1;
                    reversed += u32::from(repeat.reversed);
                    taken += repeat.taken.len();
                    collected += repeat.collected.len();
                }
            }
        }
        states += graph.assigns.len();
        inside += graph.leaves(|leaf| matches!(leaf, Leaf::Param(_))).filter(|id| graph.value(*id).within.is_some()).count();
    }
    let wanted = [
        "contraction",
        "scaled",
        "elementwise",
        "linear",
        "rule",
        "fold",
        "softmax",
        "layer_norm",
        "rms_norm",
        "gathered",
        "dropout",
        "attention",
        "rotary",
        "merge",
        "split",
        "slice",
        "take",
        "transpose",
        "window",
        "argmax",
        "softmax_fold",
        "squares",
        "by sum",
        "by max",
        "by min",
        "by logsumexp",
        "by argmax",
        "by softmax",
    ];
    for name in wanted {
        assert!(names.contains(name), "no {name} among {names:?}");
    }
    assert!(repeats > 20 && reversed > 2 && inside > 20, "{repeats} repeats, {reversed} reversed, {inside} parameters inside");
    assert!(taken > 20 && collected > 20 && states > 20, "{taken} taken, {collected} collected, {states} states");
}
