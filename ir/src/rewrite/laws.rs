//! The laws that expressions are rewritten by.
//!
//! A law holds where its left side is finite: there the right side is finite too and equal but for rounding. (Values are
//! taken to be far from the ends of their type's range, so that the order of products does not matter.) No law may lose
//! digits by cancellation: **sums are never re-associated**, since `(a - b) + c` with `a` near `b` has digits that
//! `a + (c - b)` has not. Common factors are taken out of sums, which only removes roundings, and products are taken in
//! any order.

use std::sync::LazyLock;

use egg::{ConditionalApplier, Id, Pattern, Rewrite, Subst, Var};

use super::term::{Classes, Facts, Known, Term};

/// A condition on what stands for a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// A constant.
    Number,
    /// A constant that is a power of two: products and quotients with it are exact.
    PowerOfTwo,
    /// A constant that is none: a product with it is rounded.
    Rough,
    /// Not a constant, but the same at all points of the loop.
    Steady,
}

impl Is {
    /// Whether it holds of a class.
    fn holds(self, known: Known) -> bool {
        match self {
            Is::Number => known.number.is_some(),
            Is::PowerOfTwo => known.value().is_some_and(is_power_of_two),
            Is::Rough => known.value().is_some_and(|value| !is_power_of_two(value)),
            Is::Steady => known.steady && known.number.is_none(),
        }
    }
}

/// Whether a number and its inverse have no digits but the first, in f32 too.
pub fn is_power_of_two(value: f64) -> bool {
    let magnitude = value.abs();
    let fraction = magnitude.to_bits() & ((1 << 52) - 1);
    fraction == 0 && (1e-30..1e30).contains(&magnitude)
}

/// Both sides of a law, and what its variables must be.
pub struct Law {
    /// Its name.
    pub name: &'static str,
    /// What is looked for.
    pub left: &'static str,
    /// What is then equal.
    pub right: &'static str,
    /// What variables must be.
    pub when: &'static [(&'static str, Is)],
}

const fn law(name: &'static str, left: &'static str, right: &'static str) -> Law {
    Law { name, left, right, when: &[] }
}

