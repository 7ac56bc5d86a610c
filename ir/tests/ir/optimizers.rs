//! Update rules beside the papers' formulas in plain loops, on the parameters of random models over several steps.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::graph::{Graph, Leaf};
use partita_ir::interpret::{Tensor, run};
use partita_ir::precision::Precision;
use partita_ir::sample::{self, Options};
use partita_ir::step::{self, training_step};
use partita_ir::train::{Group, Optimizer, Schedule, Train};
use partita_ir::verify::verify;

const LR: f64 = 0.05;
const ALL: [Optimizer; 9] = [
    Optimizer::Sgd { momentum: 0.0, decay: 0.1 },
    Optimizer::Sgd { momentum: 0.9, decay: 0.1 },
    Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::Adam { beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::Adafactor { power: 0.8, eps: 1e-7, floor: 1e-3, limit: 1.0, decay: 0.1 },
    Optimizer::Lamb { beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::Lars { momentum: 0.9, trust: 0.1, decay: 0.1, eps: 1e-8 },
    Optimizer::Lion { beta1: 0.9, beta2: 0.99, decay: 0.1 },
    Optimizer::Muon { momentum: 0.95, beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
];

/// A parameter's moments, by what the rule calls them.
type Moments = BTreeMap<&'static str, Vec<f64>>;

/// One parameter as an optimizer sees it.
struct Seen<'a> {
    shape: &'a [u64],
    is_table: bool,
    p: &'a [f64],
    g: &'a [f64],
    t: f64,
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn rms(v: &[f64]) -> f64 {
    norm(v) / (v.len() as f64).sqrt()
}

/// Rows and columns of the cut of the axes whose sides are shortest together.
fn matrix(shape: &[u64]) -> (usize, usize) {
    let product = |axes: &[u64]| axes.iter().product::<u64>() as usize;
    let mut best = (usize::MAX, (0, 0));
    for at in 1..shape.len() {
        let (rows, columns) = (product(&shape[..at]), product(&shape[at..]));
        if rows + columns < best.0 {
            best = (rows + columns, (rows, columns));
        }
    }
    best.1
}

fn moment<'a>(moments: &'a mut Moments, name: &'static str, n: usize) -> &'a mut Vec<f64> {
    moments.entry(name).or_insert_with(|| vec![0.0; n])
}

/// m and v, moved on.
fn two(moments: &mut Moments, g: &[f64], beta1: f64, beta2: f64) -> (Vec<f64>, Vec<f64>) {
    for (m, g) in moment(moments, "m", g.len()).iter_mut().zip(g) {
        *m = beta1 * *m + (1.0 - beta1) * g;
    }
    for (v, g) in moment(moments, "v", g.len()).iter_mut().zip(g) {
        *v = beta2 * *v + (1.0 - beta2) * g * g;
    }
    (moments["m"].clone(), moments["v"].clone())
}

fn adam_direction(moments: &mut Moments, seen: &Seen<'_>, g: &[f64], [beta1, beta2, eps]: [f64; 3]) -> Vec<f64> {
    let (m, v) = two(moments, g, beta1, beta2);
    let (c1, c2) = (1.0 - beta1.powf(seen.t), 1.0 - beta2.powf(seen.t));
    m.iter().zip(&v).map(|(m, v)| (m / c1) / ((v / c2).sqrt() + eps)).collect()
}

fn product(a: &[f64], b: &[f64], n: usize, k: usize, m: usize, b_turned: bool) -> Vec<f64> {
    let mut out = vec![0.0; n * m];
    for i in 0..n {
        for j in 0..m {
            out[i * m + j] = (0..k).map(|l| a[i * k + l] * if b_turned { b[j * k + l] } else { b[l * m + j] }).sum();
        }
    }
    out
}

/// Newton and Schulz's steps on the short side.
fn orthogonal(direction: &[f64], (rows, columns): (usize, usize)) -> Vec<f64> {
    let turn = |v: &[f64], rows: usize, columns: usize| -> Vec<f64> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| v[r * columns + c])).collect()
    };
    let tall = rows > columns;
    let (n, m) = if tall { (columns, rows) } else { (rows, columns) };
    let mut x = if tall { turn(direction, rows, columns) } else { direction.to_vec() };
    let length = norm(&x).max(1e-7);
    x.iter_mut().for_each(|x| *x /= length);
    for _ in 0..5 {
        let gram = product(&x, &x, n, m, n, true);
        let twice = product(&gram, &gram, n, n, n, false);
        let sum: Vec<f64> = gram.iter().zip(&twice).map(|(a, b)| -4.7750 * a + 2.0315 * b).collect();
        let turned = product(&sum, &x, n, n, m, false);
        x.iter_mut().zip(&turned).for_each(|(x, turned)| *x = 3.4445 * *x + turned);
    }
    if tall { turn(&x, n, m) } else { x }
}

