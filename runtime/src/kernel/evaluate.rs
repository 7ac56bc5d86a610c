//! Evaluating an expression row by row and block by block: what maps, folds, gathers and scatters share.

use std::mem::MaybeUninit;

use half::{bf16, f16};
use partita_ir::dtype::DType;
use partita_ir::random::uniform;
use partita_ir::scalar::Expr;
use partita_ir::work::LaneStep;

use super::Launch;
use super::nest::{Cursor, Nest};
use super::stored::Stored;
use super::tape::{Arg, ScalarStep, Tape, Tile};
use super::vector::block::Frame;
use super::vector::{Lane, Routines};

/// Bytes that a block's buffers, operands and result should take: three quarters of a first-level cache of 32 KiB.
const CACHE: usize = 24 << 10;
/// Bytes of buffers that lie on the stack; only enormous expressions need more.
const STACK: usize = 64 << 10;
/// Lanes of a block at most: more no longer make the steps' overhead smaller.
const MOST_LANES: usize = 1024;

/// An expression with the loops that its blocks of lanes run over.
pub struct Program {
    /// The loops.
    pub nest: Nest,
    /// The loops over lanes, of one iteration where there are none.
    pub tile: Tile,
    /// The expression.
    tape: Tape,
    /// For a sum of which one index counts: its loop, and the index.
    choice: Option<(usize, Tape)>,
    /// First column and number of columns of each block of columns.
    blocks: Blocks,
}

/// Blocks of columns. None straddles two runs, so that global indices are affine in each.
enum Blocks {
    Even { count: usize },
    Listed(Vec<(usize, usize)>),
}

/// A block of lanes.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Rows and columns.
    pub shape: (usize, usize),
    /// First row and column.
    start: (usize, usize),
}

impl Block {
    /// Lanes of the block.
    pub fn n(&self) -> usize {
        self.shape.0 * self.shape.1
    }
}

impl Program {
    /// Compiles `value` for lanes of type `T`. `lane` is the loop over columns and `tall` the one over rows with the
    /// number of columns that a block should have; for each that is missing a loop of one iteration is added.
    pub fn new<T: Lane>(
        mut nest: Nest,
        lane: Option<usize>,
        tall: Option<(usize, usize)>,
        value: &Expr,
        choice: Option<(usize, &Expr)>,
    ) -> Self {
        let mut or_unit = |index: Option<usize>| {
            index.unwrap_or_else(|| {
                let unit = super::nest::Loop::unit(nest.base.len());
                nest.loops.push(unit);
                nest.loops.len() - 1
            })
        };
        let (lane, row) = (or_unit(lane), or_unit(tall.map(|(index, _)| index)));
        let count = nest.loops[lane].count;
        let mut tile = Tile { lane, tall: row, rows: 1, columns: count };
        if let Some((_, columns)) = tall {
            // what is read in place is only known for a shape; any with more rows than one does
            (tile.rows, tile.columns) = (2, columns.min(count));
        }
        let draft = Tape::new::<T>(value, &nest, &tile);
        // the buffers, the operands in place and what is written or folded into
        let per_lane = (draft.buffers + draft.borrows() + 1) * size_of::<T>();
        let width = (CACHE / per_lane / 32 * 32).clamp(32, MOST_LANES);
        if tall.is_some() {
            tile.rows = (width / tile.columns).clamp(1, nest.loops[row].count);
        } else {
            tile.columns = width.min(count);
        }
        let tape = Tape::new::<T>(value, &nest, &tile);
        let choice = choice.map(|(index, expr)| (index, Tape::new::<T>(expr, &nest, &tile)));
        let along = &nest.loops[lane];
        let blocks = if along.runs.len() == 1 {
            Blocks::Even { count: count.div_ceil(tile.columns) }
        } else {
            let columns = tile.columns;
            let of_run = |start: usize, count: usize| (0..count).step_by(columns).map(move |at| (start + at, columns.min(count - at)));
            Blocks::Listed(along.runs.iter().flat_map(|run| of_run(run.start, run.count)).collect())
        };
        Self { nest, tile, tape, choice, blocks }
    }

