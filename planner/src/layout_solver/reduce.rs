//! Exact reductions: what remains has an optimum that is one of the whole problem.
//!
//! Each file in [`reduce`](self) is one reduction, with its rule and proof. They are applied in this order, round after round
//! until nothing changes:
//!
//! 1. [`support`], so that every option of a variable can be taken as far as its links say,
//! 2. [`rows`], [`implied`] and [`fits`], since all others compare memory row by row: the fewer rows, the more they find,
//! 3. [`determined`], which makes much less of the model, and [`support`] again, since what has been joined may forbid itself,
//! 4. [`dominated`], the dearest one, now that little is left,
//! 5. [`one_neighbour`] and [`two_neighbours`] together: what one takes out lets the other go on,
//! 6. [`twins`],
//! 7. [`decided`], for what has lost all other options.
//!
//! Every one of them takes out variables, options, rows or holds and adds none, so the rounds end.

#[cfg(test)]
mod check;
mod components;
mod decided;
mod determined;
mod dominated;
mod fits;
mod graph;
mod implied;
mod keep;
mod one_neighbour;
mod oriented;
mod rows;
mod steps;
mod stretches;
mod support;
mod twins;
mod two_neighbours;

pub use components::{components, part};
pub use decided::decide;
pub use keep::keep;

use super::model::{Model, Var, is_never};
use graph::Graph;

/// Reduces until nothing changes; `None` if there is no answer at all.
pub fn reduce(mut model: Model) -> Option<Model> {
    loop {
        let before = size(&model);
        support::run(&mut model)?;
        rows::run(&mut model)?;
        implied::run(&mut model);
        fits::run(&mut model)?;
        determined::run(&mut model);
        support::run(&mut model)?;
        // costs that were rounded cannot be compared
        if model.is_exact() {
            dominated::run(&mut model);
            Graph::work(&mut model, |graph, v| one_neighbour::take(graph, v) || two_neighbours::take(graph, v));
            twins::run(&mut model);
        }
        decided::run(&mut model);
        if is_never(model.constant) {
            return None;
        }
        if size(&model) == before {
            return Some(model);
        }
    }
}

/// Drops only options that have no support or do not fit; `None` if a variable has none left.
pub fn fit(mut model: Model) -> Option<Model> {
    support::run(&mut model)?;
    rows::run(&mut model)?;
    fits::run(&mut model)?;
    Some(model)
}

/// Variables, options, rows and holds.
fn size(model: &Model) -> [usize; 4] {
    let of_all = |count: fn(&Var) -> usize| model.vars.iter().map(count).sum();
    [model.vars.len(), of_all(|var| var.costs.len()), model.rows.len(), of_all(|var| var.holds.len())]
}

#[cfg(test)]
mod tests {
    use super::check::{check, fits, functions, islands, loose_tree, series_parallel, small, tight, twins};
    use super::reduce;
    use crate::layout_problem::{GenerateOptions, Problem, generate};
    use crate::layout_solver::model::{Model, is_never};
    use partita_ir::random::uniform;

    #[test]
    fn all_together_keep_an_optimum() {
        let all = |model: &mut Model| {
            *model = reduce(std::mem::take(model))?;
            Some(())
        };
        let kinds = [small, tight, functions, loose_tree, series_parallel, twins, islands];
        let fired = (0..7000).filter(|seed| check(&kinds[*seed as usize % kinds.len()](*seed), all)).count();
        assert!(fired > 6000, "{fired}");
    }

    /// Whatever is chosen of what is left costs the same in the whole problem and can be taken if it can be there.
    #[test]
    fn choices_stay_what_they_are() {
        let options = GenerateOptions { nodes: 700, tied: 0.8, ..GenerateOptions::default() };
        let [mut fitting, mut overfull] = [0; 2];
        for seed in 0..8 {
            compare(&generate(&GenerateOptions { seed, ..options.clone() }), &mut fitting, &mut overfull);
        }
        assert!(fitting > 100 && overfull > 30, "{fitting} {overfull}");
    }

    fn compare(problem: &Problem, fitting: &mut usize, overfull: &mut usize) {
        let model = reduce(Model::new(problem).unwrap()).unwrap();
        assert!(model.vars.len() < problem.nodes() / 2, "{} variables", model.vars.len());
        for draw in 0..40 {
            // the leanest options with some others among them
            let option = |v: usize| {
                let var = &model.vars[v];
                let bytes = |option: &usize| var.holds.iter().map(|hold| hold.bytes[*option]).sum::<i64>();
                let any = (uniform(draw, 2 * v as u64) * var.costs.len() as f64) as usize;
                let lean = (0..var.costs.len()).min_by_key(bytes).unwrap();
                if uniform(draw, 2 * v as u64 + 1) * 20.0 < draw as f64 { any } else { lean }
            };
            let choice: Vec<usize> = (0..model.vars.len()).map(option).collect();
            let named = model.named(&choice);
            let cost = Some(model.cost(&choice)).filter(|cost| !is_never(*cost)).map(i128::from);
            assert_eq!(cost, problem.total(&named).map(|total| total << model.shift), "{}: {draw}", problem.name);
            let keeps = problem.peaks(&named).iter().zip(&problem.limits).all(|(peak, limit)| peak <= limit);
            assert_eq!(fits(&model, &choice), keeps, "{}: {draw}", problem.name);
            *(if keeps { &mut *fitting } else { &mut *overfull }) += 1;
        }
    }
}
