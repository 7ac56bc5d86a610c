//! Gradients of what is read through windows: the slopes that differences of the loss show, for every shape of window.

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::{Formula, index, lit, x};
use partita_ir::graph::{Graph, Init, Kind, PhaseKind, Source};
use partita_ir::id::ValueId;
use partita_ir::interpret::run;
use partita_ir::library::Window as Seen;
use partita_ir::precision::Precision;
use partita_ir::rule::{DimAccess, Reduce, Rule, Term};
use partita_ir::sample;
use partita_ir::scalar::{Expr, Node};
use partita_ir::step::{Options, training_step};
use partita_ir::train::{Optimizer, Schedule, Train};
use partita_ir::verify::verify;

/// `out` places on an axis of `size`, each sees `taps`.
#[derive(Clone, Copy, Debug)]
struct Window {
    size: u64,
    out: u64,
    taps: u64,
    stride: i64,
    dilation: i64,
    offset: i64,
}

impl Window {
    fn access(self, out: usize, tap: usize) -> DimAccess {
        let terms = vec![Term { factor: out, stride: self.stride }, Term { factor: tap, stride: self.dilation }];
        DimAccess { terms, offset: self.offset }
    }

    fn sees_all(self) -> bool {
        let inside = |o, t| (0..self.size as i64).contains(&(self.stride * o + self.dilation * t + self.offset));
        (0..self.out as i64).all(|o| (0..self.taps as i64).any(|t| inside(o, t)))
    }
}

fn windows() -> Vec<Window> {
    let mut found = Vec::new();
    for size in [1, 5, 8] {
        for stride in [1, 2, 3, -1, -2] {
            for dilation in [1, 2, -1] {
                for (taps, out, offset) in [(1, 3, 0), (2, 4, -1), (3, 3, 0), (3, 4, -2), (2, 5, 2), (4, 2, 7)] {
                    found.push(Window { size, out, taps, stride, dilation, offset });
                }
            }
        }
    }
    found
}

/// What is folded over (out, tap) of x and a weight of the taps.
fn kinds(w: Window) -> Vec<(&'static str, Reduce, Formula)> {
    let place = index(0) * lit(w.stride as f64) + index(1) * lit(w.dilation as f64) + lit(w.offset as f64);
    let inside = lit(0.0).at_most(place.clone()) * place.at_most(lit(w.size as f64 - 1.0));
    let mut kinds = vec![
        ("convolution", Reduce::Sum, x(0) * x(1)),
        ("curved", Reduce::Sum, (x(0) * x(0) + x(1)).tanh()),
        ("by place", Reduce::Sum, x(0) * x(1) * (index(0) * lit(0.7) + index(1)).sqrt()),
        ("logsumexp", Reduce::LogSumExp, x(0) * x(1)),
        // one read at another offset cannot be solved for where the stride is above 1
        ("two reads", Reduce::Sum, x(0) * x(1) * x(2)),
    ];
    if w.sees_all() {
        kinds.push(("max pooling", Reduce::Max, inside.select(x(0) + x(1), lit(f64::NEG_INFINITY))));
    }
    kinds
}

fn model(w: Window, reduce: Reduce, expr: &Expr) -> Graph {
    let mut b = Builder::new("window", DType::F64);
    let [long, out, tap] = [("long", w.size), ("out", w.out), ("tap", w.taps)].map(|(name, size)| b.axis(name, size, Role::None));
    let [value, weight] = [("x", long), ("w", tap)].map(|(name, axis)| b.param(name, &[axis], Init::Normal(1.0)));
    let behind = DimAccess { terms: vec![Term { factor: 0, stride: 1 }], offset: 1 };
    let third = b.param("y", &[out], Init::Normal(1.0));
    let operands = vec![vec![w.access(0, 1)], vec![DimAccess::factor(1)], vec![behind]];
    let rule = Rule { factors: vec![out, tap], operands, result: vec![DimAccess::factor(0)], reduce: Some(reduce), expr: expr.clone() };
    let folded = b.rule("folded", rule, &[value, weight, third], &[out]);
    probed(b, folded)
}