/// The parameter after a step.
fn expected(optimizer: &Optimizer, seen: &Seen<'_>, moments: &mut Moments) -> Vec<f64> {
    let Seen { shape, p, g, t, .. } = *seen;
    let is_matrix = shape.len() > 1;
    let descend = |direction: &[f64], decay: f64, lr: f64| -> Vec<f64> {
        p.iter().zip(direction).map(|(p, d)| p - LR * decay * p - lr * d).collect()
    };
    match *optimizer {
        Optimizer::Sgd { momentum, decay } => {
            let m = moment(moments, "m", p.len());
            m.iter_mut().zip(g).for_each(|(m, g)| *m = momentum * *m + g);
            descend(m, decay, LR)
        }
        Optimizer::AdamW { beta1, beta2, eps, decay } => descend(&adam_direction(moments, seen, g, [beta1, beta2, eps]), decay, LR),
        Optimizer::Adam { beta1, beta2, eps, decay } => {
            let g: Vec<f64> = g.iter().zip(p).map(|(g, p)| g + decay * p).collect();
            descend(&adam_direction(moments, seen, &g, [beta1, beta2, eps]), 0.0, LR)
        }
        Optimizer::Lamb { beta1, beta2, eps, decay } => {
            let mut u = adam_direction(moments, seen, g, [beta1, beta2, eps]);
            u.iter_mut().zip(p).for_each(|(u, p)| *u += decay * p);
            let ratio = if is_matrix && norm(p) > 0.0 && norm(&u) > 0.0 { norm(p) / norm(&u) } else { 1.0 };
            descend(&u, 0.0, LR * ratio)
        }
        Optimizer::Lars { momentum, trust, decay, eps } => {
            let (of_p, of_g) = (norm(p), norm(g));
            let rate = match (is_matrix, of_p > 0.0 && of_g > 0.0) {
                (true, true) => trust * of_p / (of_g + decay * of_p + eps),
                _ => 1.0,
            };
            let decay = if is_matrix { decay } else { 0.0 };
            let m = moment(moments, "m", p.len());
            m.iter_mut().zip(g).zip(p).for_each(|((m, g), p)| *m = momentum * *m + rate * (g + decay * p));
            descend(m, 0.0, LR)
        }
        Optimizer::Lion { beta1, beta2, decay } => {
            let m = moment(moments, "m", p.len());
            let sign = |x: f64| {
                if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    0.0
                }
            };
            let direction: Vec<f64> = m.iter().zip(g).map(|(m, g)| sign(beta1 * m + (1.0 - beta1) * g)).collect();
            m.iter_mut().zip(g).for_each(|(m, g)| *m = beta2 * *m + (1.0 - beta2) * g);
            descend(&direction, decay, LR)
        }
        Optimizer::Adafactor { power, eps, floor, limit, decay } => {
            let fresh = t.powf(-power);
            let toward = |state: &mut Vec<f64>, now: &[f64]| state.iter_mut().zip(now).for_each(|(s, n)| *s += fresh * (n - *s));
            let variance: Vec<f64> = if is_matrix {
                let (rows, columns) = matrix(shape);
                let at = |r: usize, c: usize| g[r * columns + c].powi(2);
                let of_rows: Vec<f64> = (0..rows).map(|r| (0..columns).map(|c| at(r, c)).sum::<f64>() / columns as f64).collect();
                let of_columns: Vec<f64> = (0..columns).map(|c| (0..rows).map(|r| at(r, c)).sum::<f64>() / rows as f64).collect();
                toward(moment(moments, "row", rows), &of_rows);
                toward(moment(moments, "column", columns), &of_columns);
                let mean = (moments["row"].iter().sum::<f64>() / rows as f64).max(eps);
                (0..rows)
                    .flat_map(|r| (0..columns).map(move |c| (r, c)))
                    .map(|(r, c)| moments["row"][r] * moments["column"][c] / mean)
                    .collect()
            } else {
                let now: Vec<f64> = g.iter().map(|g| g * g).collect();
                toward(moment(moments, "v", g.len()), &now);
                moments["v"].clone()
            };
            let u: Vec<f64> = g.iter().zip(&variance).map(|(g, v)| g / v.max(eps * eps).sqrt()).collect();
            let rate = LR.min(1.0 / t.sqrt()) * rms(p).max(floor) / (rms(&u) / limit).max(1.0);
            descend(&u, decay, rate)
        }
        Optimizer::Muon { momentum, beta1, beta2, eps, decay } => {
            if !is_matrix || seen.is_table {
                return descend(&adam_direction(moments, seen, g, [beta1, beta2, eps]), decay, LR);
            }
            let m = moment(moments, "m", p.len());
            m.iter_mut().zip(g).for_each(|(m, g)| *m += (1.0 - momentum) * (g - *m));
            let ahead: Vec<f64> = m.iter().zip(g).map(|(m, g)| g + momentum * (m - g)).collect();
            let (rows, columns) = matrix(shape);
            descend(&orthogonal(&ahead, (rows, columns)), decay, LR * 0.2 * (rows.max(columns) as f64).sqrt())
        }
    }
}

