//! What is decided when a model is compiled: `let`, `for`, `assert`, `use`, and what a file says of itself.

use std::collections::BTreeMap;

use partita_frontend::{Loaded, Model, Source, load, load_with, render};
use partita_ir::graph::{Graph, Leaf};
use partita_ir::interpret::{self, Tensor};
use partita_ir::verify::verify;

const HEAD: &str = "
model small
set n = 4
axis batch = 2 : batch
axis seq = 3 : seq
axis hidden = n
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
weight x0[batch, seq, hidden] = ones
x = x0 * 1
";
const TAIL: &str = "\nloss mean[batch, seq, hidden](x)\ntrain { batch = 2\n precision = f64 }\n";

fn model(body: &str) -> Model {
    let text = format!("{HEAD}{body}{TAIL}");
    let source = Source { name: "small", text: &text };
    let model = load(source, &[]).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)));
    assert_eq!(verify(&model.graph), Vec::new(), "{text}");
    model
}

/// The loss of a graph whose inputs are all 0.
fn loss(graph: &Graph) -> f64 {
    let mut leaves: BTreeMap<_, Tensor> = interpret::initial_leaves(graph, 0);
    for leaf in graph.leaves(|leaf| matches!(leaf, Leaf::Input(_))) {
        leaves.insert((leaf, 0), Tensor::from_fn(graph.shape(leaf), |_| 0.0));
    }
    let loss = &graph.loss[0];
    let env = interpret::run(graph, leaves, 0, 1);
    let read = |value| env.get(value, 0).expect("it was computed").data[0];
    read(loss.sum) / read(loss.count)
}

fn x(body: &str) -> f64 {
    loss(&model(body).graph)
}

fn names(graph: &Graph) -> Vec<String> {
    graph.params().map(|id| graph.instance_name(id, 0)).filter(|name| name != "x0").collect()
}

#[test]
fn a_let_is_known_and_not_set() {
    assert_eq!(x("let m = n * 2 + 1\nx = x * m"), 9.0);
    assert_eq!(x("let wide = n > 3\nif wide { x = x * 5 }"), 5.0);
    assert_eq!(x("if n > 3 { let m = 2 } else { let m = 3 }\nx = x * m"), 2.0);
    assert_eq!(x("block b(x[batch, seq, hidden], k) {\nlet m = k * 2\nreturn x * m }\nx = b(b(x, 1), 2)"), 8.0);
    assert_eq!(x("repeat 2 {\nlet m = 3\nx = x * m\n}"), 9.0);
    assert!(model("let m = 2\nx = x * m").settings.iter().all(|(name, _)| name != "m"));
    // above or below: what is known is known in the whole file, as settings are
    assert_eq!(x("axis wide = m\nlet m = 2\nx = x * (0 + wide)"), 2.0);
}

#[test]
fn a_for_is_written_out() {
    assert_eq!(x("for i in 1 .. 5 { x = x * i }"), 24.0);
    assert_eq!(x("for k in [2, 3, n] { x = x * k }"), 24.0);
    assert_eq!(x("for i in 2 .. 2 { x = x * 0 }"), 1.0);
    assert_eq!(x("for kind in [twice, thrice, twice] {\nif kind == twice { x = x * 2 } else { x = x * 3 }\n}"), 12.0);
    assert_eq!(x("for i in 0 .. 2 { for j in 0 .. 3 { x = x + i * j } }"), 4.0);
    assert_eq!(x("repeat 2 { for i in 1 .. 4 { x = x * i } }"), 36.0);
    assert_eq!(x("for i in 1 .. 4 { repeat i { x = x * 2 } }"), 64.0);
    assert_eq!(x("block b(x[batch, seq, hidden], k) {\nfor i in 0 .. k { x = x * 2 }\nreturn x }\nx = b(b(x, 1), 2)"), 8.0);
}

