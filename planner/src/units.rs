//! Units as types: a cost function that mixes seconds and bytes does not compile.
//!
//! Arithmetic exists only where it means something: `Bytes / BytesPerSecond` is [`Seconds`], `Seconds + Bytes` is
//! nothing. `Display` is for people and rounds to three digits; serialised forms are the bare numbers.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};

use serde::{Deserialize, Serialize};

macro_rules! units {
    ($($(#[$doc:meta])* $name:ident($inner:ty), zero $zero:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// None at all.
            pub const ZERO: Self = Self($zero);

            /// The larger of two.
            pub fn max(self, other: Self) -> Self {
                Self(self.0.max(other.0))
            }

            /// The smaller of two.
            pub fn min(self, other: Self) -> Self {
                Self(self.0.min(other.0))
            }
        }
        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }
        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }
        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                self.0 -= other.0;
            }
        }
        impl Mul<$inner> for $name {
            type Output = Self;
            fn mul(self, times: $inner) -> Self {
                Self(self.0 * times)
            }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
                parts.fold(Self::ZERO, Self::add)
            }
        }
        impl<'a> Sum<&'a $name> for $name {
            fn sum<I: Iterator<Item = &'a Self>>(parts: I) -> Self {
                parts.copied().sum()
            }
        }
    )*};
}

units! {
    /// A time.
    Seconds(f64), zero 0.0;
    /// An amount of memory or of traffic.
    #[derive(Eq, Ord)]
    Bytes(u64), zero 0;
    /// An amount of floating-point work; a multiply-add is two.
    Flops(f64), zero 0.0;
    /// A bandwidth.
    BytesPerSecond(f64), zero 0.0;
    /// A speed of computing.
    FlopsPerSecond(f64), zero 0.0;
}

impl Seconds {
    /// From microseconds, the unit of cluster files.
    pub fn from_us(us: f64) -> Self {
        Self(us * 1e-6)
    }

    /// The order of all times, NaN last: what a search sorts by.
    pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl BytesPerSecond {
    /// From decimal gigabytes per second, the unit of cluster files.
    pub fn from_gb_per_s(gb: f64) -> Self {
        Self(gb * 1e9)
    }
}

impl Div<f64> for Seconds {
    type Output = Seconds;
    fn div(self, parts: f64) -> Seconds {
        Seconds(self.0 / parts)
    }
}

impl Div for Seconds {
    type Output = f64;
    fn div(self, other: Seconds) -> f64 {
        self.0 / other.0
    }
}

impl Div<BytesPerSecond> for Bytes {
    type Output = Seconds;
    fn div(self, rate: BytesPerSecond) -> Seconds {
        // 2^53 bytes are 9 petabytes: the rounding of larger amounts does not matter to a time
        Seconds(self.0 as f64 / rate.0)
    }
}

impl Div<FlopsPerSecond> for Flops {
    type Output = Seconds;
    fn div(self, rate: FlopsPerSecond) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}

/// `value` in the largest unit that leaves at least 1 of it, to three digits. `units` ascend and begin with what
/// values below 1 are written in.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    if !value.is_finite() {
        return format!("{value} {}", units.last().map_or("", |(_, word)| word));
    }
    // 999.6 us is 1 ms to three digits, so the next unit begins a little early
    let fits = |(size, _): &&(f64, &str)| value.abs() >= size * 0.9995;
    let (size, word) = units.iter().rev().find(fits).or(units.first()).copied().unwrap_or((1.0, ""));
    let value = value / size;
    let digits = if value.abs() < 9.995 {
        2
    } else if value.abs() < 99.95 {
        1
    } else {
        0
    };
    let text = format!("{value:.digits$}");
    // a whole number of units is said as one: `4 GiB`, and `4.5 GiB` where that is all there is to say
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {word}")
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0, &[(1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days")]))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(f64, &str); 6] = [
            (1.0, "B"),
            (1024.0, "KiB"),
            (1_048_576.0, "MiB"),
            (1_073_741_824.0, "GiB"),
            (1_099_511_627_776.0, "TiB"),
            (1_125_899_906_842_624.0, "PiB"),
        ];
        f.pad(&scaled(self.0 as f64, &UNITS))
    }
}

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0, &[(1.0, "FLOP"), (1e3, "kFLOP"), (1e6, "MFLOP"), (1e9, "GFLOP"), (1e12, "TFLOP"), (1e15, "PFLOP")]))
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0, &[(1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s"), (1e12, "TB/s")]))
    }
}

impl fmt::Display for FlopsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(
            self.0,
            &[(1.0, "FLOP/s"), (1e3, "kFLOP/s"), (1e6, "MFLOP/s"), (1e9, "GFLOP/s"), (1e12, "TFLOP/s"), (1e15, "PFLOP/s")],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_three_digits() {
        for (seconds, text) in [
            (0.0, "0 ns"),
            (3e-10, "0.3 ns"),
            (1.234e-3, "1.23 ms"),
            (0.000_999_6, "1 ms"),
            (0.65, "650 ms"),
            (59.0, "59 s"),
            (90.0, "1.5 min"),
            (f64::INFINITY, "inf days"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1_048_575, "1 MiB"), (4_831_838_208, "4.5 GiB"), (16 << 20, "16 MiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Flops(1.25e9).to_string(), "1.25 GFLOP");
        assert_eq!(BytesPerSecond::from_gb_per_s(6.0).to_string(), "6 GB/s");
        assert_eq!(FlopsPerSecond(60e9).to_string(), "60 GFLOP/s");
        assert_eq!(format!("{:>8}|{:<8}|", Seconds(1.0), Bytes(1)), "     1 s|1 B     |");
    }

    #[test]
    fn quotients_are_times() {
        assert_eq!(Bytes(3_000_000_000) / BytesPerSecond::from_gb_per_s(6.0), Seconds(0.5));
        assert_eq!(Flops(120e9) / FlopsPerSecond(60e9), Seconds(2.0));
        assert_eq!(Seconds(6.0) / Seconds(3.0), 2.0);
        assert_eq!([Bytes(1), Bytes(2)].iter().sum::<Bytes>(), Bytes(3));
    }

    #[test]
    fn serialised_forms_are_bare_numbers() {
        assert_eq!(serde_json::to_string(&(Seconds(0.5), Bytes(7))).unwrap(), "[0.5,7]");
    }
}
