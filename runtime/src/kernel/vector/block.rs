//! The steps of a tape over one block of lanes.

use half::{bf16, f16};
use partita_ir::dtype::DType;
use partita_ir::random::uniform_bits;
use partita_ir::scalar::{Binary, Unary};

use super::super::nest::{Loop, Nest};
use super::super::stored::Stored;
use super::super::tape::{Arg, Fused, Tape, VectorOp};
use super::{Isa, Lane};

/// What the steps read and write.
pub struct Frame<'a, T> {
    /// The tape.
    pub tape: &'a Tape,
    /// The nest that it was compiled for.
    pub nest: &'a Nest,
    /// The loop over columns.
    pub lane: &'a Loop,
    /// The loop over rows.
    pub tall: &'a Loop,
    /// Rows and columns of the block.
    pub shape: (usize, usize),
    /// Start of each operand.
    pub operands: &'a [*const u8],
    /// Stream of each draw.
    pub streams: &'a [u64],
    /// The counters at the first lane of the block.
    pub counters: &'a [i64],
    /// Global indices of the loops over rows and columns at the first lane.
    pub first: (i64, i64),
    /// Results of the scalar steps.
    pub scalars: &'a [f64],
    /// Where each vector is: written by the steps.
    pub vectors: &'a mut [*const T],
    /// `tape.buffers` buffers of `stride` lanes.
    pub buffers: *mut T,
    /// Lanes of a buffer.
    pub stride: usize,
    /// Where the root goes instead of its buffer, unless null; then no operand may overlap it.
    pub root_to: *mut T,
}

/// `out[i] = f(a[i])`
macro_rules! each {
    ($out:expr, $f:expr, $a:expr) => {
        for (out, a) in $out.iter_mut().zip($a) {
            *out = $f(*a);
        }
    };
}

