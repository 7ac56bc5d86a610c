//! The text form: it reads back exactly, it reads well, and bad texts are errors at their place.

use partita_ir::graph::{Graph, Kind};
use partita_ir::interpret::run;
use partita_ir::precision::Precision;
use partita_ir::sample::{self, Options};
use partita_ir::scalar::{Binary, Expr, Node, Real, Unary};
use partita_ir::step::training_step;
use partita_ir::text::{parse, print};
use partita_ir::train::Train;
use partita_ir::verify::verify;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn round_trip(graph: &Graph) {
    let text = print(graph);
    let again = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again, *graph, "\n{text}");
    assert_eq!(print(&again), text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_read_back(seed: u64) {
        round_trip(&sample::graph(seed, Options::default()));
    }

    #[test]
    fn training_steps_read_back(seed: u64) {
        let model = sample::graph(seed, Options::default());
        let train = Train { precision: Precision::F64, ..Train::default() };
        round_trip(&training_step(&model, &train, Default::default()).unwrap());
    }

    #[test]
    fn any_expression_reads_back(nodes in prop::collection::vec(any_node(), 1..30), root: prop::sample::Index) {
        let root = root.index(nodes.len()) as u32;
        let nodes = nodes.into_iter().enumerate().map(|(position, node)| valid(node, position)).collect();
        let expr = Expr { nodes, root };
        // pruned, expressions are mostly printed as formulas
        for expr in [expr.pruned(), expr] {
            let graph = graph_with(expr);
            prop_assert_eq!(parse(&print(&graph)).unwrap(), graph);
        }
    }

    #[test]
    fn garbage_is_an_error_and_no_panic(text in "\\PC*") {
        let _ = parse(&text);
        let _ = parse(&format!("graph \"g\" {text}"));
    }

    #[test]
    fn damaged_texts_do_not_panic(seed in 0u64..50, at: prop::sample::Index, what in "[ a-z0-9%@#{}()\\[\\]*+:=<>?;,.\"-]{0,3}") {
        let mut text = print(&sample::graph(seed, Options { steps: 2, ..Options::default() }));
        let position = at.index(text.len());
        text.replace_range(position..position + 1, &what);
        if let Ok(graph) = parse(&text) {
            let _ = verify(&graph);
            let _ = parse(&print_if_whole(&graph));
        }
    }
}

/// The text of a graph whose ids are in range, else nothing.
fn print_if_whole(graph: &Graph) -> String {
    if verify(graph).is_empty() { print(graph) } else { String::new() }
}

fn any_node() -> impl Strategy<Value = Node> {
    prop_oneof![
        any::<f64>().prop_map(|value| Node::Const(Real(value))),
        prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
            .prop_map(|value| Node::Const(Real(value))),
        (0usize..3).prop_map(Node::Operand),
        (0usize..2).prop_map(Node::Index),
        (any::<u64>(), prop::collection::vec(0usize..2, 0..3)).prop_map(|(salt, factors)| Node::Random { salt, factors }),
        (prop::sample::select(Unary::ALL), any::<u32>()).prop_map(|(op, a)| Node::Unary(op, a)),
        (prop::sample::select(Binary::ALL), any::<u32>(), any::<u32>()).prop_map(|(op, a, b)| Node::Binary(op, a, b)),
        any::<(u32, u32, u32)>().prop_map(|(c, a, b)| Node::Select(c, a, b)),
    ]
}

/// The node with its inputs before `position`.
fn valid(node: Node, position: usize) -> Node {
    let before = |id: u32| id % position.max(1) as u32;
    match node {
        _ if position == 0 && node.inputs().next().is_some() => Node::Operand(0),
        Node::Unary(op, a) => Node::Unary(op, before(a)),
        Node::Binary(op, a, b) => Node::Binary(op, before(a), before(b)),
        Node::Select(c, a, b) => Node::Select(before(c), before(a), before(b)),
        leaf => leaf,
    }
}

