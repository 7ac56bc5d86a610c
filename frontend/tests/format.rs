//! Formatting: one text for all ways to write the same tokens, and nothing lost.

use partita_frontend::{Setting, Source, format, load, render};

const MODELS: [(&str, &str); 4] = [
    ("gpt", include_str!("../../models/gpt.partita")),
    ("llama", include_str!("../../models/llama.partita")),
    ("t5", include_str!("../../models/t5.partita")),
    ("mlp", include_str!("../../models/mlp.partita")),
];

fn formatted(text: &str) -> String {
    let source = Source { name: "formatted", text };
    format(source).unwrap_or_else(|errors| panic!("{text}\n{}", render(&[source], &errors, false)))
}

/// Formats a text and then what comes out, which stays.
fn stable(text: &str) -> String {
    let once = formatted(text);
    let twice = formatted(&once);
    assert_eq!(twice, once, "formatted twice, this is another text:\n{text}");
    once
}

/// Numbers that look random and are the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}

/// Words, numbers and marks of a line of code, as the language reads them; a comment is the last of them.
fn scraps(line: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = if first == '#' {
            rest.len()
        } else if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else if first.is_ascii_digit() {
            let digits = |from: usize| from + rest[from..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - from);
            let mut end = digits(0);
            if rest[end..].starts_with('.') && !rest[end..].starts_with("..") {
                end = digits(end + 1);
            }
            if rest[end..].starts_with(['e', 'E']) {
                end = digits(end + 1 + usize::from(rest[end + 1..].starts_with(['+', '-'])));
            }
            end
        } else if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            let two = ["..", "->", "==", "!=", "<=", ">="].iter().any(|mark| rest.starts_with(mark));
            if two { 2 } else { first.len_utf8() }
        };
        out.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    out
}

/// All scraps of a text without its comments, and the comments.
fn parts(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (comments, code) = text.lines().flat_map(scraps).partition(|scrap| scrap.starts_with('#'));
    (code, comments)
}

/// The text with other spaces: between scraps none where none is needed, else up to three, inside brackets newlines too;
/// lines begin anywhere, and one blank line may be many.
fn mangled(text: &str, dice: &mut Dice) -> String {
    let mut out = "\n".repeat(dice.below(3));
    let mut open = 0usize;
    for line in text.lines() {
        if line.is_empty() && open == 0 {
            out += &" \n".repeat(1 + dice.below(3));
            continue;
        }
        out += &" ".repeat(dice.below(10));
        let scraps = scraps(line);
        for (position, scrap) in scraps.iter().enumerate() {
            if let Some(before) = position.checked_sub(1).map(|before| scraps[before]) {
                let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
                // only what would be one token needs a space
                let needed = word(before.chars().last()) && word(scrap.chars().next());
                out += &" ".repeat(usize::from(needed) + dice.below(3));
                // the name of an argument is told by the `=` next to it
                if open > 0 && !scrap.starts_with(['#', '=']) && dice.below(6) == 0 {
                    out += &"\n\t".repeat(1 + dice.below(2));
                }
            }
            open += usize::from(matches!(*scrap, "(" | "["));
            open -= usize::from(matches!(*scrap, ")" | "]"));
            out += scrap;
        }
        out += ["", " ", "\t", "\r"][dice.below(4)];
        out.push('\n');
    }
    out + &"\n".repeat(dice.below(3))
}

#[test]
fn the_models_are_formatted() {
    for (name, text) in MODELS {
        assert_eq!(stable(text), text, "models/{name}.partita");
    }
}

#[test]
fn other_spaces_give_the_same_bytes() {
    let mut dice = Dice(1);
    for (_, text) in MODELS {
        for _ in 0..200 {
            let mangled = mangled(text, &mut dice);
            assert_eq!(formatted(&mangled), text, "from\n{mangled}");
        }
    }
}

