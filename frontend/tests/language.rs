//! What the words of the language mean: small models against numbers worked out by hand.

use std::collections::BTreeMap;

use partita_frontend::{Model, Source, load, render};
use partita_ir::graph::{Class, Def, Graph, Kind, Leaf, PhaseKind};
use partita_ir::id::{OpId, ValueId};
use partita_ir::interpret::{self, Tensor};
use partita_ir::verify::verify;

/// Two samples of three positions with tokens 0..6, a table whose entries are their own row-major index, and `x`, its
/// rows.
const HEAD: &str = "
model small
axis batch : batch
axis seq = 3 : seq
axis past = seq : seq
axis vocab = 6 : vocab
axis hidden = 4
axis half = 2
axis pair = 2
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
weight table[vocab, hidden] = zeros
x = gather[vocab](table, tokens)
";

fn model(body: &str) -> Model {
    let text = format!("{HEAD}{body}\ntrain {{ batch = 2\n precision = f64 }}\n");
    let source = Source { name: "small", text: &text };
    let model = load(source, &[]).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)));
    assert_eq!(verify(&model.graph), Vec::new(), "{body}");
    model
}

fn ops(graph: &Graph) -> Vec<OpId> {
    let mut ops = Vec::new();
    graph.visit(graph.phase(PhaseKind::Forward), &mut |op, _| ops.push(op));
    ops
}

/// The elements of the last value named `y`.
fn value_of_y(body: &str) -> Vec<f64> {
    let graph = model(&format!("{body}\nloss mean[batch, seq, hidden](x)")).graph;
    let mut leaves: BTreeMap<_, Tensor> = interpret::initial_leaves(&graph, 0);
    for leaf in graph.leaves(|_| true) {
        if graph.value(leaf).name == "table" || matches!(graph.leaf(leaf), Some(Leaf::Input(_))) {
            leaves.insert((leaf, 0), Tensor::from_fn(graph.shape(leaf), |element| element as f64));
        }
    }
    let env = interpret::run(&graph, leaves, 0, 1);
    let y = (0..graph.values.len()).rev().map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == "y");
    env.get(y.expect("the body computes y"), 0).expect("y has a value").data.clone()
}

/// The primitives that a line adds to a model that ends with `loss mean[...](x)`.
fn ops_of(body: &str) -> usize {
    let loss = "\nloss mean[batch, seq, hidden](x)";
    ops(&model(&format!("{body}{loss}")).graph).len() - ops(&model(loss).graph).len()
}

#[test]
fn one_expression_is_one_operator() {
    assert_eq!(ops_of("y = gelu(x * 2 + 1) / (1 + abs(x))"), 1);
    assert_eq!(ops_of("y = sum[hidden](x * x)"), 1);
    assert_eq!(ops_of("y = mean[batch, seq](x)"), 1);
    assert_eq!(ops_of("y = x"), 0);
    assert_eq!(ops_of("y = x + 0"), 0);
    assert_eq!(ops_of("y = where(index[seq] < 2, x, -x)"), 1);
    assert_eq!(ops_of("op swish(a[.., i], rate) -> [.., i] = a * sigmoid(rate * a)\ny = swish(x, 2)"), 1);
}

#[test]
fn a_branch_and_its_stream_stay_apart() {
    let residuals = |body: &str| {
        let graph = model(&format!("{body}\nloss mean[batch, seq, hidden](x)")).graph;
        ops(&graph).into_iter().filter(|op| graph.op(*op).class == Class::Residual).count()
    };
    assert_eq!(residuals("x = x + gelu(x)"), 1);
    assert_eq!(residuals("y = gelu(x)\nx = x + y"), 1);
    assert_eq!(residuals("x = layer_norm[hidden](x) + x"), 1);
    assert_eq!(residuals("weight bias[hidden] = zeros\nx = x + bias"), 0);
    assert_eq!(residuals("weight bias[batch, seq, hidden] = zeros\nx = x + bias"), 0);
    assert_eq!(residuals("x = x + 1"), 0);
    assert_eq!(ops_of("x = x + gelu(x)"), 2);
}

#[test]
fn results_have_the_axes_of_the_operand_that_has_them_all() {
    let graph = model("weight bias[hidden] = zeros\ny = bias + x\nloss mean[batch, seq, hidden](y)").graph;
    let y = graph.values.iter().find(|value| value.name == "y").expect("y is there");
    let names: Vec<&str> = y.ty.dims.iter().map(|axis| graph.axis(*axis).name.as_str()).collect();
    assert_eq!(names, ["batch", "seq", "hidden"]);
}