fn graph(model: &Graph, optimizer: Optimizer, lr: f64) -> Graph {
    let train = Train { optimizer, lr, schedule: Schedule::Constant, clip: None, precision: Precision::F64, ..Train::default() };
    training_step(model, &train, step::Options::default()).unwrap()
}

type Named = BTreeMap<(String, u64), Tensor>;

/// Runs a step from values by name; gives what it assigns by name.
fn assigned(graph: &Graph, values: &Named, seed: u64, step: u64) -> Named {
    let mut leaves = BTreeMap::new();
    for leaf in graph.leaves(|leaf| !matches!(leaf, Leaf::Accumulated(_) | Leaf::Supplied(_))).collect::<Vec<_>>() {
        for iteration in 0..graph.iterations(graph.value(leaf).within) {
            let key = (graph.value(leaf).name.clone(), iteration);
            let fresh = || Tensor::from_fn(graph.shape(leaf), |_| 0.0);
            leaves.insert((leaf, iteration), values.get(&key).cloned().unwrap_or_else(fresh));
        }
    }
    let env = run(graph, leaves, seed, step);
    env.assigned().iter().map(|((id, iteration), tensor)| ((graph.value(*id).name.clone(), *iteration), tensor.clone())).collect()
}

#[test]
fn updates_are_those_of_the_papers() {
    let (mut matrices, mut vectors) = (0, 0);
    for seed in 0..30 {
        let model = sample::graph(seed, Options::smooth());
        let begin: Named = sample::leaves(&model, seed)
            .into_iter()
            .map(|((id, iteration), tensor)| ((model.value(id).name.clone(), iteration), tensor))
            .collect();
        let descent = graph(&model, Optimizer::Sgd { momentum: 0.0, decay: 0.0 }, 1.0);
        let params: BTreeMap<String, (Vec<u64>, bool)> = model
            .params()
            .map(|id| {
                let value = model.value(id);
                let is_table = value.ty.dims.iter().any(|axis| model.axis(*axis).role == Role::Vocab);
                (value.name.clone(), (model.shape(id), is_table))
            })
            .collect();
        for optimizer in ALL {
            let rule = graph(&model, optimizer, LR);
            assert!(verify(&rule).is_empty(), "seed {seed} {}: {:?}", optimizer.word(), verify(&rule));
            let mut values = begin.clone();
            let mut moments: BTreeMap<(String, u64), Moments> = BTreeMap::new();
            for step in 0..3 {
                let moved = assigned(&descent, &values, seed, step);
                let next = assigned(&rule, &values, seed, step);
                for ((name, iteration), after) in &next {
                    let Some((shape, is_table)) = params.get(name) else { continue };
                    let key = (name.clone(), *iteration);
                    let before = &values[&key].data;
                    let g: Vec<f64> = before.iter().zip(&moved[&key].data).map(|(before, after)| before - after).collect();
                    let seen = Seen { shape, is_table: *is_table, p: before, g: &g, t: (step + 1) as f64 };
                    let wanted = expected(&optimizer, &seen, moments.entry(key).or_default());
                    *(if shape.len() > 1 { &mut matrices } else { &mut vectors }) += 1;
                    for (found, wanted) in after.data.iter().zip(&wanted) {
                        let off = (found - wanted).abs();
                        // a gradient that is 0 but for rounding has any sign
                        let coin = matches!(optimizer, Optimizer::Lion { .. }) && g.iter().any(|g| g.abs() < 1e-12);
                        assert!(
                            off < 1e-9 * (1.0 + wanted.abs()) || coin,
                            "seed {seed} step {step} {} {name}: {found}, not {wanted}",
                            optimizer.word()
                        );
                    }
                }
                values.extend(next);
            }
        }
    }
    assert!(matrices > 1000 && vectors > 300, "{matrices} {vectors}");
}

