//! Scalar expressions: what an operator computes at one point of its loop space.
//!
//! Comparisons and `not` give 0 or 1; anything but 0 is true. Booleans, indices and floats are one kind of number.

use serde::{Deserialize, Serialize};

use crate::rule::Reduce;

/// A constant that compares and hashes by its bits.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "RealText", try_from = "RealText")]
pub struct Real(pub f64);

/// JSON has no infinities, so a constant is written as a number or as a word.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RealText {
    Finite(f64),
    Word(String),
}

impl From<Real> for RealText {
    fn from(real: Real) -> Self {
        if real.0.is_finite() { RealText::Finite(real.0) } else { RealText::Word(real.0.to_string()) }
    }
}

impl TryFrom<RealText> for Real {
    type Error = String;
    fn try_from(text: RealText) -> Result<Self, String> {
        match text {
            RealText::Finite(value) => Ok(Real(value)),
            RealText::Word(word) => word.parse().map(Real).map_err(|_| format!("`{word}` is no number")),
        }
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Real {}
impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}
impl std::fmt::Debug for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $word:literal)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),* }
        impl $name {
            /// Every variant.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The word that the text forms use.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
            /// The variant that `word` names.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }
        }
    )*};
}

words! {
    /// Functions of one number.
    Unary {
        /// `-x`
        Neg "neg"
        /// `e^x`
        Exp "exp"
        /// natural logarithm
        Log "log"
        /// square root
        Sqrt "sqrt"
        /// `1 / sqrt(x)`
        Rsqrt "rsqrt"
        /// hyperbolic tangent
        Tanh "tanh"
        /// sine
        Sin "sin"
        /// cosine
        Cos "cos"
        /// absolute value
        Abs "abs"
        /// largest integer not above
        Floor "floor"
        /// -1, 0 or 1
        Sign "sign"
        /// 1 if 0, else 0
        Not "not"
        /// `1 / (1 + e^-x)`
        Sigmoid "sigmoid"
        /// the error function
        Erf "erf"
    }
    /// Functions of two numbers.
    Binary {
        /// `a + b`
        Add "add"
        /// `a - b`
        Sub "sub"
        /// `a * b`
        Mul "mul"
        /// `a / b`
        Div "div"
        /// `a` to the power `b`
        Pow "pow"
        /// the larger
        Max "max"
        /// the smaller
        Min "min"
        /// `a < b`
        Lt "lt"
        /// `a <= b`
        Le "le"
        /// `a == b`
        Eq "eq"
        /// `a != b`
        Ne "ne"
        /// `a`, with the derivative of `b`
        Sloped "sloped"
    }
}

impl Unary {
    /// The value in f64.
    pub fn eval(self, x: f64) -> f64 {
        match self {
            Unary::Neg => -x,
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Tanh => x.tanh(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Abs => x.abs(),
            Unary::Floor => x.floor(),
            Unary::Sign => {
                if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    0.0
                }
            }
            Unary::Not => f64::from(u8::from(x == 0.0)),
            Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Unary::Erf => erf(x),
        }
    }
}

/// The error function: its Maclaurin series below 3, a continued fraction above; error below 1e-15.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while f64::abs(term) > 1e-17 * sum && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        x.signum() * sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let tail = (1..=60).rev().fold(0.0, |tail, n| f64::from(n) * 0.5 / (a + tail));
        let erfc = (-a * a).exp() / (a + tail) / std::f64::consts::PI.sqrt();
        x.signum() * (1.0 - erfc)
    }
}

impl Binary {
    /// The value in f64.
    pub fn eval(self, a: f64, b: f64) -> f64 {
        let truth = |holds: bool| f64::from(u8::from(holds));
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Pow => a.powf(b),
            Binary::Max => a.max(b),
            Binary::Min => a.min(b),
            Binary::Lt => truth(a < b),
            Binary::Le => truth(a <= b),
            Binary::Eq => truth(a == b),
            Binary::Ne => truth(a != b),
            Binary::Sloped => a,
        }
    }
}

/// Index of a node in its expression.
pub type NodeId = u32;