#[test]
fn arithmetic_and_reductions() {
    let x: Vec<f64> = (0..24).map(f64::from).collect();
    assert_eq!(value_of_y("y = -x * 2 + pow(2, 3)"), x.iter().map(|x| -x * 2.0 + 8.0).collect::<Vec<_>>());
    assert_eq!(value_of_y("y = sum[hidden](x)"), vec![6.0, 22.0, 38.0, 54.0, 70.0, 86.0]);
    assert_eq!(value_of_y("y = mean[seq, hidden](x)"), vec![5.5, 17.5]);
    assert_eq!(value_of_y("y = max[batch, seq](x)"), vec![20.0, 21.0, 22.0, 23.0]);
    assert_eq!(value_of_y("y = sum[hidden](x * 0 + 1)"), vec![4.0; 6]);
    assert_eq!(value_of_y("y = sum[batch, seq](where(tokens >= 4, 1, 0) * mean[hidden](x))"), vec![17.5 + 21.5]);
    assert_eq!(value_of_y("y = sum[batch, hidden](where(tokens == 0, x, 0) + index[seq])"), vec![6.0, 8.0, 16.0]);
    let largest = "a = argmax[hidden, pair](x * (1 - 2 * (index[hidden] == 3)))\ny = a / 2";
    assert_eq!(value_of_y(largest)[..4], [1.0, 1.0, 3.0, 1.0]);
}

#[test]
fn brackets_move_elements() {
    let x: Vec<f64> = (0..24).map(f64::from).collect();
    assert_eq!(value_of_y("y = x[hidden -> half * pair][half * pair -> hidden]"), x);
    assert_eq!(value_of_y("y = sum[half](x[hidden -> half * pair])")[..4], [2.0, 4.0, 10.0, 12.0]);
    assert_eq!(value_of_y("y = x[seq -> past, hidden = 1 .. 3 -> half]")[..4], [1.0, 2.0, 5.0, 6.0]);
    assert_eq!(value_of_y("y = einsum[hidden, seq, batch](x)")[..4], [0.0, 12.0, 4.0, 16.0]);
}

#[test]
fn tensors_are_put_together_and_made_longer() {
    let x: Vec<f64> = (0..24).map(f64::from).collect();
    let rows = |row: &dyn Fn(&[f64]) -> Vec<f64>| x.chunks(4).flat_map(row).collect::<Vec<f64>>();
    assert_eq!(
        value_of_y("y = concat[hidden](x[hidden = 2 .. 4 -> half], x[hidden = 0 .. 2 -> pair])"),
        rows(&|x| vec![x[2], x[3], x[0], x[1]])
    );
    assert_eq!(value_of_y("a = x[hidden = 1 .. 3 -> half]\ny = concat[half -> hidden](a, a)"), rows(&|x| vec![x[1], x[2], x[1], x[2]]));
    let each = "axis one = 1\naxis three = 3\ny = concat[one, three -> hidden](x[hidden = 3 .. 4 -> one], x[hidden = 0 .. 3 -> three])";
    assert_eq!(value_of_y(each), rows(&|x| vec![x[3], x[0], x[1], x[2]]));
    let longer = "axis longer = 7\ny = pad[hidden -> longer](x, before = 1, after = 2, value = 0.5)";
    assert_eq!(value_of_y(longer), rows(&|x| [&[0.5], x, &[0.5, 0.5]].concat()));
    assert_eq!(value_of_y("axis longer = 5\ny = pad[hidden -> longer](x, after = 1)"), rows(&|x| [x, &[0.0]].concat()));
}

