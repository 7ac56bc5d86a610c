//! One legal graph with a bit of everything, and for each check a change that breaks exactly it.

use std::collections::BTreeSet;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::{random, x};
use partita_ir::graph::{Assign, Def, Graph, Init, Kind, Leaf, Phase, PhaseKind, Repeat, Source, Span, Supplied};
use partita_ir::id::{AxisId, CompositeId, Id, LoopId, OpId, ValueId};
use partita_ir::interpret::{Tensor, initial_leaves, run};
use partita_ir::rule::{DimAccess, Reduce, Rule};
use partita_ir::scalar::Node;
use partita_ir::verify::{Code, verify};

/// Embeddings, two layers, argmax, loss; a seed, a backward and an update phase that take the layers' weights along.
fn legal() -> Graph {
    let mut b = Builder::new("legal", DType::F32);
    let batch = b.axis("batch", 2, Role::Batch);
    let seq = b.axis("seq", 3, Role::Seq);
    let hidden = b.axis("hidden", 4, Role::None);
    let vocab = b.axis("vocab", 5, Role::Vocab);
    let pair = b.axis("pair", 2, Role::None);
    b.span = Some(Span { start: 3, end: 9 });
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let table = b.param("table", &[vocab, hidden], Init::Normal(1.0));
    let embedded = b.gather("embedded", table, tokens, vocab);
    let args = b.begin_repeat("layer", 2, &[embedded]);
    let gain = b.param("gain", &[hidden], Init::Uniform(0.5));
    let dropped = b.dropout(args[0], 0.5, 77);
    let entry = b.take(embedded);
    let next = b.elementwise("next", &[dropped, gain, entry], (x(0) * x(1) + x(2)).expr());
    b.collect(entry, pair);
    let last = b.end_repeat(&[next], false)[0];
    let logits = b.einsum("logits", &[last, table], &[batch, seq, vocab]);
    b.argmax(logits, vocab, pair);
    let (sum, count) = b.cross_entropy(logits, tokens, vocab, -1.0);
    b.loss(sum, count);
    b.end_phase(PhaseKind::Forward);

    let seed = b.map("seed", &[], &[], None, random(5, vec![]).expr());
    b.end_phase(PhaseKind::Seed);

    let over = b.graph.value(gain).within.unwrap();
    b.begin_repeat_over(over, &[seed]);
    let gradient = b.map("gradient", &[args[0], gain], &[hidden], Some(Reduce::Sum), (x(0) * x(1)).expr());
    b.end_repeat(&[seed], true);
    b.end_phase(PhaseKind::Backward);

    b.begin_repeat_over(over, &[seed]);
    let whole = b.leaf("gradient.whole", &[hidden], Leaf::Accumulated(gradient));
    let momentum = b.leaf("gain.m", &[hidden], Leaf::State { init: Init::Constant(0.0), of: Some(gain), slot: "m".to_owned() });
    let moved = b.elementwise("moved", &[momentum, whole], (x(0) + x(1)).expr());
    b.end_repeat(&[seed], false);
    let step = b.leaf("step", &[], Leaf::Supplied(Supplied::StepNumber));
    let rate = b.elementwise("rate", &[step], (x(0) * x(0)).expr());
    b.end_phase(PhaseKind::Update);
    b.graph.assigns.push(Assign { target: momentum, value: moved });
    b.graph.reports.push(("rate".to_owned(), rate));
    b.graph
}

fn named(graph: &Graph, name: &str) -> ValueId {
    let found = graph.values.iter().position(|value| value.name == name);
    ValueId::new(found.unwrap_or_else(|| panic!("a value is called {name}")))
}

/// The operator that defines the first value of this name.
fn maker(graph: &Graph, name: &str) -> OpId {
    graph.def_op(named(graph, name)).expect("an operator defines it")
}

fn rule<'a>(graph: &'a mut Graph, name: &str) -> &'a mut Rule {
    let id = maker(graph, name);
    match &mut graph.ops[id.index()].kind {
        Kind::Map(rule) => rule,
        Kind::Repeat(_) => panic!("{name} comes from a repeat"),
    }
}

fn repeats(graph: &mut Graph) -> Vec<&mut Repeat> {
    let repeats = graph.ops.iter_mut().filter_map(|op| if let Kind::Repeat(repeat) = &mut op.kind { Some(repeat) } else { None });
    repeats.collect()
}

fn value<'a>(graph: &'a mut Graph, name: &str) -> &'a mut partita_ir::graph::Value {
    let id = named(graph, name);
    &mut graph.values[id.index()]
}

