//! An expression as a tape: steps over one number, then steps over a block of lanes.
//!
//! The innermost loop of a walk runs over *lanes*. What does not change along it is computed once per row as a scalar
//! (in f64, which costs nothing there); the rest is a list of vector steps, each a tight loop over a block of lanes
//! that stays in the first-level cache. A contiguous operand is read where it lies. Where the lane loop is short, or an
//! operand is contiguous along another loop, a block is a [`Tile`]: some iterations of a second loop with all or some
//! of the lane loop's each.

use partita_ir::scalar::{Binary, Expr, Node, NodeId, Real, Unary};

use super::nest::{Draw, Nest, Place};
use super::vector::Lane;

/// The two loops that blocks of lanes run over.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// The loop over columns: neighbouring lanes.
    pub lane: usize,
    /// The loop over rows, of one iteration where blocks have one row.
    pub tall: usize,
    /// Rows of a block, but of the last.
    pub rows: usize,
    /// Columns of a block, but of the last.
    pub columns: usize,
}

impl Tile {
    /// Whether a counter stays the same along the block.
    pub fn is_constant(&self, nest: &Nest, counter: usize) -> bool {
        nest.loops[self.lane].step(counter) == 0 && nest.loops[self.tall].step(counter) == 0
    }

    /// Whether a counter goes through the block without a gap.
    pub fn is_dense(&self, nest: &Nest, counter: usize) -> bool {
        let lane = &nest.loops[self.lane];
        let joined = self.columns == lane.count && nest.loops[self.tall].step(counter) == lane.count as i64;
        lane.step(counter) == 1 && (self.rows == 1 || joined)
    }
}

/// The value of a node: scalar step or vector step number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The same in all lanes.
    Scalar(usize),
    /// One number per lane.
    Vector(usize),
}

/// A step over one number.
#[derive(Clone, Copy, Debug)]
pub enum ScalarStep {
    /// A constant.
    Const(f64),
    /// The element of an operand.
    Operand(usize),
    /// The global index of a loop.
    Index(usize),
    /// Draw `n` of the nest.
    Draw(usize),
    /// A function of an earlier step.
    Unary(Unary, usize),
    /// A function of two earlier steps.
    Binary(Binary, usize, usize),
    /// A choice of two earlier steps by a third.
    Select(usize, usize, usize),
}

/// A step over lanes.
#[derive(Clone, Copy, Debug)]
pub enum VectorOp {
    /// An operand read in place: contiguous along the lanes and of the lanes' own type.
    Borrow(usize),
    /// An operand copied: strided, of another type, or partly outside.
    Read(usize),
    /// The global index of the loop over columns.
    Column,
    /// The global index of the loop over rows.
    Row,
    /// Draw `n` of the nest.
    Draw(usize),
    /// A function of an earlier vector.
    Unary(Unary, usize),
    /// A function of two earlier values.
    Binary(Binary, Arg, Arg),
    /// A product with a third value added or taken away.
    Fused(Fused, usize, Arg, Arg),
    /// A choice of two earlier values by a third.
    Select(Arg, Arg, Arg),
}

/// What becomes of a product `a · b` and `c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// `a · b + c`
    Plus,
    /// `a · b - c`
    Minus,
    /// `c - a · b`
    From,
}

