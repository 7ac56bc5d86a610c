//! Whatever is written: an answer or errors, soon, and never a panic. What loads is legal by the IR's verifier; what is
//! formatted stays as it is, and loads if it did before.

use std::time::{Duration, Instant};

use partita_frontend::{Setting, Source, format as formatted, load, render};
use partita_ir::verify::verify;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const MODELS: [&str; 3] =
    [include_str!("../../models/gpt.partita"), include_str!("../../models/llama.partita"), include_str!("../../models/mlp.partita")];

/// Scraps that mutations put in.
const SCRAPS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "..",
    "->",
    "=",
    "==",
    "<",
    "+",
    "-",
    "*",
    "/",
    "\n",
    "#",
    "\"",
    "@",
    "é",
    "\0",
    "0",
    "1",
    "-1",
    "1e308",
    "9999999999999999999",
    "0.5",
    "1e-3",
    "model",
    "set",
    "axis",
    "input",
    "weight",
    "block",
    "op",
    "repeat",
    "as",
    "return",
    "loss",
    "train",
    "none",
    "x",
    "y",
    "q",
    "layer",
    "hidden",
    "seq",
    "past",
    "batch",
    "vocab",
    "heads",
    "head_dim",
    "tokens",
    "targets",
    "wte",
    "index",
    "index[seq]",
    "einsum[batch, seq](x)",
    "layer(x)",
    "layer(layer(x))",
    "x[seq -> past]",
    "x[hidden -> heads * head_dim]",
    "x[hidden = 0 .. 4 -> heads]",
    "sum[seq](x)",
    "max",
    "relu(x)",
    "gelu",
    "dropout(x, 0.5)",
    "rotary[seq, hidden](x)",
    "softmax[hidden](x)",
    "argmax[seq, batch](x)",
    "attention[past, head_dim](q, q, q)",
    "cross_entropy[vocab](x, targets)",
    "repeat 3 { x = x + x }",
    "axis seq = 1 : seq",
    "zeros",
    "normal(0.02)",
    "op f(a[.., i], b[i]) -> [.., i] = a * b",
    "f(x, wte)",
    "where(x > 0, x, 1 / x)",
    "mean[batch, seq, hidden](x)",
    "loss mean[batch](1)",
    "if",
    "else",
    "true",
    "not",
    "and",
    "or",
    "|",
    "if bias { x = relu(x) }",
    "if alibi {",
    "} else {",
    "} else if activation == gelu {",
    "set word = one | two",
    "if heads > 2 or word == two",
    "weight w0[hidden] = zeros if not bias",
];

