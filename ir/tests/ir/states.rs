//! States of a model's own: a step gives them what the model says, worked out of sums over micro-batches alone.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::{lit, x};
use partita_ir::graph::{Graph, Init, Leaf, Source};
use partita_ir::interpret::{Tensor, run};
use partita_ir::precision::Precision;
use partita_ir::rule::Reduce;
use partita_ir::sample::{self, Options};
use partita_ir::scalar::{Expr, Unary};
use partita_ir::step::{self, training_step};
use partita_ir::train::Train;
use partita_ir::verify::verify;

fn train() -> Train {
    Train { precision: Precision::F64, ..Train::default() }
}

/// The next value of every state of the model's own, by name.
fn next(graph: &Graph, seed: u64) -> BTreeMap<String, Tensor> {
    let env = run(graph, sample::leaves(graph, seed), seed, 0);
    let own = |value| matches!(graph.leaf(value), Some(Leaf::State { of: None, .. }));
    let assigned = env.assigned().iter().filter(|((value, _), _)| own(*value));
    assigned.map(|((value, iteration), tensor)| (graph.instance_name(*value, *iteration), tensor.clone())).collect()
}

/// The step's update works values of the forward pass out again, of sums; what comes out is what the forward pass has.
#[test]
fn a_step_gives_states_the_values_of_the_whole_batch() {
    let (mut states, mut inside) = (0, 0);
    for seed in 0..150 {
        let model = sample::graph(seed, Options { ..Options::default() });
        let step = training_step(&model, &train(), step::Options::default()).unwrap();
        let (want, got) = (next(&model, seed), next(&step, seed));
        assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>(), "seed {seed}");
        for (name, want) in want {
            states += 1;
            inside += usize::from(name.contains('.'));
            let apart = want.data.iter().zip(&got[&name].data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-12, "seed {seed}: {name} is off by {apart:e}");
        }
    }
    assert!(states > 40 && inside > 5, "{states} states, {inside} of them in repeats");
}

/// The bias of a router: moved by the sign of what its expert is short of. The sums are accumulated, and nothing else.
#[test]
fn functions_of_sums_are_worked_out_of_whole_sums() {
    let mut b = Builder::new("router", DType::F64);
    let (batch, seq) = (b.axis("batch", 4, Role::Batch), b.axis("seq", 3, Role::Seq));
    let experts = b.axis("experts", 5, Role::Expert);
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let table = b.param("table", &[experts], Init::Normal(1.0));
    let bias = b.state("bias", &[experts], Init::Constant(0.0));
    let scores = b.map("scores", &[tokens, table, bias], &[batch, seq, experts], None, (x(0) * x(1) + x(2)).expr());
    let load = b.fold("load", Reduce::Sum, scores, &[batch, seq]);
    let mean = b.map("mean", &[load], &[], Some(Reduce::Sum), (x(0) * lit(0.2)).expr());
    let short = b.map("short", &[mean, load], &[experts], None, (x(0) - x(1)).unary(Unary::Sign).expr());
    let next = b.map("next", &[bias, short], &[experts], None, (x(0) + lit(0.001) * x(1)).expr());
    b.update(bias, next);
    let sum = b.fold("sum", Reduce::Sum, scores, &[batch, seq, experts]);
    let count = b.map("count", &[tokens], &[], Some(Reduce::Sum), Expr::constant(1.0));
    b.loss(sum, count);
    let model = b.finish();
    let step = training_step(&model, &train(), step::Options::default()).unwrap();
    assert!(verify(&step).is_empty());
    let accumulated = step.leaves(|leaf| matches!(leaf, Leaf::Accumulated(_))).map(|value| step.value(value).name.clone());
    let mut names: Vec<String> = accumulated.filter(|name| name.contains("whole")).collect();
    names.iter_mut().for_each(|name| *name = name.split('.').next().unwrap().to_owned());
    names.sort();
    assert_eq!(names, ["load", "mean"]);
}

/// States change all at once: two that take each other's place do.
#[test]
fn states_may_take_each_others_place() {
    let mut b = Builder::new("swap", DType::F64);
    let (batch, seq) = (b.axis("batch", 2, Role::Batch), b.axis("seq", 2, Role::Seq));
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let weight = b.param("w", &[], Init::Constant(1.0));
    let (first, second) = (b.state("first", &[], Init::Constant(1.0)), b.state("second", &[], Init::Constant(2.0)));
    b.update(first, second);
    b.update(second, first);
    let sum = b.map("sum", &[tokens, weight, first], &[], Some(Reduce::Sum), Expr::product(3));
    let count = b.points("count", &[batch, seq]);
    b.loss(sum, count);
    let step = training_step(&b.finish(), &train(), step::Options::default()).unwrap();
    assert!(step.assigns.iter().all(|assign| step.leaf(assign.value).is_none()), "an assigned value is a result of its own");
    let next = next(&step, 0);
    assert_eq!((next["first"].data[0], next["second"].data[0]), (2.0, 1.0));
}
