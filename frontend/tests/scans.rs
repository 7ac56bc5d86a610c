//! Scans: what they compute, and that their weights exist once.

use std::collections::BTreeMap;

use partita_frontend::{Source, load, render};
use partita_ir::graph::{Graph, Kind};
use partita_ir::interpret::{initial_leaves, run};
use partita_ir::verify::verify;

/// The graph of a model over 1 × 4 positions, which are `x`, with this body before its loss of `y`.
fn graph(body: &str) -> Graph {
    let text = format!(
        "model along
set seq = 4
axis batch : batch
axis seq : seq
x = index[seq] + 0 * index[batch]
{body}
loss mean[batch, seq](y)
train {{
    optimizer sgd(momentum = 0.0)
    lr = 0.1
    batch = 1
    precision = f64
}}
"
    );
    let source = Source { name: "scan", text: &text };
    load(source, &[]).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false))).graph
}

/// The sum of `y`.
fn sum(body: &str) -> f64 {
    let graph = graph(body);
    assert_eq!(verify(&graph), []);
    let env = run(&graph, initial_leaves(&graph, 0).into_iter().collect::<BTreeMap<_, _>>(), 0, 0);
    env.get(graph.loss[0].sum, 0).expect("the loss is computed").data[0]
}

#[test]
fn entries_are_gone_through_in_order() {
    let powers = "h = 10 * h + x\nemit y[batch, seq] = h";
    assert_eq!(sum(&format!("scan seq (h[batch] = 0) {{\n{powers}\n}}")), 1.0 + 12.0 + 123.0);
    assert_eq!(sum(&format!("scan seq reversed (h[batch] = 0) {{\n{powers}\n}}")), 3210.0 + 321.0 + 32.0 + 3.0);
}

#[test]
fn the_last_of_what_is_carried_is_there_behind_the_scan() {
    let body = "scan seq (h[batch] = 1, c[batch] = 0) {\nc = c + h\nh = 2 * h\n}\ny = c + h + 0 * x";
    assert_eq!(sum(body), 4.0 * (15.0 + 16.0));
    // several values, emitted over axes in any order, of a tensor that is not of the body too
    let body = "scan seq {\nemit a[seq, batch] = x * x\nemit b[batch, seq] = 5 + 0 * sum[seq](z)\n}\ny = a + b";
    assert_eq!(sum(&format!("axis far = seq\nz = x[seq -> far]\n{}", body.replace("sum[seq](z)", "sum[far](z)"))), 14.0 + 20.0);
}

#[test]
fn weights_of_a_body_exist_once() {
    let graph = graph(
        "weight w[batch] = ones\nscan seq (h[batch] = 0) {\nweight w_on[batch] = ones\nh = w_on * h + w * x\nemit y[batch, seq] = h\n}",
    );
    let names: Vec<&str> = graph.params().map(|id| graph.value(id).name.as_str()).collect();
    assert_eq!(names, ["w", "w_on"]);
    assert!(graph.params().all(|id| graph.value(id).within.is_none()));
    let scans = graph.ops.iter().filter(|op| matches!(&op.kind, Kind::Repeat(repeat) if repeat.is_scan()));
    assert_eq!(scans.count(), 1);
}