/// A change and the check that it breaks.
type Break = (Code, fn(&mut Graph));

const BREAKS: &[Break] = &[
    (Code::IdRange, |g| value(g, "logits").ty.dims[0] = AxisId(99)),
    (Code::IdRange, |g| g.ops[0].operands[0] = ValueId(99)),
    (Code::IdRange, |g| g.ops[0].composite = Some(CompositeId(99))),
    (Code::IdRange, |g| repeats(g)[0].over = LoopId(9)),
    (Code::IdRange, |g| g.phases[0].ops.push(OpId(99))),
    (Code::IdRange, |g| g.assigns[0].value = ValueId(99)),
    (Code::AxisSize, |g| {
        g.axes.push(partita_ir::axis::Axis { name: "none".to_owned(), size: 0, role: Role::None });
    }),
    (Code::LoopCount, |g| g.loops[0].count = 0),
    (Code::AxisTwice, |g| {
        // the table of the tokens' embedding as (hidden, hidden), read nowhere else
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        let hidden = AxisId(2);
        b.param("square", &[hidden, hidden], Init::Constant(0.0));
        *g = b.graph;
    }),
    (Code::TooLarge, |g| {
        let size = 1 << 40;
        g.axes.push(partita_ir::axis::Axis { name: "huge".to_owned(), size, role: Role::None });
        g.axes.push(partita_ir::axis::Axis { name: "vast".to_owned(), size, role: Role::None });
        let dims = [g.axes.len() - 2, g.axes.len() - 1].map(AxisId::new);
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        b.param("big", &dims, Init::Constant(0.0));
        *g = b.graph;
    }),
    (Code::TooLarge, |g| rule(g, "embedded").operands[0][1].terms[0].stride = i64::MIN),
    (Code::TooLarge, |g| rule(g, "embedded").operands[0][1].offset = i64::MAX),
    (Code::Span, |g| g.ops[0].span = Some(Span { start: 2, end: 1 })),
    (Code::Definition, |g| {
        // two operators define one value
        let (rate, seed) = (maker(g, "rate"), named(g, "rate"));
        let copy = g.ops[rate.index()].clone();
        g.ops.push(copy);
        let last = OpId::new(g.ops.len() - 1);
        g.phases.last_mut().unwrap().ops.push(last);
        assert_eq!(g.ops[last.index()].results, [seed]);
    }),
    (Code::Definition, |g| {
        // a value that says an operator defines it, which does not
        let mut orphan = g.values[named(g, "rate").index()].clone();
        orphan.name = "orphan".to_owned();
        g.values.push(orphan);
    }),
    (Code::Definition, |g| {
        let mut orphan = g.values[named(g, "rate").index()].clone();
        orphan.def = Def::Carried(maker(g, "rate"), 0);
        g.values.push(orphan);
    }),
    (Code::Definition, |g| {
        // an entry that says it is another
        let entry = repeats(g)[0].taken[0].each;
        let Def::Taken(_, position) = &mut g.values[entry.index()].def else { panic!("it is taken") };
        *position += 1;
    }),
    (Code::Placement, |g| {
        // argmax, which nothing reads, is dropped from the forward phase
        let argmax = maker(g, "argmax");
        g.phases.iter_mut().for_each(|phase| phase.ops.retain(|op| *op != argmax));
    }),
    (Code::Placement, |g| {
        let rate = maker(g, "rate");
        g.phases.last_mut().unwrap().ops.push(rate);
    }),
    (Code::PhaseOrder, |g| g.phases.swap(0, 1)),
    (Code::PhaseOrder, |g| g.phases.push(Phase { kind: PhaseKind::Update, ops: Vec::new() })),
    (Code::NestedRepeat, |g| {
        // an empty repeat moves into the body of the first
        let id = OpId::new(g.ops.len());
        let empty =
            Repeat { over: LoopId(0), reversed: false, body: Vec::new(), carried: Vec::new(), taken: Vec::new(), collected: Vec::new() };
        let mut op = g.ops[0].clone();
        (op.kind, op.operands, op.results) = (Kind::Repeat(empty), Vec::new(), Vec::new());
        g.ops.push(op);
        repeats(g)[0].body.push(id);
    }),
    (Code::Within, |g| value(g, "argmax").within = Some(LoopId(0))),
    (Code::Within, |g| {
        // nothing reads the gradient outside but the sum, which follows it
        value(g, "dropout").within = None;
    }),
    (Code::UseBeforeDefinition, |g| repeats(g)[0].body.reverse()),
    (Code::UseBeforeDefinition, |g| {
        let (argmax, logits) = (maker(g, "argmax"), maker(g, "logits"));
        let ops = &mut g.phases.iter_mut().find(|phase| phase.kind == PhaseKind::Forward).unwrap().ops;
        let at = |wanted| ops.iter().position(|op| *op == wanted).unwrap();
        let (a, b) = (at(argmax), at(logits));
        ops.swap(a, b);
    }),
    (Code::Scope, |g| {
        // the logits read the last layer's carried argument instead of the repeat's result
        let (logits, arg) = (maker(g, "logits"), repeats(g)[0].carried[0].arg);
        g.ops[logits.index()].operands[0] = arg;
    }),
    (Code::MicroBatch, |g| {
        let (rate, sum) = (maker(g, "rate"), named(g, "loss_sum"));
        g.ops[rate.index()].operands[0] = sum;
    }),
    (Code::MicroBatch, |g| {
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        let tokens = named(&b.graph, "tokens");
        b.elementwise("copy", &[tokens], x(0).expr());
        let copy = OpId::new(b.graph.ops.len() - 1);
        *g = b.graph;
        g.phases.last_mut().unwrap().ops.push(copy);
    }),
    (Code::AccumulatedEarly, |g| {
        // the sum of the gradients is read where the gradients are made
        let (gradient, whole) = (maker(g, "gradient"), named(g, "gradient.whole"));
        g.ops[gradient.index()].operands[1] = whole;
    }),
    (Code::Arity, |g| {
        let rate = maker(g, "rate");
        g.ops[rate.index()].operands.clear();
    }),
    (Code::Arity, |g| {
        let op = g.values.iter().find_map(|value| if let Def::Carried(op, _) = value.def { Some(op) } else { None }).unwrap();
        g.ops[op.index()].operands.push(ValueId(1));
    }),
    (Code::Slice, |g| {
        // a tensor with three entries of two iterations
        let whole = repeats(g)[0].collected[0].whole;
        g.values[whole.index()].ty.dims.remove(0);
    }),
    (Code::Slice, |g| {
        let repeat = &mut repeats(g)[0];
        repeat.collected[0].whole = repeat.carried[0].init;
    }),
    (Code::Rank, |g| rule(g, "rate").operands[0].push(DimAccess::default())),
    (Code::Rank, |g| {
        rule(g, "rate").result.push(DimAccess::default());
    }),
    (Code::FactorRange, |g| rule(g, "embedded").operands[0][1] = DimAccess::factor(9)),
    (Code::FactorRange, |g| rule(g, "dropout").expr.nodes.push(Node::Index(9))),
    (Code::FactorRange, |g| rule(g, "dropout").expr.nodes.push(Node::Random { salt: 0, factors: vec![9] })),
    (Code::FactorUnused, |g| {
        let rule = rule(g, "loss_sum");
        rule.factors.push(AxisId(2));
    }),
    (Code::FactorTwice, |g| {
        // square logits, so that writing its diagonal is exact in each dimension
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        let (row, col) = (b.axis("row", 3, Role::None), b.axis("col", 3, Role::None));
        let line = b.param("line", &[row], Init::Constant(0.0));
        let access = vec![DimAccess::factor(0)];
        let result = vec![DimAccess::factor(0), DimAccess::factor(0)];
        let rule = Rule { factors: vec![row], operands: vec![access], result, reduce: None, expr: x(0).expr() };
        b.rule("diagonal", rule, &[line], &[row, col]);
        let op = OpId::new(b.graph.ops.len() - 1);
        *g = b.graph;
        g.phases.last_mut().unwrap().ops.push(op);
    }),
    (Code::ResultExact, |g| rule(g, "embedded").result[1].offset = 1),
    (Code::ResultExact, |g| rule(g, "embedded").result[1].terms[0].stride = 2),
    (Code::Reduce, |g| rule(g, "logits").reduce = None),
    (Code::Reduce, |g| rule(g, "rate").reduce = Some(Reduce::Sum)),
    (Code::Tuple, |g| rule(g, "logits").reduce = Some(Reduce::ArgMax)),
    (Code::Tuple, |g| rule(g, "loss_sum").reduce = Some(Reduce::Softmax)),
    (Code::Expression, |g| rule(g, "rate").expr.root = 9),
    (Code::Expression, |g| rule(g, "rate").expr.nodes.clear()),
    (Code::Expression, |g| rule(g, "rate").expr.nodes.reverse()),
    (Code::Expression, |g| rule(g, "rate").expr.nodes.push(Node::Operand(1))),
    (Code::ResultFloat, |g| value(g, "argmax").ty.dtype = DType::I32),
    (Code::CarriedType, |g| {
        value(g, "next").ty.dtype = DType::Bf16;
    }),
    (Code::LeafName, |g| value(g, "gain").name = "table".to_owned()),
    (Code::LeafFloat, |g| value(g, "table").ty.dtype = DType::I32),
    (Code::Input, |g| value(g, "tokens").ty.dtype = DType::F32),
    (Code::Input, |g| {
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        b.input("flat", &[AxisId(0)], Source::NextTokens);
        *g = b.graph;
    }),
    (Code::Supplied, |g| {
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        b.leaf("steps", &[AxisId(0)], Leaf::Supplied(Supplied::StepNumber));
        *g = b.graph;
    }),
    (Code::StateOf, |g| {
        let table = named(g, "table");
        let Def::Leaf(Leaf::State { of, .. }) = &mut value(g, "gain.m").def else { panic!("gain.m is a state") };
        *of = Some(table);
    }),
    (Code::Accumulated, |g| {
        // a leaf is never summed
        let gain = named(g, "gain");
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        b.leaf("gain.whole", &[AxisId(2)], Leaf::Accumulated(gain));
        *g = b.graph;
    }),
    (Code::Accumulated, |g| {
        let sum = named(g, "loss_sum");
        let mut b = Builder::resume(std::mem::take(g), DType::F32);
        b.leaf("loss.whole", &[AxisId(2)], Leaf::Accumulated(sum));
        *g = b.graph;
    }),
    (Code::AssignTarget, |g| {
        let again = g.assigns[0];
        g.assigns.push(again);
    }),
    (Code::AssignTarget, |g| {
        let step = named(g, "step");
        g.assigns.push(Assign { target: step, value: step });
    }),
    (Code::AssignType, |g| {
        let (table, rate) = (named(g, "table"), named(g, "rate"));
        g.assigns.push(Assign { target: table, value: rate });
    }),
    (Code::Loss, |g| {
        let logits = named(g, "logits");
        g.loss[0].sum = logits;
    }),
    (Code::Report, |g| {
        let again = g.reports[0].clone();
        g.reports.push(again);
    }),
    (Code::Report, |g| {
        let moved = named(g, "moved");
        g.reports.push(("moved".to_owned(), moved));
    }),
];