#[test]
fn each_round_has_weights_and_axes_of_its_own() {
    let graph = model("for stage in 1 .. 4 {\nweight w[hidden] = constant(stage)\nx = x * w\n}").graph;
    assert_eq!(names(&graph), ["stage.1.w", "stage.2.w", "stage.3.w"]);
    assert_eq!(loss(&graph), 6.0);
    let list = model("for k in [n, 2] { for i in 0 .. 2 {\nweight w[hidden] = ones\nx = x * w\n} }").graph;
    assert_eq!(names(&list), ["k.0.i.0.w", "k.0.i.1.w", "k.1.i.0.w", "k.1.i.1.w"]);
    let block = "block b(x[batch, seq, hidden]) {\nfor i in 0 .. 2 {\nweight w[hidden] = ones\nx = x * w\n}\nreturn x }\n";
    assert_eq!(names(&model(&format!("{block}repeat 2 {{ x = b(x) }}")).graph), ["b.0.i.0.w", "b.0.i.1.w"]);
    assert_eq!(names(&model(&format!("{block}for s in 0 .. 2 {{ repeat 2 {{ x = b(x) }} }}")).graph).len(), 4);
    let twice = "for i in 0 .. 1 {\nweight w[hidden] = ones\nx = x * w\n}\n";
    assert_eq!(names(&model(&twice.repeat(2)).graph), ["i.0.w", "i_2.0.w"]);

    // an axis that is declared again is the new one from there on
    let widths = "axis width = n
        y = x[hidden -> width]
        for stage in 1 .. 4 {
            axis next = n * pow(2, stage)
            weight w[width, next] = constant(1 / width)
            y = einsum[batch, seq, next](y, w)
            axis width = next
            y = y[next -> width]
        }
        x = x * mean[width](y)";
    let graph = model(widths).graph;
    let shapes: Vec<Vec<u64>> = graph.params().skip(1).map(|id| graph.shape(id)).collect();
    assert_eq!(shapes, [[4, 8], [8, 16], [16, 32]]);
    assert_eq!(loss(&graph), 1.0);
    assert!(graph.axes.iter().any(|axis| axis.name == "stage.2.next" && axis.size == 16));
}

#[test]
fn what_is_asserted_holds_or_is_told() {
    model("assert n == 4 and hidden < 10, \"hidden is {hidden}\"");
    let text = format!("{HEAD}for i in 0 .. 3 {{\nassert n > i * 2 + 1, \"stage {{i}}: {{n}} is not above {{i * 2 + 1}}\"\n}}{TAIL}");
    let errors = load(Source { name: "small", text: &text }, &[]).expect_err("4 is not above 5");
    assert_eq!(errors[0].code, "partita::assert::failed");
    assert_eq!(errors[0].message, "stage 2: 4 is not above 5");
    assert_eq!(errors[0].labels[0].1, "does not hold with n = 4, i = 2");
}

/// A model of several files, by their paths.
fn loaded(files: &[(&str, &str)]) -> Loaded {
    let text = format!("{HEAD}{}{TAIL}", files[0].1);
    let mut read = |path: &str| {
        let found = files[1..].iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "no such file".to_owned())
    };
    load_with(Source { name: files[0].0, text: &text }, &[], &mut read)
}

fn told(loaded: &Loaded) -> String {
    let sources: Vec<Source<'_>> = loaded.files.iter().map(|(name, text)| Source { name, text }).collect();
    loaded.model.as_ref().map_or_else(|errors| render(&sources, errors, false), |_| String::new())
}

#[test]
fn blocks_come_from_other_files() {
    let double = "block double(x[batch, seq, hidden]) { return x * 2 }\n";
    let twice = "# doubles twice\nuse \"../base.partita\"\nop half(a[.., i]) -> [.., i] = a / 2\nblock twice(x[batch, seq, hidden]) { return double(double(x)) }\n";
    let used = "use \"lib/blocks.partita\"\nuse \"./base.partita\"\nx = half(twice(double(x)))";
    for folder in ["", "models/", "/srv/", "../"] {
        let (first, second) = (format!("{folder}lib/blocks.partita"), format!("{folder}base.partita"));
        let result = loaded(&[(&format!("{folder}m.partita"), used), (&first, twice), (&second, double)]);
        let graph = &result.model.as_ref().unwrap_or_else(|_| panic!("{}", told(&result))).graph;
        assert_eq!(loss(graph), 4.0);
        // what is compiled does not know where the files are
        let at_home = loaded(&[("m.partita", used), ("lib/blocks.partita", twice), ("base.partita", double)]);
        assert_eq!(*graph, at_home.model.expect("it is the same model").graph);
    }
}

