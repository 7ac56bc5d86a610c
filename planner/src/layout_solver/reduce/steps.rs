//! How variables that are taken out are found again: steps by names from maps by places.

use crate::layout_solver::model::{Step, Var};

/// That a variable follows another, from its option for each option of the other, all by place.
pub fn follows(var: &Var, of: &Var, map: &[usize]) -> Step {
    let mut options = vec![0; named(of)];
    of.options.iter().zip(map).for_each(|(name, option)| options[*name as usize] = var.options[*option]);
    Step::Follows { var: var.id, of: of.id, options }
}

/// That a variable follows from two others, from its option for each pair of theirs, row-major, all by place.
pub fn between(var: &Var, [a, b]: [&Var; 2], map: &[usize]) -> Step {
    let columns = named(b);
    let mut options = vec![0; named(a) * columns];
    for (first, map) in a.options.iter().zip(map.chunks_exact(b.options.len())) {
        let row = &mut options[*first as usize * columns..][..columns];
        b.options.iter().zip(map).for_each(|(second, option)| row[*second as usize] = var.options[*option]);
    }
    Step::Between { var: var.id, of: [a.id, b.id], columns, options }
}

/// How many options the names of a variable's options can tell apart.
fn named(var: &Var) -> usize {
    var.options.iter().max().map_or(0, |name| *name as usize + 1)
}