/// The models with comments behind any scrap inside brackets, and on lines of their own anywhere.
#[test]
fn comments_anywhere_are_kept_in_order() {
    let mut dice = Dice(2);
    for (_, text) in MODELS {
        for _ in 0..200 {
            let mut commented = String::new();
            let mut open = 0usize;
            let mut number = 0;
            for line in text.lines() {
                if dice.below(6) == 0 {
                    number += 1;
                    commented += &format!("# own {number}\n");
                }
                let scraps = scraps(line);
                for (position, scrap) in scraps.iter().enumerate() {
                    open += usize::from(matches!(*scrap, "(" | "["));
                    open -= usize::from(matches!(*scrap, ")" | "]"));
                    commented += scrap;
                    commented.push(' ');
                    let next = scraps.get(position + 1);
                    if open > 0 && next.is_some_and(|next| *next != "=") && dice.below(12) == 0 {
                        number += 1;
                        let own = if dice.below(2) == 0 { "\n" } else { "" };
                        commented += &format!("{own}# inside {number}\n");
                    }
                }
                commented.push('\n');
            }
            let formatted = stable(&commented);
            let (code, comments) = parts(&formatted);
            let (code_before, comments_before) = parts(&commented);
            assert_eq!(comments, comments_before, "{commented}");
            let without_commas = |code: Vec<&str>| code.into_iter().filter(|scrap| *scrap != ",").collect::<Vec<_>>().concat();
            assert_eq!(without_commas(code), without_commas(code_before), "{commented}");
            // those on lines of their own still are, the others are not
            let own = |text: &str| text.lines().filter(|line| line.trim_start().starts_with("# own")).count();
            assert_eq!(own(&formatted), own(&commented), "{formatted}");
        }
    }
}

#[test]
fn what_is_formatted_means_the_same() {
    let mut dice = Dice(3);
    for (name, text) in MODELS {
        let loaded = |text: &str, set: &[Setting]| {
            let mut model = load(Source { name, text }, set).expect("a model of the repository loads");
            // all but the places in the file
            model.graph.ops.iter_mut().for_each(|op| op.span = None);
            model
        };
        let mangled = mangled(text, &mut dice);
        let switched = [Setting { name: "tied".into(), value: "false".into() }, Setting { name: "alibi".into(), value: "true".into() }];
        let known = |setting: &&Setting| text.contains(&format!("set {} ", setting.name));
        for set in [vec![], switched.iter().filter(known).cloned().collect()] {
            let (before, after) = (loaded(&mangled, &set), loaded(&formatted(&mangled), &set));
            assert!(after.graph == before.graph, "{name} is another model");
            assert_eq!((after.train, after.settings), (before.train, before.settings));
        }
    }
}

/// The same on every model of the tests of diagnostics that has no error of syntax: what is wrong with it stays.
#[test]
fn wrong_models_stay_wrong_in_the_same_way() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_none_or(|ending| ending != "partita") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("the case can be read");
        let Ok(formatted) = format(Source { name: "wrong", text: &text }) else { continue };
        seen += 1;
        assert_eq!(stable(&formatted), formatted);
        let told = |text: &str| match load(Source { name: "wrong", text }, &[]) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.into_iter().map(|error| (error.code, error.message)).collect(),
        };
        assert_eq!(told(&formatted), told(&text), "{}", path.display());
    }
    assert!(seen >= 20, "{seen}");
}

#[track_caller]
fn becomes(text: &str, expected: &str) {
    assert_eq!(stable(text), expected, "from\n{text}");
}