/// Runs the vector steps over `n` lanes and leaves the address of the root's values, if the root is a vector, in
/// `frame.vectors`.
///
/// # Safety
/// Operands are valid for reads at the counters' addresses for `n` lanes, buffers for `stride >= n` lanes each,
/// `root_to` for writes of `n` lanes.
#[inline(always)]
pub unsafe fn block<T: Lane, I: Isa>(frame: &mut Frame<'_, T>, n: usize) {
    for (number, step) in frame.tape.vectors.iter().enumerate() {
        if let VectorOp::Borrow(operand) = step.op {
            // SAFETY: the contract: the address is within the operand.
            frame.vectors[number] = unsafe { frame.operands[operand].cast::<T>().offset(frame.counters[1 + operand] as isize) };
            continue;
        }
        if let VectorOp::Select(Arg::Scalar(c), a, b) = step.op
            && let Arg::Vector(chosen) = if frame.scalars[c] != 0.0 { a } else { b }
        {
            frame.vectors[number] = frame.vectors[chosen];
            continue;
        }
        let to = if frame.tape.root == Arg::Vector(number) && !frame.root_to.is_null() {
            frame.root_to
        } else {
            // SAFETY: the contract: there are `tape.buffers` buffers.
            unsafe { frame.buffers.add(step.buffer * frame.stride) }
        };
        // SAFETY: a buffer has room for n lanes, and no vector that this step reads lies in it.
        let out = unsafe { std::slice::from_raw_parts_mut(to, n) };
        let vectors = &*frame.vectors;
        // SAFETY: every vector was written, n lanes of it, by an earlier step.
        let vector = |number: usize| unsafe { std::slice::from_raw_parts(vectors[number], n) };
        let scalar = |number: usize| T::from_f64(frame.scalars[number]);
        match step.op {
            VectorOp::Borrow(_) => {}
            // SAFETY: the contract.
            VectorOp::Read(operand) => unsafe { read(out, frame, operand) },
            VectorOp::Column => {
                let (first, columns) = (frame.first.1, frame.shape.1);
                let (row, rest) = out.split_at_mut(columns);
                if first + (columns as i64) < 1 << 24 {
                    // exact in f32
                    row.iter_mut().enumerate().for_each(|(lane, out)| *out = T::from_i32(first as i32 + lane as i32));
                } else {
                    row.iter_mut().enumerate().for_each(|(lane, out)| *out = T::from_f64((first + lane as i64) as f64));
                }
                rest.chunks_exact_mut(columns).for_each(|other| other.copy_from_slice(row));
            }
            VectorOp::Row => {
                for (row, out) in out.chunks_exact_mut(frame.shape.1).enumerate() {
                    out.fill(T::from_f64((frame.first.0 + row as i64) as f64));
                }
            }
            VectorOp::Draw(draw) => {
                let counter = frame.nest.draws[draw].counter;
                let (stream, step, tall) = (frame.streams[draw], frame.lane.step(counter) as u64, frame.tall.step(counter) as u64);
                let mut element = frame.counters[counter] as u64;
                for row in out.chunks_exact_mut(frame.shape.1) {
                    for (lane, out) in row.iter_mut().enumerate() {
                        *out = T::from_bits24(uniform_bits(stream, element.wrapping_add(step.wrapping_mul(lane as u64))));
                    }
                    element = element.wrapping_add(tall);
                }
            }
            VectorOp::Unary(op, a) => unary::<T, I>(op, out, vector(a)),
            VectorOp::Binary(op, a, b) => match (a, b) {
                (Arg::Vector(a), Arg::Vector(b)) => {
                    let (a, b) = (vector(a), vector(b));
                    binary(op, out, |i| a[i], |i| b[i], (a.len(), b.len()));
                }
                (Arg::Vector(a), Arg::Scalar(b)) => {
                    let (a, b) = (vector(a), scalar(b));
                    binary(op, out, |i| a[i], |_| b, (a.len(), usize::MAX));
                }
                (Arg::Scalar(a), Arg::Vector(b)) => {
                    let (a, b) = (scalar(a), vector(b));
                    binary(op, out, |_| a, |i| b[i], (usize::MAX, b.len()));
                }
                (Arg::Scalar(_), Arg::Scalar(_)) => unreachable!("a function of scalars is a scalar step"),
            },
            VectorOp::Fused(op, a, b, c) => {
                let a = vector(a);
                match (b, c) {
                    (Arg::Vector(b), Arg::Vector(c)) => {
                        let (b, c) = (vector(b), vector(c));
                        fused::<T, I>(op, out, a, |i| b[i], |i| c[i], (b.len(), c.len()));
                    }
                    (Arg::Vector(b), Arg::Scalar(c)) => {
                        let (b, c) = (vector(b), scalar(c));
                        fused::<T, I>(op, out, a, |i| b[i], |_| c, (b.len(), usize::MAX));
                    }
                    (Arg::Scalar(b), Arg::Vector(c)) => {
                        let (b, c) = (scalar(b), vector(c));
                        fused::<T, I>(op, out, a, |_| b, |i| c[i], (usize::MAX, c.len()));
                    }
                    (Arg::Scalar(b), Arg::Scalar(c)) => {
                        let (b, c) = (scalar(b), scalar(c));
                        fused::<T, I>(op, out, a, |_| b, |_| c, (usize::MAX, usize::MAX));
                    }
                }
            }
            VectorOp::Select(Arg::Scalar(c), a, b) => {
                let Arg::Scalar(chosen) = (if frame.scalars[c] != 0.0 { a } else { b }) else {
                    unreachable!("a chosen vector was aliased above")
                };
                out.fill(scalar(chosen));
            }
            VectorOp::Select(Arg::Vector(c), a, b) => {
                let c = vector(c);
                match (a, b) {
                    (Arg::Vector(a), Arg::Vector(b)) => {
                        let (a, b) = (vector(a), vector(b));
                        select(out, c, |i| a[i], |i| b[i], (a.len(), b.len()));
                    }
                    (Arg::Vector(a), Arg::Scalar(b)) => {
                        let (a, b) = (vector(a), scalar(b));
                        select(out, c, |i| a[i], |_| b, (a.len(), usize::MAX));
                    }
                    (Arg::Scalar(a), Arg::Vector(b)) => {
                        let (a, b) = (scalar(a), vector(b));
                        select(out, c, |_| a, |i| b[i], (usize::MAX, b.len()));
                    }
                    (Arg::Scalar(a), Arg::Scalar(b)) => {
                        let (a, b) = (scalar(a), scalar(b));
                        select(out, c, |_| a, |_| b, (usize::MAX, usize::MAX));
                    }
                }
            }
        }
        frame.vectors[number] = to;
    }
}

