//! Matrix products, by the `gemm` crate.
//!
//! A sum of products of two operands is a matrix product whatever their layouts are: each loop is a row of the result
//! (m), a column (n), folded (k) or a batch, by which operands it moves. The longest loop of each kind goes to the
//! library, which takes any two strides per matrix; the nest has merged what could be merged, and the rest is walked
//! around it.

use partita_ir::dtype::DType;
use partita_ir::rule::{Reduce, Rule};
use partita_ir::scalar::{Binary, Expr, Node, NodeId, Real, Unary};
use partita_ir::work::Matmul;

use super::nest::{Class, Cursor, Nest};
use super::vector::Lane;
use super::{Launch, range_of};

/// Multiply-adds that one thread does quicker than it wakes another; few in tests.
pub(super) const SERIAL: usize = if cfg!(test) { 1 << 10 } else { 1 << 18 };
/// Multiply-adds that are worth a unit of work of their own.
const UNIT: usize = 1 << 22;
/// Rows and columns are cut at multiples of this, so that the library's inner tiles stay full.
const GRAIN: usize = 48;

/// Bytes that the library may copy of one side of a product, in each thread. It takes as much as fits the last-level
/// cache, which many ranks share.
const PANEL: usize = 1 << 20;
/// The library cuts the folded loop into pieces of at most this.
pub(super) const DEEPEST: usize = 512;

/// A prepared matrix product.
pub struct Gemm {
    pub(super) nest: Nest,
    /// Operands whose product it is.
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) scale: f64,
    /// The loops that the library walks; a missing one counts 1.
    pub(super) m: Option<usize>,
    pub(super) n: Option<usize>,
    pub(super) k: Option<usize>,
    /// Kept loops around, and reduced ones.
    pub(super) outer: Vec<usize>,
    pub(super) inner: Vec<usize>,
}

impl Gemm {
    /// The matrix product that a rule is, if the library is estimated to be faster at it than loops.
    pub fn new<T: Lane>(rule: &Rule, nest: &Nest) -> Option<Self> {
        let (left, right, scale) = product(&rule.expr)?;
        let widens = |dtype: DType| dtype != DType::I32 && dtype.arithmetic() == T::DTYPE;
        let floats = [left, right].iter().all(|n| widens(nest.operands[*n].dtype) && nest.operands[*n].guards.is_empty());
        if rule.reduce != Some(Reduce::Sum) || !floats || nest.loops.iter().any(|l| l.runs.len() > 1) {
            return None;
        }
        let moves = |index: usize, operand: usize| nest.loops[index].step(1 + operand) != 0;
        let longest = |wanted: &dyn Fn(usize) -> bool| {
            let of_kind = (0..nest.loops.len()).filter(|index| wanted(*index));
            of_kind.max_by_key(|index| nest.loops[*index].count)
        };
        let kept = |index: usize| nest.loops[index].class == Class::Kept;
        let m = longest(&|index| kept(index) && !moves(index, right))?;
        let n = longest(&|index| kept(index) && !moves(index, left) && index != m)?;
        let k = longest(&|index| !kept(index));
        let used = [Some(m), Some(n), k];
        let without: Vec<usize> = used.into_iter().flatten().collect();
        let (outer, inner) = (nest.of_class(Class::Kept, &without), nest.of_class(Class::Reduced, &without));
        let gemm = Self { nest: nest.clone(), left, right, scale, m: Some(m), n: Some(n), k, outer, inner };
        // in nanoseconds: a call costs some 150, a multiply-add 1/30 in the library and 1/4 in loops over lanes
        let calls = (gemm.nest.count(&gemm.outer) * gemm.nest.count(&gemm.inner)) as f64;
        let work = gemm.work() as f64;
        (calls * 150.0 + work / 30.0 < work / 4.0).then_some(gemm)
    }

    /// Whether both sides are stored as they are multiplied.
    pub fn is_all<T: Lane>(&self) -> bool {
        [self.left, self.right].iter().all(|n| self.nest.operands[*n].dtype == T::DTYPE)
    }

    /// Multiply-adds.
    pub(super) fn work(&self) -> usize {
        (0..self.nest.loops.len()).map(|index| self.nest.loops[index].count).product()
    }

    /// Its sizes, as a product whose result is contiguous along n, and whether one thread does it.
    pub fn work_shape(&self) -> (Matmul, bool) {
        let ((m, m_steps), (n, n_steps), (k, k_steps)) = (self.line(self.m), self.line(self.n), self.line(self.k));
        let calls = (self.nest.count(&self.outer) * self.nest.count(&self.inner)) as u64;
        // a matrix with nothing to fold is contiguous along what it has
        let along_k = |steps: [isize; 3], side: usize| k_steps[side] != 0 && k_steps[side].abs() < steps[side].abs();
        let (left, right) = (along_k(m_steps, 1), along_k(n_steps, 2));
        let (m, n, k) = (m as u64, n as u64, k as u64);
        let matmul = if m_steps[0].abs() < n_steps[0].abs() {
            Matmul { sizes: [n, m, k], calls, left_turned: !right, right_turned: left }
        } else {
            Matmul { sizes: [m, n, k], calls, left_turned: !left, right_turned: right }
        };
        (matmul, self.work() < SERIAL)
    }

