//! Speeds of the kernels that training spends its time in: `cargo run --release --example kernels [threads]`.
//!
//! GB/s count what the operands and the result hold, each read or written once.
#![allow(unsafe_code, reason = "kernels run on raw buffers")]

use std::time::Instant;

use partita_ir::dtype::DType;
use partita_ir::formula::{Formula, index, lit, x};
use partita_ir::id::AxisId;
use partita_ir::library::gelu;
use partita_ir::random::DrawContext;
use partita_ir::rule::{Access, DimAccess, Reduce, Rule};
use partita_ir::scalar::Expr;
use partita_runtime::kernel::{Extent, Kernel, LaunchSpec};
use partita_runtime::pool::Pool;

/// Times a rule of whole factors. Factors are letters, an operand is its dimensions; one with a `#` holds integers.
fn time(pool: &Pool, name: &str, factors: &str, sizes: &[u64], operands: &[&str], result: &str, reduce: Option<Reduce>, expr: Expr) {
    let of = |word: &str| -> Access {
        word.chars().filter(|c| *c != '#').map(|c| DimAccess::factor(factors.find(c).expect("a factor has this letter"))).collect()
    };
    let accesses: Vec<Access> = operands.iter().map(|word| of(word)).collect();
    let shape = |access: &Access| -> Vec<u64> { access.iter().map(|dim| sizes[dim.terms[0].factor]).collect() };
    let shapes: Vec<Vec<u64>> = accesses.iter().map(shape).collect();
    let dtypes: Vec<DType> = operands.iter().map(|word| if word.contains('#') { DType::I32 } else { DType::F32 }).collect();
    let axes = (0..sizes.len() as u32).map(AxisId).collect();
    let rule = Rule { factors: axes, operands: accesses, result: of(result), reduce, expr };
    let spec = LaunchSpec {
        rule: &rule,
        extents: sizes.iter().map(|size| Extent::whole(*size)).collect(),
        operand_dtypes: &dtypes,
        operand_shapes: shapes.clone(),
        compute: DType::F32,
    };
    let kernel = Kernel::prepare(&spec);
    let count = |shape: &Vec<u64>| shape.iter().product::<u64>() as usize;
    let buffers: Vec<Vec<u32>> = shapes
        .iter()
        .zip(&dtypes)
        .map(|(shape, dtype)| {
            let value = |n: usize| match dtype {
                DType::I32 => (n as u32).wrapping_mul(2_654_435_761) % 8192,
                _ => (((n.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 500.0 - 2.0).to_bits(),
            };
            (0..count(shape)).map(value).collect()
        })
        .collect();
    let elements = count(&spec.local_result_shape());
    let mut out = vec![0f32; elements];
    let mut scratch = vec![[0u64; 8]; kernel.scratch_bytes() as usize / 64 + 2];
    let start = scratch.as_mut_ptr().cast::<u8>();
    let start = start.wrapping_add(start.align_offset(64));
    let pointers: Vec<*const u8> = buffers.iter().map(|buffer| buffer.as_ptr().cast()).collect();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.4 {
        let before = Instant::now();
        // SAFETY: the buffers have the shapes that the spec gives.
        unsafe { kernel.run(&pointers, out.as_mut_ptr().cast(), start, false, DrawContext::default(), pool) };
        best = best.min(before.elapsed().as_secs_f64());
    }
    let points: u64 = sizes.iter().product();
    let bytes = 4 * (elements + buffers.iter().map(Vec::len).sum::<usize>());
    let speed = match kernel.flops() {
        0 => format!("{:7.2} GB/s {:7.3} G points/s", bytes as f64 / best * 1e-9, points as f64 / best * 1e-9),
        flops => format!("{:7.1} GFLOP/s", flops as f64 / best * 1e-9),
    };
    println!("{name:<44} {:<13} {:9.1} us {speed}", kernel.kind(), best * 1e6);
}

fn one_hot(value: Formula, factor: usize) -> Formula {
    x(0).equal(index(factor)).select(value, lit(0.0))
}

fn main() {
    let pool = Pool::new(1);
    let p = &pool;
    let t = |name: &str, f: Formula| time(p, name, "th", &[64, 1024], &["th", "th", "t"], "th", None, f.expr());
    let b = || x(0) + x(1) + x(2);
    t("base x0+x1+x2s", b());
    t("+mul", b() * x(0));
    t("+mul mul", b() * x(0) * x(1));
    t("+mul s", b() * lit(1.5));
    t("+div", b() / x(1));
    t("+sqrt", b().sqrt());
    t("+fma", x(0) * x(1) + x(0) + x(2));
    t("+max", b().max(x(1)));
    t("+le", b().at_most(x(1)));
    t("+le s", b().at_most(x(2)));
    t("+eq s", b().equal(x(2)));
    t("+le sel vv", b().at_most(x(1)).select(x(0), x(1)));
    t("+le sel vs", b().at_most(x(1)).select(x(0), x(2)));
    t("+le sel ss", b().at_most(x(1)).select(lit(3.0), x(2)));
    t("+index", b() + index(1));
    t("+exp", b().exp());
    t("+log", b().log());
    t("+tanh", b().tanh());
    t("+sigmoid", b().sigmoid());
    t("+sin", b().unary(partita_ir::scalar::Unary::Sin));
    t("+erf", b().unary(partita_ir::scalar::Unary::Erf));
    t("+floor", b().unary(partita_ir::scalar::Unary::Floor));
    t("+random", b() + partita_ir::formula::random(1, vec![0, 1]));
    t("+pow", b().pow(x(1)));
    let _ = (gelu(x(0)), Reduce::Sum, one_hot(x(0), 1));
}
