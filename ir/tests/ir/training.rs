//! Training steps of random models: legal, and their gradients are the slopes that differences of the loss show.

use partita_ir::grad::Recompute;
use partita_ir::graph::Graph;
use partita_ir::id::ValueId;
use partita_ir::interpret::run;
use partita_ir::precision::Precision;
use partita_ir::sample::{self, Options};
use partita_ir::step::{self, training_step};
use partita_ir::train::{Optimizer, Schedule, Train};
use partita_ir::verify::verify;

/// Descent with a rate of 1 and nothing else: the parameters move by their gradients.
fn plain() -> Train {
    let optimizer = Optimizer::Sgd { momentum: 0.0, decay: 0.0 };
    Train { optimizer, lr: 1.0, schedule: Schedule::Constant, clip: None, precision: Precision::F64, ..Train::default() }
}

fn options(seed: u64) -> step::Options {
    let recompute = [Recompute::None, Recompute::Selective, Recompute::Full][seed as usize % 3];
    step::Options { recompute, meet_in_update: seed % 2 == 1, exchange: seed % 3 == 1 }
}

#[test]
fn steps_are_legal() {
    let adamw = Train { precision: Precision::F64, ..Train::default() };
    for seed in 0..150 {
        let model = sample::graph(seed, Options::default());
        for train in [plain(), adamw.clone()] {
            let step = training_step(&model, &train, options(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let found: Vec<String> = verify(&step).iter().map(ToString::to_string).collect();
            assert!(found.is_empty(), "seed {seed}: {found:#?}");
        }
    }
}

fn named(graph: &Graph, name: &str) -> Option<ValueId> {
    graph.leaves(|_| true).find(|id| graph.value(*id).name == name)
}

#[test]
fn gradients_are_slopes() {
    let (mut assigned, mut all) = (0, 0);
    for seed in 0..60 {
        let model = sample::graph(seed, Options::smooth());
        let step = training_step(&model, &plain(), options(seed)).unwrap();
        let leaves = sample::leaves(&model, seed);
        let loss = model.loss[0].clone();
        let mean = |shifted| {
            let env = run(&model, shifted, seed, 0);
            env.get(loss.sum, 0).unwrap().data[0] / env.get(loss.count, 0).unwrap().data[0].max(1.0)
        };
        let of_step = |id: ValueId| named(&step, &model.value(id).name);
        let step_leaves = leaves.iter().filter_map(|((id, at), tensor)| Some(((of_step(*id)?, *at), tensor.clone()))).collect();
        let env = run(&step, step_leaves, seed, 0);
        for ((id, iteration), tensor) in &leaves {
            if !model.params().any(|param| param == *id) {
                continue;
            }
            let moved = of_step(*id).and_then(|id| env.assigned().get(&(id, *iteration)));
            all += 1;
            assigned += u32::from(moved.is_some());
            for element in [0, tensor.data.len() / 2, tensor.data.len() - 1] {
                let h = 1e-4;
                let shifted = |by: f64| {
                    let mut shifted = leaves.clone();
                    shifted.get_mut(&(*id, *iteration)).unwrap().data[element] += by;
                    mean(shifted)
                };
                // central differences of fourth order
                let slope = (8.0 * (shifted(h) - shifted(-h)) - (shifted(2.0 * h) - shifted(-2.0 * h))) / (12.0 * h);
                // a parameter that cannot move the loss is not assigned
                let gradient = moved.map_or(0.0, |moved| tensor.data[element] - moved.data[element]);
                let name = model.instance_name(*id, *iteration);
                assert!((slope - gradient).abs() < 1e-7 * (1.0 + slope.abs()), "seed {seed} {name}[{element}]: {gradient}, not {slope}");
            }
        }
    }
    assert!(assigned * 10 > all * 9, "{assigned} of {all} parameters are assigned");
}