/// A loss in which every element counts differently.
fn probed(mut b: Builder, out: ValueId) -> Graph {
    let dims = b.dims(out);
    let probe = b.param("probe", &dims, Init::Normal(1.0));
    let expr = (x(0) * x(1) + (x(0) * x(1)).tanh()).expr();
    let sum = b.map("probed", &[out, probe], &[], Some(Reduce::Sum), expr);
    let (batch, seq) = (b.axis("batch", 1, Role::Batch), b.axis("seq", 1, Role::Seq));
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let count = b.map("count", &[tokens], &[], Some(Reduce::Sum), lit(1.0).expr());
    b.loss(sum, count);
    b.finish()
}

/// The largest difference between a gradient and its slope.
fn worst(model: &Graph) -> f64 {
    let plain = Train {
        optimizer: Optimizer::Sgd { momentum: 0.0, decay: 0.0 },
        lr: 1.0,
        schedule: Schedule::Constant,
        clip: None,
        precision: Precision::F64,
        ..Train::default()
    };
    let step = training_step(model, &plain, Options::default()).expect("it has a loss");
    assert!(verify(&step).is_empty(), "{:?}", verify(&step));
    let leaves = sample::leaves(model, 3);
    let env = run(&step, sample::leaves(&step, 3), 3, 0);
    let loss = |leaves| run(model, leaves, 3, 0).get(model.loss[0].sum, 0).unwrap().data[0];
    let mut worst: f64 = 0.0;
    for param in model.params() {
        let name = &model.value(param).name;
        let moved = env.assigned().iter().find(|((id, _), _)| step.value(*id).name == *name).map(|(_, moved)| moved);
        for element in 0..leaves[&(param, 0)].data.len() {
            let h = 1e-4;
            let shifted = |by: f64| {
                let mut shifted = leaves.clone();
                shifted.get_mut(&(param, 0)).unwrap().data[element] += by;
                loss(shifted)
            };
            let slope = (8.0 * (shifted(h) - shifted(-h)) - (shifted(2.0 * h) - shifted(-2.0 * h))) / (12.0 * h);
            let gradient = moved.map_or(0.0, |moved| leaves[&(param, 0)].data[element] - moved.data[element]);
            worst = worst.max((slope - gradient).abs() / (1.0 + slope.abs()));
        }
    }
    worst
}

#[test]
fn gradients_of_windows_are_slopes() {
    let mut done = 0;
    for window in windows() {
        for (name, reduce, expr) in kinds(window) {
            let found = worst(&model(window, reduce, &expr.expr()));
            assert!(found < 1e-7, "{name} {window:?}: {found}");
            done += 1;
        }
    }
    assert!(done > 1000, "{done}");
}

/// A convolution over two axes and channels.
fn convolution(stride: i64) -> Graph {
    let mut b = Builder::new("convolution", DType::F64);
    let of = |b: &mut Builder, list: &[(&str, u64)]| list.iter().map(|(name, size)| b.axis(name, *size, Role::None)).collect::<Vec<_>>();
    let long = of(&mut b, &[("h", 5), ("w", 6), ("c", 2)]);
    let short = of(&mut b, &[("oh", (5 - 1) / stride as u64 + 1), ("ow", (6 - 1) / stride as u64 + 1), ("f", 3)]);
    let taps = of(&mut b, &[("kh", 3), ("kw", 3)]);
    let (value, weight) = (b.param("x", &long, Init::Normal(1.0)), b.param("k", &[taps[0], taps[1], long[2], short[2]], Init::Normal(0.3)));
    let at = |out, tap| DimAccess { terms: vec![Term { factor: out, stride }, Term { factor: tap, stride: 1 }], offset: -1 };
    let operands =
        vec![vec![at(0, 3), at(1, 4), DimAccess::factor(5)], [3, 4, 5, 2].into_iter().map(DimAccess::factor).collect::<Vec<_>>()];
    let factors = [&short[..], &taps, &long[2..]].concat();
    let result = (0..3).map(DimAccess::factor).collect();
    let rule = Rule { factors, operands, result, reduce: Some(Reduce::Sum), expr: Expr::product(2) };
    let out = b.rule("out", rule, &[value, weight], &short);
    probed(b, out)
}

