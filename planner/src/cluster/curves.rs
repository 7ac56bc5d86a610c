//! What a machine was measured to do, by how many ranks compute at once.

use std::collections::BTreeMap;
use std::fmt::Write;

use partita_ir::work::{LaneStep, Matmul};
use serde::{Deserialize, Serialize};

use crate::units::Seconds;

/// How the matrices of a product lie: the keys of [`Curves::matmul`], each `matmul_KEY_gflop_per_s` in the file.
pub const LIES: [&str; 3] = ["plain", "left_turned", "right_turned"];
/// What is timed by bytes: the keys of [`Curves::times`], each `KEY_us` in the file. `reuse` is the time to read and write a MiB, by
/// the bytes that were used since each was last used.
pub const TIMED: [&str; 6] = ["reuse", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"];

/// Curves of a device while `ranks` ranks compute, each with `threads` threads. What is missing was not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Ranks that compute at the same time.
    pub ranks: u64,
    /// Threads of each.
    pub threads: u64,
    /// Microseconds to start a kernel.
    pub kernel_us: Option<f64>,
    /// Nanoseconds to start a row of lanes.
    pub row_ns: Option<f64>,
    /// Nanoseconds to go on to one more block of lanes.
    pub block_ns: Option<f64>,
    /// Nanoseconds to start a step over a block.
    pub step_ns: Option<f64>,
    /// Nanoseconds of a step over a lane, by [`LaneStep::word`].
    pub lane_ns: BTreeMap<String, f64>,
    /// Sizes along m, n and k at which matrix products were measured, ascending.
    pub sizes: Vec<u64>,
    /// GFLOP/s of matrix products by how they lie ([`LIES`]), then by place of m, n and k in `sizes`.
    pub matmul: BTreeMap<String, Vec<Vec<Vec<f64>>>>,
    /// Times by bytes, of what [`TIMED`] lists.
    pub times: BTreeMap<String, Curve>,
}

/// Microseconds by bytes, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve(pub Vec<(u64, f64)>);

impl Curve {
    /// The points, each time raised to those before it: less work never takes longer on a quiet machine.
    pub fn rising(points: impl IntoIterator<Item = (u64, f64)>) -> Curve {
        let mut most = 0.0f64;
        let raised = points.into_iter().map(|(bytes, us)| {
            most = most.max(us);
            (bytes, most)
        });
        Curve(raised.collect())
    }

    /// The time of `bytes` bytes: linear between points and exact at them; before the first and behind the last in proportion.
    pub fn at(&self, bytes: f64) -> Option<Seconds> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        let us = if bytes <= first.0 as f64 {
            first.1 * bytes / first.0 as f64
        } else if bytes >= last.0 as f64 {
            last.1 * bytes / last.0 as f64
        } else {
            let above = self.0.partition_point(|(at, _)| (*at as f64) < bytes);
            let ((x0, y0), (x1, y1)) = (self.0[above - 1], self.0[above]);
            y0 + (y1 - y0) * (bytes - x0 as f64) / (x1 - x0) as f64
        };
        Some(Seconds::from_us(us))
    }

    /// The value at `at`: linear between points, and beyond the ends that of the end.
    pub fn level(&self, at: f64) -> Option<Seconds> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        self.at(at.clamp(first.0 as f64, last.0 as f64))
    }
}

impl Curves {
    /// The time of a step over one lane; none where it was not measured.
    pub fn lane(&self, step: LaneStep) -> Option<Seconds> {
        self.lane_ns.get(step.word()).map(|ns| Seconds(ns * 1e-9))
    }

    /// FLOP/s of matrix products of a shape: between measured sizes linear in the logarithms of sizes and rate, exact at them;
    /// below the smallest in proportion to the size, above the largest as there.
    pub fn matmul(&self, shape: &Matmul) -> Option<f64> {
        let of = |lies: &str| self.matmul.get(lies).map(|grid| self.rate(grid, shape.sizes));
        let rate = match (shape.left_turned, shape.right_turned) {
            (false, false) => of("plain"),
            (true, false) => of("left_turned"),
            (false, true) => of("right_turned"),
            (true, true) => of("left_turned").zip(of("right_turned")).map(|(a, b)| a.min(b)),
        };
        rate.or_else(|| of("plain")).map(|gflop_per_s| gflop_per_s * 1e9)
    }

    fn rate(&self, grid: &[Vec<Vec<f64>>], sizes: [u64; 3]) -> f64 {
        // along each side: the point below, how far from it to the next, and how much is missing to the first
        let side = |size: u64| {
            let last = self.sizes.len() - 1;
            let size = size.max(1);
            let above = self.sizes.partition_point(|at| *at < size);
            match above {
                0 => (0, 0.0, size as f64 / self.sizes[0] as f64),
                above if above > last => (last, 0.0, 1.0),
                above => {
                    let (low, high) = (self.sizes[above - 1] as f64, self.sizes[above] as f64);
                    (above - 1, (size as f64 / low).ln() / (high / low).ln(), 1.0)
                }
            }
        };
        let [m, n, k] = sizes.map(side);
        let mut log = 0.0;
        for corner in 0..8usize {
            let pick =
                |(at, part, _): (usize, f64, f64), bit: usize| if corner >> bit & 1 == 1 { (at + 1, part) } else { (at, 1.0 - part) };
            let ((m, of_m), (n, of_n), (k, of_k)) = (pick(m, 0), pick(n, 1), pick(k, 2));
            let weight = of_m * of_n * of_k;
            if weight > 0.0 {
                log += weight * grid[m][n][k].ln();
            }
        }
        log.exp() * m.2 * n.2 * k.2
    }