#[test]
fn statements_and_spaces() {
    becomes("x=-a*( b- -c )\n", "x = -a * (b - -c)\n");
    becomes("x=f [ a,b ] ( y , z=-1 , ) [a->b]\n", "x = f[a, b](y, z = -1)[a -> b]\n");
    becomes("x = y[seq=0..4->short,a*b->c]\n", "x = y[seq = 0 .. 4 -> short, a * b -> c]\n");
    becomes("op f(a[..,i],s)->[..,i],sum k:norm=a*s\n", "op f(a[.., i], s) -> [.., i], sum k : norm = a * s\n");
    becomes(
        "if not(a)and(b)or c!=1{x=y}else if d{}else{ z=1e-3 # last\n}\n",
        "if not (a) and (b) or c != 1 {\n    x = y\n} else if d {} else {\n    z = 1e-3    # last\n}\n",
    );
    becomes("for n in[1,a]{axis b=n\n}\n", "for n in [1, a] {\n    axis b = n\n}\n");
    becomes("for n in-1..2*a{}\n", "for n in -1 .. 2 * a {}\n");
    becomes("assert(a)>-1,\"a  #{ a} is\" # why\n", "assert (a) > -1, \"a  #{ a} is\"  # why\n");
    becomes("let a=1\nlet long=a\nset b=1\nuse\"b.partita\"\n", "let a    = 1\nlet long = a\nset b = 1\nuse \"b.partita\"\n");
    becomes("op f(a[i])->[i]=a{derivative a=1}\n", "op f(a[i]) -> [i] = a {\n    derivative a = 1\n}\n");
    becomes("##  Two.\n## Lines.\nblock f(x){return x}\n", "##  Two.\n## Lines.\nblock f(x) {\n    return x\n}\n");
    becomes("x=pad[a->b](y,after=1)\nx=concat[a,c->b](y,z)\n", "x = pad[a -> b](y, after = 1)\nx = concat[a, c -> b](y, z)\n");
    becomes("block f(x){return(x)}\n", "block f(x) {\n    return (x)\n}\n");
    becomes("repeat 2 as l{ # twice\n\n\nx=y\n\n\n\nz=y\n\n}#end", "repeat 2 as l {     # twice\n    x = y\n\n    z = y\n}   #end\n");
    becomes("train{\noptimizer adamw(eps=1E-8)\nclip none}", "train {\n    optimizer adamw(eps = 1E-8)\n    clip none\n}\n");
    becomes("", "");
    becomes("\n\n  # alone \n\n\n", "# alone\n");
    becomes("\u{feff}model a\r\n\r\n\r\nset b=1\r\n", "model a\n\nset b = 1\n");
}

#[test]
fn columns() {
    becomes("set a=1 # one\nset long = 2\nset b=x|y # two\n", "set a    = 1        # one\nset long = 2\nset b    = x | y    # two\n");
    becomes("set a=1\n\nset long = 2\n# apart\nset lo=3\n", "set a = 1\n\nset long = 2\n# apart\nset lo = 3\n");
    becomes("axis a:seq\naxis long_name\naxis b=2*a\n", "axis a        : seq\naxis long_name\naxis b = 2 * a\n");
    becomes("input t[a]:tokens\ninput to[a,b]:next_tokens\n", "input t[a]     : tokens\ninput to[a, b] : next_tokens\n");
    becomes("weight w[a]=ones # one\nx=w\nweight v[a]=zeros\n", "weight w[a] = ones  # one\nx = w\nweight v[a] = zeros\n");
    // lines of another kind have columns of their own
    becomes("set a=1\naxis long_name=2:seq\nset bc=2\n", "set a = 1\naxis long_name = 2 : seq\nset bc = 2\n");
    becomes("set a=1 # one\nx=long_name(a) # two\n", "set a = 1   # one\nx = long_name(a)    # two\n");
    // a column that is too far to the right is none
    let long = "a".repeat(130);
    becomes(&format!("set {long}=1\nset b=2\n"), &format!("set {long} = 1\nset b = 2\n"));
}

#[test]
fn long_lines_break_in_brackets() {
    let (a, b) = ("a".repeat(50), "b".repeat(50));
    becomes(&format!("x = f({a}, {b}, 1)\n"), &format!("x = f({a}, {b}, 1)\n"));
    becomes(&format!("long_name = f({a}, {b}, g(c))\n"), &format!("long_name = f(\n    {a}, {b}, g(c)\n)\n"));
    becomes(&format!("x = f({a}, {b}, g(cccccccccc),)\n"), &format!("x = f(\n    {a},\n    {b},\n    g(cccccccccc),\n)\n"));
    // one argument has no comma behind it, and sums break before what binds loosest
    becomes(&format!("x = f({a} * {b} + option * 3 - {a})\n"), &format!("x = f(\n    {a} * {b}\n        + option * 3\n        - {a}\n)\n"));
    // outside of brackets a line cannot break
    becomes(&format!("x = {a} + {b} + {a}\n"), &format!("x = {a} + {b} + {a}\n"));
}

