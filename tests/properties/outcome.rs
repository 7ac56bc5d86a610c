//! What a training run computes: by the interpreter on the whole batch, and by ranks on their shards.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Mutex;

use partita_ir::axis::Role;
use partita_ir::graph::{Leaf, Source};
use partita_ir::id::ValueId;
use partita_ir::interpret::{self, Tensor};
use partita_ir::layout::{Layout, Mesh, Share};
use partita_ir::program::{LeafKind, Program};
use partita_ir::sample::IGNORE;
use partita_ir::step::{Options, training_step};
use partita_runtime::data::DataSource;
use partita_runtime::run::execute::Rank;
use partita_runtime::run::{RunError, RunOptions, run_watched};

use super::case::Case;
use super::sharded::{Dice, elements};

/// Steps of a run: the second sees what the first has left.
pub const STEPS: u64 = 2;

/// What is compared, after each step: reports, gradients, parameters and states by name.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub steps: Vec<Step>,
}

/// After one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub reports: BTreeMap<&'static str, f64>,
    pub gradients: BTreeMap<String, Tensor>,
    pub params: BTreeMap<String, Tensor>,
    pub states: BTreeMap<String, Tensor>,
    /// How far the step moved each parameter.
    pub updates: BTreeMap<String, Tensor>,
}

/// Random tokens, some out of range and some that no loss counts.
pub fn samples(case: &Case) -> Vec<Vec<i32>> {
    let mut dice = Dice::new(case.seed ^ 0x70CE);
    let size = |role: Role| case.model.axes.iter().filter(|axis| axis.role == role).map(|axis| axis.size).max().unwrap_or(1);
    let inputs = case.model.leaves(|leaf| matches!(leaf, Leaf::Input(_)));
    let seq = inputs.flat_map(|value| case.model.value(value).ty.dims.clone()).find(|axis| case.model.axis(*axis).role == Role::Seq);
    let (seq, vocab) = (seq.map_or(1, |axis| case.model.size(axis)), size(Role::Vocab) as i32);
    let token = |dice: &mut Dice| match dice.below(20) {
        0 => vocab,
        1 | 2 => IGNORE as i32,
        _ => dice.below(vocab as usize) as i32,
    };
    (0..STEPS * case.train.batch).map(|_| (0..=seq).map(|_| token(&mut dice)).collect()).collect()
}

/// The whole batch at once, by the interpreter.
pub fn expected(case: &Case, samples: &[Vec<i32>]) -> Outcome {
    expected_rounded(case, samples, &|x| x)
}

/// Whether the model's own numbers jump when each is moved by a unit or two in its last place: where equal elements
/// compete for an extreme, for one. No two ways to compute such a model agree.
pub fn jumps(case: &Case, samples: &[Vec<i32>], tolerance: f64) -> bool {
    let want = expected(case, samples);
    (0..6).any(|again| {
        let dice = RefCell::new(Dice::new(case.seed ^ again));
        // whole numbers are exact: indices, counts, zeros
        let round = |x: f64| if x.fract() == 0.0 { x } else { x * (1.0 + dice.borrow_mut().real(-4e-16, 4e-16)) };
        difference(&want, &expected_rounded(case, samples, &round), tolerance).is_some()
    })
}

/// How far the model's numbers go apart when each is rounded once more, to a type of 16 bits whose unit is `unit`: the
/// least power of two within which all of several such runs stay, of the largest magnitude of each kind. `None` if that
/// is more than an eighth: what can then be said of a run in such a type is little.
pub fn spread(case: &Case, samples: &[Vec<i32>], want: &Outcome, unit: f64) -> Option<f64> {
    let again: Vec<Outcome> = (0..4)
        .map(|again| {
            let dice = RefCell::new(Dice::new(case.seed ^ again));
            expected_rounded(case, samples, &|x| if x.fract() == 0.0 { x } else { x * (1.0 + dice.borrow_mut().real(-unit, unit)) })
        })
        .collect();
    let stay = |within: &f64| again.iter().all(|other| finite(other) && difference_rounded(want, other, *within).is_none());
    (3..=12).rev().map(|power| 0.5f64.powi(power)).find(stay)
}

