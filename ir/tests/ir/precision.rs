//! Recipes in training steps: which value has which type, what casts pass, and what a scaled loss does.

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::{lit, x};
use partita_ir::graph::{Graph, Init, Kind, Leaf, Source};
use partita_ir::id::{Id, OpId, ValueId};
use partita_ir::interpret::{Env, run};
use partita_ir::precision::{Column, LossScale, Precision, RECIPES, Recipe};
use partita_ir::rule::{Reduce, Rule};
use partita_ir::sample;
use partita_ir::scalar::Binary;
use partita_ir::signature::{Choice, SizedRule};
use partita_ir::step::{self, training_step};
use partita_ir::text::{parse, print};
use partita_ir::train::{Optimizer, Train};
use partita_ir::verify::verify;

fn train(precision: Precision, loss_scale: Option<LossScale>) -> Train {
    Train { precision, loss_scale, ..Train::default() }
}

/// Every recipe, and some with columns replaced.
fn recipes() -> Vec<Precision> {
    let mut all: Vec<Precision> = RECIPES.iter().map(|row| row.0.precision()).collect();
    let bf16 = Recipe::Bf16.precision();
    all.push(bf16.with(Column::Gradient, DType::Bf16));
    all.push(bf16.with(Column::Master, DType::Bf16).with(Column::Moments, DType::Bf16));
    all.push(Precision::F32.with(Column::Moments, DType::Bf16));
    all
}

#[test]
fn steps_of_every_recipe_are_legal_and_come_back_from_text() {
    for seed in 0..40 {
        for precision in recipes() {
            let options = sample::Options { float: precision.accumulate, ..sample::Options::default() };
            let model = sample::graph(seed, options);
            let scale = [None, Some(LossScale::Static(8.0)), Some(LossScale::dynamic())][seed as usize % 3];
            let step = training_step(&model, &train(precision, scale), step::Options::default()).unwrap();
            let found: Vec<String> = verify(&step).iter().map(ToString::to_string).collect();
            assert!(found.is_empty(), "seed {seed} {precision}: {found:#?}");
            assert_eq!(parse(&print(&step)).unwrap(), step, "seed {seed} {precision}");
        }
    }
}

/// One layer of what models are made of: a table, a norm with its gain, attention, a loss; its layers are repeated.
fn model(float: DType) -> Graph {
    let mut b = Builder::new("small", float);
    let mut axis = |name: &str, size, role| b.axis(name, size, role);
    let (batch, seq, past) = (axis("batch", 2, Role::Batch), axis("seq", 3, Role::Seq), axis("past", 3, Role::Seq));
    let (vocab, hidden, inner) = (axis("vocab", 5, Role::Vocab), axis("hidden", 4, Role::None), axis("inner", 6, Role::None));
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let targets = b.input("targets", &[batch, seq], Source::NextTokens);
    let table = b.param("table", &[vocab, hidden], Init::Normal(0.5));
    let embedded = b.gather("embedded", table, tokens, vocab);
    let carried = b.begin_repeat("layer", 2, &[embedded])[0];
    let gain = b.param("gain", &[hidden], Init::Constant(1.0));
    let (up, down) = (b.param("up", &[hidden, inner], Init::Normal(0.5)), b.param("down", &[inner, hidden], Init::Normal(0.5)));
    let normed = b.rms_norm(carried, hidden, 1e-5);
    let gained = b.elementwise("gained", &[normed, gain], (x(0) * x(1)).expr());
    let keys = b.slice("keys", gained, seq, 0, past);
    let attended = b.attention(gained, keys, keys, past, hidden, Some(seq), None);
    let wide = b.einsum("wide", &[attended, up], &[batch, seq, inner]);
    let branch = b.einsum("branch", &[wide, down], &[batch, seq, hidden]);
    let next = b.elementwise("next", &[carried, branch], (x(0) + x(1)).expr());
    let out = b.end_repeat(&[next], false)[0];
    let logits = b.einsum("logits", &[out, table], &[batch, seq, vocab]);
    let lse = b.fold("lse", Reduce::LogSumExp, logits, &[vocab]);
    let picked = b.gather("picked", logits, targets, vocab);
    let each = b.elementwise("each", &[lse, picked], (x(0) - x(1)).expr());
    let sum = b.fold("sum of losses", Reduce::Sum, each, &[batch, seq]);
    let count = b.map("count", &[targets], &[], Some(Reduce::Sum), x(0).binary(Binary::Ne, lit(-1.0)).expr());
    b.loss(sum, count);
    b.finish()
}

