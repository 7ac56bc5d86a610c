//! Elementary functions of f32 without branches, so that a loop over them becomes vector code.
//!
//! Coefficients of `exp`, `log`, `sin` and `cos` are those of the Cephes library (Moshier, 1992), those of `tanh` are
//! Eigen's, those of `erf` are Juffa's (2018). The tests state the error bounds: at most 4e-7 relative to the exact value.

use super::Isa;

/// 1.5 · 2^23: adding it rounds a small f32 to the nearest integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Evaluates a polynomial, highest coefficient first (Horner).
#[inline(always)]
fn horner<I: Isa, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = I::fma(sum, x, *coefficient);
    }
    sum
}

/// `e^x`; 0 at −∞, ∞ past the largest f32, subnormal results included.
#[inline(always)]
pub fn exp<I: Isa>(x: f32) -> f32 {
    // past these bounds the result is 0 or ∞; comparisons in this order let a NaN through
    let x = if x < -105.0 { -105.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts
    let shifted = I::fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = I::fma(n, -0.693_359_4, x);
    let r = I::fma(n, 2.121_944_4e-4, r);
    let p = horner::<I, 6>(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let y = I::fma(p, r * r, r) + 1.0;
    // 2^n in two factors, each of them a normal number
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    y * power(half) * power(n.wrapping_sub(half))
}

/// Natural logarithm; −∞ at 0, NaN below.
#[inline(always)]
pub fn log<I: Isa>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let shift = if tiny { -23.0 } else { 0.0 };
    // x = 2^e m with sqrt(1/2) <= m < sqrt(2)
    let bits = scaled.to_bits();
    let exponent = (bits.wrapping_sub(0x3F35_04F3) as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub((exponent << 23) as u32));
    let e = exponent as f32 + shift;
    let f = m - 1.0;
    let z = f * f;
    let p = horner::<I, 9>(
        f,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    let y = I::fma(e, -2.121_944_4e-4, f * z * p);
    let y = I::fma(z, -0.5, y);
    let y = I::fma(e, 0.693_359_4, f + y);
    let y = if x < f32::INFINITY { y } else { x };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 { f32::NAN } else { y }
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh<I: Isa>(x: f32) -> f32 {
    let near = if x > 8.0 { 8.0 } else { x };
    let near = if near < -8.0 { -8.0 } else { near };
    let z = near * near;
    let p =
        horner::<I, 7>(z, [-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619_5e-4, 4.893_524_6e-3]);
    let q = horner::<I, 4>(z, [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3]);
    let y = near * p / q;
    // near 0 the ratio is no better than x itself
    let y = if x.abs() < 4e-4 { x } else { y };
    if x.abs() > 8.0 { 1f32.copysign(x) } else { y }
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<I: Isa>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<I>(-x))
}

/// Beyond this the reduction of sines and cosines loses digits.
pub const LARGEST_ANGLE: f32 = 1.0e6;

/// The sine of `x + quarters · π/2`, |x| up to [`LARGEST_ANGLE`].
#[inline(always)]
fn wave<I: Isa>(x: f32, quarters: u32) -> f32 {
    // in f64, so that the remainder has all the digits of an f32; π/2 in two parts, the first of 33 bits
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let wide = f64::from(x);
    let shifted = wide * std::f64::consts::FRAC_2_PI + ROUND;
    let n = shifted - ROUND;
    let r = ((wide - n * 1.570_796_326_734_125_6) - n * 6.077_100_506_506_192e-11) as f32;
    let quadrant = (shifted.to_bits() as u32).wrapping_add(quarters);
    let z = r * r;
    let sin = I::fma(horner::<I, 3>(z, [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]) * z, r, r);
    let cos = I::fma(horner::<I, 3>(z, [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]) * z, z, I::fma(z, -0.5, 1.0));
    let magnitude = if quadrant & 1 == 0 { sin } else { cos };
    f32::from_bits(magnitude.to_bits() ^ ((quadrant & 2) << 30))
}

/// Sine of |x| up to [`LARGEST_ANGLE`].
#[inline(always)]
pub fn sin<I: Isa>(x: f32) -> f32 {
    wave::<I>(x, 0)
}

/// Cosine of |x| up to [`LARGEST_ANGLE`].
#[inline(always)]
pub fn cos<I: Isa>(x: f32) -> f32 {
    wave::<I>(x, 1)
}

/// The error function.
#[inline(always)]
pub fn erf<I: Isa>(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let r = I::fma(-1.728_534_7e-5, a, 3.831_971_3e-4);
    let u = I::fma(-3.883_964_4e-3, a, 2.425_462_2e-2);
    let r = I::fma(r, s, u);
    let r = I::fma(r, a, -1.067_778_8e-1);
    let r = I::fma(r, a, -6.348_467e-1);
    let r = I::fma(r, a, -1.287_175_1e-1);
    // far out the polynomial no longer falls: there erf is 1
    let r = if a > 10.0 { -100.0 } else { I::fma(r, a, -a) };
    let large = (1.0 - exp::<I>(r)).copysign(x);
    let p = horner::<I, 6>(s, [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_2e-1, -3.761_253_4e-1, 1.283_791_7e-1]);
    let small = I::fma(p, x, x);
    let y = if a > 0.927_734_4 { large } else { small };
    if x.is_nan() { x } else { y }
}

#[cfg(test)]
mod tests {
    use super::super::{Fused, Plain};
    use super::*;

    /// The largest error of `ours` over points spread over [low, high], relative to the exact value.
    fn worst(ours: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, low: f64, high: f64) -> f64 {
        let n = 200_003;
        let mut worst = 0.0f64;
        for i in 0..=n {
            let x = (low + (high - low) * f64::from(i) / f64::from(n)) as f32;
            let (got, want) = (f64::from(ours(x)), exact(f64::from(x)));
            // subnormal results have fewer digits
            worst = worst.max((got - want).abs() / want.abs().max(f64::from(f32::MIN_POSITIVE)));
        }
        worst
    }

    fn check<I: Isa>() {
        let mut cases: Vec<(&str, f64)> = Vec::new();
        cases.push(("exp", worst(exp::<I>, f64::exp, -104.0, 88.7)));
        cases.push(("exp near 0", worst(exp::<I>, f64::exp, -1.0, 1.0)));
        cases.push(("log", worst(log::<I>, f64::ln, 1e-6, 1e6)));
        cases.push(("log near 1", worst(log::<I>, f64::ln, 0.4, 2.5)));
        cases.push(("log of subnormals", worst(log::<I>, f64::ln, 1e-44, 1e-37)));
        cases.push(("tanh", worst(tanh::<I>, f64::tanh, -10.0, 10.0)));
        cases.push(("tanh near 0", worst(tanh::<I>, f64::tanh, -0.7, 0.7)));
        cases.push(("sigmoid", worst(sigmoid::<I>, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0)));
        cases.push(("sin", worst(sin::<I>, f64::sin, -20.0, 20.0)));
        cases.push(("cos", worst(cos::<I>, f64::cos, -20.0, 20.0)));
        cases.push(("sin far", worst(sin::<I>, f64::sin, 9.9e5, 1e6)));
        cases.push(("erf", worst(erf::<I>, partita_ir::scalar::erf, -5.0, 5.0)));
        cases.push(("erf near 0", worst(erf::<I>, partita_ir::scalar::erf, -1.0, 1.0)));
        for (name, error) in cases {
            assert!(error <= 4e-7, "{name}: relative error {error:e}");
        }
    }

    #[test]
    fn relative_errors_are_below_4e_minus_7() {
        check::<Plain>();
        check::<Fused>();
    }

    #[test]
    fn limits() {
        let inf = f32::INFINITY;
        assert_eq!(exp::<Plain>(-inf), 0.0);
        assert_eq!(exp::<Plain>(inf), inf);
        assert_eq!(exp::<Plain>(0.0), 1.0);
        assert_eq!(exp::<Plain>(-200.0), 0.0);
        assert_eq!(exp::<Plain>(200.0), inf);
        assert_eq!(log::<Plain>(0.0), -inf);
        assert_eq!(log::<Plain>(inf), inf);
        assert_eq!(log::<Plain>(1.0), 0.0);
        assert!(log::<Plain>(-1.0).is_nan());
        assert_eq!(tanh::<Plain>(-inf), -1.0);
        assert_eq!(tanh::<Plain>(100.0), 1.0);
        assert_eq!(tanh::<Plain>(0.0), 0.0);
        assert_eq!(sigmoid::<Plain>(-inf), 0.0);
        assert_eq!(sigmoid::<Plain>(inf), 1.0);
        assert_eq!(erf::<Plain>(inf), 1.0);
        assert_eq!(erf::<Plain>(-inf), -1.0);
        assert_eq!(erf::<Plain>(50.0), 1.0);
        for function in [exp::<Plain>, log::<Plain>, tanh::<Plain>, sigmoid::<Plain>, sin::<Plain>, cos::<Plain>, erf::<Plain>] {
            assert!(function(f32::NAN).is_nan());
        }
    }
}