/// One node of a scalar expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// A constant.
    Const(Real),
    /// The element of operand `n` at this point.
    Operand(usize),
    /// The global index of loop factor `n` at this point.
    Index(usize),
    /// A uniform draw in [0, 1) for the global element that `factors` (row-major) name.
    Random {
        /// Salt of the draw: equal salts are the same draw.
        salt: u64,
        /// The factors whose indices identify the element.
        factors: Vec<usize>,
    },
    /// A function of one node.
    Unary(Unary, NodeId),
    /// A function of two nodes.
    Binary(Binary, NodeId, NodeId),
    /// The second where the first is not 0, else the third. The one not chosen does not matter, not even if NaN.
    Select(NodeId, NodeId, NodeId),
}

impl Node {
    /// The nodes that this one reads.
    pub fn inputs(&self) -> impl Iterator<Item = NodeId> + use<> {
        let (a, b, c) = match *self {
            Node::Unary(_, a) => (Some(a), None, None),
            Node::Binary(_, a, b) => (Some(a), Some(b), None),
            Node::Select(a, b, c) => (Some(a), Some(b), Some(c)),
            _ => (None, None, None),
        };
        [a, b, c].into_iter().flatten()
    }
}

/// A scalar expression: nodes in order of definition, equal nodes once; the value is `root`'s.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Expr {
    /// The nodes; a node only reads earlier ones.
    pub nodes: Vec<Node>,
    /// The node whose value this is.
    pub root: NodeId,
}

/// How an expression depends on some of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degree {
    /// A literal that is the sum of any number of itself: 0 or an infinity. Linear and free of them at once.
    Zero,
    /// Does not depend on them.
    Free,
    /// Homogeneous and linear in them together.
    Linear,
    /// Anything else.
    Other,
}

impl Expr {
    /// An expression that is operand `n` alone.
    pub fn operand(n: usize) -> Self {
        Self { nodes: vec![Node::Operand(n)], root: 0 }
    }

    /// A constant.
    pub fn constant(value: f64) -> Self {
        Self { nodes: vec![Node::Const(Real(value))], root: 0 }
    }

    /// The product of operands `0..n`.
    pub fn product(n: usize) -> Self {
        let mut expr = Self::default();
        let mut root = expr.push(Node::Operand(0));
        for operand in 1..n {
            let next = expr.push(Node::Operand(operand));
            root = expr.binary(Binary::Mul, root, next);
        }
        expr.root = root;
        expr
    }

    /// The sum of operands `0..n`.
    pub fn sum(n: usize) -> Self {
        let mut expr = Self::default();
        let mut root = expr.push(Node::Operand(0));
        for operand in 1..n {
            let next = expr.push(Node::Operand(operand));
            root = expr.binary(Binary::Add, root, next);
        }
        expr.root = root;
        expr
    }