/// Every type that values of a name have.
fn types(graph: &Graph, name: &str) -> Vec<DType> {
    let mut types: Vec<DType> = graph.values.iter().filter(|value| value.name == name).map(|value| value.ty.dtype).collect();
    types.sort_unstable();
    types.dedup();
    assert!(!types.is_empty(), "no value is called `{name}`");
    types
}

#[test]
fn types_follow_from_rules() {
    let step = training_step(&model(DType::F32), &train(Recipe::Bf16.precision(), None), step::Options::default()).unwrap();
    let of = |name: &str| types(&step, name);
    for name in ["embedded", "gained", "rms_norm", "scores", "weights", "attention", "wide", "next", "logits"] {
        assert_eq!(of(name), [DType::Bf16], "{name}");
    }
    // what is folded of one tensor, and the loss
    for name in ["squares", "scale", "logsumexp", "lse", "each", "sum of losses", "loss", "seed", "grad_norm"] {
        assert_eq!(of(name), [DType::F32], "{name}");
    }
    for (param, slots) in [("table", "table"), ("gain", "gain"), ("up", "up")] {
        let leaf = |name: String| step.values.iter().find(|value| value.name == name).unwrap().ty.dtype;
        assert_eq!(leaf(param.to_owned()), DType::Bf16, "{param}");
        for state in ["master", "m", "v", "grad"] {
            assert_eq!(leaf(format!("{slots}.{state}")), DType::F32, "{param}.{state}");
        }
    }
    // the parameter is a cast of its copy
    for assign in &step.assigns {
        let target = step.value(assign.target);
        if matches!(step.leaf(assign.target), Some(Leaf::Param(_))) {
            let op = step.op(step.def_op(assign.value).unwrap());
            assert!(op.rule().is_some_and(Rule::is_move), "{} is a cast", target.name);
            assert_eq!((target.ty.dtype, step.value(op.operands[0]).ty.dtype), (DType::Bf16, DType::F32));
        }
    }
    let narrow = Recipe::Bf16.precision().with(Column::Gradient, DType::Bf16).with(Column::Master, DType::Bf16);
    let step = training_step(&model(DType::F32), &train(narrow, None), step::Options::default()).unwrap();
    assert_eq!(types(&step, "table.grad"), [DType::Bf16]);
    assert!(step.values.iter().all(|value| !value.name.ends_with(".master")));
}

#[test]
fn in_32_bits_nothing_is_cast() {
    let mut plain = training_step(&model(DType::F32), &train(Precision::F32, None), step::Options::default()).unwrap();
    assert!(plain.values.iter().all(|value| matches!(value.ty.dtype, DType::F32 | DType::I32)));
    let wide = training_step(&model(DType::F64), &train(Precision::F64, None), step::Options::default()).unwrap();
    for value in plain.values.iter_mut().filter(|value| value.ty.dtype == DType::F32) {
        value.ty.dtype = DType::F64;
    }
    assert_eq!(plain, wide);
}

