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
#[expect(clippy::too_many_arguments, reason = "a line of the table is a line of arguments")]
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
        result: DType::F32,
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
    let threads = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1);
    let pool = Pool::new(threads);
    let p = &pool;
    let sum = Some(Reduce::Sum);
    let product = || Expr::product(2);
    println!("{threads} threads, f32");
    time(p, "matmul NN 2048x256x1024", "mnk", &[2048, 1024, 256], &["mk", "kn"], "mn", sum, product());
    time(p, "matmul NT 2048x1024x256", "mnk", &[2048, 256, 1024], &["mk", "nk"], "mn", sum, product());
    time(p, "matmul TN 256x2048x1024", "mnk", &[256, 1024, 2048], &["km", "kn"], "mn", sum, product());
    time(p, "matmul NN 2048x256x256", "mnk", &[2048, 256, 256], &["mk", "kn"], "mn", sum, product());
    time(p, "matmul NN 512x512x512", "mnk", &[512, 512, 512], &["mk", "kn"], "mn", sum, product());
    time(p, "logits NT 2048x256x8192", "mnk", &[2048, 8192, 256], &["mk", "nk"], "mn", sum, product());
    time(p, "logits gradient NN 2048x8192x256", "mnk", &[2048, 256, 8192], &["mk", "kn"], "mn", sum, product());
    time(p, "table gradient TN 8192x2048x256", "mnk", &[8192, 256, 2048], &["km", "kn"], "mn", sum, product());
    let head = [8, 256, 4, 256, 64];
    time(p, "scores bshd bthd -> bhst", "bshtd", &head, &["bshd", "bthd"], "bhst", sum, product());
    time(p, "attention bhst bthd -> bshd", "bshtd", &head, &["bhst", "bthd"], "bshd", sum, product());
    time(p, "dk bhst bshd -> bthd", "bshtd", &head, &["bhst", "bshd"], "bthd", sum, product());
    let scores = [8, 4, 256, 256];
    let masked = index(3).at_most(index(2)).select(x(0) * lit(0.125), lit(f64::NEG_INFINITY));
    time(p, "causal mask [8,4,256,256]", "bhst", &scores, &["bhst"], "bhst", None, masked.expr());
    time(p, "softmax logsumexp", "bhst", &scores, &["bhst"], "bhs", Some(Reduce::LogSumExp), x(0).expr());
    let weight = x(1).equal(lit(f64::NEG_INFINITY)).select(lit(0.0), (x(0) - x(1)).exp());
    time(p, "softmax weights", "bhst", &scores, &["bhst", "bhs"], "bhst", None, weight.expr());
    time(p, "softmax gradient dot", "bhst", &scores, &["bhst", "bhst"], "bhs", sum, product());
    time(p, "softmax gradient", "bhst", &scores, &["bhst", "bhst", "bhs"], "bhst", None, (x(0) * (x(1) - x(2))).expr());
    let logits = [2048, 8192];
    time(p, "loss logsumexp [2048,8192]", "tv", &logits, &["tv"], "t", Some(Reduce::LogSumExp), x(0).expr());
    time(p, "loss chosen logit", "tv", &logits, &["t#", "tv"], "t", sum, one_hot(x(1), 1).expr());
    let gradient = (x(1) - x(2)).exp() * x(3) - one_hot(x(3), 1);
    time(p, "loss gradient", "tv", &logits, &["t#", "tv", "t", "t"], "tv", None, gradient.expr());
    let hidden = [2048, 1024];
    time(p, "gelu [2048,1024]", "th", &hidden, &["th"], "th", None, gelu(x(0)).expr());
    let mut slope = gelu(x(0)).expr();
    slope.root = slope.derivative(0);
    let slope = (Formula::graft(&slope.pruned(), vec![x(0)]) * x(1)).expr();
    let simpler = partita_ir::rewrite::simplify(&slope).expr;
    time(p, "gelu gradient as differentiated", "th", &hidden, &["th", "th"], "th", None, slope);
    time(p, "gelu gradient as compiled", "th", &hidden, &["th", "th"], "th", None, simpler);
    time(p, "exp", "th", &hidden, &["th"], "th", None, x(0).exp().expr());
    time(p, "tanh", "th", &hidden, &["th"], "th", None, x(0).tanh().expr());
    time(p, "add", "th", &hidden, &["th", "th"], "th", None, (x(0) + x(1)).expr());
    time(p, "add bias", "th", &hidden, &["th", "h"], "th", None, (x(0) + x(1)).expr());
    time(p, "add [4096,8192] past the caches", "th", &[4096, 8192], &["th", "th"], "th", None, (x(0) + x(1)).expr());
    time(p, "bias gradient [2048,1024] -> [1024]", "th", &hidden, &["th"], "h", sum, x(0).expr());
    time(p, "column sum [2048,8192] -> [8192]", "tv", &logits, &["tv"], "v", sum, x(0).expr());
    time(p, "sum of squares, 2 M", "th", &hidden, &["th"], "", sum, (x(0) * x(0)).expr());
    let model = [2048, 256];
    time(p, "norm squares [2048,256]", "th", &model, &["th", "t"], "t", sum, ((x(0) - x(1)) * (x(0) - x(1))).expr());
    time(p, "norm [2048,256]", "th", &model, &["th", "t", "t", "h"], "th", None, ((x(0) - x(1)) * x(2) * x(3)).expr());
    let dropped = partita_ir::formula::random(1, vec![0, 1]).at_most(lit(0.1)).select(lit(0.0), x(0) * lit(1.0 / 0.9));
    time(p, "dropout [2048,1024]", "th", &hidden, &["th"], "th", None, dropped.expr());
    let m = lit(0.9) * x(1) + lit(0.1) * x(2);
    let v = lit(0.999) * x(3) + lit(0.001) * x(2) * x(2);
    let adam = x(0) - lit(1e-3) * (m * lit(1.1) / ((v * lit(1.01)).sqrt() + lit(1e-8)) + lit(0.01) * x(0));
    time(p, "adam, 2 M", "th", &hidden, &["th", "th", "th", "th"], "th", None, adam.expr());
    time(p, "embedding gather", "tev", &[2048, 256, 8192], &["t#", "ve"], "te", sum, one_hot(x(1), 2).expr());
    time(p, "embedding scatter", "tev", &[2048, 256, 8192], &["t#", "te"], "ve", sum, one_hot(x(1), 2).expr());
    time(p, "transpose [2048,1024]", "ab", &hidden, &["ab"], "ba", None, x(0).expr());
    time(p, "permute bshd -> bhsd", "bshd", &[8, 256, 4, 64], &["bshd"], "bhsd", None, x(0).expr());
    time(p, "transposed operand [2048,1024]", "ab", &hidden, &["ab", "ba"], "ab", None, (x(0) + x(1)).expr());
    let turn = index(3).equal(index(5)).select(x(1), index(3).below(index(5)).select(-x(2), x(2)));
    let rotary = ["bshoe", "se", "se"];
    time(p, "rotary [8,256,4,2x32]", "bshpeo", &[8, 256, 4, 2, 32, 2], &rotary, "bshpe", sum, (x(0) * turn).expr());
    time(p, "rows of 8: softmax over experts", "te", &[4096, 8], &["te"], "t", Some(Reduce::LogSumExp), x(0).expr());
    time(p, "rows of 8: weights", "te", &[4096, 8], &["te", "t"], "te", None, (x(0) * x(1)).exp().expr());
    time(p, "scalar", "a", &[1], &["a", "a"], "a", None, (x(0) + x(1)).expr());
}
