//! Matrix products of which a side is stored in 16 bits: block by block.
//!
//! A block of each side is made f32, the `gemm` crate adds its product to a block of the result in f32, and when the last
//! is added that block is rounded into the result. Blocks are so large that a number is converted once for some
//! [`SIDE`] multiply-adds, and so small that what a part needs stays in its caches.

use super::gemm::{DEEPEST, Gemm, SERIAL};
use super::nest::Cursor;
use super::stored::{Stored, widen};
use super::{Launch, range_of};

/// Rows and columns of a block.
const SIDE: usize = if cfg!(test) { 48 } else { 384 };
/// Parts at most; each has blocks of its own in the scratch.
const PARTS: usize = 16;

/// A prepared product.
pub struct Product16 {
    gemm: Gemm,
}

/// A loop of the product: iterations, and steps of (result, left, right).
type Line = (usize, [isize; 3]);

/// A block of one side: where it begins, and its rows and columns.
struct Side {
    from: *const u8,
    rows: (usize, isize),
    columns: (usize, isize),
}

impl Product16 {
    /// Takes a product over.
    pub fn new(gemm: Gemm) -> Self {
        Self { gemm }
    }

    /// What is multiplied.
    pub fn gemm(&self) -> &Gemm {
        &self.gemm
    }

    fn lines(&self) -> [Line; 3] {
        [self.gemm.m, self.gemm.n, self.gemm.k].map(|index| self.gemm.line(index))
    }

    /// Numbers of a block of the left side, the right side and the result.
    fn blocks(&self) -> [usize; 3] {
        let [(m, _), (n, _), (k, _)] = self.lines();
        let (m, n, k) = (m.min(SIDE), n.min(SIDE), k.min(DEEPEST));
        [m * k, k * n, m * n].map(|numbers| numbers.next_multiple_of(16))
    }

    /// Bytes for the blocks of all parts.
    pub fn scratch_bytes(&self) -> u64 {
        (PARTS * self.blocks().iter().sum::<usize>() * size_of::<f32>()) as u64
    }

    /// Computes the product.
    ///
    /// # Safety
    /// That of [`super::Kernel::run`].
    pub unsafe fn run<R: Stored>(&self, launch: &Launch<'_>) {
        let gemm = &self.gemm;
        let [(m, m_steps), (n, n_steps), _] = self.lines();
        let (rows, columns) = (m.div_ceil(SIDE), n.div_ceil(SIDE));
        let units = gemm.nest.count(&gemm.outer) * rows * columns;
        let threads = if gemm.work() < SERIAL { 1 } else { launch.pool.threads() };
        let n_parts = if threads == 1 { 1 } else { units.min(4 * threads).min(PARTS) };
        let sizes = self.blocks();
        launch.pool.run(n_parts, &|part| {
            let mut cursor = Cursor::new(&gemm.nest);
            // SAFETY: the scratch has room for the blocks of each part.
            let [left, right, sum] = unsafe {
                let start = launch.scratch.cast::<f32>().add(part * sizes.iter().sum::<usize>());
                start.write_bytes(0, sizes.iter().sum());
                let block = |before: usize, numbers: usize| std::slice::from_raw_parts_mut(start.add(before), numbers);
                [block(0, sizes[0]), block(sizes[0], sizes[1]), block(sizes[0] + sizes[1], sizes[2])]
            };
            for unit in range_of(part, n_parts, units) {
                cursor.seek(&gemm.outer, unit / (rows * columns));
                let first = (unit / columns % rows * SIDE, unit % columns * SIDE);
                let shape = (SIDE.min(m - first.0), SIDE.min(n - first.1));
                // SAFETY: the contract; blocks are within the tensors, and units write disjoint ones.
                unsafe {
                    self.multiply(launch, &mut cursor, first, shape, [&mut *left, &mut *right, &mut *sum]);
                    let at = cursor.counters[0] as isize + m_steps[0] * first.0 as isize + n_steps[0] * first.1 as isize;
                    let to = launch.result.cast::<R>().offset(at);
                    for row in 0..shape.0 {
                        let sums = &sum[row * shape.1..][..shape.1];
                        let to = to.offset(m_steps[0] * row as isize);
                        if n_steps[0] == 1 && !launch.accumulate {
                            R::narrow(std::slice::from_raw_parts_mut(to, shape.1), sums);
                            continue;
                        }
                        for (column, sum) in sums.iter().enumerate() {
                            let to = to.offset(n_steps[0] * column as isize);
                            let before = if launch.accumulate { (*to).to_f64() } else { 0.0 };
                            *to = R::from_f64(before + f64::from(*sum));
                        }
                    }
                }
            }
        });
    }