/// Long expressions of calls, lists and operators, with a comment here and there.
#[test]
fn long_expressions_are_stable_and_fit() {
    fn expression(dice: &mut Dice, depth: usize) -> String {
        let name = |dice: &mut Dice| "abcdefghijklmnopqrstuvw"[..1 + dice.below(20)].to_owned();
        if depth == 0 {
            return name(dice);
        }
        let next = |dice: &mut Dice| expression(dice, depth - 1);
        match dice.below(8) {
            0 => name(dice),
            1 => format!("-{}", next(dice)),
            2 => format!("({})", next(dice)),
            3 => format!("{} {} {}", next(dice), ["+", "-", "*", "/"][dice.below(4)], next(dice)),
            4 => format!("({})[{} -> {} * {}]", next(dice), name(dice), name(dice), name(dice)),
            _ => {
                let arguments: Vec<String> = (0..dice.below(5)).map(|_| next(dice)).collect();
                let comma = [", ", ", # comment\n"][usize::from(dice.below(9) == 0)];
                format!("{}[{}, {}]({})", name(dice), name(dice), name(dice), arguments.join(comma))
            }
        }
    }
    let mut dice = Dice(4);
    for _ in 0..2000 {
        let text = format!("if f({}) {{\n", expression(&mut dice, 6)) + &format!("x = f({})\n}}\n", expression(&mut dice, 6));
        let formatted = stable(&text);
        assert_eq!(parts(&formatted).1, parts(&text).1, "{text}");
        for line in formatted.lines() {
            let code = line.split('#').next().unwrap_or_default().trim_end();
            assert!(code.len() <= 120, "{formatted}");
        }
    }
}

#[test]
fn comments_inside_brackets() {
    becomes("x = f( # head\na, # one\n# before\nb # two\n)\n", "x = f(  # head\n    a,  # one\n    # before\n    b,  # two\n)\n");
    becomes("x = f(a + # why\nb)\n", "x = f(\n    a +     # why\n        b\n)\n");
    becomes("x = f(a,\n# last\n) # end\n", "x = f(\n    a\n    # last\n)   # end\n");
    becomes("x = f(a_long_name, b) + f(c # why\n)\n", "x = f(a_long_name, b) + f(\n    c   # why\n)\n");
    becomes("x = f(\n# none\n)\n", "x = f(\n    # none\n)\n");
    becomes("x = f(g(# deep\na), b)\n", "x = f(\n    g(  # deep\n        a\n    ),\n    b,\n)\n");
}

#[test]
fn syntax_errors_are_told_and_nothing_else() {
    let errors = |text: &str| {
        format(Source { name: "wrong", text }).expect_err("it has errors").into_iter().map(|error| error.code).collect::<Vec<_>>()
    };
    assert_eq!(errors("x = (1\n"), ["partita::syntax::expected"]);
    assert_eq!(errors("x = 1;\ny = = 2\n"), ["partita::syntax::unexpected_character", "partita::syntax::expected"]);
    assert_eq!(errors("repeat 2 {\n"), ["partita::syntax::unbalanced"]);
    assert_eq!(errors(&"\n".repeat((1 << 20) + 1)), ["partita::size::too_large"]);
    // names that nothing defines are no matter of spaces
    becomes("x=unknown(y)\n", "x = unknown(y)\n");
    // a file that would become too large to be read again is not written
    let deep = format!("{}{}{}", "repeat 2 {\n".repeat(90), "x=1\n".repeat(10_000), "}\n".repeat(90));
    assert_eq!(errors(&deep), ["partita::size::too_large"]);
}
