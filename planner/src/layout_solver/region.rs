//! Parts of an answer that are chosen anew, everything else held.

use super::branch::Prices;
use super::dice::Dice;
use super::incumbent::Incumbent;
use super::model::{Hold, Link, Model, Var, plus};

impl Incumbent<'_> {
    /// The variables around one, in random order of reach.
    pub fn around(&mut self, size: usize, dice: &mut Dice) -> Vec<usize> {
        self.trees += 1;
        let tree = self.trees;
        let mut region = vec![dice.below(self.model.vars.len())];
        self.in_tree[region[0]] = tree;
        let mut frontier = region.clone();
        while region.len() < size && !frontier.is_empty() {
            let pick = dice.below(frontier.len());
            let v = frontier[pick];
            let free = |id: &usize| {
                let other = self.model.links[*id].a + self.model.links[*id].b - v;
                (self.in_tree[other] != tree).then_some(other)
            };
            let near: Vec<usize> = self.links_of[v].iter().filter_map(free).collect();
            if near.is_empty() {
                frontier.swap_remove(pick);
                continue;
            }
            let other = near[dice.below(near.len())];
            self.in_tree[other] = tree;
            region.push(other);
            frontier.push(other);
        }
        region.sort_unstable();
        region
    }

    /// Variables that keep something in a row, at most `size` of them.
    pub fn beside(&mut self, size: usize, dice: &mut Dice) -> Vec<usize> {
        let row = dice.below(self.model.rows.len());
        let held = |v: &usize| self.model.vars[*v].holds.iter().any(|hold| hold.from <= row && row < hold.to);
        let mut region: Vec<usize> = (0..self.model.vars.len()).filter(held).collect();
        while region.len() > size {
            region.swap_remove(dice.below(region.len()));
        }
        region.sort_unstable();
        region
    }

    /// The model of a region, all else as chosen, with the prices of its rows.
    pub fn part(&mut self, region: &[usize]) -> (Model, Prices) {
        let place = |v: usize| region.binary_search(&v).ok();
        let mut ends: Vec<usize> = region.iter().flat_map(|v| &self.model.vars[*v].holds).flat_map(|hold| [hold.from, hold.to]).collect();
        ends.sort_unstable();
        ends.dedup();
        for v in region {
            for hold in &self.model.vars[*v].holds {
                self.slack.take(hold.from, hold.to, -hold.bytes[self.choice[*v]]);
            }
        }
        let rows: Vec<i64> = ends.windows(2).map(|at| self.slack.least_of(at[0], at[1])).collect();
        for v in region {
            for hold in &self.model.vars[*v].holds {
                self.slack.take(hold.from, hold.to, hold.bytes[self.choice[*v]]);
            }
        }
        let prices = ends.windows(2).map(|at| self.price_to[at[1]] - self.price_to[at[0]]).enumerate().collect();
        let row = |at: usize| ends.binary_search(&at).expect("all ends are there");
        let mut vars: Vec<Var> = Vec::with_capacity(region.len());
        let mut links = Vec::new();
        for v in region {
            let var = &self.model.vars[*v];
            let mut costs = var.costs.clone();
            for id in &self.links_of[*v] {
                let link = &self.model.links[*id];
                let other = link.a + link.b - v;
                let columns = self.model.vars[link.b].costs.len();
                if let Some(place) = place(other) {
                    if link.a == *v {
                        links.push(Link { a: vars.len(), b: place, costs: link.costs.clone() });
                    }
                } else if link.a == *v {
                    costs.iter_mut().enumerate().for_each(|(s, cost)| *cost = plus(*cost, link.costs[s * columns + self.choice[other]]));
                } else {
                    costs.iter_mut().zip(&link.costs[self.choice[other] * columns..]).for_each(|(cost, x)| *cost = plus(*cost, *x));
                }
            }
            let holds = var.holds.iter().map(|hold| Hold { from: row(hold.from), to: row(hold.to), bytes: hold.bytes.clone() }).collect();
            vars.push(Var { id: vars.len(), options: (0..costs.len() as u32).collect(), costs, holds });
        }
        let names = vars.len();
        let row_ids = (0..rows.len()).collect();
        (Model { vars, links, rows, row_ids, constant: 0, shift: self.model.shift, trail: Vec::new(), names }, prices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout_problem::{GenerateOptions, generate, small};
    use crate::layout_solver::model::is_never;
    use crate::layout_solver::slack::fits;

    /// What a region costs more or less, the whole does; and it fits where the whole does.
    #[test]
    fn a_region_costs_what_the_whole_does() {
        let mut dice = Dice::new(3);
        let (mut fitting, mut not) = (0, 0);
        for seed in 0..2_000 {
            let problem = if seed % 50 == 0 {
                generate(&GenerateOptions { nodes: 40, seed, most_strategies: 5, ..GenerateOptions::default() })
            } else {
                small(seed)
            };
            let Some(model) = Model::new(&problem) else { continue };
            let mut any = |model: &Model| model.vars.iter().map(|var| dice.below(var.costs.len())).collect::<Vec<usize>>();
            let (choice, other) = (any(&model), any(&model));
            if is_never(model.cost(&choice)) || !fits(&model, &choice) {
                continue;
            }
            let mut incumbent = Incumbent::new(&model, choice, &vec![0.0; model.rows.len()]);
            let mut dice = Dice::new(seed);
            let region =
                if model.rows.is_empty() || seed % 2 == 0 { incumbent.around(4, &mut dice) } else { incumbent.beside(4, &mut dice) };
            let (part, _) = incumbent.part(&region);
            let of_region = |choice: &[usize]| region.iter().map(|v| choice[*v]).collect::<Vec<usize>>();
            let (before, now) = (model.cost(&incumbent.choice), part.cost(&of_region(&incumbent.choice)));
            region.iter().for_each(|v| incumbent.set(*v, other[*v]));
            let (after, then) = (model.cost(&incumbent.choice), part.cost(&of_region(&incumbent.choice)));
            assert_eq!(is_never(after), is_never(then), "seed {seed}");
            assert!(is_never(after) || after - before == then - now, "seed {seed}");
            let does = fits(&part, &of_region(&incumbent.choice));
            assert_eq!(does, fits(&model, &incumbent.choice), "seed {seed}");
            (fitting, not) = (fitting + usize::from(does), not + usize::from(!does));
        }
        assert!(fitting > 50 && not > 10, "{fitting} fit, {not} do not");
    }
}
