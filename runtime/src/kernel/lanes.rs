//! Which loops the lanes run over, estimated from the operands' strides.

use partita_ir::rule::Rule;

use super::choose::{Choice, depends};
use super::nest::{Class, Nest};

/// Lanes below which a row is short, and blocks should take several.
const SHORT: usize = 128;
/// Lanes of a block that are enough.
const MANY: usize = 512;
/// Columns of a block that reads an operand across its lines: 16 rows of these are a block.
const ACROSS: usize = 64;

/// The loop that the lanes should run over, by an estimate of nanoseconds; none if no loop may.
pub fn best_lane(rule: &Rule, nest: &Nest, choice: Option<&Choice>, scatters: bool) -> Option<usize> {
    let chosen = choice.map(|choice| choice.loop_index);
    let walked: Vec<usize> = (0..nest.loops.len()).filter(|index| Some(*index) != chosen).collect();
    let points = nest.count(&walked) as f64;
    let folds = walked.iter().any(|index| nest.loops[*index].class == Class::Reduced);
    let elements = nest.count(&nest.of_class(Class::Kept, &[])) as f64;
    let estimate = |index: usize| {
        let along = &nest.loops[index];
        // each row starts, each block runs the tape; a short loop may have a second one beside it
        let second = if along.count < SHORT { best_tall(rule, nest, choice, index) } else { None };
        let lanes = along.count * second.map_or(1, |(tall, columns)| nest.loops[tall].count.min(MANY / columns));
        let rows = points / lanes as f64;
        let overhead = rows * (40.0 + 60.0 * lanes.div_ceil(MANY) as f64) + if second.is_some() { 0.2 * points } else { 0.0 };
        let operand = |n: usize| match along.step(1 + n).abs() {
            _ if !rule.expr.reads(n) || nest.is_uniform(n, along) => 0.0,
            1 => 0.1,
            2..16 => 0.5,
            _ => 1.0,
        };
        let reads: f64 = (0..nest.operands.len()).map(operand).sum::<f64>() * points;
        let stores = if along.class == Class::Reduced || along.step(0) == 1 { 0.0 } else { elements };
        let keeps = if folds && along.class == Class::Kept { 0.1 * points + elements } else { 0.0 };
        overhead + reads + stores + keeps
    };
    let may = |index: &usize| {
        let free = choice.is_none_or(|choice| !depends(&choice.index, nest, *index));
        free && !(scatters && nest.loops[*index].class == Class::Reduced)
    };
    // the last of equals: the innermost
    walked.into_iter().filter(may).min_by(|a, b| estimate(*a).total_cmp(&estimate(*b)).then(b.cmp(a)))
}

/// A second loop for blocks of several rows, and their columns: where rows are short, or an operand that the lanes
/// cross is contiguous along that loop.
pub fn best_tall(rule: &Rule, nest: &Nest, choice: Option<&Choice>, lane: usize) -> Option<(usize, usize)> {
    let along = &nest.loops[lane];
    if along.class == Class::Reduced || along.runs.len() > 1 {
        return None;
    }
    let may = |index: &usize| {
        let l = &nest.loops[*index];
        let chosen = choice.is_some_and(|choice| choice.loop_index == *index || depends(&choice.index, nest, *index));
        *index != lane && l.class == along.class && l.runs.len() == 1 && !chosen
    };
    let read = |n: &usize| rule.expr.reads(*n);
    let operands: Vec<usize> = (0..nest.operands.len()).filter(read).collect();
    let crossed = |index: &usize| {
        let steps = |n: &usize| (along.step(1 + n).abs(), nest.loops[*index].step(1 + n));
        operands.iter().any(|n| matches!(steps(n), (16.., 1)))
    };
    if along.count >= SHORT {
        return (0..nest.loops.len()).filter(may).find(crossed).map(|index| (index, ACROSS));
    }
    // the fewest operands that change along it and are not contiguous in a block
    let copies = |index: &usize| {
        let l = &nest.loops[*index];
        let copied = |n: &&usize| !nest.is_uniform(**n, l) || !nest.is_uniform(**n, along);
        let joined = |n: &&usize| l.step(1 + **n) == along.count as i64 && along.step(1 + **n) == 1;
        operands.iter().filter(|n| copied(n) && !joined(n)).count()
    };
    let rows = |index: &usize| nest.loops[*index].count.min(MANY / along.count);
    let index = (0..nest.loops.len()).filter(may).max_by_key(|index| (rows(index), std::cmp::Reverse(copies(index))))?;
    Some((index, along.count))
}