#[test]
fn groups_are_trained_by_their_own_rules() {
    let mut frozen_seen = 0;
    for seed in 0..30 {
        let model = sample::graph(seed, Options::smooth());
        let begin: Named = sample::leaves(&model, seed)
            .into_iter()
            .map(|((id, iteration), tensor)| ((model.value(id).name.clone(), iteration), tensor))
            .collect();
        // every third parameter is frozen, every third is trained otherwise
        let names: Vec<String> = model.params().map(|id| model.value(id).name.clone()).collect();
        let of = |n: usize| names.iter().skip(n).step_by(3).cloned().collect::<Vec<_>>();
        let (rest, other) = (ALL[2], ALL[7]);
        let group = |n, frozen, lr_factor, optimizer| Group { params: of(n), frozen, lr_factor, optimizer };
        let groups = vec![group(1, true, 1.0, rest), group(2, false, 0.5, other)];
        let plain = Train { lr: LR, schedule: Schedule::Constant, clip: None, precision: Precision::F64, ..Train::default() };
        let step = |train: &Train| training_step(&model, train, step::Options::default()).unwrap();
        let grouped = step(&Train { optimizer: rest, groups: groups.clone(), ..plain.clone() });
        assert!(verify(&grouped).is_empty(), "seed {seed}: {:?}", verify(&grouped));
        let found = assigned(&grouped, &begin, seed, 0);
        let [by_rest, by_other] =
            [(rest, LR), (other, LR * 0.5)].map(|(optimizer, lr)| assigned(&graph(&model, optimizer, lr), &begin, seed, 0));
        for (place, name) in names.iter().enumerate() {
            let expected = [Some(&by_rest), None, Some(&by_other)][place % 3];
            let of_param = |values: &Named| -> Named {
                let mine = |known: &str| known == name || known.strip_prefix(name.as_str()).is_some_and(|slot| slot.starts_with('.'));
                values.iter().filter(|((known, _), _)| mine(known)).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            let (found, expected) = (of_param(&found), expected.map(of_param).unwrap_or_default());
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "seed {seed} {name}");
            for (key, value) in &found {
                let same = value.data.iter().zip(&expected[key].data).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + b.abs()));
                assert!(same, "seed {seed} {key:?}");
            }
            frozen_seen += usize::from(place % 3 == 1);
        }
        // what is frozen has no share of the norm
        let kept = |graph: &Graph| {
            graph.leaves(|leaf| matches!(leaf, Leaf::Accumulated(_))).filter(|id| graph.value(*id).name.contains(".grad")).count()
        };
        let all = graph(&model, rest, LR);
        let fewer = of(1).iter().filter(|name| all.leaves(|_| true).any(|id| all.value(id).name == format!("{name}.grad"))).count();
        assert!(kept(&grouped) + fewer <= kept(&all), "seed {seed}");
    }
    assert!(frozen_seen > 30);
}
