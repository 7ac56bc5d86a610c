//! The text form of graphs: for people to read, for tests to keep as files.
//!
//! ```
//! let tiny = r#"
//! graph "tiny"
//! axes {
//!   @batch = 2 batch
//!   @seq = 8 seq
//!   @hidden = 16
//!   @vocab = 100 vocab
//! }
//! leaves {
//!   %0 "tokens" i32[@batch, @seq] = input tokens
//!   %1 "table" f32[@vocab, @hidden] = param normal 0.02
//! }
//! phase forward {
//!   op0: %2 "embedded" f32[@batch, @seq, @hidden] = map contraction [a @batch, b @seq, c @hidden, d @vocab]
//!     %1(d, c), %0(a, b) -> (a, b, c) sum { x1 == #d ? x0 : 0.0 }
//! }
//! "#;
//! let graph = partita_ir::text::parse(tiny).expect("it is well-formed");
//! assert!(partita_ir::verify::verify(&graph).is_empty());
//! assert_eq!(partita_ir::text::parse(&partita_ir::text::print(&graph)), Ok(graph));
//! ```
//!
//! A `map` names the factors that it walks, reads each operand at them and writes its result. `4*a + b - 1` is a
//! dimension walked by two factors with an offset. In the expression `x0` is the first operand's element and `#d` the
//! index of a factor; `(t0 := …)` names what is used again. A `repeat` lists what it carries as
//! `%arg = %init then %next`. Line breaks are as good as blanks, and `//` comments to the end of the line.
//!
//! `parse(&print(g)) == g` exactly, for every graph that the verifier finds nothing wrong with. Parsing checks the
//! syntax alone.

mod formula;
mod lex;
mod parse;
mod print;

pub use parse::parse;
pub use print::print;

use crate::graph::Supplied;
use crate::scalar::Expr;

/// The text form of a scalar expression, as it stands at the end of a `map`.
pub fn print_expr(expr: &Expr) -> String {
    formula::print(expr)
}

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line, from 1.
    pub line: u32,
    /// Character of the line, from 1.
    pub column: u32,
    /// What was expected, or what is wrong.
    pub message: String,
}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}
impl std::error::Error for TextError {}

/// The words of what the run supplies.
const SUPPLIES: [(Supplied, &str); 1] = [(Supplied::StepNumber, "step_number")];
