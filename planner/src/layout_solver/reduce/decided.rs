//! *Decided*: a variable of one option is part of the constant.
//!
//! Every answer takes its only option: what that costs is paid, what its links cost with it is a cost of the other ends'
//! options, and what it keeps comes off the capacities.

use super::keep::drop_vars;
use crate::layout_solver::model::{Model, Step, plus};

/// Takes out all variables of one option.
pub fn run(model: &mut Model) {
    let single: Vec<(usize, usize)> = (0..model.vars.len()).filter(|v| model.vars[*v].costs.len() == 1).map(|v| (v, 0)).collect();
    if !single.is_empty() {
        decide(model, &single);
    }
}

/// Takes variables out as if they had only one option each: pairs of a variable's place and its option's place.
///
/// The choice may leave no answer: then the constant is forbidden, or options lose their support, or a capacity is negative.
pub fn decide(model: &mut Model, choices: &[(usize, usize)]) {
    let mut chosen = vec![None; model.vars.len()];
    choices.iter().for_each(|(v, option)| chosen[*v] = Some(*option));
    for link in std::mem::take(&mut model.links) {
        let columns = model.vars[link.b].costs.len();
        match (chosen[link.a], chosen[link.b]) {
            (None, None) => model.links.push(link),
            (Some(s), Some(t)) => model.constant = plus(model.constant, link.at(s, t, columns)),
            (Some(s), None) => add(&mut model.vars[link.b].costs, &link.costs[s * columns..]),
            (None, Some(t)) => add(&mut model.vars[link.a].costs, link.costs[t..].iter().step_by(columns)),
        }
    }
    let mut rises = vec![0; model.rows.len() + 1];
    for (v, option) in choices {
        let var = &model.vars[*v];
        model.constant = plus(model.constant, var.costs[*option]);
        model.trail.push(Step::Decided { var: var.id, option: var.options[*option] });
        for hold in &var.holds {
            rises[hold.from] += hold.bytes[*option];
            rises[hold.to] -= hold.bytes[*option];
        }
    }
    let mut used = 0;
    for (capacity, rise) in model.rows.iter_mut().zip(rises) {
        used += rise;
        *capacity -= used;
    }
    drop_vars(model, &chosen.iter().map(Option::is_some).collect::<Vec<bool>>());
}

fn add<'a>(costs: &mut [i64], more: impl IntoIterator<Item = &'a i64>) {
    costs.iter_mut().zip(more).for_each(|(sum, cost)| *sum = plus(*sum, *cost));
}

#[cfg(test)]
mod tests {
    use super::super::check::{best, check, small, tight};
    use super::{decide, run};
    use crate::layout_solver::model::Model;

    #[test]
    fn what_has_one_option_is_taken() {
        let one = |model: &mut _| {
            run(model);
            Some(())
        };
        let fired = (0..3000).filter(|seed| check(&small(*seed), one)).count();
        assert!(fired > 1000, "{fired}");
    }

    /// Of all ways to decide two variables, the best is as good as the best of all.
    #[test]
    fn choices_are_as_good_as_they_are_in_the_whole() {
        for seed in 0..2000 {
            let problem = if seed % 2 == 0 { small(seed) } else { tight(seed) };
            let Some(model) = Model::new(&problem) else { continue };
            let (first, last) = (0, model.vars.len() - 1);
            let mut least = None;
            for s in 0..model.vars[first].costs.len() {
                for t in 0..model.vars[last].costs.len() {
                    let mut part = model.clone();
                    decide(&mut part, &[(last, t), (first, s)]);
                    if let Some((cost, choice)) = best(&part) {
                        assert!(problem.is_feasible(&part.named(&choice)), "{seed}");
                        least = Some(least.map_or(cost, |least: i64| least.min(cost)));
                    }
                }
            }
            assert_eq!(least, best(&model).map(|(cost, _)| cost), "{seed}");
        }
    }
}
