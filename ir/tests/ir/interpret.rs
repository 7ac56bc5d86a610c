//! The interpreter: accesses, folds, shards, repeats, draws.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::{index, random, x};
use partita_ir::graph::{Assign, Init, Leaf, PhaseKind, Source, Supplied};
use partita_ir::interpret::{Tensor, eval_rule, initial_leaf, initial_leaves, run, whole};
use partita_ir::random::{DrawContext, stream, uniform};
use partita_ir::rule::{DimAccess, Reduce, Rule, Term};
use partita_ir::scalar::Expr;

use super::support::{Case, assert_close};

#[test]
fn matmul() {
    let mut case = Case::new();
    let (m, k, n) = (case.axis("m", 2), case.axis("k", 3), case.axis("n", 2));
    let a = case.given("a", &[m, k], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = case.given("b", &[k, n], &[1.0, 0.0, 0.0, 1.0, 1.0, -1.0]);
    let c = case.b.einsum("c", &[a, b], &[m, n]);
    assert_close(&case.value(c), &[4.0, -1.0, 10.0, -1.0]);
}

#[test]
fn folds() {
    let data: [f64; 4] = [3.0, -1.0, 2.0, 0.5];
    let lse = data.iter().map(|x| x.exp()).sum::<f64>().ln();
    for (reduce, want) in [(Reduce::Sum, 4.5), (Reduce::Max, 3.0), (Reduce::Min, -1.0), (Reduce::LogSumExp, lse)] {
        let mut case = Case::new();
        let axis = case.axis("a", 4);
        let value = case.given("x", &[axis], &data);
        let folded = case.b.fold("fold", reduce, value, &[axis]);
        assert_close(&case.value(folded), &[want]);
    }
}

#[test]
fn split_then_merge_is_the_identity() {
    let mut case = Case::new();
    let (row, wide, head, dim, back) =
        (case.axis("row", 2), case.axis("wide", 6), case.axis("head", 2), case.axis("dim", 3), case.axis("back", 6));
    let value = case.varied("x", &[row, wide]);
    let want = case.numbers(value).to_vec();
    let split = case.b.split_axis("split", value, wide, &[head, dim]);
    let merged = case.b.merge_axes("merged", split, &[head, dim], back);
    let (graph, env) = case.run();
    assert_eq!(graph.shape(split), [2, 2, 3]);
    assert_close(&env.get(split, 0).unwrap().data, &want);
    assert_close(&env.get(merged, 0).unwrap().data, &want);
}

#[test]
fn slice_reads_from_its_start() {
    let mut case = Case::new();
    let (long, short) = (case.axis("long", 5), case.axis("short", 2));
    let value = case.given("x", &[long], &[0.0, 1.0, 2.0, 3.0, 4.0]);
    let cut = case.b.slice("cut", value, long, 3, short);
    assert_close(&case.value(cut), &[3.0, 4.0]);
}

#[test]
fn window_reads_zeros_outside() {
    // a convolution of width 3, stride 1, padding 1
    let mut case = Case::new();
    let (out, tap) = (case.axis("out", 4), case.axis("tap", 3));
    let value = case.given("x", &[out], &[1.0, 2.0, 3.0, 4.0]);
    let taps = case.given("w", &[tap], &[1.0, 10.0, 100.0]);
    let window = DimAccess { terms: vec![Term { factor: 0, stride: 1 }, Term { factor: 1, stride: 1 }], offset: -1 };
    let rule = Rule {
        factors: vec![out, tap],
        operands: vec![vec![window], vec![DimAccess::factor(1)]],
        result: vec![DimAccess::factor(0)],
        reduce: Some(Reduce::Sum),
        expr: Expr::product(2),
    };
    let conv = case.b.rule("conv", rule, &[value, taps], &[out]);
    assert_close(&case.value(conv), &[210.0, 321.0, 432.0, 43.0]);
}

/// Every shard of `factor` in two uneven parts, the second of two intervals, against the whole result.
#[test]
fn shards_agree_with_the_whole() {
    let (m, k) = (5, 3);
    let graph = Builder::new("axes", DType::F64);
    let rule = |b: &mut Builder| {
        let (row, col) = (b.axis("m", m, Role::None), b.axis("k", k, Role::None));
        let factors = vec![row, col];
        let access = vec![DimAccess::merged(&[0, 1], &|factor| [m, k][factor])];
        let table = vec![DimAccess { terms: vec![Term { factor: 0, stride: 2 }], offset: -1 }];
        let expr = (x(0) * x(1) + index(0) + random(3, vec![0, 1])).expr();
        Rule { factors, operands: vec![access, table], result: vec![DimAccess::factor(0)], reduce: Some(Reduce::Sum), expr }
    };
    let mut builder = graph;
    let rule = rule(&mut builder);
    let (sizes, shapes) = ([m, k], [vec![m * k], vec![7]]);
    let ctx = DrawContext { seed: 5, step: 1, iteration: 2 };
    let merged = Tensor::from_fn(vec![m * k], |i| i as f64);
    let table = Tensor::from_fn(vec![7], |i| 1.0 + i as f64);
    let all = eval_rule(&rule, &whole(&sizes), &sizes, &[&merged, &table], &shapes, ctx);
    for rows in [vec![(1, 3)], vec![(0, 1), (3, 5)]] {
        let picked: Vec<u64> = rows.iter().flat_map(|&(start, end)| start..end).collect();
        let local =
            Tensor::new(vec![picked.len() as u64 * k], picked.iter().flat_map(|r| (0..k).map(move |c| (r * k + c) as f64)).collect());
        // of the table there is what is between the first row's entry and the last one's
        let (first, end) = rule.operands[1][0].reached(7, &|_| (m, &rows));
        assert_eq!((first, end), if rows.len() == 1 { (1, 4) } else { (0, 7) });
        let near = Tensor::new(vec![end - first], table.data[first as usize..end as usize].to_vec());
        let part = eval_rule(&rule, &[rows, vec![(0, k)]], &sizes, &[&local, &near], &shapes, ctx);
        let want: Vec<f64> = picked.iter().map(|&r| all.data[r as usize]).collect();
        assert_close(&part.data, &want);
    }
    // parts of the folded factor are partial sums; an empty part is the identity
    let halves = [vec![(0, 2)], vec![(2, 3)], vec![]].map(|columns| {
        let picked: Vec<u64> = columns.iter().flat_map(|&(start, end)| start..end).collect();
        let local =
            Tensor::new(vec![picked.len() as u64 * m], (0..m).flat_map(|r| picked.iter().map(move |c| (r * k + c) as f64)).collect());
        eval_rule(&rule, &[vec![(0, m)], columns], &sizes, &[&local, &table], &shapes, ctx)
    });
    let sums: Vec<f64> = (0..m as usize).map(|r| halves.iter().map(|half| half.data[r]).sum()).collect();
    assert_close(&sums, &all.data);
    assert_close(&halves[2].data, &[0.0; 5]);
}

#[test]
fn draws_depend_on_element_iteration_and_salt() {
    let mut b = Builder::new("draws", DType::F64);
    let (row, col) = (b.axis("row", 2, Role::None), b.axis("col", 3, Role::None));
    let zero = b.param("zero", &[], Init::Constant(0.0));
    b.begin_repeat("layer", 2, &[zero]);
    let drawn = b.map("drawn", &[], &[row, col], None, random(11, vec![0, 1]).expr());
    b.end_repeat(&[zero], false);
    let graph = b.finish();
    let env = run(&graph, initial_leaves(&graph, 3), 3, 9);
    for iteration in 0..2 {
        let ctx = DrawContext { seed: 3, step: 9, iteration };
        let want: Vec<f64> = (0..6).map(|element| uniform(stream(ctx, 11), element)).collect();
        assert_eq!(env.get(drawn, iteration).unwrap().data, want);
    }
}

/// Horner's rule forwards and backwards over a parameter per iteration.
#[test]
fn repeats_carry_values_in_order() {
    for (reversed, want) in [(false, 123.0), (true, 321.0)] {
        let mut b = Builder::new("horner", DType::F64);
        let zero = b.param("zero", &[], Init::Constant(0.0));
        let ten = b.param("ten", &[], Init::Constant(10.0));
        let args = b.begin_repeat("digit", 3, &[zero]);
        let digit = b.param("digit", &[], Init::Constant(0.0));
        let next = b.elementwise("next", &[args[0], ten, digit], (x(0) * x(1) + x(2)).expr());
        let last = b.end_repeat(&[next], reversed);
        let graph = b.finish();
        let mut leaves = initial_leaves(&graph, 0);
        for iteration in 0..3 {
            leaves.insert((digit, iteration), Tensor::scalar(1.0 + iteration as f64));
        }
        let env = run(&graph, leaves, 0, 0);
        assert_close(&env.get(last[0], 0).unwrap().data, &[want]);
        let first = if reversed { 2 } else { 0 };
        assert_close(&env.get(args[0], first).unwrap().data, &[0.0]);
    }
}

#[test]
fn a_later_repeat_reads_the_same_iteration() {
    let mut b = Builder::new("two", DType::F64);
    let zero = b.param("zero", &[], Init::Constant(0.0));
    b.begin_repeat("layer", 3, &[zero]);
    let position = b.map("own", &[], &[], None, random(5, vec![]).expr());
    b.end_repeat(&[zero], false);
    let over = b.graph.value(position).within.unwrap();
    let args = b.begin_repeat_over(over, &[zero]);
    let seen = b.elementwise("seen", &[position, args[0]], (x(0) + x(1) * x(1)).expr());
    b.end_repeat(&[zero], true);
    let graph = b.finish();
    let env = run(&graph, initial_leaves(&graph, 0), 0, 0);
    for iteration in 0..3 {
        assert_eq!(env.get(seen, iteration), env.get(position, iteration));
    }
}

#[test]
fn steps_assign_what_they_accumulate() {
    let mut b = Builder::new("update", DType::F64);
    let axis = b.axis("a", 2, Role::None);
    let weight = b.param("w", &[axis], Init::Constant(3.0));
    let gradient = b.elementwise("g", &[weight], (x(0) * x(0)).expr());
    b.end_phase(PhaseKind::Backward);
    let whole = b.leaf("g.whole", &[axis], Leaf::Accumulated(gradient));
    let step = b.leaf("step", &[], Leaf::Supplied(Supplied::StepNumber));
    let next = b.elementwise("next", &[weight, whole, step], (x(0) - x(1) / x(2)).expr());
    b.end_phase(PhaseKind::Update);
    b.graph.assigns.push(Assign { target: weight, value: next });
    let env = run(&b.graph, initial_leaves(&b.graph, 0), 0, 2);
    assert_close(&env.assigned()[&(weight, 0)].data, &[0.0, 0.0]);
}

#[test]
fn parameters_begin_by_their_instance_names() {
    let mut b = Builder::new("init", DType::F64);
    let axis = b.axis("a", 1000, Role::None);
    let zero = b.param("zero", &[], Init::Constant(0.0));
    let tokens = b.input("tokens", &[axis], Source::Tokens);
    b.begin_repeat("layer", 2, &[zero]);
    let normal = b.param("n", &[axis], Init::Normal(2.0));
    let bounded = b.param("u", &[axis], Init::Uniform(0.5));
    b.end_repeat(&[zero], false);
    let graph = b.finish();
    let (first, second) = (initial_leaf(&graph, normal, 0, 1), initial_leaf(&graph, normal, 1, 1));
    assert_ne!(first, second);
    assert_eq!(first, initial_leaf(&graph, normal, 0, 1));
    let variance = first.data.iter().map(|x| x * x).sum::<f64>() / 1000.0;
    assert!((variance - 4.0).abs() < 0.8, "variance {variance}");
    let uniform = initial_leaf(&graph, bounded, 0, 1).data;
    assert!(uniform.iter().all(|x| x.abs() <= 0.5) && uniform.iter().any(|x| *x < -0.4) && uniform.iter().any(|x| *x > 0.4));
    let leaves: BTreeMap<_, _> = initial_leaves(&graph, 1);
    assert!(leaves.contains_key(&(normal, 1)) && !leaves.contains_key(&(tokens, 0)));
}
