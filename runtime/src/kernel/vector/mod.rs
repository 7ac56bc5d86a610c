//! Loops over lanes, compiled once for each instruction set and chosen when a kernel is prepared.
//!
//! The bodies are plain Rust that the compiler vectorises; a body is inlined into one wrapper per instruction set,
//! whose target features it then has. [`Routines`] is the table of wrappers that this machine can run.
//!
//! - [`block`]: the steps of a tape over one block of lanes.
//! - [`fold`]: reductions of and over lanes.
//! - [`math`]: elementary functions in f32.

pub mod block;
pub mod fold;
pub mod math;

use super::stored::Stored;

use block::Frame;

/// What differs between instruction sets in the bodies' source.
pub trait Isa {
    /// `a · b + c`, rounded once where that is one instruction.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// Without a fused multiply-add.
pub enum Plain {}
impl Isa for Plain {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// With a fused multiply-add.
pub enum Fused {}
impl Isa for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// A number that fills lanes: f32 or f64.
pub trait Lane:
    Stored
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// ∞.
    const INFINITY: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// The nearest value.
    fn from_i32(value: i32) -> Self;
    /// A draw of 24 bits as a number in [0, 1).
    fn from_bits24(bits: u32) -> Self;
    /// `self · b + c`, rounded once where that is one instruction.
    fn fma<I: Isa>(self, b: Self, c: Self) -> Self;
    /// Whether it is no number.
    fn is_nan(self) -> bool;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Largest integer not above.
    fn floor(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Power.
    fn pow(self, exponent: Self) -> Self;
    /// `e^x`
    fn exp<I: Isa>(self) -> Self;
    /// Natural logarithm.
    fn log<I: Isa>(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh<I: Isa>(self) -> Self;
    /// Logistic function.
    fn sigmoid<I: Isa>(self) -> Self;
    /// Error function.
    fn erf<I: Isa>(self) -> Self;
    /// Sine of an angle that [`Lane::near`] accepts.
    fn sin<I: Isa>(self) -> Self;
    /// Cosine of an angle that [`Lane::near`] accepts.
    fn cos<I: Isa>(self) -> Self;
    /// Whether the fast sine and cosine hold here.
    fn near(self) -> bool;
}

impl Lane for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const INFINITY: Self = f32::INFINITY;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    #[inline(always)]
    fn from_i32(value: i32) -> Self {
        value as f32
    }
    #[inline(always)]
    fn from_bits24(bits: u32) -> Self {
        // 24 bits fit an i32, which converts in vectors where a u32 does not
        bits as i32 as f32 * (1.0 / 16_777_216.0)
    }
    #[inline(always)]
    fn fma<I: Isa>(self, b: Self, c: Self) -> Self {
        I::fma(self, b, c)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    fn floor(self) -> Self {
        f32::floor(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    fn pow(self, exponent: Self) -> Self {
        self.powf(exponent)
    }
    #[inline(always)]
    fn exp<I: Isa>(self) -> Self {
        math::exp::<I>(self)
    }
    #[inline(always)]
    fn log<I: Isa>(self) -> Self {
        math::log::<I>(self)
    }
    #[inline(always)]
    fn tanh<I: Isa>(self) -> Self {
        math::tanh::<I>(self)
    }
    #[inline(always)]
    fn sigmoid<I: Isa>(self) -> Self {
        math::sigmoid::<I>(self)
    }
    #[inline(always)]
    fn erf<I: Isa>(self) -> Self {
        math::erf::<I>(self)
    }
    #[inline(always)]
    fn sin<I: Isa>(self) -> Self {
        math::sin::<I>(self)
    }
    #[inline(always)]
    fn cos<I: Isa>(self) -> Self {
        math::cos::<I>(self)
    }
    #[inline(always)]
    fn near(self) -> bool {
        f32::abs(self) <= math::LARGEST_ANGLE
    }
}

/// f64 is the type of correctness, not of speed: the standard library's functions.
impl Lane for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const INFINITY: Self = f64::INFINITY;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    #[inline(always)]
    fn from_i32(value: i32) -> Self {
        f64::from(value)
    }
    #[inline(always)]
    fn from_bits24(bits: u32) -> Self {
        // 24 bits fit an i32, which converts in vectors where a u32 does not
        f64::from(bits as i32) * (1.0 / 16_777_216.0)
    }
    #[inline(always)]
    fn fma<I: Isa>(self, b: Self, c: Self) -> Self {
        self * b + c
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }
    #[inline(always)]
    fn floor(self) -> Self {
        f64::floor(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn pow(self, exponent: Self) -> Self {
        self.powf(exponent)
    }
    fn exp<I: Isa>(self) -> Self {
        f64::exp(self)
    }
    fn log<I: Isa>(self) -> Self {
        f64::ln(self)
    }
    fn tanh<I: Isa>(self) -> Self {
        f64::tanh(self)
    }
    fn sigmoid<I: Isa>(self) -> Self {
        1.0 / (1.0 + f64::exp(-self))
    }
    fn erf<I: Isa>(self) -> Self {
        partita_ir::scalar::erf(self)
    }
    fn sin<I: Isa>(self) -> Self {
        f64::sin(self)
    }
    fn cos<I: Isa>(self) -> Self {
        f64::cos(self)
    }
    fn near(self) -> bool {
        true
    }
}

/// Declares the table of routines and, for each instruction set, wrappers around the bodies.
macro_rules! routines {
    ($($(#[$doc:meta])* $module:ident::$name:ident($($argument:ident: $ty:ty),*) $(-> $result:ty)?;)*) => {
        /// The loops over lanes that this machine runs fastest. Each is unsafe because it may only be called on a
        /// machine with its instruction set; [`Routines::best`] and [`Routines::supported`] give no others.
        pub struct Routines<T> {
            $($(#[$doc])* pub $name: unsafe fn($($ty),*) $(-> $result)?,)*
        }

        routines!(@set plain Plain [inline(never)] $($module::$name($($argument: $ty),*) $(-> $result)?;)*);
        #[cfg(target_arch = "x86_64")]
        routines!(@set avx2 Fused [target_feature(enable = "avx2,fma")] $($module::$name($($argument: $ty),*) $(-> $result)?;)*);
        #[cfg(target_arch = "x86_64")]
        routines!(@set avx512 Fused [target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            $($module::$name($($argument: $ty),*) $(-> $result)?;)*);
    };
    (@set $set:ident $isa:ident $attribute:tt $($module:ident::$name:ident($($argument:ident: $ty:ty),*) $(-> $result:ty)?;)*) => {
        mod $set {
            use super::*;
            $(
                # $attribute
                unsafe fn $name<T: Lane>($($argument: $ty),*) $(-> $result)? {
                    // SAFETY: the caller keeps the body's contract.
                    #[allow(unused_unsafe, reason = "some bodies are safe")]
                    unsafe { super::$module::$name::<T, $isa>($($argument),*) }
                }
            )*
            pub fn table<T: Lane>() -> Routines<T> {
                Routines { $($name),* }
            }
        }
    };
}

routines! {
    /// Runs the steps of a tape over `n` lanes.
    block::block(frame: &mut Frame<'_, T>, n: usize);
    /// The sum of lanes.
    fold::sum(lanes: &[T]) -> f64;
    /// The largest of lanes.
    fold::largest(lanes: &[T]) -> T;
    /// The smallest of lanes.
    fold::smallest(lanes: &[T]) -> T;
    /// `Σ e^(x - shift)`
    fold::sum_exp(lanes: &[T], shift: T) -> f64;
    /// Adds to each lane.
    fold::add(into: &mut [T], lanes: &[T]);
    /// Adds to each wide lane.
    fold::widen(into: &mut [f64], lanes: &[T]);
    /// The larger in each lane.
    fold::raise(into: &mut [T], lanes: &[T]);
    /// The smaller in each lane.
    fold::lower(into: &mut [T], lanes: &[T]);
    /// Folds into (largest, `Σ e^(x - largest)`) of each lane.
    fold::log_add(largest: &mut [T], sum: &mut [T], lanes: &[T]);
    /// Adds `weight · x` to each wide lane.
    fold::add_weighted(into: &mut [f64], lanes: &[T], weight: f64);
}

impl<T: Lane> Routines<T> {
    /// The routines that this machine has the instructions for, slowest first.
    pub fn supported() -> Vec<Self> {
        let mut tables = vec![plain::table()];
        #[cfg(target_arch = "x86_64")]
        {
            let fused = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
            let wide = std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq");
            if fused {
                tables.push(avx2::table());
            }
            if fused && wide {
                tables.push(avx512::table());
            }
        }
        tables
    }

    /// The fastest of them.
    pub fn best() -> Self {
        Self::supported().pop().expect("plain routines run anywhere")
    }
}