#[test]
fn a_carried_value_is_cast_where_its_repeat_begins() {
    // the sum over positions is a statistic, and what the repeat hands on is a product
    let mut b = Builder::new("carried", DType::F32);
    let mut axis = |name: &str, size, role| b.axis(name, size, role);
    let (batch, seq, vocab) = (axis("batch", 2, Role::Batch), axis("seq", 3, Role::Seq), axis("vocab", 5, Role::Vocab));
    let (hidden, other) = (axis("hidden", 4, Role::None), axis("other", 4, Role::None));
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let table = b.param("table", &[vocab, hidden], Init::Normal(0.5));
    let embedded = b.gather("embedded", table, tokens, vocab);
    let pooled = b.fold("pooled", Reduce::Sum, embedded, &[seq]);
    let carried = b.begin_repeat("layer", 2, &[pooled])[0];
    let weight = b.param("weight", &[hidden, other], Init::Normal(0.5));
    let turned = b.einsum("turned", &[carried, weight], &[batch, other]);
    let next = b.slice("next", turned, other, 0, hidden);
    let out = b.end_repeat(&[next], false)[0];
    let sum = b.fold("sum", Reduce::Sum, out, &[batch, hidden]);
    let count = b.map("count", &[tokens], &[], Some(Reduce::Sum), x(0).binary(Binary::Ne, lit(-1.0)).expr());
    b.loss(sum, count);
    let step = training_step(&b.finish(), &train(Recipe::Bf16.precision(), None), step::Options::default()).unwrap();
    assert!(verify(&step).is_empty(), "{:?}", verify(&step));
    assert_eq!(types(&step, "pooled"), [DType::F32, DType::Bf16]);
}

#[test]
fn a_narrowing_cast_passes_maxima_and_no_sums() {
    let step = training_step(&model(DType::F32), &train(Recipe::Bf16.precision(), None), step::Options::default()).unwrap();
    let mut casts = 0;
    for op in (0..step.ops.len()).map(OpId::new).filter(|op| matches!(step.op(*op).kind, Kind::Map(_))) {
        let rule = SizedRule::of(&step, op).unwrap();
        let result = step.value(step.op(op).result()).ty.dtype;
        let passed: Vec<(Reduce, Vec<usize>)> = rule
            .choices()
            .into_iter()
            .filter_map(|choice| if let Choice::Pass { op, operands } = choice { Some((op, operands)) } else { None })
            .collect();
        for (pending, operands) in &passed {
            let wider = operands.iter().any(|n| result.narrows(step.value(step.op(op).operands[*n]).ty.dtype));
            assert!(!wider || matches!(pending, Reduce::Max | Reduce::Min), "{op} rounds a pending {pending:?}");
        }
        let from = step.op(op).operands.first().map(|operand| step.value(*operand).ty.dtype);
        if rule.rule.is_move() && from == Some(DType::F32) && result == DType::Bf16 {
            casts += 1;
            assert_eq!(passed.iter().map(|pass| pass.0).collect::<Vec<_>>(), [Reduce::Max, Reduce::Min]);
        }
    }
    assert!(casts >= 4, "{casts} casts");
    // and so it is with numbers: a sum of parts that are rounded is another
    let parts = [1.0, 1.0 / 256.0, 1.0 / 256.0];
    let (before, after) =
        (DType::Bf16.round(parts.iter().sum()), parts.iter().map(|x| DType::Bf16.round(*x)).fold(0.0, |a, b| DType::Bf16.round(a + b)));
    assert_ne!(before, after);
}

/// The leaves of a step after it.
fn moved_on(graph: &Graph, env: &Env, leaves: &mut std::collections::BTreeMap<(ValueId, u64), partita_ir::interpret::Tensor>) {
    for (key, next) in env.assigned() {
        assert_eq!(next.shape, graph.shape(key.0));
        leaves.insert(*key, next.clone());
    }
}

fn report(graph: &Graph, env: &Env, name: &str) -> f64 {
    env.get(graph.reports.iter().find(|report| report.0 == name).unwrap().1, 0).unwrap().data[0]
}

fn named(graph: &Graph, name: &str) -> ValueId {
    graph.leaves(|_| true).find(|id| graph.value(*id).name == name).unwrap()
}

