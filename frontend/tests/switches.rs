//! Settings that are true or false or a word, and what `if` makes of them.

use std::collections::BTreeMap;

use partita_frontend::{Model, Setting, Source, load, render};
use partita_ir::graph::{Graph, Kind, Leaf};
use partita_ir::id::ValueId;
use partita_ir::interpret::{self, Tensor};
use partita_ir::verify::verify;

const GPT: &str = include_str!("../../models/gpt.partita");
const LLAMA: &str = include_str!("../../models/llama.partita");

const HEAD: &str = "
model small
set switch = true
set other = not switch
set word = one | two | three
set n = 4
axis batch = 2 : batch
axis seq = 3 : seq
axis hidden = 4
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
weight x0[batch, seq, hidden] = ones
x = x0 * 1
";

fn model(text: &str, settings: &[&str]) -> Model {
    let settings: Vec<Setting> = settings
        .iter()
        .filter_map(|setting| setting.split_once('='))
        .map(|(name, value)| Setting { name: name.to_owned(), value: value.to_owned() })
        .collect();
    let source = Source { name: "switches", text };
    let model = load(source, &settings).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)));
    assert_eq!(verify(&model.graph), Vec::new(), "{text}");
    model
}

fn small(body: &str, settings: &[&str]) -> Model {
    // all settings are read, whatever the body does
    let used = "if switch or other or word == one or n > 0 { x = x * 1 }";
    let text = format!("{HEAD}{used}\n{body}\nloss mean[batch, seq, hidden](x)\ntrain {{ batch = 2\n precision = f64 }}\n");
    model(&text, settings)
}

/// What `x` is in the end, of a body that treats all elements alike.
fn x(body: &str, settings: &[&str]) -> f64 {
    let graph = small(body, settings).graph;
    let mut leaves: BTreeMap<_, Tensor> = interpret::initial_leaves(&graph, 0);
    for leaf in graph.leaves(|leaf| matches!(leaf, Leaf::Input(_))) {
        leaves.insert((leaf, 0), Tensor::from_fn(graph.shape(leaf), |_| 0.0));
    }
    let loss = &graph.loss[0];
    let env = interpret::run(&graph, leaves, 0, 1);
    let read = |value| env.get(value, 0).expect("it was computed").data[0];
    read(loss.sum) / read(loss.count)
}

fn names(graph: &Graph) -> Vec<String> {
    graph.params().map(|id| graph.instance_name(id, 0)).collect()
}

#[test]
fn one_branch_is_taken() {
    let body = "if switch { x = x + 1 } else { x = x + 2 }";
    assert_eq!((x(body, &[]), x(body, &["switch=false"])), (2.0, 3.0));
    let chain = "if word == one { x = x + 1 } else if word == two { x = x + 2 } else { x = x + 3 }";
    assert_eq!([x(chain, &[]), x(chain, &["word=two"]), x(chain, &["word=three"])], [2.0, 3.0, 4.0]);
    assert_eq!(x("if other { x = x * 10 }", &[]), 1.0);
    assert_eq!(x("if other { x = x * 10 }", &["other=true"]), 10.0);
    // a setting may follow another: `other` is `not switch`
    assert_eq!(x("if other { x = x * 10 }", &["switch=false"]), 10.0);
}

#[test]
fn conditions_are_what_they_say() {
    let holds = |condition: &str, settings: &[&str]| x(&format!("if {condition} {{ x = x * 0 }}"), settings) == 0.0;
    for (condition, expected) in [
        ("true", true),
        ("not true", false),
        ("switch", true),
        ("not switch", false),
        ("not not switch", true),
        ("switch and other", false),
        ("switch or other", true),
        ("not switch or other", false),
        ("not (switch and other)", true),
        ("other and other or switch", true),
        ("switch == other", false),
        ("switch != other", true),
        ("switch == true", true),
        ("word == one", true),
        ("one == word", true),
        ("word != two", true),
        ("word == two or word == one", true),
        ("word == word", true),
        ("n == 4 and n != 5", true),
        ("n < 4", false),
        ("n <= 4 and n >= 4 and n > 3", true),
        ("hidden / n == 1", true),
        ("(n > 3) == switch", true),
        // what the first decides needs no second
        ("n == 0 or 12 / n == 3", true),
        ("n != 4 and hidden / (n - 4) > 1", false),
    ] {
        assert_eq!(holds(condition, &[]), expected, "{condition}");
    }
    assert!(holds("word == three and n == 7", &["word=three", "n=7"]));
}

