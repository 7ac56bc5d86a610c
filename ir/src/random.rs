//! Counter-based random numbers: a value depends on what is drawn, never on who draws it or when.
//!
//! A draw is keyed by (seed, step, salt of the operator, repeat index, global element), so that every layout,
//! micro-batch, stage and recomputation sees the same numbers.

/// What a draw depends on besides its operator and element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DrawContext {
    /// Seed of the run.
    pub seed: u64,
    /// Training step, from 0.
    pub step: u64,
    /// Iteration of the enclosing repeat, 0 outside.
    pub iteration: u64,
}

/// One round of the finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
#[inline]
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The stream of one operator at one step and iteration.
pub fn stream(ctx: DrawContext, salt: u64) -> u64 {
    mix(mix(mix(mix(ctx.seed) ^ ctx.step) ^ salt) ^ ctx.iteration)
}

/// 24 uniform bits.
#[inline]
pub fn uniform_bits(stream: u64, element: u64) -> u32 {
    (mix(stream ^ element.wrapping_mul(0xD134_2543_DE82_EF95)) >> 40) as u32
}

/// Uniform in [0, 1) with 24 bits, the same in f32 and f64.
#[inline]
pub fn uniform(stream: u64, element: u64) -> f64 {
    f64::from(uniform_bits(stream, element)) * (1.0 / (1u64 << 24) as f64)
}

/// Standard normal by Box and Muller's transform, from two uniform draws of 53 bits.
pub fn normal(stream: u64, element: u64) -> f64 {
    let scale = 1.0 / (1u64 << 53) as f64;
    let first = mix(stream ^ element.wrapping_mul(0xD134_2543_DE82_EF95));
    let second = mix(first ^ 0x5851_F42D_4C95_7F2D);
    let u = ((first >> 11) as f64 + 1.0) * scale;
    let v = (second >> 11) as f64 * scale;
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// The salt of a name, for draws that belong to a named thing (FNV-1a).
pub fn salt_of(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