#[derive(Clone, Debug)]
enum Edit {
    /// Removes a stretch of characters.
    Delete(prop::sample::Index, usize),
    /// Puts a scrap somewhere.
    Insert(prop::sample::Index, prop::sample::Index),
    /// Puts a scrap in a word's place.
    Replace(prop::sample::Index, prop::sample::Index),
    /// Copies a line to another place, of this model or another.
    Splice(prop::sample::Index, prop::sample::Index, usize),
    /// Changes places of two lines.
    Swap(prop::sample::Index, prop::sample::Index),
    /// Removes a line.
    Drop(prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    use prop::sample::Index;
    let index = any::<Index>;
    prop_oneof![
        (index(), 1usize..20).prop_map(|(at, count)| Edit::Delete(at, count)),
        (index(), index()).prop_map(|(at, scrap)| Edit::Insert(at, scrap)),
        (index(), index()).prop_map(|(at, scrap)| Edit::Replace(at, scrap)),
        (index(), index(), 0usize..3).prop_map(|(from, to, model)| Edit::Splice(from, to, model)),
        (index(), index()).prop_map(|(a, b)| Edit::Swap(a, b)),
        index().prop_map(Edit::Drop),
    ]
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn apply(text: &str, edit: &Edit) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.lines().collect();
    if characters.is_empty() || lines.is_empty() {
        return text.to_owned();
    }
    let joined = |lines: &[&str]| lines.iter().flat_map(|line| [line, "\n"]).collect::<String>();
    match edit {
        Edit::Delete(at, count) => {
            let start = at.index(characters.len());
            characters.iter().take(start).chain(characters.iter().skip(start + count)).collect()
        }
        Edit::Insert(at, scrap) => {
            let start = at.index(characters.len());
            let before: String = characters[..start].iter().collect();
            let after: String = characters[start..].iter().collect();
            format!("{before} {} {after}", SCRAPS[scrap.index(SCRAPS.len())])
        }
        Edit::Replace(at, scrap) => {
            let mut start = at.index(characters.len());
            while start > 0 && is_word(characters[start]) && is_word(characters[start - 1]) {
                start -= 1;
            }
            let mut end = start + 1;
            while end < characters.len() && is_word(characters[start]) && is_word(characters[end]) {
                end += 1;
            }
            let before: String = characters[..start].iter().collect();
            let after: String = characters[end..].iter().collect();
            format!("{before}{}{after}", SCRAPS[scrap.index(SCRAPS.len())])
        }
        Edit::Splice(from, to, model) => {
            let other: Vec<&str> = MODELS[*model].lines().collect();
            lines.insert(to.index(lines.len()), other[from.index(other.len())]);
            joined(&lines)
        }
        Edit::Swap(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
            joined(&lines)
        }
        Edit::Drop(at) => {
            lines.remove(at.index(lines.len()));
            joined(&lines)
        }
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    const NAMES: &[&str] = &[
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "ffn",
        "vocab",
        "seq",
        "dropout",
        "batch",
        "lr",
        "clip",
        "precision",
        "optimizer",
        "steps",
        "bias",
        "alibi",
        "activation",
        "tied",
        "wat",
    ];
    let name = prop::sample::select(NAMES).prop_map(str::to_owned);
    let value = prop_oneof![
        (0u64..100).prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| value.to_string()),
        prop::sample::select(
            ["none", "sgd", "bf16", "true", "false", "relu", "", "-", "1e5", "1099511627776", "0.1", "nan", "inf", "64", "16"].as_slice()
        )
        .prop_map(str::to_owned),
    ];
    (name, value).prop_map(|(name, value)| Setting { name, value })
}

/// Loads and formats, and checks what comes out.
fn check(text: &str, settings: &[Setting]) {
    let source = Source { name: "fuzzed", text };
    let start = Instant::now();
    match load(source, settings) {
        Ok(model) => assert_eq!(verify(&model.graph), Vec::new()),
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                for (span, _) in &error.labels {
                    assert!(span.start <= span.end && span.end as usize <= text.len(), "{error:?}");
                    assert!(text.is_char_boundary(span.start as usize) && text.is_char_boundary(span.end as usize), "{error:?}");
                }
            }
            assert!(!render(&[source], &errors, false).is_empty());
        }
    }
    if let Ok(once) = formatted(source) {
        let again = Source { name: "formatted", text: &once };
        assert_eq!(formatted(again).as_ref(), Ok(&once), "from {text}");
        let codes = |source| load(source, settings).err().map(|errors| errors.iter().map(|error| error.code).collect::<Vec<_>>());
        assert_eq!(codes(again), codes(source), "{text}");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn mutated_models_are_told_apart_from_models(
        model in 0usize..3,
        edits in prop::collection::vec(edit(), 1..6),
        settings in prop::collection::vec(setting(), 0..2),
    ) {
        let text = edits.iter().fold(MODELS[model].to_owned(), |text, edit| apply(&text, edit));
        check(&text, &settings);
    }

    #[test]
    fn any_settings_are_taken_or_refused(model in 0usize..3, settings in prop::collection::vec(setting(), 0..6)) {
        check(MODELS[model], &settings);
    }

    #[test]
    fn scraps_in_any_order(scraps in prop::collection::vec(prop::sample::select(SCRAPS), 0..60)) {
        check(&scraps.join(" "), &[]);
    }
}