    /// Lanes of a block at most.
    pub fn width(&self) -> usize {
        self.tile.rows * self.tile.columns
    }

    /// The tape's steps by kind, on `points` lanes.
    pub fn steps(&self, points: u64) -> Vec<(LaneStep, u64)> {
        super::work::steps(&self.tape, &self.nest, &self.tile, points)
    }

    /// Blocks of columns.
    fn column_blocks(&self) -> usize {
        match &self.blocks {
            Blocks::Even { count } => *count,
            Blocks::Listed(list) => list.len(),
        }
    }

    /// The number of blocks.
    pub fn n_blocks(&self) -> usize {
        self.nest.loops[self.tile.tall].count.div_ceil(self.tile.rows) * self.column_blocks()
    }

    /// A block by its number.
    #[inline]
    pub fn block(&self, block: usize) -> Block {
        let column_blocks = self.column_blocks();
        let (tall, block) = if column_blocks == 1 { (block, 0) } else { (block / column_blocks, block % column_blocks) };
        let row = tall * self.tile.rows;
        let rows = self.tile.rows.min(self.nest.loops[self.tile.tall].count - row);
        let (column, columns) = match &self.blocks {
            Blocks::Even { .. } => {
                let column = block * self.tile.columns;
                (column, self.tile.columns.min(self.nest.loops[self.tile.lane].count - column))
            }
            Blocks::Listed(list) => list[block],
        };
        Block { shape: (rows, columns), start: (row, column) }
    }

    /// Whether the result's elements of a block lie side by side.
    pub fn is_result_dense(&self) -> bool {
        self.tile.is_dense(&self.nest, 0)
    }

    /// How far from that of a block's first lane the result of another lies.
    #[inline]
    pub fn result_offset(&self, block: Block, lane: usize) -> isize {
        let (tall, step) = (self.nest.loops[self.tile.tall].step(0) as isize, self.nest.loops[self.tile.lane].step(0) as isize);
        tall * (lane / block.shape.1) as isize + step * (lane % block.shape.1) as isize
    }

    /// Stores the lanes of a block, or adds them, to the result's elements from `to` on.
    ///
    /// # Safety
    /// `from` is valid for the block's lanes, `to` for its elements of the result.
    pub unsafe fn store<T: Lane, R: Stored>(&self, from: *const T, block: Block, to: *mut R, accumulate: bool) {
        let (tall, step) = (self.nest.loops[self.tile.tall].step(0) as isize, self.nest.loops[self.tile.lane].step(0) as isize);
        for row in 0..block.shape.0 {
            // SAFETY: the contract.
            unsafe {
                let from = from.add(row * block.shape.1);
                let to = to.offset(tall * row as isize);
                if T::DTYPE == R::DTYPE && step == 1 && !accumulate {
                    std::ptr::copy(from.cast::<R>(), to, block.shape.1);
                    continue;
                }
                if T::DTYPE == DType::F32 && step == 1 && !accumulate {
                    let lanes = std::slice::from_raw_parts(from.cast::<f32>(), block.shape.1);
                    R::narrow(std::slice::from_raw_parts_mut(to, block.shape.1), lanes);
                    continue;
                }
                for column in 0..block.shape.1 {
                    let to = to.offset(step * column as isize);
                    let before = if accumulate { (*to).to_f64() } else { 0.0 };
                    *to = R::from_f64(before + (*from.add(column)).to_f64());
                }
            }
        }
    }

    /// Whether this is a sum of which one index counts, and the loop over it.
    pub fn choice(&self) -> Option<usize> {
        self.choice.as_ref().map(|(index, _)| *index)
    }