/// A step over lanes and the buffer that it writes.
#[derive(Clone, Copy, Debug)]
pub struct VectorStep {
    /// What it does.
    pub op: VectorOp,
    /// Where to; of no meaning for a borrow.
    pub buffer: usize,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Tape {
    /// Scalar steps in order; step n gives scalar n.
    pub scalars: Vec<ScalarStep>,
    /// Vector steps in order; step n gives vector n.
    pub vectors: Vec<VectorStep>,
    /// Buffers that the vector steps need.
    pub buffers: usize,
    /// The value of the expression.
    pub root: Arg,
}

impl Tape {
    /// Compiles an expression for blocks of lanes of type `T`.
    pub fn new<T: Lane>(expr: &Expr, nest: &Nest, tile: &Tile) -> Self {
        let uniform = |n: usize| {
            let mut counters = nest.operands[n].guards.iter().map(|guard| guard.counter).chain([1 + n]);
            counters.all(|counter| tile.is_constant(nest, counter))
        };
        let expr = without_powers(expr);
        let mut scalars = Vec::new();
        let mut ops: Vec<VectorOp> = Vec::new();
        let mut values: Vec<Arg> = Vec::with_capacity(expr.nodes.len());
        let mut uses = vec![0; expr.nodes.len()];
        expr.nodes.iter().flat_map(Node::inputs).for_each(|input| uses[input as usize] += 1);
        for node in &expr.nodes {
            let of = |id: &NodeId| values[*id as usize];
            let step: Result<ScalarStep, VectorOp> = match node {
                Node::Const(Real(value)) => Ok(ScalarStep::Const(*value)),
                Node::Operand(n) if uniform(*n) => Ok(ScalarStep::Operand(*n)),
                Node::Operand(n) => {
                    let view = &nest.operands[*n];
                    let in_place = view.dtype == T::DTYPE && tile.is_dense(nest, 1 + n) && view.guards.is_empty();
                    Err(if in_place { VectorOp::Borrow(*n) } else { VectorOp::Read(*n) })
                }
                Node::Index(factor) => match nest.places[*factor] {
                    Place::Fixed(global) => Ok(ScalarStep::Const(global as f64)),
                    Place::Loop(index) if index == tile.lane => Err(VectorOp::Column),
                    Place::Loop(index) if index == tile.tall => Err(VectorOp::Row),
                    Place::Loop(index) => Ok(ScalarStep::Index(index)),
                    Place::Merged => unreachable!("a loop whose index is read is not merged"),
                },
                Node::Random { salt, factors } => {
                    let same = |draw: &Draw| draw.salt == *salt && draw.factors == *factors;
                    let draw = nest.draws.iter().position(same).expect("the nest has the draws of its expression");
                    let uniform = tile.is_constant(nest, nest.draws[draw].counter);
                    if uniform { Ok(ScalarStep::Draw(draw)) } else { Err(VectorOp::Draw(draw)) }
                }
                Node::Unary(op, a) => match of(a) {
                    Arg::Scalar(a) => Ok(ScalarStep::Unary(*op, a)),
                    Arg::Vector(a) => Err(VectorOp::Unary(*op, a)),
                },
                Node::Binary(op, a, b) => match (of(a), of(b)) {
                    (Arg::Scalar(a), Arg::Scalar(b)) => Ok(ScalarStep::Binary(*op, a, b)),
                    (left, right) => {
                        let once = |id: &NodeId| uses[*id as usize] == 1;
                        Err(fused(&ops, *op, (left, once(a)), (right, once(b))).unwrap_or(VectorOp::Binary(*op, left, right)))
                    }
                },
                Node::Select(c, a, b) => match (of(c), of(a), of(b)) {
                    (Arg::Scalar(c), Arg::Scalar(a), Arg::Scalar(b)) => Ok(ScalarStep::Select(c, a, b)),
                    (c, a, b) => Err(VectorOp::Select(c, a, b)),
                },
            };
            values.push(match step {
                Ok(step) => {
                    scalars.push(step);
                    Arg::Scalar(scalars.len() - 1)
                }
                Err(op) => {
                    ops.push(op);
                    Arg::Vector(ops.len() - 1)
                }
            });
        }
        let (ops, root) = without_dead(ops, values[expr.root as usize]);
        let (vectors, buffers) = assign(&ops, root);
        Self { scalars, vectors, buffers, root }
    }