#[test]
fn gradients_of_convolutions_are_products_of_windows() {
    for stride in [1, 2, 3] {
        let model = convolution(stride);
        assert!(worst(&model) < 1e-7);
        let step = training_step(&model, &Train { precision: Precision::F64, ..Train::default() }, Options::default()).unwrap();
        let products = step.phase(PhaseKind::Backward).iter().map(|op| step.op(*op)).filter(|op| {
            let Kind::Map(rule) = &op.kind else { return false };
            step.value(op.result()).name == "grad"
                && op.operands.len() == 2
                && !rule.expr.nodes.iter().any(|node| matches!(node, Node::Select(..)))
        });
        // of the image, of the kernel and of the probe
        assert!(products.count() >= 2, "the gradients of a convolution multiply two tensors and choose nothing");
    }
}

/// Every element of a value by hand.
fn by_hand(shape: &[u64], element: impl Fn(&[i64]) -> f64) -> Vec<f64> {
    let count: u64 = shape.iter().product();
    let at = |mut flat: u64| {
        let mut index = vec![0; shape.len()];
        for (digit, size) in index.iter_mut().zip(shape).rev() {
            *digit = (flat % size) as i64;
            flat /= size;
        }
        index
    };
    (0..count).map(|flat| element(&at(flat))).collect()
}

#[test]
fn convolutions_and_pools_by_hand() {
    for (stride, dilation, pad) in [(1, 1, 1), (2, 1, 1), (2, 2, 2), (3, 1, 0)] {
        let mut b = Builder::new("hand", DType::F64);
        let mut axis = |name: &str, size: u64| b.axis(name, size, Role::None);
        let (h, c, g, f, k) = (axis("h", 9), axis("c", 2), axis("g", 2), axis("f", 3), axis("k", 3));
        let out = axis("out", Seen::places(9, 3, stride, dilation, pad));
        let window = [Seen { axis: h, out, taps: k, stride, dilation, pad }];
        let x = b.param("x", &[h, g, c], Init::Normal(1.0));
        let w = b.param("w", &[k, g, c, f], Init::Normal(1.0));
        let made = [
            b.conv("grouped", x, w, &window, Some(g)),
            b.conv("summed", x, w, &window, None),
            b.max_pool("largest", x, &window),
            b.mean_pool("mean", x, &window),
        ];
        let graph = b.finish();
        assert!(verify(&graph).is_empty());
        let leaves = sample::leaves(&graph, 5);
        let (x, w) = (leaves[&(x, 0)].clone(), leaves[&(w, 0)].clone());
        let env = run(&graph, leaves, 5, 0);
        let place = |o: i64, t: i64| stride as i64 * o + dilation as i64 * t - pad as i64;
        let read = |o: i64, t: i64, g: i64, c: i64| match place(o, t) {
            at @ 0..9 => Some(x.data[((at * 2 + g) * 2 + c) as usize]),
            _ => None,
        };
        let weight = |t: i64, g: i64, c: i64, f: i64| w.data[(((t * 2 + g) * 2 + c) * 3 + f) as usize];
        let term = |o: i64, g: i64, f: i64| -> f64 {
            (0..3).flat_map(|t| (0..2).map(move |c| (t, c))).map(|(t, c)| read(o, t, g, c).unwrap_or(0.0) * weight(t, g, c, f)).sum()
        };
        let places = graph.size(out);
        let seen = |at: &[i64]| (0..3).filter_map(|t| read(at[0], t, at[1], at[2])).collect::<Vec<_>>();
        let want = [
            by_hand(&[places, 2, 3], |at| term(at[0], at[1], at[2])),
            by_hand(&[places, 3], |at| term(at[0], 0, at[1]) + term(at[0], 1, at[1])),
            by_hand(&[places, 2, 2], |at| seen(at).into_iter().fold(f64::NEG_INFINITY, f64::max)),
            by_hand(&[places, 2, 2], |at| seen(at).into_iter().sum::<f64>() / 3.0),
        ];
        for (value, want) in made.iter().zip(want) {
            let got = env.get(*value, 0).unwrap();
            let name = &graph.value(*value).name;
            assert_eq!(got.data.len(), want.len(), "{name}");
            assert!(
                got.data.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12),
                "{name} {stride} {dilation} {pad}: {got:?}, not {want:?}"
            );
        }
    }
}