    /// Floating-point operations.
    pub fn flops(&self) -> u64 {
        2 * self.work() as u64
    }

    /// Iterations of one of the library's loops, and what it adds to the addresses of (result, left, right).
    pub(super) fn line(&self, index: Option<usize>) -> (usize, [isize; 3]) {
        index.map_or((1, [0; 3]), |index| {
            let l = &self.nest.loops[index];
            (l.count, [0, 1 + self.left, 1 + self.right].map(|counter| l.step(counter) as isize))
        })
    }

    /// Computes the product.
    ///
    /// # Safety
    /// That of [`super::Kernel::run`].
    pub unsafe fn run<T: Lane>(&self, launch: &Launch<'_>) {
        let ((m, m_steps), (n, n_steps), (k, k_steps)) = (self.line(self.m), self.line(self.n), self.line(self.k));
        let (outer, inner) = (self.nest.count(&self.outer), self.nest.count(&self.inner));
        let threads = if self.work() < SERIAL { 1 } else { launch.pool.threads() };
        // the longer side of the result is cut if the loops around give too few units
        let pieces = if threads == 1 || outer >= 2 * threads {
            1
        } else {
            let wanted = (2 * threads).div_ceil(outer).min(self.work().div_ceil(outer * UNIT).max(threads.div_ceil(outer)));
            wanted.min(m.max(n).div_ceil(GRAIN))
        };
        let cut_m = m >= n;
        let length = m.max(n).div_ceil(pieces).next_multiple_of(if pieces == 1 { 1 } else { GRAIN });
        let pieces = m.max(n).div_ceil(length);
        let units = outer * pieces;
        let n_parts = if threads == 1 { 1 } else { units.min(4 * threads) };
        let panel = (PANEL / (size_of::<T>() * k.clamp(1, DEEPEST)) / GRAIN * GRAIN).max(GRAIN);
        launch.pool.run(n_parts, &|part| {
            let mut cursor = Cursor::new(&self.nest);
            for unit in range_of(part, n_parts, units) {
                cursor.seek(&self.outer, unit / pieces);
                let start = unit % pieces * length;
                let piece = length.min(m.max(n) - start);
                let (m, n, steps) = if cut_m { (piece, n, m_steps) } else { (m, piece, n_steps) };
                // the side that the library copies: it turns products over whose results have contiguous rows
                let by_rows = n_steps[0].abs() < m_steps[0].abs();
                let (wide, panel_steps) = if by_rows { (m, m_steps) } else { (n, n_steps) };
                for term in 0..inner {
                    for first in (0..wide).step_by(panel) {
                        let here = panel.min(wide - first);
                        let (m, n) = if by_rows { (here, n) } else { (m, here) };
                        let at = |which: usize, counter: usize| {
                            cursor.counters[counter] as isize + steps[which] * start as isize + panel_steps[which] * first as isize
                        };
                        // SAFETY: the contract; all addresses are within the tensors, and units write disjoint elements.
                        unsafe {
                            gemm::gemm::<T>(
                                m,
                                n,
                                k,
                                launch.result.cast::<T>().offset(at(0, 0)),
                                n_steps[0],
                                m_steps[0],
                                launch.accumulate || term > 0,
                                launch.operands[self.left].cast::<T>().offset(at(1, 1 + self.left)),
                                k_steps[1],
                                m_steps[1],
                                launch.operands[self.right].cast::<T>().offset(at(2, 1 + self.right)),
                                n_steps[2],
                                k_steps[2],
                                T::ONE,
                                T::from_f64(self.scale),
                                false,
                                false,
                                false,
                                gemm::Parallelism::None,
                            );
                        }
                    }
                    cursor.advance(&self.inner);
                }
            }
        });
    }
}

/// The two operands whose product, times a constant, an expression is.
fn product(expr: &Expr) -> Option<(usize, usize, f64)> {
    fn collect(expr: &Expr, id: NodeId, operands: &mut Vec<usize>, scale: &mut f64) -> Option<()> {
        match expr.nodes[id as usize] {
            Node::Operand(n) => operands.push(n),
            Node::Const(Real(value)) => *scale *= value,
            Node::Unary(Unary::Neg, a) => {
                *scale = -*scale;
                collect(expr, a, operands, scale)?;
            }
            Node::Binary(Binary::Mul, a, b) => {
                collect(expr, a, operands, scale)?;
                collect(expr, b, operands, scale)?;
            }
            Node::Binary(Binary::Div, a, b) => {
                let Node::Const(Real(divisor)) = expr.nodes[b as usize] else { return None };
                *scale /= divisor;
                collect(expr, a, operands, scale)?;
            }
            _ => return None,
        }
        Some(())
    }
    let (mut operands, mut scale) = (Vec::new(), 1.0);
    collect(expr, expr.root, &mut operands, &mut scale)?;
    match operands[..] {
        [left, right] if left != right && scale.is_finite() => Some((left, right, scale)),
        _ => None,
    }
}