/// Copies an operand: any type, any strides, 0 outside its bounds.
///
/// # Safety
/// That of [`block`].
#[inline(always)]
unsafe fn read<T: Lane>(out: &mut [T], frame: &Frame<'_, T>, operand: usize) {
    let view = &frame.nest.operands[operand];
    let (step, tall) = (frame.lane.step(1 + operand) as isize, frame.tall.step(1 + operand) as isize);
    let start = frame.counters[1 + operand] as isize;
    let base = frame.operands[operand];
    let columns = frame.shape.1;
    // SAFETY: the contract, for lanes within the bounds.
    let copy = |out: &mut [T], start: isize| unsafe {
        match view.dtype {
            DType::F32 => copy(out, base.cast::<f32>().offset(start), step, |x| T::from_f64(f64::from(x))),
            DType::F64 => copy(out, base.cast::<f64>().offset(start), step, T::from_f64),
            DType::I32 => copy(out, base.cast::<i32>().offset(start), step, T::from_i32),
            DType::Bf16 => copy(out, base.cast::<bf16>().offset(start), step, |x| T::from_f64(x.to_f64())),
            DType::Fp16 if step == 1 => widen_all(out, std::slice::from_raw_parts(base.cast::<f16>().offset(start), out.len())),
            DType::Fp16 => copy(out, base.cast::<f16>().offset(start), step, |x| T::from_f64(x.to_f64())),
            _ => unreachable!("`Kernel::prepare` takes stored types alone"),
        }
    };
    if view.guards.is_empty() {
        if tall == 1 && step != 1 && view.dtype == T::DTYPE {
            // down the columns, so that each cache line of the operand is read once; all of them are asked for first,
            // since no hardware foresees such strides
            for column in 0..columns {
                // SAFETY: the contract.
                unsafe {
                    let from = base.cast::<T>().offset(start + step * column as isize);
                    from.read_volatile();
                    from.add(frame.shape.0 - 1).read_volatile();
                }
            }
            for column in 0..columns {
                // SAFETY: the contract.
                let from = unsafe { base.cast::<T>().offset(start + step * column as isize) };
                for (row, out) in out[column..].iter_mut().step_by(columns).enumerate() {
                    // SAFETY: the contract.
                    *out = unsafe { *from.add(row) };
                }
            }
        } else {
            out.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| copy(out, start + tall * row as isize));
        }
        return;
    }
    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
        let (mut from, mut until) = (0, columns as i64);
        for guard in &view.guards {
            let step = frame.lane.step(guard.counter);
            let index = frame.counters[guard.counter] + frame.tall.step(guard.counter) * row as i64;
            // the lanes with 0 <= index + step · lane < size
            let (low, high) = match step.signum() {
                0 if (0..guard.size).contains(&index) => continue,
                0 => (0, 0),
                1 => ((-index + step - 1).div_euclid(step), (guard.size - index + step - 1).div_euclid(step)),
                _ => ((index - guard.size).div_euclid(-step) + 1, index.div_euclid(-step) + 1),
            };
            (from, until) = (from.max(low), until.min(high));
        }
        if from >= until {
            out.fill(T::ZERO);
            continue;
        }
        let (from, until) = (from as usize, until as usize);
        out[..from].fill(T::ZERO);
        out[until..].fill(T::ZERO);
        copy(&mut out[from..until], start + tall * row as isize + step * from as isize);
    }
}

/// Numbers of half precision, some at a time: converting is one instruction for eight where the processor has it.
#[inline(always)]
fn widen_all<T: Lane>(out: &mut [T], from: &[f16]) {
    let mut wide = [0.0; 64];
    for (out, from) in out.chunks_mut(wide.len()).zip(from.chunks(64)) {
        let wide = &mut wide[..from.len()];
        f16::widen(wide, from);
        out.iter_mut().zip(wide).for_each(|(out, x)| *out = T::from_f64(f64::from(*x)));
    }
}

/// # Safety
/// `from` is valid for reads at multiples of `step` for all of `out`.
#[inline(always)]
unsafe fn copy<T: Lane, S: Copy>(out: &mut [T], from: *const S, step: isize, convert: impl Fn(S) -> T) {
    if step == 1 {
        // SAFETY: the contract with step 1.
        let from = unsafe { std::slice::from_raw_parts(from, out.len()) };
        for (out, from) in out.iter_mut().zip(from) {
            *out = convert(*from);
        }
    } else if step == 0 {
        // SAFETY: the contract.
        out.fill(convert(unsafe { *from }));
    } else {
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the contract.
            *out = convert(unsafe { *from.offset(step * lane as isize) });
        }
    }
}