    /// Calls `work` with memory for one part: the tape's buffers, then two of T and one of f64 per lane.
    pub fn with_memory<T: Lane>(&self, work: impl FnOnce(Memory<T>)) {
        #[repr(align(64))]
        struct Line {
            _bytes: [u8; 64],
        }
        // each buffer a whole number of cache lines
        let width = self.width().next_multiple_of(16);
        let bytes = width * ((self.tape.buffers + 2) * size_of::<T>() + size_of::<f64>());
        let mut stack = MaybeUninit::<[Line; STACK / 64]>::uninit();
        let mut heap = Box::<[Line]>::new_uninit_slice(if bytes <= STACK { 0 } else { bytes.div_ceil(64) });
        let start: *mut u8 = if bytes <= STACK { stack.as_mut_ptr().cast() } else { heap.as_mut_ptr().cast() };
        // SAFETY: within the `bytes` bytes at `start`, aligned to 64; all are written, as 0, before they are read.
        unsafe {
            start.write_bytes(0, bytes);
            let buffers: *mut T = start.cast();
            let first = buffers.add(self.tape.buffers * width);
            let second = first.add(width);
            work(Memory { buffers, stride: width, first, second, wide: second.add(width).cast() });
        }
    }
}

/// Memory for one part. All of it is initialised.
#[derive(Clone, Copy)]
pub struct Memory<T> {
    buffers: *mut T,
    stride: usize,
    /// One number per lane.
    pub first: *mut T,
    /// One number per lane.
    pub second: *mut T,
    /// One f64 per lane.
    pub wide: *mut f64,
}

impl<T: Lane> Memory<T> {
    /// The first `n` numbers per lane, the second, and the wide ones.
    ///
    /// # Safety
    /// `n` is at most the program's width, and no two results of this are alive at a time.
    pub unsafe fn lanes<'a>(self, n: usize) -> (&'a mut [T], &'a mut [T], &'a mut [f64]) {
        // SAFETY: the three arrays are disjoint and initialised.
        unsafe {
            let slice = |start| std::slice::from_raw_parts_mut(start, n);
            (slice(self.first), slice(self.second), std::slice::from_raw_parts_mut(self.wide, n))
        }
    }
}

/// A place in a program's loops with what is known there.
pub struct Evaluator<'a, T> {
    program: &'a Program,
    launch: &'a Launch<'a>,
    routines: &'a Routines<T>,
    memory: Memory<T>,
    /// Where the loops are.
    pub cursor: Cursor<'a>,
    scalars: Vec<f64>,
    chosen: Vec<f64>,
    vectors: Vec<*const T>,
}

impl<'a, T: Lane> Evaluator<'a, T> {
    /// At the first iteration.
    pub fn new(program: &'a Program, launch: &'a Launch<'a>, routines: &'a Routines<T>, memory: Memory<T>) -> Self {
        Self {
            program,
            launch,
            routines,
            memory,
            cursor: Cursor::new(&program.nest),
            scalars: Vec::with_capacity(program.tape.scalars.len()),
            chosen: Vec::new(),
            vectors: vec![std::ptr::null(); program.tape.vectors.len()],
        }
    }

    /// The local position of the index that counts here, if it is local.
    ///
    /// # Safety
    /// The launch's contract.
    pub unsafe fn choose(&mut self) -> Option<usize> {
        let (index, tape) = self.program.choice.as_ref()?;
        // SAFETY: the contract.
        unsafe { scalars(tape, &self.program.nest, &self.cursor, self.launch, &mut self.chosen) };
        let Arg::Scalar(root) = tape.root else { unreachable!("the index does not change along the lanes") };
        let value = self.chosen[root];
        let global = value as i64;
        if global as f64 == value { self.program.nest.loops[*index].position(global) } else { None }
    }

    /// Starts a row: every loop but the lanes' is where it shall be. False where a choice finds nothing here.
    ///
    /// # Safety
    /// The launch's contract.
    pub unsafe fn start_row(&mut self) -> bool {
        // SAFETY: the contract.
        unsafe {
            if let Some(index) = self.program.choice() {
                let Some(position) = self.choose() else { return false };
                self.cursor.place(index, position);
            }
            scalars(&self.program.tape, &self.program.nest, &self.cursor, self.launch, &mut self.scalars);
        }
        true
    }

    /// Moves to a block of lanes.
    #[inline]
    pub fn seek_block(&mut self, block: usize) -> Block {
        let block = self.program.block(block);
        self.cursor.place(self.program.tile.tall, block.start.0);
        self.cursor.place(self.program.tile.lane, block.start.1);
        block
    }