#[test]
fn the_legal_graph_is_legal_and_runs() {
    let graph = legal();
    assert_eq!(verify(&graph), []);
    let mut leaves = initial_leaves(&graph, 0);
    leaves.insert((named(&graph, "tokens"), 0), Tensor::new(vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 0.0]));
    let env = run(&graph, leaves, 0, 0);
    assert_eq!(env.assigned().len(), 2);
}

#[test]
fn each_break_is_reported_as_what_it_is() {
    for (position, (code, change)) in BREAKS.iter().enumerate() {
        let mut graph = legal();
        change(&mut graph);
        let found = verify(&graph);
        assert!(!found.is_empty(), "break {position} of {} goes unseen", code.word());
        for violation in &found {
            assert_eq!(violation.code, *code, "break {position} of {}: {violation}", code.word());
        }
    }
}

#[test]
fn each_code_is_documented_and_broken_once() {
    let source = include_str!("../../src/verify.rs");
    let listed: BTreeSet<&str> = source.lines().filter_map(|line| line.strip_prefix("//! - `")?.split('`').next()).collect();
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    let broken: BTreeSet<&str> = BREAKS.iter().map(|(code, _)| code.word()).collect();
    assert_eq!(listed, codes);
    assert_eq!(broken, codes);
}

#[test]
fn all_that_is_wrong_is_reported() {
    let mut graph = legal();
    for code in [Code::Span, Code::LoopCount, Code::ResultFloat, Code::Loss] {
        BREAKS.iter().find(|(known, _)| *known == code).unwrap().1(&mut graph);
    }
    let codes: BTreeSet<Code> = verify(&graph).into_iter().map(|violation| violation.code).collect();
    assert_eq!(codes, BTreeSet::from([Code::Span, Code::LoopCount, Code::ResultFloat, Code::Loss]));
}

#[test]
fn a_violation_reads_as_a_sentence() {
    let mut graph = legal();
    rule(&mut graph, "logits").reduce = None;
    let op = maker(&graph, "logits");
    let text = verify(&graph)[0].to_string();
    assert_eq!(text, format!("{op}: its result lacks factors `hidden`, but nothing says how they are reduced [reduce]"));
}