#[inline(always)]
fn unary<T: Lane, I: Isa>(op: Unary, out: &mut [T], a: &[T]) {
    match op {
        Unary::Neg => each!(out, |x: T| -x, a),
        Unary::Exp => each!(out, |x: T| x.exp::<I>(), a),
        Unary::Log => each!(out, |x: T| x.log::<I>(), a),
        Unary::Sqrt => each!(out, |x: T| x.sqrt(), a),
        Unary::Rsqrt => each!(out, |x: T| T::ONE / x.sqrt(), a),
        Unary::Tanh => each!(out, |x: T| x.tanh::<I>(), a),
        Unary::Sin if a.iter().all(|x| x.near()) => each!(out, |x: T| x.sin::<I>(), a),
        Unary::Cos if a.iter().all(|x| x.near()) => each!(out, |x: T| x.cos::<I>(), a),
        Unary::Sin | Unary::Cos => each!(out, |x: T| T::from_f64(op.eval(x.to_f64())), a),
        Unary::Abs => each!(out, |x: T| x.abs(), a),
        Unary::Floor => each!(out, |x: T| x.floor(), a),
        Unary::Sign => {
            each!(
                out,
                |x: T| {
                    let positive = if x > T::ZERO { T::ONE } else { T::ZERO };
                    if x < T::ZERO { -T::ONE } else { positive }
                },
                a
            )
        }
        Unary::Not => each!(out, |x: T| truth(x == T::ZERO), a),
        Unary::Sigmoid => each!(out, |x: T| x.sigmoid::<I>(), a),
        Unary::Erf => each!(out, |x: T| x.erf::<I>(), a),
    }
}

#[inline(always)]
fn truth<T: Lane>(holds: bool) -> T {
    if holds { T::ONE } else { T::ZERO }
}

/// `out[i] = op(a(i), b(i))`; `lens` are the lanes that `a` and `b` have, all of `out`'s.
#[inline(always)]
fn binary<T: Lane>(op: Binary, out: &mut [T], a: impl Fn(usize) -> T, b: impl Fn(usize) -> T, lens: (usize, usize)) {
    let n = out.len();
    assert!(n <= lens.0 && n <= lens.1, "an argument has as many lanes as the result");
    macro_rules! go {
        ($f:expr) => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = $f(a(i), b(i));
            }
        };
    }
    match op {
        Binary::Add => go!(|a, b| a + b),
        Binary::Sub => go!(|a, b| a - b),
        Binary::Mul => go!(|a, b| a * b),
        Binary::Div => go!(|a, b| a / b),
        Binary::Pow => go!(|a: T, b| a.pow(b)),
        // a NaN is neither the larger nor the smaller
        Binary::Max => go!(|a: T, b: T| {
            let larger = if a > b { a } else { b };
            if larger.is_nan() { a } else { larger }
        }),
        Binary::Min => go!(|a: T, b: T| {
            let smaller = if a < b { a } else { b };
            if smaller.is_nan() { a } else { smaller }
        }),
        Binary::Lt => go!(|a: T, b| truth(a < b)),
        Binary::Le => go!(|a: T, b| truth(a <= b)),
        Binary::Eq => go!(|a: T, b| truth(a == b)),
        Binary::Ne => go!(|a: T, b| truth(a != b)),
        Binary::Sloped => go!(|a: T, _| a),
    }
}

/// `out[i] = a[i] · b(i) ± c(i)`; `lens` as for [`binary`].
#[inline(always)]
fn fused<T: Lane, I: Isa>(op: Fused, out: &mut [T], a: &[T], b: impl Fn(usize) -> T, c: impl Fn(usize) -> T, lens: (usize, usize)) {
    let n = out.len();
    assert!(n <= lens.0 && n <= lens.1 && n <= a.len(), "an argument has as many lanes as the result");
    macro_rules! go {
        ($f:expr) => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = $f(a[i], b(i), c(i));
            }
        };
    }
    match op {
        Fused::Plus => go!(|a: T, b, c| a.fma::<I>(b, c)),
        Fused::Minus => go!(|a: T, b, c: T| a.fma::<I>(b, -c)),
        Fused::From => go!(|a: T, b: T, c| a.fma::<I>(-b, c)),
    }
}

/// `out[i] = a(i)` where `c[i]` is not 0, else `b(i)`; `lens` as for [`binary`].
#[inline(always)]
fn select<T: Lane>(out: &mut [T], c: &[T], a: impl Fn(usize) -> T, b: impl Fn(usize) -> T, lens: (usize, usize)) {
    let n = out.len();
    assert!(n <= lens.0 && n <= lens.1 && n <= c.len(), "an argument has as many lanes as the result");
    for (i, out) in out.iter_mut().enumerate() {
        let (c, a, b) = (c[i], a(i), b(i));
        *out = if c != T::ZERO { a } else { b };
    }
}