/// Files that are small and ask for much.
#[test]
fn files_that_ask_for_much_are_refused_soon() {
    let head = "model big\nset n = 4\naxis batch : batch\naxis seq = 4 : seq\naxis hidden = 4\ninput t[batch, seq] : tokens\nweight w[batch, seq, hidden] = zeros\n";
    let mut doubling = head.to_owned();
    doubling.push_str("block b0(x[batch, seq, hidden]) {\n return relu(x)\n}\n");
    for level in 1..40 {
        doubling.push_str(&format!("block b{level}(x[batch, seq, hidden]) {{\n return b{0}(b{0}(x))\n}}\n", level - 1));
    }
    doubling.push_str("y = b39(w)\nloss mean[batch, seq, hidden](y)\n");
    let chain = |count: usize, link: &str| format!("{head}y = w{}\nloss mean[batch, seq, hidden](y)\n", link.repeat(count));
    let nested = |count: usize| format!("{head}y = {}w{}\n", "relu(".repeat(count), ")".repeat(count));
    let cases = [
        doubling,
        chain(50_000, " + w"),
        chain(50_000, "[seq -> hidden]"),
        nested(50_000),
        nested(90),
        format!("{head}y = {}\n", "gelu(".repeat(60) + "w" + &")".repeat(60)),
        format!("{head}y = {}\n", "-".repeat(100_000) + "w"),
        format!("{head}y = {}\n", "(".repeat(100_000)),
        "{".repeat(100_000),
        format!("{head}{}", "repeat 2 {".repeat(20_000)),
        format!("{head}{}", "if n > 1 {".repeat(20_000)),
        format!("{head}{}", "if n > 4 { y = w }\nelse ".repeat(20_000)),
        format!("{head}{}{{ y = w }}\nloss mean[batch, seq, hidden](y)\n", "if n > 4 { y = w } else ".repeat(20_000)),
        format!("{head}{}{}\nloss mean[batch, seq, hidden](w)\n", "if n > 1 { y = w\n ".repeat(90), "}\n".repeat(90)),
        format!(
            "{head}{}loss mean[batch, seq, hidden](w)\n",
            (0..20_000).fold(String::new(), |text, index| text + &format!("if n > 1 {{ y{index} = w }}\n"))
        ),
        format!("{head}if {} n > 1 {{ y = w }}\n", "not ".repeat(50_000)),
        format!("{head}if n > 1 {} {{ y = w }}\n", "and n > 1 ".repeat(50_000)),
        format!("{head}set word = a{}\n", " | a".repeat(20_000)),
        format!("{head}y = einsum[batch]({})\n", "w, ".repeat(50_000)),
        format!("{head}{}", "y = unknown\n".repeat(50_000)),
        format!("{head}{}", "y = relu(w)\n".repeat(50_000)),
        (0..30_000).fold(String::new(), |text, index| text + &format!("set s{index} = 1\n")),
        (0..30_000).fold(String::new(), |text, index| text + &format!("axis a{index} = 1\n")),
        (0..900).fold(head.to_owned(), |text, index| text + &format!("axis a{index} = 1\nweight w{index}[a{index}] = zeros\n"))
            + "y = "
            + &(0..90).map(|index| format!("w{index}")).collect::<Vec<_>>().join(" * "),
        "x".repeat(1 << 20),
        "x".repeat((1 << 20) + 1),
        "\n".repeat(1 << 20),
        format!("{head}y = w * 1{}\n", "0".repeat(10_000)),
        "@ ".repeat(200_000),
    ];
    for (index, text) in cases.iter().enumerate() {
        let start = Instant::now();
        check(text, &[]);
        assert!(start.elapsed() < Duration::from_secs(20), "case {index} took {:?}", start.elapsed());
    }
}