#[test]
fn places_are_counted_with() {
    let hot = |place: &dyn Fn(usize) -> usize| {
        (0..6).flat_map(|row| (0..6).map(move |n| (row, n))).map(|(row, n)| f64::from(u8::from(n == place(row)))).collect::<Vec<_>>()
    };
    assert_eq!(value_of_y("y = one_hot[vocab](tokens)"), hot(&|row| row));
    assert_eq!(value_of_y("y = one_hot[hidden](mod(index[seq] * 3, 4))"), vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(value_of_y("y = mod(x - 5, 3)")[..6], [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
    assert_eq!(value_of_y("axis rest = mod(11, 4)\ny = sum[rest](index[rest] * 1.0)"), vec![3.0]);
}

#[test]
fn own_operators_bind_letters_by_position() {
    let distance = "op distance(a[.., m, k], b[n, k]) -> [.., m, n], sum k = (a - b) * (a - b)\n";
    let y = value_of_y(&format!("{distance}y = distance(x, table)"));
    assert_eq!(y.len(), 2 * 3 * 6);
    // row 1 against row 0 of the table: four differences of 4
    assert_eq!((y[0], y[6]), (0.0, 64.0));
    let where_odd = "op second(a[i, .., j], shift) -> [i, .., j] : norm = a * (index[j] == shift) + j\n";
    assert_eq!(value_of_y(&format!("{where_odd}y = second(x, 1)"))[..5], [4.0, 5.0, 4.0, 4.0, 4.0]);
}

#[test]
fn a_mean_is_a_loss() {
    let graph = model("loss mean[batch, seq, hidden](x * x)").graph;
    let leaves = graph.leaves(|_| true).map(|leaf| ((leaf, 0), Tensor::from_fn(graph.shape(leaf), |element| element as f64)));
    let env = interpret::run(&graph, leaves.collect(), 0, 1);
    let [loss] = &graph.loss[..] else { panic!("the model has one loss") };
    let read = |value| env.get(value, 0).expect("it was computed").data[0];
    assert_eq!((read(loss.sum), read(loss.count)), ((0..24).map(|x| f64::from(x * x)).sum(), 24.0));
}

#[test]
fn names_of_weights_tell_calls_apart() {
    let body = "
block inner(x[batch, seq, hidden]) {
    weight w[hidden] = ones
    return x * w
}
block outer(x[batch, seq, hidden], rate) {
    weight w[hidden] = ones
    return inner(inner(x * w)) * rate
}
x = inner(x)
x = outer(x, 2)
repeat 2 { x = outer(x, 3) }
repeat 2 as stack {
    x = inner(x)
    x = outer(x, 3)
}
loss mean[batch, seq, hidden](x)";
    let graph = model(body).graph;
    let names: Vec<String> = graph.params().map(|id| graph.instance_name(id, 1)).collect();
    let expected = [
        "table",
        "inner.w",
        "outer.w",
        "outer.inner.w",
        "outer.inner_2.w",
        "outer_2.1.w",
        "outer_2.1.inner.w_2",
        "outer_2.1.inner_2.w",
        "stack.1.inner.w_3",
        "stack.1.outer.w_2",
        "stack.1.outer.inner.w_2",
        "stack.1.outer.inner_2.w_2",
    ];
    let leaf_names: std::collections::BTreeSet<&str> = graph.params().map(|id| graph.value(id).name.as_str()).collect();
    assert_eq!(leaf_names.len(), names.len(), "the names of leaves differ");
    // order of declaration is that of the text; inner calls come after the weights before them
    assert_eq!(names, expected);
}

#[test]
fn a_repeat_carries_what_existed_before_it() {
    let body = "
total = x * 0
repeat 3 {
    x = relu(x)
    step = x * 2
    total = total + step
}
loss mean[batch, seq, hidden](total)";
    let graph = model(body).graph;
    let carried = graph.ops.iter().find_map(|op| match &op.kind {
        Kind::Repeat(repeat) => Some(repeat.carried.clone()),
        Kind::Map(_) => None,
    });
    let carried = carried.expect("there is a repeat");
    assert_eq!(carried.len(), 2);
    assert!(matches!(graph.value(carried[0].arg).def, Def::Carried(_, 0)));
    let y = value_of_y("y = x * 0\nrepeat 3 as steps { y = y + x }");
    assert_eq!(y, (0..24).map(|x| f64::from(3 * x)).collect::<Vec<_>>());
}

#[test]
fn an_axis_stands_for_its_size() {
    let y = value_of_y("y = sum[hidden](x) / hidden");
    assert_eq!(y, vec![1.5, 5.5, 9.5, 13.5, 17.5, 21.5]);
}

#[test]
fn lines_end_at_line_ends_unless_a_bracket_is_open() {
    let y = value_of_y("y = (x\n    + 1   # a comment\n    - 1\n)");
    assert_eq!(y[5], 5.0);
}

#[test]
fn spans_point_at_the_user_s_line() {
    let body = "y = gelu(x)\nloss mean[batch, seq, hidden](y)";
    let graph = model(body).graph;
    let text = format!("{HEAD}{body}");
    let op = ops(&graph).into_iter().find(|op| graph.value(graph.op(*op).result()).name == "y").expect("y is computed");
    let span = graph.op(op).span.expect("operators have spans");
    assert_eq!(&text[span.start as usize..span.end as usize], "gelu(x)");
}
