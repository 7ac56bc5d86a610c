//! Least sums over tables, with as wide vectors as the processor has.
//!
//! The same plain loops are compiled for each width; whole numbers make the result the same on every machine.
#![allow(unsafe_code, reason = "calls loops compiled for wider vectors once the processor is known to have them")]

/// For each column `t` the least of `costs[s][t] - minus[s]` over the rows `s`.
pub fn least_of_columns(costs: &[i64], minus: &[i64], out: &mut [i64]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has these instructions, as was just asked.
            return unsafe { avx512::least_of_columns(costs, minus, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has these instructions, as was just asked.
            return unsafe { avx2::least_of_columns(costs, minus, out) };
        }
    }
    plain_least_of_columns(costs, minus, out);
}

/// For each row `s` the least of `costs[s][t] - minus[t]` over the columns `t`.
pub fn least_of_rows(costs: &[i64], minus: &[i64], out: &mut [i64]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has these instructions, as was just asked.
            return unsafe { avx512::least_of_rows(costs, minus, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has these instructions, as was just asked.
            return unsafe { avx2::least_of_rows(costs, minus, out) };
        }
    }
    plain_least_of_rows(costs, minus, out);
}

#[inline(always)]
fn plain_least_of_columns(costs: &[i64], minus: &[i64], out: &mut [i64]) {
    out.fill(i64::MAX);
    for (row, minus) in costs.chunks_exact(out.len()).zip(minus) {
        for (least, cost) in out.iter_mut().zip(row) {
            *least = (*least).min(cost - minus);
        }
    }
}

#[inline(always)]
fn plain_least_of_rows(costs: &[i64], minus: &[i64], out: &mut [i64]) {
    let (minus_lanes, minus_rest) = minus.as_chunks::<8>();
    for (row, out) in costs.chunks_exact(minus.len()).zip(out) {
        let (lanes, rest) = row.as_chunks::<8>();
        let mut least = [i64::MAX; 8];
        for (costs, minus) in lanes.iter().zip(minus_lanes) {
            for lane in 0..8 {
                least[lane] = least[lane].min(costs[lane] - minus[lane]);
            }
        }
        let of_rest = rest.iter().zip(minus_rest).map(|(cost, minus)| cost - minus).min();
        let half: [i64; 4] = std::array::from_fn(|lane| least[lane].min(least[lane + 4]));
        *out = half[0].min(half[1]).min(half[2].min(half[3])).min(of_rest.unwrap_or(i64::MAX));
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    pub fn least_of_columns(costs: &[i64], minus: &[i64], out: &mut [i64]) {
        super::plain_least_of_columns(costs, minus, out);
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    pub fn least_of_rows(costs: &[i64], minus: &[i64], out: &mut [i64]) {
        super::plain_least_of_rows(costs, minus, out);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #[target_feature(enable = "avx2")]
    pub fn least_of_columns(costs: &[i64], minus: &[i64], out: &mut [i64]) {
        super::plain_least_of_columns(costs, minus, out);
    }

    #[target_feature(enable = "avx2")]
    pub fn least_of_rows(costs: &[i64], minus: &[i64], out: &mut [i64]) {
        super::plain_least_of_rows(costs, minus, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout_solver::dice::Dice;

    #[test]
    fn all_widths_find_the_least() {
        let mut dice = Dice::new(1);
        for case in 0..400 {
            let (rows, columns) = (1 + dice.below(40), 1 + dice.below(40));
            let mut draw = |many: usize| (0..many).map(|_| dice.below(2_000_000) as i64 - 1_000_000).collect::<Vec<i64>>();
            let (costs, of_rows, of_columns) = (draw(rows * columns), draw(rows), draw(columns));
            let mut least = vec![0; columns];
            least_of_columns(&costs, &of_rows, &mut least);
            for t in 0..columns {
                assert_eq!(Some(least[t]), (0..rows).map(|s| costs[s * columns + t] - of_rows[s]).min(), "case {case}");
            }
            let mut least = vec![0; rows];
            least_of_rows(&costs, &of_columns, &mut least);
            for s in 0..rows {
                assert_eq!(Some(least[s]), (0..columns).map(|t| costs[s * columns + t] - of_columns[t]).min(), "case {case}");
            }
        }
    }
}