    /// The curves as a `[[device.curves]]` table of a cluster file.
    pub fn to_toml(&self) -> String {
        let mut out = format!("[[device.curves]]\nranks = {}\nthreads = {}\n", self.ranks, self.threads);
        let mut line = |key: &str, value: String| writeln!(out, "{key} = {value}").expect("a text takes all that is written");
        for (key, number) in
            [("kernel_us", self.kernel_us), ("row_ns", self.row_ns), ("block_ns", self.block_ns), ("step_ns", self.step_ns)]
        {
            if let Some(number) = number {
                line(key, short(number));
            }
        }
        if !self.lane_ns.is_empty() {
            let pairs: Vec<String> = self.lane_ns.iter().map(|(step, ns)| format!("{step} = {}", short(*ns))).collect();
            line("lane_ns", format!("{{ {} }}", pairs.join(", ")));
        }
        if !self.sizes.is_empty() {
            line("sizes", format!("{:?}", self.sizes));
        }
        for (lies, grid) in &self.matmul {
            let row = |row: &Vec<f64>| format!("[{}]", row.iter().map(|rate| short(*rate)).collect::<Vec<_>>().join(", "));
            let plane = |plane: &Vec<Vec<f64>>| format!("  [{}]", plane.iter().map(row).collect::<Vec<_>>().join(", "));
            let planes: Vec<String> = grid.iter().map(plane).collect();
            line(&format!("matmul_{lies}_gflop_per_s"), format!("[\n{},\n]", planes.join(",\n")));
        }
        for (what, curve) in &self.times {
            let points: Vec<String> = curve.0.iter().map(|(bytes, us)| format!("[{bytes}, {}]", short(*us))).collect();
            line(&format!("{what}_us"), format!("[{}]", points.join(", ")));
        }
        out
    }
}

/// A number in four digits.
fn short(number: f64) -> String {
    let digits = 3 - number.abs().max(1e-9).log10().floor() as i32;
    let rounded = format!("{number:.*}", usize::try_from(digits).unwrap_or(0));
    if rounded.contains('.') { rounded.trim_end_matches('0').trim_end_matches('.').to_owned() } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_exact_at_its_points_and_rises_between_them() {
        let curve = Curve(vec![(4, 2.0), (1000, 2.0), (2000, 8.0)]);
        for (bytes, us) in &curve.0 {
            assert_eq!(curve.at(*bytes as f64), Some(Seconds::from_us(*us)));
        }
        assert_eq!(curve.at(1500.0), Some(Seconds::from_us(5.0)));
        assert_eq!(curve.at(4000.0), Some(Seconds::from_us(16.0)));
        assert_eq!(curve.at(1.0), Some(Seconds::from_us(0.5)));
        let times: Vec<f64> = (0..5000).map(|bytes| curve.at(f64::from(bytes)).unwrap().0).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(Curve::default().at(1.0), None);
        assert_eq!(Curve::rising([(1, 3.0), (2, 2.0), (3, 4.0)]).0, [(1, 3.0), (2, 3.0), (3, 4.0)]);
    }

    #[test]
    fn matrix_products_between_sizes_are_between_in_rate() {
        let grid = vec![vec![vec![1.0, 2.0], vec![4.0, 8.0]], vec![vec![16.0, 32.0], vec![64.0, 128.0]]];
        let curves = Curves { sizes: vec![10, 1000], matmul: [("plain".to_owned(), grid)].into(), ..Curves::default() };
        let rate = |sizes| curves.matmul(&Matmul { sizes, calls: 1, left_turned: true, right_turned: true }).unwrap() / 1e9;
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
        assert!(near(rate([10, 10, 10]), 1.0) && near(rate([10, 10, 1000]), 2.0) && near(rate([10, 1000, 10]), 4.0));
        assert!(near(rate([1000, 1000, 1000]), 128.0) && near(rate([9000, 1000, 5000]), 128.0));
        // 100 is half way between, in logarithms
        assert!(near(rate([100, 10, 10]), 4.0) && near(rate([100, 100, 100]), 128f64.sqrt()));
        assert!(near(rate([5, 10, 10]), 0.5));
    }

    #[test]
    fn numbers_have_four_digits() {
        assert_eq!([0.05, 1234.56, 12.0, 0.012_345, 123_456.7].map(short), ["0.05", "1235", "12", "0.01235", "123457"]);
    }
}