    /// A block of the result, dense by rows, in the last of `blocks`.
    ///
    /// # Safety
    /// That of [`Product16::run`], for a block within the result.
    unsafe fn multiply(
        &self,
        launch: &Launch<'_>,
        cursor: &mut Cursor<'_>,
        first: (usize, usize),
        (m, n): (usize, usize),
        [left, right, sum]: [&mut [f32]; 3],
    ) {
        let gemm = &self.gemm;
        let [(_, m_steps), (_, n_steps), (k, k_steps)] = self.lines();
        let mut begun = false;
        for _ in 0..gemm.nest.count(&gemm.inner) {
            for deep in (0..k).step_by(DEEPEST) {
                let depth = DEEPEST.min(k - deep);
                let at = |operand: usize, side: usize, steps: [isize; 3], first: usize| {
                    let elements = cursor.counters[1 + operand] as isize + steps[side] * first as isize + k_steps[side] * deep as isize;
                    let bytes = gemm.nest.operands[operand].dtype.bytes(1) as isize;
                    launch.operands[operand].wrapping_offset(elements * bytes)
                };
                let rows = Side { from: at(gemm.left, 1, m_steps, first.0), rows: (m, m_steps[1]), columns: (depth, k_steps[1]) };
                let columns = Side { from: at(gemm.right, 2, n_steps, first.1), rows: (depth, k_steps[2]), columns: (n, n_steps[2]) };
                // SAFETY: the contract; the blocks are as large as these parts of the sides.
                unsafe {
                    let (left_row, left_column) = rows.widen(gemm.nest.operands[gemm.left].dtype, left);
                    let (right_row, right_column) = columns.widen(gemm.nest.operands[gemm.right].dtype, right);
                    gemm::gemm::<f32>(
                        m,
                        n,
                        depth,
                        sum.as_mut_ptr(),
                        1,
                        n as isize,
                        begun,
                        left.as_ptr(),
                        left_column,
                        left_row,
                        right.as_ptr(),
                        right_column,
                        right_row,
                        1.0,
                        gemm.scale as f32,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
                begun = true;
            }
            cursor.advance(&gemm.inner);
        }
    }
}

impl Side {
    /// The block as f32, along whichever of its lines is contiguous. Gives the steps from row to row and column to column.
    ///
    /// # Safety
    /// The block is valid for reads.
    unsafe fn widen(&self, dtype: partita_ir::dtype::DType, to: &mut [f32]) -> (isize, isize) {
        let ((rows, row_step), (columns, column_step)) = (self.rows, self.columns);
        let by_rows = column_step.abs() == 1 || row_step.abs() != 1;
        let ((lines, step), (length, along)) = if by_rows { (self.rows, self.columns) } else { (self.columns, self.rows) };
        let width = dtype.bytes(1) as isize;
        for (line, to) in to[..rows * columns].chunks_exact_mut(length).enumerate().take(lines) {
            // SAFETY: the contract.
            unsafe { widen(dtype, self.from.offset(step * line as isize * width), along, to) };
        }
        if by_rows { (length as isize, 1) } else { (1, length as isize) }
    }
}