#[test]
fn names_outlive_an_if_that_always_gives_them() {
    assert_eq!(x("if switch { y = x * 2 } else { y = x * 3 }\nx = y", &["switch=false"]), 3.0);
    assert_eq!(x("if switch { if other { y = x } else { y = x * 5 } } else { y = x * 3 }\nx = y", &[]), 5.0);
    // a weight in one branch and a result in another
    let body = "if switch { w = x0 } else { weight w[batch, seq, hidden] = constant(7) }\nx = w";
    assert_eq!((x(body, &[]), x(body, &["switch=false"])), (1.0, 7.0));
    // a name that ended may begin again
    assert_eq!(x("if switch { y = x * 2 }\ny = x * 3\nx = y", &[]), 3.0);
}

#[test]
fn weights_exist_where_their_branch_is_taken() {
    let body = "
block layer(x[batch, seq, hidden], deep) {
    if deep { weight w[hidden] = ones
        x = x * w
    } else {
        weight v[hidden] = ones
        x = x * v
    }
    weight b[hidden] = constant(3) if switch
    return x + b
}
repeat 2 { if switch { x = layer(x, other) } else { x = layer(x, n == 4) } }
x = layer(x, true)";
    assert_eq!(names(&small(body, &[]).graph), ["x0", "layer.0.v", "layer.0.b", "layer_2.w", "layer_2.b"]);
    assert_eq!(names(&small(body, &["switch=false"]).graph), ["x0", "layer.0.w", "layer_2.w"]);
    assert_eq!(names(&small(body, &["switch=false", "n=5"]).graph), ["x0", "layer.0.v", "layer_2.w"]);
    // without it the number stands there that it begins with
    assert_eq!((x(body, &[]), x(body, &["switch=false"])), (10.0, 10.0));
}

#[test]
fn a_repeat_carries_what_the_taken_branch_assigns() {
    let body = "y = x * 2\nrepeat 3 { if switch { x = x + 1 } else { y = y + x } }\nx = x + y";
    let carried = |settings: &[&str]| {
        let graph = small(body, settings).graph;
        graph.ops.iter().find_map(|op| if let Kind::Repeat(repeat) = &op.kind { Some(repeat.carried.len()) } else { None })
    };
    assert_eq!((carried(&[]), carried(&["switch=false"])), (Some(1), Some(1)));
    assert_eq!((x(body, &[]), x(body, &["switch=false"])), (6.0, 6.0));
}

#[test]
fn an_absent_weight_costs_nothing() {
    let without = small("weight b[hidden] = zeros if other\nx = x * 2 + b", &[]).graph;
    let plain = small("x = x * 2", &[]).graph;
    assert_eq!((without.ops.len(), names(&without)), (plain.ops.len(), names(&plain)));
}

#[test]
fn a_tensor_may_have_the_name_of_a_switch() {
    let body = "weight switch[hidden] = constant(5) if switch\nx = x * switch\nif switch { x = x + 1 }";
    assert_eq!((x(body, &[]), x(body, &["switch=false"])), (6.0, 5.0));
}

#[test]
fn values_of_switches_are_told_as_they_are_set() {
    let told = small("", &["word=three"]).settings;
    let value = |name: &str| told.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!([value("switch"), value("other"), value("word")], [Some("true"), Some("false"), Some("three")]);
}

/// The names of the parameters that one setting has and another has not, first and second.
fn differing(text: &str, settings: &[&str]) -> (Vec<String>, Vec<String>) {
    let (plain, set) = (names(&model(text, &[]).graph), names(&model(text, settings).graph));
    let only = |a: &[String], b: &[String]| a.iter().filter(|name| !b.contains(name)).cloned().collect();
    (only(&plain, &set), only(&set, &plain))
}

#[test]
fn switches_of_gpt_add_and_remove_parameters() {
    let none: Vec<String> = Vec::new();
    let biases = ["bias1", "bq", "bk", "bv", "bo", "bias2", "b_up", "b_down"].map(|name| format!("layer.0.{name}"));
    assert_eq!(differing(GPT, &["bias=false"]), ([&biases[..], &["bias".to_owned()]].concat(), none.clone()));
    assert_eq!(differing(GPT, &["alibi=true"]), (vec!["wpe".to_owned()], none.clone()));
    assert_eq!(differing(GPT, &["embedding_norm=true"]), (none.clone(), vec!["gain0".to_owned(), "bias0".to_owned()]));
    assert_eq!(differing(GPT, &["embedding_norm=true", "bias=false"]).1, ["gain0"]);
    assert_eq!(differing(GPT, &["tied=false"]), (none.clone(), vec!["head".to_owned()]));
    assert_eq!(differing(GPT, &["activation=relu2"]), (none.clone(), none.clone()));
    assert_eq!(differing(LLAMA, &["tied=true"]), (vec!["head".to_owned()], none));
    let untied = model(GPT, &["tied=false"]).graph;
    let head = untied.params().find(|id| untied.value(*id).name == "head").expect("it is there");
    assert_eq!(untied.shape(head), [128, 256]);
}

