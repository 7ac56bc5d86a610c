//! *Determined*: a variable that is a function of a linked one of no more options joins it.
//!
//! If a link allows exactly one option of `b` with each option of `a`, whatever answer takes an option of `a` takes that one
//! of `b`: the options of `a` take over costs, memory and links of `b`. Ties between equal layouts are of this kind. A
//! variable that has been joined may itself join another; then all of them end up in the last, their root.
//!
//! The rule would be as true where `b` has fewer options than `a`. But then the links of `b` would get larger tables that say
//! the same, and what else takes variables out would find less.

use std::rc::Rc;

use petgraph::unionfind::UnionFind;

use super::keep::drop_vars;
use super::steps::follows;
use crate::layout_solver::model::{Hold, Link, Model, is_never, merged, plus};

/// A variable, and for each of its options the option of another that goes with it.
type Joined = (usize, Rc<Vec<usize>>);

/// Joins all variables that are functions of others.
pub fn run(model: &mut Model) {
    let joins = joins(model);
    if joins.iter().any(Option::is_some) {
        contract(model, &roots(model, &joins));
    }
}

/// Which variable each one joins; never in a circle.
fn joins(model: &Model) -> Vec<Option<Joined>> {
    let mut sets = UnionFind::<usize>::new(model.vars.len());
    let mut joins: Vec<Option<Joined>> = vec![None; model.vars.len()];
    for link in &model.links {
        let options = |v: usize| model.vars[v].costs.len();
        for (a, b) in [(link.a, link.b), (link.b, link.a)] {
            // in each set only the root has not joined another
            if options(a) <= options(b)
                && joins[b].is_none()
                && !sets.equiv(a, b)
                && let Some(map) = function(link, a, options(link.b))
            {
                sets.union(a, b);
                joins[b] = Some((a, Rc::new(map)));
            }
        }
    }
    joins
}

/// For each option of one end the only one that the link allows at the other, if it always is the only one.
fn function(link: &Link, a: usize, columns: usize) -> Option<Vec<usize>> {
    let rows = link.costs.len() / columns;
    let ([options, of_option], [others, of_other]) =
        if a == link.a { ([rows, columns], [columns, 1]) } else { ([columns, 1], [rows, columns]) };
    let only = |option: usize| {
        let mut allowed = (0..others).filter(|other| !is_never(link.costs[option * of_option + other * of_other]));
        allowed.next().filter(|_| allowed.next().is_none())
    };
    (0..options).map(only).collect()
}

/// For each variable its root and the option for each option of the root.
fn roots(model: &Model, joins: &[Option<Joined>]) -> Vec<Joined> {
    let mut roots: Vec<Option<Joined>> = vec![None; joins.len()];
    for v in 0..joins.len() {
        // from a variable whose root is known back to this one
        let mut path = Vec::new();
        let mut next = Some(v);
        while let Some(v) = next.filter(|v| roots[*v].is_none()) {
            path.push(v);
            next = joins[v].as_ref().map(|(other, _)| *other);
        }
        for v in path.into_iter().rev() {
            let root = match &joins[v] {
                None => (v, Rc::new((0..model.vars[v].costs.len()).collect())),
                Some((other, map)) => {
                    let (root, of_other) = roots[*other].as_ref().expect("the path comes from there");
                    (*root, Rc::new(of_other.iter().map(|option| map[*option]).collect()))
                }
            };
            roots[v] = Some(root);
        }
    }
    roots.into_iter().flatten().collect()
}

/// Puts every variable into its root.
fn contract(model: &mut Model, roots: &[Joined]) {
    let joined: Vec<bool> = roots.iter().enumerate().map(|(v, (root, _))| v != *root).collect();
    let columns: Vec<usize> = model.vars.iter().map(|var| var.costs.len()).collect();
    for v in (0..roots.len()).filter(|v| joined[*v]) {
        let (root, map) = &roots[v];
        let var = std::mem::take(&mut model.vars[v]);
        let into = &mut model.vars[*root];
        model.trail.push(follows(&var, into, map));
        into.costs.iter_mut().zip(map.iter()).for_each(|(cost, option)| *cost = plus(*cost, var.costs[*option]));
        let moved = var.holds.iter().map(|hold| Hold { bytes: map.iter().map(|option| hold.bytes[*option]).collect(), ..*hold });
        into.holds.extend(moved);
    }
    let mut links = Vec::new();
    for link in std::mem::take(&mut model.links) {
        let ((a, of_a), (b, of_b)) = (&roots[link.a], &roots[link.b]);
        let at = |s: usize, t: usize| link.at(s, t, columns[link.b]);
        if a == b {
            // an option whose parts forbid each other has support no more
            let costs = model.vars[*a].costs.iter_mut().zip(of_a.iter().zip(of_b.iter()));
            costs.for_each(|(cost, (s, t))| *cost = plus(*cost, at(*s, *t)));
        } else if !joined[link.a] && !joined[link.b] {
            links.push((*a, *b, link.costs));
        } else {
            links.push((*a, *b, of_a.iter().flat_map(|s| of_b.iter().map(move |t| at(*s, *t))).collect()));
        }
    }
    model.links = merged(links.into_iter(), &model.vars);
    drop_vars(model, &joined);
}

#[cfg(test)]
mod tests {
    use super::super::check::{check, functions};
    use super::run;

    #[test]
    fn what_is_a_function_of_another_joins_it() {
        let one = |model: &mut _| {
            run(model);
            Some(())
        };
        let fired = (0..3000).filter(|seed| check(&functions(*seed), one)).count();
        assert!(fired > 2500, "{fired}");
    }
}