    /// Evaluates the block of lanes at which the cursor stands, into `to` unless it is null, and gives where they are.
    ///
    /// # Safety
    /// The launch's contract; a row was started; `to` is valid for the block's lanes and overlaps no operand.
    #[inline]
    pub unsafe fn evaluate(&mut self, block: Block, to: *mut T) -> *const T {
        let program = self.program;
        let n = block.n();
        let at = match program.tape.root {
            Arg::Scalar(root) => {
                let to = if to.is_null() { self.memory.buffers } else { to };
                // SAFETY: room for n lanes.
                unsafe { std::slice::from_raw_parts_mut(to, n) }.fill(T::from_f64(self.scalars[root]));
                return to;
            }
            Arg::Vector(root) => {
                let mut frame = Frame {
                    tape: &program.tape,
                    nest: &program.nest,
                    lane: &program.nest.loops[program.tile.lane],
                    tall: &program.nest.loops[program.tile.tall],
                    shape: block.shape,
                    operands: self.launch.operands,
                    streams: &self.launch.streams,
                    counters: &self.cursor.counters,
                    first: (self.cursor.global(program.tile.tall), self.cursor.global(program.tile.lane)),
                    scalars: &self.scalars,
                    vectors: &mut self.vectors,
                    buffers: self.memory.buffers,
                    stride: self.memory.stride,
                    root_to: to,
                };
                // SAFETY: the contract; the routines are those of this machine.
                unsafe { (self.routines.block)(&mut frame, n) };
                self.vectors[root]
            }
        };
        if !to.is_null() && at != to {
            // SAFETY: the root is an operand in place or another vector: n lanes apart from `to`.
            unsafe { std::ptr::copy_nonoverlapping(at, to, n) };
            return to;
        }
        at
    }

    /// The address of the result here, in elements.
    #[inline]
    pub fn result(&self) -> isize {
        self.cursor.counters[0] as isize
    }
}

/// Runs the scalar steps of a tape.
///
/// # Safety
/// The launch's contract.
unsafe fn scalars(tape: &Tape, nest: &Nest, cursor: &Cursor<'_>, launch: &Launch<'_>, out: &mut Vec<f64>) {
    out.clear();
    for step in &tape.scalars {
        let value = match *step {
            ScalarStep::Const(value) => value,
            // SAFETY: the contract.
            ScalarStep::Operand(operand) => unsafe { element(nest, cursor, launch, operand) },
            ScalarStep::Index(index) => cursor.global(index) as f64,
            ScalarStep::Draw(draw) => uniform(launch.streams[draw], cursor.counters[nest.draws[draw].counter] as u64),
            ScalarStep::Unary(op, a) => op.eval(out[a]),
            ScalarStep::Binary(op, a, b) => op.eval(out[a], out[b]),
            ScalarStep::Select(c, a, b) => {
                if out[c] != 0.0 {
                    out[a]
                } else {
                    out[b]
                }
            }
        };
        out.push(value);
    }
}

/// One element of an operand, 0 outside.
///
/// # Safety
/// The launch's contract.
unsafe fn element(nest: &Nest, cursor: &Cursor<'_>, launch: &Launch<'_>, operand: usize) -> f64 {
    let view = &nest.operands[operand];
    if view.guards.iter().any(|guard| !(0..guard.size).contains(&cursor.counters[guard.counter])) {
        return 0.0;
    }
    let at = cursor.counters[1 + operand] as isize;
    let base = launch.operands[operand];
    // SAFETY: the contract: the address is within the operand.
    unsafe {
        match view.dtype {
            DType::F32 => f64::from(*base.cast::<f32>().offset(at)),
            DType::F64 => *base.cast::<f64>().offset(at),
            DType::Bf16 => (*base.cast::<bf16>().offset(at)).to_f64(),
            DType::Fp16 => (*base.cast::<f16>().offset(at)).to_f64(),
            _ => f64::from(*base.cast::<i32>().offset(at)),
        }
    }
}