    /// Adds a node, or finds the equal one that is there.
    pub fn push(&mut self, node: Node) -> NodeId {
        let found = self.nodes.iter().position(|known| *known == node);
        let id = found.unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        });
        NodeId::try_from(id).expect("an expression has fewer than 2^32 nodes")
    }

    /// A constant node.
    pub fn literal(&mut self, value: f64) -> NodeId {
        self.push(Node::Const(Real(value)))
    }

    fn known(&self, id: NodeId) -> Option<f64> {
        match self.nodes[id as usize] {
            Node::Const(Real(value)) => Some(value),
            _ => None,
        }
    }

    /// `op(a)`, folded where `a` is a constant.
    pub fn unary(&mut self, op: Unary, a: NodeId) -> NodeId {
        match (op, self.known(a), &self.nodes[a as usize]) {
            (_, Some(value), _) => self.literal(op.eval(value)),
            (Unary::Neg, _, &Node::Unary(Unary::Neg, inner)) => inner,
            _ => self.push(Node::Unary(op, a)),
        }
    }

    /// `op(a, b)`, folded by the identities of 0 and 1 and where both are constants.
    pub fn binary(&mut self, op: Binary, a: NodeId, b: NodeId) -> NodeId {
        match (op, self.known(a), self.known(b)) {
            (_, Some(x), Some(y)) => self.literal(op.eval(x, y)),
            (Binary::Add, Some(0.0), _) | (Binary::Mul, Some(1.0), _) => b,
            (Binary::Add | Binary::Sub, _, Some(0.0)) | (Binary::Mul | Binary::Div | Binary::Pow, _, Some(1.0)) => a,
            (Binary::Mul, Some(0.0), _) | (Binary::Mul, _, Some(0.0)) | (Binary::Div, Some(0.0), _) => self.literal(0.0),
            (Binary::Mul, Some(-1.0), _) => self.unary(Unary::Neg, b),
            (Binary::Mul, _, Some(-1.0)) => self.unary(Unary::Neg, a),
            (Binary::Sub, Some(0.0), _) => self.unary(Unary::Neg, b),
            _ => self.masked_product(op, a, b).unwrap_or_else(|| self.push(Node::Binary(op, a, b))),
        }
    }

    /// A product with something that is 0 where a condition fails is 0 there: the condition goes outside, so that a
    /// one-hot contraction and its gradient are seen as look-ups.
    fn masked_product(&mut self, op: Binary, a: NodeId, b: NodeId) -> Option<NodeId> {
        if op != Binary::Mul {
            return None;
        }
        for (mask, other) in [(a, b), (b, a)] {
            let Node::Select(condition, yes, no) = self.nodes[mask as usize] else { continue };
            if self.known(no) == Some(0.0) {
                let product = self.binary(op, yes, other);
                return Some(self.select(condition, product, no));
            }
            if self.known(yes) == Some(0.0) {
                let product = self.binary(op, no, other);
                return Some(self.select(condition, yes, product));
            }
        }
        None
    }

    /// `a` where `condition` is not 0, else `b`.
    pub fn select(&mut self, condition: NodeId, a: NodeId, b: NodeId) -> NodeId {
        match self.known(condition) {
            Some(0.0) => b,
            Some(_) => a,
            None if a == b => a,
            None => self.push(Node::Select(condition, a, b)),
        }
    }

    /// Copies `other` into this expression, its operands and factors renamed, and gives its root. With `operand`
    /// returning a node, an operand is replaced by an expression already here.
    pub fn graft(&mut self, other: &Expr, operand: &mut dyn FnMut(&mut Expr, usize) -> NodeId, factor: &dyn Fn(usize) -> usize) -> NodeId {
        let mut placed = Vec::with_capacity(other.nodes.len());
        for node in &other.nodes {
            let at = |id: NodeId, placed: &Vec<NodeId>| placed[id as usize];
            let id = match node {
                Node::Const(value) => self.push(Node::Const(*value)),
                Node::Operand(n) => operand(self, *n),
                Node::Index(n) => self.push(Node::Index(factor(*n))),
                Node::Random { salt, factors } => {
                    let factors = factors.iter().map(|n| factor(*n)).collect();
                    self.push(Node::Random { salt: *salt, factors })
                }
                Node::Unary(op, a) => self.unary(*op, at(*a, &placed)),
                Node::Binary(op, a, b) => self.binary(*op, at(*a, &placed), at(*b, &placed)),
                Node::Select(c, a, b) => self.select(at(*c, &placed), at(*a, &placed), at(*b, &placed)),
            };
            placed.push(id);
        }
        placed[other.root as usize]
    }

    /// The same expression with only the nodes that its root needs, in the order in which one meets them reading the
    /// formula. So formulas that read the same are equal.
    pub fn pruned(&self) -> Expr {
        let mut placed: Vec<Option<NodeId>> = vec![None; self.nodes.len()];
        let mut out = Expr::default();
        let mut open = vec![self.root];
        while let Some(&id) = open.last() {
            let node = &self.nodes[id as usize];
            if let Some(input) = node.inputs().find(|input| placed[*input as usize].is_none()) {
                open.push(input);
                continue;
            }
            let at = |a: &NodeId| placed[*a as usize].expect("its inputs are placed");
            let new = match node {
                Node::Unary(op, a) => Node::Unary(*op, at(a)),
                Node::Binary(op, a, b) => Node::Binary(*op, at(a), at(b)),
                Node::Select(c, a, b) => Node::Select(at(c), at(a), at(b)),
                leaf => leaf.clone(),
            };
            placed[id as usize] = Some(out.push(new));
            open.pop();
        }
        out.root = placed[self.root as usize].expect("the root is placed last");
        out
    }

    /// Whether operand `n` is read.
    pub fn reads(&self, n: usize) -> bool {
        self.nodes.contains(&Node::Operand(n))
    }

    /// Whether the value depends on where along factor `n` the point is.
    pub fn walks(&self, n: usize) -> bool {
        self.nodes.iter().any(|node| match node {
            Node::Index(factor) => *factor == n,
            Node::Random { factors, .. } => factors.contains(&n),
            Node::Const(_) | Node::Operand(_) | Node::Unary(..) | Node::Binary(..) | Node::Select(..) => false,
        })
    }

    /// Evaluates in f64. `random` draws for (salt, factors).
    pub fn eval(&self, operands: &[f64], indices: &[u64], random: &dyn Fn(u64, &[usize]) -> f64, scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        for node in &self.nodes {
            let at = |id: NodeId| scratch[id as usize];
            let value = match node {
                Node::Const(value) => value.0,
                Node::Operand(n) => operands[*n],
                Node::Index(n) => indices[*n] as f64,
                Node::Random { salt, factors } => random(*salt, factors),
                Node::Unary(op, a) => op.eval(at(*a)),
                Node::Binary(op, a, b) => op.eval(at(*a), at(*b)),
                Node::Select(c, a, b) => {
                    if at(*c) != 0.0 {
                        at(*a)
                    } else {
                        at(*b)
                    }
                }
            };
            scratch.push(value);
        }
        scratch[self.root as usize]
    }

    /// Appends the derivative with respect to operand `n` and gives its node. Comparisons, `floor`, `sign` and draws
    /// have derivative 0; at a kink of `max`, `min` and `abs` one side is taken.
    pub fn derivative(&mut self, n: usize) -> NodeId {
        let count = self.nodes.len();
        let mut derivatives: Vec<NodeId> = Vec::with_capacity(count);
        for id in 0..count {
            let node = self.nodes[id].clone();
            let this = id as NodeId;
            let d = |a: NodeId, derivatives: &Vec<NodeId>| derivatives[a as usize];
            let zero = self.literal(0.0);
            let one = self.literal(1.0);
            let result = match node {
                Node::Operand(m) if m == n => one,
                Node::Const(_) | Node::Operand(_) | Node::Index(_) | Node::Random { .. } => zero,
                Node::Unary(op, a) => {
                    let da = d(a, &derivatives);
                    if da == zero {
                        zero
                    } else {
                        let factor = self.unary_derivative(op, a, this);
                        self.binary(Binary::Mul, factor, da)
                    }
                }
                Node::Binary(op, a, b) => {
                    let (da, db) = (d(a, &derivatives), d(b, &derivatives));
                    if da == zero && db == zero { zero } else { self.binary_derivative(op, a, b, da, db, this) }
                }
                Node::Select(c, a, b) => {
                    let (da, db) = (d(a, &derivatives), d(b, &derivatives));
                    self.select(c, da, db)
                }
            };
            derivatives.push(result);
        }
        derivatives[self.root as usize]
    }

    fn unary_derivative(&mut self, op: Unary, a: NodeId, this: NodeId) -> NodeId {
        match op {
            Unary::Neg => self.literal(-1.0),
            Unary::Exp => this,
            Unary::Log => {
                let one = self.literal(1.0);
                self.binary(Binary::Div, one, a)
            }
            Unary::Sqrt => {
                let half = self.literal(0.5);
                self.binary(Binary::Div, half, this)
            }
            Unary::Rsqrt => {
                // d x^(-1/2) = -1/2 x^(-3/2) = -1/2 y / x
                let half = self.literal(-0.5);
                let ratio = self.binary(Binary::Div, this, a);
                self.binary(Binary::Mul, half, ratio)
            }
            Unary::Tanh => {
                let one = self.literal(1.0);
                let square = self.binary(Binary::Mul, this, this);
                self.binary(Binary::Sub, one, square)
            }
            Unary::Sin => self.unary(Unary::Cos, a),
            Unary::Cos => {
                let sin = self.unary(Unary::Sin, a);
                self.unary(Unary::Neg, sin)
            }
            Unary::Abs => self.unary(Unary::Sign, a),
            Unary::Floor | Unary::Sign | Unary::Not => self.literal(0.0),
            Unary::Sigmoid => {
                let one = self.literal(1.0);
                let rest = self.binary(Binary::Sub, one, this);
                self.binary(Binary::Mul, this, rest)
            }
            Unary::Erf => {
                let square = self.binary(Binary::Mul, a, a);
                let negative = self.unary(Unary::Neg, square);
                let bell = self.unary(Unary::Exp, negative);
                let scale = self.literal(std::f64::consts::FRAC_2_SQRT_PI);
                self.binary(Binary::Mul, scale, bell)
            }
        }
    }

    fn binary_derivative(&mut self, op: Binary, a: NodeId, b: NodeId, da: NodeId, db: NodeId, this: NodeId) -> NodeId {
        let zero = self.literal(0.0);
        match op {
            Binary::Add | Binary::Sub => self.binary(op, da, db),
            Binary::Mul => {
                let left = self.binary(Binary::Mul, da, b);
                let right = self.binary(Binary::Mul, a, db);
                self.binary(Binary::Add, left, right)
            }
            Binary::Div => {
                // d(a/b) = (da - (a/b) db) / b
                let right = self.binary(Binary::Mul, this, db);
                let top = self.binary(Binary::Sub, da, right);
                self.binary(Binary::Div, top, b)
            }
            Binary::Pow => {
                // d(a^b) = b a^(b-1) da + a^b log(a) db
                let one = self.literal(1.0);
                let less = self.binary(Binary::Sub, b, one);
                let power = self.binary(Binary::Pow, a, less);
                let slope = self.binary(Binary::Mul, b, power);
                let left = self.binary(Binary::Mul, slope, da);
                let right = if db == zero {
                    zero
                } else {
                    let log = self.unary(Unary::Log, a);
                    let slope = self.binary(Binary::Mul, this, log);
                    self.binary(Binary::Mul, slope, db)
                };
                self.binary(Binary::Add, left, right)
            }
            Binary::Max => {
                let first = self.binary(Binary::Le, b, a);
                self.select(first, da, db)
            }
            Binary::Min => {
                let first = self.binary(Binary::Le, a, b);
                self.select(first, da, db)
            }
            Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne => zero,
            Binary::Sloped => db,
        }
    }

    /// The same values without what only derivatives need.
    pub fn without_slopes(&self) -> Expr {
        let mut placed: Vec<NodeId> = Vec::new();
        let mut out = Expr::default();
        for node in &self.nodes {
            let at = |id: &NodeId| placed[*id as usize];
            let id = match node {
                Node::Binary(Binary::Sloped, a, _) => at(a),
                Node::Unary(op, a) => out.push(Node::Unary(*op, at(a))),
                Node::Binary(op, a, b) => out.push(Node::Binary(*op, at(a), at(b))),
                Node::Select(c, a, b) => out.push(Node::Select(at(c), at(a), at(b))),
                leaf => out.push(leaf.clone()),
            };
            placed.push(id);
        }
        out.root = placed[self.root as usize];
        out.pruned()
    }

    /// How the expression depends on the operands that `member` picks, taken together.
    pub fn degree(&self, member: &dyn Fn(usize) -> bool) -> Degree {
        let mut degrees: Vec<Degree> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let of = |id: NodeId| degrees[id as usize];
            let join = |a: Degree, b: Degree| match (a, b) {
                (Degree::Zero, other) | (other, Degree::Zero) => other,
                (Degree::Free, Degree::Free) => Degree::Free,
                (Degree::Linear, Degree::Linear) => Degree::Linear,
                _ => Degree::Other,
            };
            let free = |id: NodeId| matches!(of(id), Degree::Free | Degree::Zero);
            degrees.push(match node {
                Node::Const(Real(value)) if *value + *value == *value => Degree::Zero,
                Node::Operand(n) if member(*n) => Degree::Linear,
                Node::Const(_) | Node::Operand(_) | Node::Index(_) | Node::Random { .. } => Degree::Free,
                Node::Unary(Unary::Neg, a) => of(*a),
                Node::Binary(Binary::Add | Binary::Sub, a, b) => join(of(*a), of(*b)),
                Node::Binary(Binary::Mul, a, b) => match (of(*a), of(*b)) {
                    (Degree::Zero, Degree::Zero | Degree::Free) | (Degree::Free, Degree::Zero) => Degree::Zero,
                    (Degree::Free, other) | (other, Degree::Free) => other,
                    _ => Degree::Other,
                },
                Node::Binary(Binary::Div, a, b) if free(*b) => of(*a),
                Node::Binary(Binary::Sloped, a, _) => of(*a),
                Node::Select(c, a, b) if free(*c) => join(of(*a), of(*b)),
                other if other.inputs().all(free) => Degree::Free,
                _ => Degree::Other,
            });
        }
        degrees[self.root as usize]
    }

    /// Whether the expression is non-decreasing in operand `n`, the others held, so that P(`op`) of it (a maximum or
    /// minimum) passes: the parts that do not count, down to the identity of `op`, must give numbers too.
    pub fn non_decreasing(&self, n: usize, op: Reduce) -> bool {
        #[derive(Clone, Copy, PartialEq)]
        enum Trend {
            Flat,
            Up,
            Down,
            Other,
        }
        let mut trends: Vec<Trend> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let of = |id: NodeId| trends[id as usize];
            let turned = |trend: Trend| match trend {
                Trend::Up => Trend::Down,
                Trend::Down => Trend::Up,
                same => same,
            };
            let both = |a: Trend, b: Trend| match (a, b) {
                (Trend::Flat, other) | (other, Trend::Flat) => other,
                (a, b) if a == b => a,
                _ => Trend::Other,
            };
            // a factor of 0 would make a NaN of the identity
            let scaled = |id: NodeId, by: NodeId| match self.known(by) {
                Some(value) if value > 0.0 && value.is_finite() => of(id),
                Some(value) if value < 0.0 && value.is_finite() => turned(of(id)),
                _ => Trend::Other,
            };
            let flat = |id: NodeId| of(id) == Trend::Flat;
            trends.push(match *node {
                Node::Operand(m) if m == n => Trend::Up,
                Node::Binary(Binary::Sloped, a, _) => of(a),
                ref other if other.inputs().all(flat) => Trend::Flat,
                Node::Unary(Unary::Exp | Unary::Tanh | Unary::Floor | Unary::Sign | Unary::Sigmoid | Unary::Erf, a) => of(a),
                Node::Unary(Unary::Neg, a) => turned(of(a)),
                // defined above 0 only: the parts that do not count must lie above the one that does
                Node::Unary(Unary::Log | Unary::Sqrt | Unary::Rsqrt, a)
                    if of(a) != if op == Reduce::Min { Trend::Up } else { Trend::Down } =>
                {
                    Trend::Other
                }
                Node::Unary(Unary::Log | Unary::Sqrt, a) => of(a),
                Node::Unary(Unary::Rsqrt, a) => turned(of(a)),
                Node::Binary(Binary::Add | Binary::Max | Binary::Min, a, b) => both(of(a), of(b)),
                Node::Binary(Binary::Sub | Binary::Lt | Binary::Le, a, b) => {
                    let rising = both(of(a), turned(of(b)));
                    if matches!(node, Node::Binary(Binary::Sub, ..)) { rising } else { turned(rising) }
                }
                Node::Binary(Binary::Mul, a, b) if flat(a) => scaled(b, a),
                Node::Binary(Binary::Mul | Binary::Div, a, b) if flat(b) => scaled(a, b),
                Node::Select(c, a, b) if flat(c) => both(of(a), of(b)),
                _ => Trend::Other,
            });
        }
        trends[self.root as usize] == Trend::Up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_meets_tables() {
        for (x, want) in [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.5, 0.999_999_256_901_628)] {
            assert!((erf(x) - want).abs() < 1e-14, "erf({x}) = {} not {want}", erf(x));
            assert!((erf(-x) + want).abs() < 1e-14);
        }
    }

    #[test]
    fn degree_of_sums_and_products() {
        let product = Expr::product(2);
        assert_eq!(product.degree(&|n| n == 0), Degree::Linear);
        assert_eq!(product.degree(&|_| true), Degree::Other);
        let sum = Expr::sum(2);
        assert_eq!(sum.degree(&|n| n == 0), Degree::Other);
        assert_eq!(sum.degree(&|_| true), Degree::Linear);
    }
}