#[test]
fn activations_of_gpt() {
    let value = |word: &str| {
        let graph = model(GPT, &[&format!("activation={word}"), "bias=false"]).graph;
        let op = graph.ops.iter().find(|op| graph.value(op.result()).name == "h").expect("there is an activation");
        let rule = op.rule().expect("it is a primitive");
        [-1.5, 1.5].map(|x| rule.expr.eval(&[x], &[], &|_, _| 0.0, &mut Vec::new()))
    };
    assert_eq!((value("relu"), value("relu2")), ([0.0, 1.5], [0.0, 2.25]));
    let gelu = value("gelu");
    assert!((gelu[0] + 0.1004).abs() < 1e-4 && (gelu[1] - 1.3996).abs() < 1e-4, "{gelu:?}");
}

/// The slopes of the paper: `2^(-8 (h + 1) / heads)` for a power of two; for others those of the power of two below, then
/// every other one of the power of two above.
fn slopes(heads: usize) -> Vec<f64> {
    let of_power = |n: usize| (1..=n).map(|h| 2f64.powf(-8.0 * h as f64 / n as f64)).collect::<Vec<f64>>();
    let below = (heads + 1).next_power_of_two() / 2;
    let more = of_power(2 * below).into_iter().step_by(2).take(heads - below);
    of_power(below).into_iter().chain(more).collect()
}

#[test]
fn alibi_is_what_the_paper_says() {
    assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25]);
    for heads in [1, 2, 3, 4, 6, 8, 12, 16] {
        let (seq, dim, batch) = (5, 3, 2);
        let settings = ["alibi=true", "layers=1", "seq=5", "vocab=11", "batch=2", "precision=f64"];
        let sizes = [format!("heads={heads}"), format!("hidden={}", heads * dim)];
        let graph = model(GPT, &[&settings[..], &sizes.each_ref().map(String::as_str)].concat()).graph;
        let mut leaves: BTreeMap<_, Tensor> = interpret::initial_leaves(&graph, 3);
        for (leaf, tensor) in &mut leaves {
            // weights large enough for scores to matter
            if graph.value(leaf.0).name.starts_with('w') {
                tensor.data.iter_mut().for_each(|x| *x *= 50.0);
            }
        }
        for input in graph.leaves(|leaf| matches!(leaf, Leaf::Input(_))) {
            leaves.insert((input, 0), Tensor::from_fn(graph.shape(input), |element| (element * 7 % 11) as f64));
        }
        let env = interpret::run(&graph, leaves, 0, 1);
        let of = |name: &str| {
            let id = (0..graph.values.len()).map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == name);
            env.get(id.expect("it is computed"), 0).expect("it has a value").data.clone()
        };
        let (q, k, v, found) = (of("q"), of("k"), of("v"), of("attention"));
        let slopes = slopes(heads);
        let at = |b: usize, s: usize, h: usize, d: usize| ((b * seq + s) * heads + h) * dim + d;
        let mut largest = 0f64;
        for (b, h, s) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..seq).map(move |s| (b, h, s)))) {
            let score = |p: usize| {
                let product: f64 = (0..dim).map(|d| q[at(b, s, h, d)] * k[at(b, p, h, d)]).sum();
                product / (dim as f64).sqrt() - slopes[h] * (s - p) as f64
            };
            let weights: Vec<f64> = (0..=s).map(|p| score(p).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let expected: f64 = weights.iter().enumerate().map(|(p, weight)| weight / total * v[at(b, p, h, d)]).sum();
                largest = largest.max(expected.abs());
                let error = (found[at(b, s, h, d)] - expected).abs();
                assert!(error < 1e-12 * largest.max(1.0), "{heads} heads: {error:e} at {b} {h} {s} {d}");
            }
        }
        assert!(largest > 0.1, "{heads} heads: the values matter");
    }
}

/// Scores may be given any bias over their axes, one that is learnt too.
#[test]
fn attention_takes_any_bias() {
    let head = HEAD.replace("axis hidden", "axis past = seq : seq\naxis hidden");
    let body = "if switch and other and word == one and n == 1 { x = x * 1 }
weight offset[past, seq] = normal(1)
weight rate[seq] = ones
a = attention[past, hidden](x, x[seq -> past], x[seq -> past], bias = offset * rate + 2 * index[past])
b = attention[past, hidden](x, x[seq -> past], x[seq -> past], bias = 0)
c = attention[past, hidden](x, x[seq -> past], x[seq -> past])
x = a + b + c
loss mean[batch, seq, hidden](x)
train { batch = 2 }";
    let graph = model(&format!("{head}{body}"), &[]).graph;
    let masked: Vec<usize> = graph.ops.iter().filter(|op| graph.value(op.result()).name == "masked").map(|op| op.operands.len()).collect();
    assert_eq!(masked, [3, 1, 1]);
}