    /// Operands that are read where they lie.
    pub fn borrows(&self) -> usize {
        self.vectors.iter().filter(|step| matches!(step.op, VectorOp::Borrow(_))).count()
    }
}

/// A sum or a difference of a product that nothing else reads, as one step.
fn fused(ops: &[VectorOp], op: Binary, left: (Arg, bool), right: (Arg, bool)) -> Option<VectorOp> {
    let product = |(value, once): (Arg, bool)| match value {
        Arg::Vector(vector) if once => match ops[vector] {
            VectorOp::Binary(Binary::Mul, Arg::Vector(a), b) | VectorOp::Binary(Binary::Mul, b, Arg::Vector(a)) => Some((a, b)),
            _ => None,
        },
        _ => None,
    };
    match (op, product(left), product(right)) {
        (Binary::Add, Some((a, b)), _) => Some(VectorOp::Fused(Fused::Plus, a, b, right.0)),
        (Binary::Add, _, Some((a, b))) => Some(VectorOp::Fused(Fused::Plus, a, b, left.0)),
        (Binary::Sub, Some((a, b)), _) => Some(VectorOp::Fused(Fused::Minus, a, b, right.0)),
        (Binary::Sub, _, Some((a, b))) => Some(VectorOp::Fused(Fused::From, a, b, left.0)),
        _ => None,
    }
}

/// The steps that the root needs.
fn without_dead(ops: Vec<VectorOp>, root: Arg) -> (Vec<VectorOp>, Arg) {
    let mut live = vec![false; ops.len()];
    if let Arg::Vector(root) = root {
        live[root] = true;
    }
    for number in (0..ops.len()).rev() {
        if live[number] {
            inputs(&ops[number]).for_each(|input| live[input] = true);
        }
    }
    let mut placed = vec![usize::MAX; ops.len()];
    let mut kept = Vec::new();
    for (number, op) in ops.into_iter().enumerate().filter(|(number, _)| live[*number]) {
        let at = |vector: usize| placed[vector];
        let arg = |arg: Arg| match arg {
            Arg::Vector(vector) => Arg::Vector(placed[vector]),
            scalar => scalar,
        };
        kept.push(match op {
            VectorOp::Unary(op, a) => VectorOp::Unary(op, at(a)),
            VectorOp::Binary(op, a, b) => VectorOp::Binary(op, arg(a), arg(b)),
            VectorOp::Fused(op, a, b, c) => VectorOp::Fused(op, at(a), arg(b), arg(c)),
            VectorOp::Select(c, a, b) => VectorOp::Select(arg(c), arg(a), arg(b)),
            leaf => leaf,
        });
        placed[number] = kept.len() - 1;
    }
    let root = match root {
        Arg::Vector(root) => Arg::Vector(placed[root]),
        scalar => scalar,
    };
    (kept, root)
}

fn inputs(op: &VectorOp) -> impl Iterator<Item = usize> + use<> {
    let args = match *op {
        VectorOp::Unary(_, a) => [Some(Arg::Vector(a)), None, None],
        VectorOp::Binary(_, a, b) => [Some(a), Some(b), None],
        VectorOp::Fused(_, a, b, c) => [Some(Arg::Vector(a)), Some(b), Some(c)],
        VectorOp::Select(c, a, b) => [Some(c), Some(a), Some(b)],
        _ => [None; 3],
    };
    args.into_iter().flatten().filter_map(|arg| match arg {
        Arg::Vector(vector) => Some(vector),
        Arg::Scalar(_) => None,
    })
}

/// Gives every vector a buffer, and a buffer again when its vector was read for the last time.
fn assign(ops: &[VectorOp], root: Arg) -> (Vec<VectorStep>, usize) {
    let mut last: Vec<usize> = (0..ops.len()).collect();
    for (position, op) in ops.iter().enumerate() {
        inputs(op).for_each(|input| last[input] = position);
    }
    if let Arg::Vector(root) = root {
        last[root] = ops.len();
    }
    // a choice by a scalar becomes an alias of the chosen vector, which must live as long
    for (position, op) in ops.iter().enumerate().rev() {
        if let VectorOp::Select(Arg::Scalar(_), ..) = op {
            inputs(op).for_each(|input| last[input] = last[input].max(last[position]));
        }
    }
    let mut free: Vec<usize> = Vec::new();
    let mut buffers = 0;
    let mut steps: Vec<VectorStep> = Vec::with_capacity(ops.len());
    for (position, op) in ops.iter().enumerate() {
        // before its inputs are given back: a step never writes what it reads
        let buffer = if matches!(op, VectorOp::Borrow(_)) {
            usize::MAX
        } else {
            free.pop().unwrap_or_else(|| {
                buffers += 1;
                buffers - 1
            })
        };
        steps.push(VectorStep { op: *op, buffer });
        for (earlier, step) in steps.iter().enumerate() {
            if last[earlier] == position && step.buffer != usize::MAX {
                free.push(step.buffer);
            }
        }
    }
    (steps, buffers.max(1))
}

/// The same expression with powers by common constants as products and roots.
fn without_powers(expr: &Expr) -> Expr {
    let mut out = Expr::default();
    let mut placed: Vec<NodeId> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let at = |id: &NodeId| placed[*id as usize];
        let id = match node {
            Node::Binary(Binary::Pow, a, b) => {
                let exponent = match expr.nodes[*b as usize] {
                    Node::Const(Real(value)) => value,
                    _ => f64::NAN,
                };
                let a = at(a);
                match exponent {
                    2.0 => out.push(Node::Binary(Binary::Mul, a, a)),
                    3.0 => {
                        let square = out.push(Node::Binary(Binary::Mul, a, a));
                        out.push(Node::Binary(Binary::Mul, square, a))
                    }
                    0.5 => out.push(Node::Unary(Unary::Sqrt, a)),
                    -0.5 => out.push(Node::Unary(Unary::Rsqrt, a)),
                    _ => out.push(Node::Binary(Binary::Pow, a, at(b))),
                }
            }
            Node::Unary(op, a) => out.push(Node::Unary(*op, at(a))),
            Node::Binary(op, a, b) => out.push(Node::Binary(*op, at(a), at(b))),
            Node::Select(c, a, b) => out.push(Node::Select(at(c), at(a), at(b))),
            leaf => out.push(leaf.clone()),
        };
        placed.push(id);
    }
    out.root = placed[expr.root as usize];
    out.pruned()
}