#[test]
fn files_that_cannot_be_used() {
    let missing = loaded(&[("models/m.partita", "use \"blocks.partita\"")]);
    assert!(told(&missing).contains("cannot read models/blocks.partita: no such file"), "{}", told(&missing));
    let a = "use \"b.partita\"\nblock a(x[batch, seq, hidden]) { return x }\n";
    let b = "use \"a.partita\"\n";
    let circle = loaded(&[("m.partita", "use \"a.partita\"\nx = a(x)"), ("a.partita", a), ("b.partita", b)]);
    assert!(told(&circle).contains("a.partita uses b.partita uses a.partita"), "{}", told(&circle));
    let more = loaded(&[("m.partita", "use \"a.partita\""), ("a.partita", "set wide = 3\n")]);
    assert!(told(&more).contains("holds blocks and operators alone"), "{}", told(&more));
    // a mistake in another file is told with that file's name and line
    let wrong = loaded(&[("m.partita", "use \"a.partita\"\nx = a(x)"), ("a.partita", "\nblock a(x[batch, seq, hidden]) { return z }\n")]);
    assert!(told(&wrong).contains("a.partita:2:") && told(&wrong).contains("nothing is named `z`"), "{}", told(&wrong));
    let call = loaded(&[("m.partita", "use \"a.partita\"\nx = a(x, 1)"), ("a.partita", "block a(x[batch, seq, hidden]) { return x }\n")]);
    assert!(told(&call).contains("m.partita:") && told(&call).contains("a.partita:1:7: declared here"), "{}", told(&call));
}

#[test]
fn documented_declarations() {
    let text = "## Numbers of a row.\n##\n## They may be few.\nset rows = 3\nset other = 2\n\n## Nothing below.\n\n    ## Doubles.\nblock b(x[batch, seq, hidden]) { return x * rows * other }";
    let docs = model(text).docs;
    let found: Vec<(&str, &str, &str)> = docs.iter().map(|doc| (doc.kind, doc.name.as_str(), doc.text.as_str())).collect();
    assert_eq!(found, [("set", "rows", "Numbers of a row.\n\nThey may be few."), ("block", "b", "Doubles.")]);
}

/// The derivative of the loss by the single element of `x0` under an operator line, and by differences.
#[test]
fn an_operator_may_say_its_derivative() {
    use partita_ir::step::{Options, training_step};
    use partita_ir::train::{Optimizer, Schedule, Train};
    let slope = |op: &str, call: &str, at: f64| {
        let text = format!(
            "model small\naxis batch = 1 : batch\naxis seq = 1 : seq\nweight x0[batch, seq] = constant({at})\nweight k[batch, seq] = constant(3)\n{op}\nx = {call}\nloss mean[batch, seq](x)\ntrain {{ batch = 1\n precision = f64 }}\n"
        );
        let source = Source { name: "small", text: &text };
        let model = load(source, &[]).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)));
        let train = Train {
            optimizer: Optimizer::Sgd { momentum: 0.0, decay: 0.0 },
            lr: 1.0,
            schedule: Schedule::Constant,
            clip: None,
            batch: 1,
            ..model.train
        };
        let step = training_step(&model.graph, &train, Options::default()).expect("the model has a loss");
        let before = interpret::initial_leaves(&step, 0);
        let env = interpret::run(&step, before.clone(), 0, 1);
        let moved = |name: &str| {
            let assign = step.assigns.iter().find(|assign| step.value(assign.target).name == name)?;
            Some(before[&(assign.target, 0)].data[0] - env.get(assign.value, 0)?.data[0])
        };
        (loss(&model.graph), moved("x0"), moved("k"))
    };
    // straight through (Bengio et al., 2013): the value is rounded, the derivative is that of a line
    let rounded = "op rounded(a[.., i]) -> [.., i] = floor(a + 0.5) {\nderivative a = 1\n}";
    assert_eq!(slope(rounded, "rounded(x0)", 1.3), (1.0, Some(1.0), None));
    assert_eq!(slope("op rounded(a[.., i]) -> [.., i] = floor(a + 0.5)", "rounded(x0)", 1.3), (1.0, None, None));
    // one that is said rightly agrees with differences, and the other argument with what is written
    let cube = "op cube(a[.., i], b[.., i], s) -> [.., i] = s * a * a * a * b {\nderivative a = s * 3 * a * a * b\n}";
    let (value, by_x, by_k) = slope(cube, "cube(x0, k, 0.5)", 1.5);
    let difference = (slope(cube, "cube(x0, k, 0.5)", 1.5 + 1e-5).0 - slope(cube, "cube(x0, k, 0.5)", 1.5 - 1e-5).0) / 2e-5;
    assert!((by_x.expect("x0 moves") - difference).abs() < 1e-6);
    assert!((by_k.expect("k moves") - value / 3.0).abs() < 1e-12);
    // it multiplies what comes from behind
    let chain = slope(rounded, "rounded(x0 * 2) * 5", 1.3);
    assert_eq!(chain, (15.0, Some(10.0), None));
    assert_eq!(slope("", "stop_gradient(x0) * x0", 2.0).1, Some(2.0));
}