const fn law_when(name: &'static str, left: &'static str, right: &'static str, when: &'static [(&'static str, Is)]) -> Law {
    Law { name, left, right, when }
}

/// Every law, with its mathematics above it.
pub const LAWS: &[Law] = &[
    // a + b = b + a
    law("sums commute", "(add ?a ?b)", "(add ?b ?a)"),
    // a b = b a
    law("products commute", "(mul ?a ?b)", "(mul ?b ?a)"),
    // (a b) c = a (b c)
    law("products associate", "(mul (mul ?a ?b) ?c)", "(mul ?a (mul ?b ?c))"),
    // a + 0 = a
    law("nothing added", "(add ?a 0)", "?a"),
    // 1 a = a
    law("times one", "(mul ?a 1)", "?a"),
    // 0 a = 0
    law("times zero", "(mul ?a 0)", "0"),
    // a − b = a + (−1) b, so that the laws of sums are those of differences
    law("a difference is a sum", "(sub ?a ?b)", "(add ?a (mul -1 ?b))"),
    law("a sum is a difference", "(add ?a (mul -1 ?b))", "(sub ?a ?b)"),
    // −a = (−1) a
    law("minus is a product", "(neg ?a)", "(mul -1 ?a)"),
    law("a product is minus", "(mul -1 ?a)", "(neg ?a)"),
    // a + a = 2 a
    law("double", "(add ?a ?a)", "(mul 2 ?a)"),
    // a b + a c = a (b + c); gathers constants: 2 a + 3 a = 5 a
    law("a common factor", "(add (mul ?a ?b) (mul ?a ?c))", "(mul ?a (add ?b ?c))"),
    // a b + a = a (b + 1)
    law("a common factor of one", "(add (mul ?a ?b) ?a)", "(mul ?a (add ?b 1))"),
    // (a + k) + l = a + (k + l)
    law_when("gather constants", "(add (add ?a ?k) ?l)", "(add ?a (add ?k ?l))", &[("?k", Is::Number), ("?l", Is::Number)]),
    // k (l + b) = k l + k b: one fused step instead of two; exact
    law_when(
        "scale a shifted value",
        "(mul ?k (add ?l ?b))",
        "(add (mul ?k ?l) (mul ?k ?b))",
        &[("?k", Is::PowerOfTwo), ("?l", Is::Number)],
    ),
    // k (l + m b) = k l + (k m) b: `m b` is rounded either way
    law_when(
        "scale a line",
        "(mul ?k (add ?l (mul ?m ?b)))",
        "(add (mul ?k ?l) (mul (mul ?k ?m) ?b))",
        &[("?k", Is::Number), ("?l", Is::Number), ("?m", Is::Rough)],
    ),
    // a / 1 = a
    law("over one", "(div ?a 1)", "?a"),
    // a / a = 1
    law("over itself", "(div ?a ?a)", "1"),
    // a / k = a (1 / k), exact
    law_when("over a power of two", "(div ?a ?k)", "(mul ?a (div 1 ?k))", &[("?k", Is::PowerOfTwo)]),
    // a / s = a (1 / s), the inverse once for all points. Not for constants: `index / 3` is whole where it was
    law_when("over what is steady", "(div ?a ?s)", "(mul ?a (div 1 ?s))", &[("?s", Is::Steady)]),
    // a (1 / b) = a / b
    law("times an inverse", "(mul ?a (div 1 ?b))", "(div ?a ?b)"),
    // k (b / c) = (k b) / c
    law_when("a scaled quotient", "(mul ?k (div ?b ?c))", "(div (mul ?k ?b) ?c)", &[("?k", Is::Number)]),
    // a / b + c / b = (a + c) / b
    law("a common divisor", "(add (div ?a ?b) (div ?c ?b))", "(div (add ?a ?c) ?b)"),
    // (a / b) / c = a / (b c)
    law("a quotient divided", "(div (div ?a ?b) ?c)", "(div ?a (mul ?b ?c))"),
    // a², a³, a^½ and a^−1. Not a^−½: it is 0 at −∞, where 1 / √a is none
    law("second power", "(pow ?a 2)", "(mul ?a ?a)"),
    law("third power", "(pow ?a 3)", "(mul ?a (mul ?a ?a))"),
    law("power of a half", "(pow ?a 0.5)", "(sqrt ?a)"),
    law("power of minus one", "(pow ?a -1)", "(div 1 ?a)"),
    // e^a e^b = e^(a + b)
    law("exponents add", "(mul (exp ?a) (exp ?b))", "(exp (add ?a ?b))"),
    // 1 / e^a = e^−a
    law("an inverse exponential", "(div 1 (exp ?a))", "(exp (neg ?a))"),
    // log e^a = a = e^(log a)
    law("logarithm of an exponential", "(log (exp ?a))", "?a"),
    law("exponential of a logarithm", "(exp (log ?a))", "?a"),
    // 1 / (1 + e^−a) is the logistic function
    law("a spelt sigmoid", "(div 1 (add 1 (exp (neg ?a))))", "(sigmoid ?a)"),
    // √a √a = a, √(a a) = |a|
    law("square of a root", "(mul (sqrt ?a) (sqrt ?a))", "?a"),
    law("root of a square", "(sqrt (mul ?a ?a))", "(abs ?a)"),
    // 1 / √a, a / √a, (1 / √a)², and the derivative's (1 / √a) / a = (1 / √a)³
    law("an inverse root", "(div 1 (sqrt ?a))", "(rsqrt ?a)"),
    law("over its root", "(mul ?a (rsqrt ?a))", "(sqrt ?a)"),
    law("square of an inverse root", "(mul (rsqrt ?a) (rsqrt ?a))", "(div 1 ?a)"),
    law("an inverse root divided", "(div (rsqrt ?a) ?a)", "(mul (rsqrt ?a) (mul (rsqrt ?a) (rsqrt ?a)))"),
    // what is chosen either way, or was chosen already
    law("no choice", "(select ?c ?a ?a)", "?a"),
    law("chosen already", "(select ?c (select ?c ?a ?b) ?d)", "(select ?c ?a ?d)"),
    law("refused already", "(select ?c ?a (select ?c ?b ?d))", "(select ?c ?a ?d)"),
    // one choice instead of two
    law("choices added", "(add (select ?c ?a ?b) (select ?c ?d ?e))", "(select ?c (add ?a ?d) (add ?b ?e))"),
    law("choices multiplied", "(mul (select ?c ?a ?b) (select ?c ?d ?e))", "(select ?c (mul ?a ?d) (mul ?b ?e))"),
    // 0 times anything is 0: the choice goes outside, where the kernels look for it
    law("a mask multiplied", "(mul ?d (select ?c ?a 0))", "(select ?c (mul ?d ?a) 0)"),
    law("a hole multiplied", "(mul ?d (select ?c 0 ?a))", "(select ?c 0 (mul ?d ?a))"),
    // both sides of a choice have the factor
    law("a factor of both", "(select ?c (mul ?d ?a) (mul ?d ?b))", "(mul ?d (select ?c ?a ?b))"),
];

/// The laws, compiled.
pub static REWRITES: LazyLock<Vec<Rewrite<Term, Facts>>> = LazyLock::new(|| LAWS.iter().map(compile).collect());

fn compile(law: &Law) -> Rewrite<Term, Facts> {
    let pattern = |text: &str| -> Pattern<Term> { text.parse().expect("laws are well-formed") };
    let when: Vec<(Var, Is)> = law.when.iter().map(|(var, is)| (var.parse().expect("laws name variables"), *is)).collect();
    let holds = move |classes: &mut Classes, _: Id, subst: &Subst| when.iter().all(|(var, is)| is.holds(classes[subst[*var]].data));
    let applier: ConditionalApplier<_, Pattern<Term>> = ConditionalApplier { condition: holds, applier: pattern(law.right) };
    let made = Rewrite::new(law.name, pattern(law.left), applier);
    made.expect("the right side has no variables of its own")
}