fn expected_rounded(case: &Case, samples: &[Vec<i32>], round: &dyn Fn(f64) -> f64) -> Outcome {
    let graph = training_step(&case.model, &case.train, Options::default()).expect("every sampled model can be trained");
    let mut leaves = interpret::initial_leaves(&graph, case.seed);
    let mut outcome = Outcome::default();
    for step in 0..STEPS {
        let inputs: Vec<(ValueId, Source)> = graph
            .leaves(|_| true)
            .filter_map(|value| match graph.leaf(value) {
                Some(Leaf::Input(source)) => Some((value, *source)),
                _ => None,
            })
            .collect();
        for (value, source) in inputs {
            let shape = graph.shape(value);
            let shift = source.needs(shape[1]) - shape[1];
            let token = |at: u64| f64::from(samples[(step * case.train.batch + at / shape[1]) as usize][(at % shape[1] + shift) as usize]);
            leaves.insert((value, 0), Tensor::from_fn(shape.clone(), token));
        }
        let env = interpret::run_rounded(&graph, leaves.clone(), case.seed, step, round);
        let mut now = Step::default();
        for (name, value) in &graph.reports {
            let known = ["loss", "grad_norm", "lr", "skipped", "loss_scale"]
                .into_iter()
                .find(|known| known == name)
                .expect("a report that is known");
            now.reports.insert(known, env.get(*value, 0).unwrap().data[0]);
        }
        let gradients: Vec<ValueId> = graph.leaves(|leaf| matches!(leaf, Leaf::Accumulated(_))).collect();
        for leaf in gradients {
            for iteration in 0..graph.iterations(graph.value(leaf).within) {
                if let Some(name) = graph.instance_name(leaf, iteration).strip_suffix(".grad") {
                    now.gradients.insert(name.to_owned(), env.get(leaf, iteration).unwrap().clone());
                }
            }
        }
        for ((target, iteration), next) in env.assigned() {
            let name = graph.instance_name(*target, *iteration);
            let before = leaves.insert((*target, *iteration), next.clone()).expect("every assigned leaf had a value");
            if matches!(graph.leaf(*target), Some(Leaf::Param(_))) {
                now.updates.insert(name.clone(), minus(next, &before));
                now.params.insert(name, next.clone());
            } else {
                now.states.insert(name, next.clone());
            }
        }
        outcome.steps.push(now);
    }
    outcome
}

fn minus(a: &Tensor, b: &Tensor) -> Tensor {
    Tensor::new(a.shape.clone(), a.data.iter().zip(&b.data).map(|(a, b)| a - b).collect())
}

/// A part of a tensor that a rank holds: with the axes over which it is a part of a sum.
struct Held {
    name: String,
    shape: Vec<u64>,
    layout: Layout,
    stage: u64,
    at: Vec<u64>,
    tensor: Tensor,
}