#[test]
fn an_overflow_changes_nothing_but_the_scale() {
    let how = LossScale::Dynamic { start: 2f64.powi(40), interval: 3, growth: 4.0, backoff: 2f64.powi(-14) };
    for optimizer in
        [Optimizer::adamw(), Optimizer::sgd(), Optimizer::Adafactor { power: 0.8, eps: 0.01, floor: 1e-3, limit: 1.0, decay: 0.1 }]
    {
        let train = Train { optimizer, lr: 0.01, ..train(Recipe::Fp16.precision(), Some(how)) };
        let step = training_step(&model(DType::F32), &train, step::Options::default()).unwrap();
        let mut leaves = sample::leaves(&step, 3);
        let begun = leaves.clone();
        let mut scales = Vec::new();
        for number in 0..8 {
            let env = run(&step, leaves.clone(), 3, number);
            let skipped = report(&step, &env, "skipped") == 1.0;
            scales.push((report(&step, &env, "loss_scale").log2(), skipped));
            assert_eq!(skipped, !report(&step, &env, "grad_norm").is_finite());
            let progress = |key: &(ValueId, u64)| matches!(step.leaf(key.0), Some(Leaf::Progress(_)));
            if skipped {
                assert!(env.assigned().iter().all(|(key, next)| progress(key) || *next == leaves[key]), "step {number} of {scales:?}");
            }
            moved_on(&step, &env, &mut leaves);
        }
        // halved until nothing overflows, then up after three clean steps
        let wanted = [(40.0, true), (26.0, true), (12.0, false), (12.0, false), (12.0, false), (14.0, false), (14.0, false), (14.0, false)];
        assert_eq!(scales, wanted, "{}", optimizer.word());
        // bias corrections count the updates that took place
        assert_eq!(leaves[&(named(&step, "loss.updates"), 0)].data, [6.0]);
        let table = named(&step, "table");
        assert_ne!(leaves[&(table, 0)], begun[&(table, 0)]);
    }
}

#[test]
fn a_scale_of_a_power_of_two_is_none_in_wide_types() {
    for seed in 0..20 {
        let model = sample::graph(seed, sample::Options { ..sample::Options::default() });
        let run_with = |scale| {
            let step = training_step(&model, &train(Precision::F64, scale), step::Options::default()).unwrap();
            let env = run(&step, sample::leaves(&step, seed), seed, 0);
            let assigned = env.assigned().iter().filter(|(key, _)| !matches!(step.leaf(key.0), Some(Leaf::Progress(_))));
            let named: Vec<(String, Vec<f64>)> =
                assigned.map(|((id, at), tensor)| (step.instance_name(*id, *at), tensor.data.clone())).collect();
            named
        };
        let mut plain = run_with(None);
        for scale in [LossScale::Static(1024.0), LossScale::dynamic()] {
            let mut scaled = run_with(Some(scale));
            plain.sort_by(|a, b| a.0.cmp(&b.0));
            scaled.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(plain.len(), scaled.len());
            for ((name, a), (other, b)) in plain.iter().zip(&scaled) {
                assert_eq!(name, other);
                let near = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-9 * (1.0 + a.abs()) || !a.is_finite();
                assert!(a.iter().zip(b).all(near), "seed {seed} {name}: {a:?} {b:?}");
            }
        }
    }
}

#[test]
fn copies_begin_as_their_parameters_before_those_are_rounded() {
    let step = training_step(&model(DType::F32), &train(Recipe::Bf16.precision(), None), step::Options::default()).unwrap();
    let leaves = sample::leaves(&step, 5);
    let (param, copy) = (&leaves[&(named(&step, "up"), 1)], &leaves[&(named(&step, "up.master"), 1)]);
    assert_ne!(param, copy);
    assert!(param.data.iter().zip(&copy.data).all(|(param, copy)| *param == DType::Bf16.round(*copy)));
}
