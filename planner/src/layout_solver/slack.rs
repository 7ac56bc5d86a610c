//! What is left of each row of memory: ranges change, the least of all is asked for.

use super::model::Model;

/// Whether the memory of a choice of options fits into all rows of a model.
pub fn fits(model: &Model, choice: &[usize]) -> bool {
    let mut change = vec![0i64; model.rows.len() + 1];
    for (var, option) in model.vars.iter().zip(choice) {
        for hold in &var.holds {
            change[hold.from] += hold.bytes[*option];
            change[hold.to] -= hold.bytes[*option];
        }
    }
    let mut live = 0;
    model.rows.iter().zip(&change).all(|(row, change)| {
        live += change;
        live <= *row
    })
}

/// A tree of minima over rows with pending additions.
#[derive(Clone, Debug)]
pub struct Slack {
    rows: usize,
    least: Vec<i64>,
    added: Vec<i64>,
}

impl Slack {
    /// All rows empty.
    pub fn new(rows: &[i64]) -> Self {
        let leaves = rows.len().next_power_of_two().max(1);
        let mut least = vec![i64::MAX; 2 * leaves];
        least[leaves..leaves + rows.len()].copy_from_slice(rows);
        for node in (1..leaves).rev() {
            least[node] = least[2 * node].min(least[2 * node + 1]);
        }
        Self { rows: leaves, least, added: vec![0; 2 * leaves] }
    }

    /// Takes `bytes` from each of the rows `from..to`.
    pub fn take(&mut self, from: usize, to: usize, bytes: i64) {
        if bytes != 0 && from < to {
            self.change(1, 0, self.rows, from, to, -bytes);
        }
    }

    fn change(&mut self, node: usize, start: usize, end: usize, from: usize, to: usize, bytes: i64) {
        if from <= start && end <= to {
            self.least[node] += bytes;
            self.added[node] += bytes;
            return;
        }
        let middle = start.midpoint(end);
        if from < middle {
            self.change(2 * node, start, middle, from, to, bytes);
        }
        if to > middle {
            self.change(2 * node + 1, middle, end, from, to, bytes);
        }
        self.least[node] = self.least[2 * node].min(self.least[2 * node + 1]) + self.added[node];
    }

    /// The least that is left in any of the rows `from..to`.
    pub fn least_of(&self, from: usize, to: usize) -> i64 {
        self.find(1, 0, self.rows, from, to)
    }

    fn find(&self, node: usize, start: usize, end: usize, from: usize, to: usize) -> i64 {
        if from <= start && end <= to {
            return self.least[node];
        }
        if to <= start || end <= from {
            return i64::MAX / 2;
        }
        let middle = start.midpoint(end);
        self.find(2 * node, start, middle, from, to).min(self.find(2 * node + 1, middle, end, from, to)) + self.added[node]
    }

    /// The least that is left in any row; negative if one is overfull.
    pub fn least(&self) -> i64 {
        self.least[1]
    }

    /// A row with the least left.
    pub fn tightest(&self) -> usize {
        let mut node = 1;
        while node < self.rows {
            node = if self.least[2 * node] <= self.least[2 * node + 1] { 2 * node } else { 2 * node + 1 };
        }
        node - self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_minima_are_those_of_a_plain_list() {
        let mut plain = vec![50i64, 40, 70, 30, 90, 20, 60];
        let mut slack = Slack::new(&plain);
        let mut state = 1u64;
        for _ in 0..500 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (from, length, bytes) = ((state >> 40) as usize % 7, (state >> 30) as usize % 7, (state >> 20) as i64 % 9 - 4);
            let to = (from + length).min(7);
            slack.take(from, to, bytes);
            plain[from..to].iter_mut().for_each(|row| *row -= bytes);
            assert_eq!(slack.least(), *plain.iter().min().unwrap());
            assert_eq!(plain[slack.tightest()], slack.least());
        }
    }
}