/// What one rank sees of one of its buffers.
fn held(rank: &Rank<'_>, name: &str, id: usize) -> Held {
    let view = &rank.view;
    let buffer = &view.role.buffers[id];
    let at = view.program.mesh.coordinates(view.rank, 0);
    let shape = buffer.layout.local_shape(&buffer.shape, &view.program.mesh, &at);
    Held {
        name: name.to_owned(),
        shape: buffer.shape.clone(),
        layout: buffer.layout.clone(),
        stage: view.role.stage,
        at,
        tensor: Tensor::new(shape, rank.numbers(id)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Gradient,
    Param,
    State,
}

/// The same by ranks, every replica of everything looked at. The error says which replicas differ.
pub fn measured(case: &Case, program: &Program, samples: Vec<Vec<i32>>) -> Result<Outcome, String> {
    let seen: Mutex<BTreeMap<(u64, What), Vec<Held>>> = Mutex::default();
    let watch = |rank: &Rank<'_>, step: u64| {
        let mut found: Vec<(What, Held)> = Vec::new();
        for leaf in &rank.view.role.leaves {
            match leaf.kind {
                LeafKind::Param(_) => found.push((What::Param, held(rank, &leaf.name, leaf.buffer))),
                LeafKind::State(_) | LeafKind::Moment(_) | LeafKind::Copy { .. } => {
                    found.push((What::State, held(rank, &leaf.name, leaf.buffer)))
                }
                LeafKind::StepNumber => {}
            }
        }
        found.extend(rank.view.role.gradients.iter().map(|(name, id)| (What::Gradient, held(rank, name, *id))));
        let mut seen = seen.lock().unwrap();
        found.into_iter().for_each(|(what, held)| seen.entry((step, what)).or_default().push(held));
    };
    let options = RunOptions { steps: STEPS, seed: case.seed, threads: Some(1), ..RunOptions::default() };
    let mut reports = Vec::new();
    let done = run_watched(program, &options, &DataSource::Given(samples), &watch, &mut |report| {
        let mut told = BTreeMap::from([("loss", report.loss), ("grad_norm", report.grad_norm), ("lr", report.lr)]);
        if case.train.loss_scale.is_some() {
            told.insert("skipped", f64::from(u8::from(report.skipped)));
        }
        told.extend(report.loss_scale.map(|scale| ("loss_scale", scale)));
        reports.push(told);
    });
    done.map_err(|error: RunError| error.to_string())?;
    let seen = seen.into_inner().unwrap();
    let mut outcome = Outcome::default();
    for (step, reports) in (0..STEPS).zip(reports) {
        let whole = |what: What| {
            joined(seen.get(&(step, what)).map_or(&[][..], |held| held), &program.mesh)
                .map_err(|error| format!("step {step}: {what:?} {error}"))
        };
        let (gradients, params, states) = (whole(What::Gradient)?, whole(What::Param)?, whole(What::State)?);
        let mut by_param: BTreeMap<String, Tensor> = BTreeMap::new();
        for (name, tensor) in gradients {
            let base = name.split(".grad").next().unwrap().to_owned();
            match by_param.get_mut(&base) {
                Some(sum) => sum.data.iter_mut().zip(&tensor.data).for_each(|(a, b)| *a += b),
                None => drop(by_param.insert(base, tensor)),
            }
        }
        outcome.steps.push(Step { reports, gradients: by_param, params, states, updates: BTreeMap::new() });
    }
    Ok(outcome)
}

/// Whole tensors from what ranks hold. Parts of sums are summed in the order of ranks; every replica must be the same
/// to the last bit.
fn joined(all: &[Held], mesh: &Mesh) -> Result<BTreeMap<String, Tensor>, String> {
    let mut by_name: BTreeMap<&str, Vec<&Held>> = BTreeMap::new();
    all.iter().for_each(|held| by_name.entry(&held.name).or_default().push(held));
    let mut out = BTreeMap::new();
    for (name, mut parts) in by_name {
        parts.sort_by_key(|held| (held.stage, held.at.clone()));
        // one whole tensor for each stage and each combination of coordinates on axes where ranks hold the same
        let mut copies: BTreeMap<(u64, Vec<u64>), Tensor> = BTreeMap::new();
        for held in parts {
            let same = |axis: &usize| matches!(held.layout.0[*axis], Share::Broadcast);
            let key = (held.stage, (0..held.at.len()).filter(same).map(|axis| held.at[axis]).collect());
            let whole = copies.entry(key).or_insert_with(|| Tensor::from_fn(held.shape.clone(), |_| 0.0));
            let places = elements(&held.shape, &held.layout.shard(&held.shape, mesh, &held.at));
            places.into_iter().zip(&held.tensor.data).for_each(|(place, value)| whole.data[place] += value);
        }
        let mut copies = copies.into_values();
        let first = copies.next().expect("somebody holds it");
        if let Some(other) = copies.find(|other| *other != first) {
            return Err(format!("`{name}` has replicas that differ: {:?} and {:?}", first.data, other.data));
        }
        out.insert(name.to_owned(), first);
    }
    Ok(out)
}

/// What is off: a kind of tensor by more than `tolerance` of the largest magnitude among those of its kind.
pub fn difference(expected: &Outcome, measured: &Outcome, tolerance: f64) -> Option<String> {
    apart(expected, measured, tolerance, 1e-6)
}

/// The same of runs that hold parameters in 16 bits, which are rounded by more than an update may move them.
pub fn difference_rounded(expected: &Outcome, measured: &Outcome, tolerance: f64) -> Option<String> {
    apart(expected, measured, tolerance, 1.0)
}

/// The same, where a parameter is no less wrong than by `floor` of the largest.
fn apart(expected: &Outcome, measured: &Outcome, tolerance: f64, floor: f64) -> Option<String> {
    for (number, (want, got)) in expected.steps.iter().zip(&measured.steps).enumerate() {
        let updates = largest(&want.updates);
        let kinds = [
            // where all gradients are 0 but for rounding, they are compared with what they are the difference of
            ("gradient", &want.gradients, &got.gradients, largest(&want.gradients).max(1e-6)),
            // a parameter is as wrong as its update is
            ("update", &want.params, &got.params, updates.max(floor * largest(&want.params))),
            ("state", &want.states, &got.states, largest(&want.states).max(1e-6)),
        ];
        for (kind, want, got, largest) in kinds {
            let names = |of: &BTreeMap<String, Tensor>| of.keys().cloned().collect::<Vec<_>>();
            if names(want) != names(got) {
                return Some(format!("step {number}: {kind}s of {:?} and not of {:?}", names(got), names(want)));
            }
            for (name, tensor) in want {
                let worst = tensor
                    .data
                    .iter()
                    .zip(&got[name].data)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, |most: f64, x| if x.is_nan() { f64::INFINITY } else { most.max(x) });
                if worst > tolerance * largest {
                    return Some(format!(
                        "step {number}: {kind} `{name}` is off by {worst:e} (largest {largest:e}):\n{:?}, not\n{:?}",
                        got[name].data, tensor.data
                    ));
                }
            }
        }
        for (name, value) in &want.reports {
            let apart = (value - got.reports[name]).abs();
            if apart.is_nan() || apart > tolerance * value.abs().max(1.0) {
                return Some(format!("step {number}: {name} is {} and not {value}", got.reports[name]));
            }
        }
    }
    (expected.steps.len() != measured.steps.len()).then(|| "steps are missing".to_owned())
}

/// The largest magnitude among some tensors.
fn largest(tensors: &BTreeMap<String, Tensor>) -> f64 {
    tensors.values().flat_map(|tensor| &tensor.data).fold(0.0, |most, x| most.max(x.abs()))
}

/// Whether all numbers are finite: an outcome that can be compared.
pub fn finite(outcome: &Outcome) -> bool {
    outcome.steps.iter().all(|step| {
        let tensors = [&step.gradients, &step.params, &step.states];
        step.reports.values().all(|x| x.is_finite())
            && tensors.into_iter().all(|all| all.values().all(|t| t.data.iter().all(|x| x.is_finite())))
    })
}