const SMALL: &str = r#"graph "small"
axes {
  @row = 2 batch
  @1 "odd name" = 3
  @col = 6
  @3 "odd name" = 6
}
loops {
  loop0 "layer" = 2
}
composites {
  composite0 "mix" recompute
}
leaves {
  %0 "w" f32[@row, @col] = param normal 0.5
  %1 "gain" f32[@1] in loop0 = param uniform 0.25
  %2 "zero" f32[] = param constant -1e-7
}
phase forward {
  op0: %3 "windows" f32[@row, @1] = map contraction [a @row, b @1, c @col] %0(a, 2*b + c - 1), %2() -> (a, b) max { x1 == inf ? x0 : -(x0 + 1.0) * #c } composite0 at 3..17
  op2: %6 "h" f32[@row, @1] = repeat loop0 reversed (%4 "h" f32[@row, @1] = %3 then %5) {
    op1: %5 "next" f32[@row, @1] = map norm [a @row, b @1] %4(a, b), %1(b), %0(a, 0) -> (a, b) { (t0 := tanh(x0 - 2.0)) * t0 / (1.0 + exp(-x1)) + random(9, a, b) - (x2 - -1.0) }
  }
  op3: %7 "merged" f32[@3] = map [a @row, b @1] %6(a, b) -> (3*a + b) { x0 }
  op4: %8 "sum" f32[] = map loss [a @3] %7(a) -> () sum { pow(x0, 2.0) < max(x0, 0.5) ? x0 : #a }
}
loss %8 / %8
report "sum \"of\" all" = %8
"#;

fn small() -> Graph {
    parse(SMALL).unwrap()
}

fn graph_with(expr: Expr) -> Graph {
    let mut graph = small();
    if let Kind::Map(rule) = &mut graph.ops[1].kind {
        rule.expr = expr;
    }
    graph
}

#[test]
fn the_small_graph_prints_as_it_was_written() {
    let graph = small();
    assert_eq!(verify(&graph), []);
    assert_eq!(print(&graph), SMALL);
    let env = run(&graph, sample::leaves(&graph, 0), 0, 0);
    assert!(env.get(graph.loss[0].sum, 0).is_some());
}

#[test]
fn formulas_bind_as_in_mathematics() {
    let expr = |text: &str| {
        let source = SMALL.replace("{ pow(x0, 2.0) < max(x0, 0.5) ? x0 : #a }", &format!("{{ {text} }}"));
        match parse(&source).unwrap().ops[4].kind.clone() {
            Kind::Map(rule) => rule.expr,
            Kind::Repeat(_) => panic!("op4 is a map"),
        }
    };
    let same = |a: &str, b: &str| assert_eq!(expr(a), expr(b), "{a} is {b}");
    same("x0 + x0 * 2.0 - 3.0", "(x0 + (x0 * 2.0)) - 3.0");
    same("-x0 * 2.0", "(-x0) * 2.0");
    same("x0 / 2.0 / 3.0", "(x0 / 2.0) / 3.0");
    same("x0 < 1.0 + 2.0 ? 1.0 : x0 == 2.0 ? 3.0 : 4.0", "(x0 < (1.0 + 2.0)) ? 1.0 : ((x0 == 2.0) ? 3.0 : 4.0)");
    same("(t := x0 + 1.0) * t", "(x0 + 1.0) * (x0 + 1.0)");
    assert_ne!(expr("neg(1.0)"), expr("-1.0"));
    same("neg(-1.0)", "--1.0");
}

#[test]
fn axes_of_one_name_go_by_number() {
    let mut graph = small();
    graph.axes[3].name = "col".to_owned();
    let text = print(&graph);
    assert!(text.contains("@2 \"col\" = 6\n  @3 \"col\" = 6"), "{text}");
    round_trip(&graph);
}

#[test]
fn names_may_hold_anything() {
    let mut graph = small();
    graph.name = "a\"b\\c\n\t\u{0}\u{7f}é\u{301}🎼".to_owned();
    round_trip(&graph);
}

#[test]
fn errors_stand_where_they_are() {
    let cases = [
        ("graph tiny", "1:7: expected the name of the graph in quotes, not `tiny`"),
        ("graph \"g\"\naxes {\n  @a = x\n}", "3:8: expected the size of the axis, not `x`"),
        ("graph \"g\" leaves { %0 \"w\" f32[@b] = param normal 1.0 }", "1:31: there is no axis `b`"),
        ("graph \"g\" leaves { %1 \"w\" f32[] = param normal 1.0 }", "1:53: %1 is declared but %0 is not"),
        ("graph \"g\" leaves { %0 \"w\" f32[] = gift }", "1:35: `gift` is no kind of leaf"),
        ("graph \"g\" phase later {}", "1:17: expected a phase such as `forward`, not `later`"),
        (
            "graph \"g\" phase forward { op0: map [] -> () { sine(1.0) } }",
            "1:47: `sine` is neither an operand, a function nor named by `:=`",
        ),
        ("graph \"g\" phase forward { op0: map [] -> () { #a } }", "1:48: there is no factor `a` here"),
        ("graph \"g\" $", "1:11: `$` begins nothing"),
        ("graph \"g", "1:7: the string does not end"),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn deep_formulas_are_errors_or_verbatim() {
    let graph = |open: &str, close: &str, depth: usize| {
        let (open, close) = (open.repeat(depth), close.repeat(depth));
        parse(&format!("graph \"g\" phase forward {{ op0: map [] -> () {{ {open}x0{close} }} }}"))
    };
    for (open, close) in [("(", ")"), ("exp(", ")"), ("-", ""), ("1.0 ? 2.0 : ", ""), ("(x0 + ", ")")] {
        assert!(graph(open, close, 100_000).unwrap_err().message.contains("deeper"), "{open}");
    }
    let deep = graph("-", "", 100).unwrap();
    assert!(print(&deep).contains("nodes {"));
    round_trip(&deep);
}
