//! Exact reductions: what remains has an optimum that is one of the whole problem.
//!
//! - *Support*: an option that is forbidden, or that some link forbids with every option of the other variable, is in no
//!   answer.
//! - *Determined*: if a link leaves exactly one option of `b` for each option of `a`, then `b` is a function of `a`: it
//!   joins `a`, whose options take over its costs, its memory and its links. Ties between equal layouts are of this kind.
//! - *Dominated*: an option that costs no less than another whatever its neighbours choose, and keeps no less in any row,
//!   is not needed: exchanging it for the other makes no answer worse. Of two that dominate each other the first stays.
//! - *Decided*: a variable of one option is a constant.
//! - *Rows*: a row that its options cannot overfill never binds, and a row whose holds are all held in a neighbouring row
//!   is implied by that one.

use std::collections::BTreeSet;

use super::model::{Hold, Model, merged};

/// Reduces until nothing changes; `None` if there is no answer at all.
pub fn reduce(mut model: Model) -> Option<Model> {
    loop {
        let before = size(&model);
        supported(&mut model)?;
        rows(&mut model)?;
        determined(&mut model);
        supported(&mut model)?;
        dominated(&mut model);
        decided(&mut model);
        if model.constant.is_infinite() {
            return None;
        }
        if size(&model) == before {
            return Some(model);
        }
    }
}

fn size(model: &Model) -> (usize, usize, usize) {
    (model.vars.len(), model.vars.iter().map(|var| var.costs.len()).sum(), model.rows.len())
}

/// Drops options that have no support. `None` if a variable has none left.
fn supported(model: &mut Model) -> Option<()> {
    let around = model.around();
    let mut alive: Vec<Vec<bool>> = model.vars.iter().map(|var| var.costs.iter().map(|cost| cost.is_finite()).collect()).collect();
    let mut todo: BTreeSet<usize> = (0..model.links.len()).collect();
    while let Some(id) = todo.pop_first() {
        let link = &model.links[id];
        let columns = alive[link.b].len();
        for (from, to, by_row) in [(link.a, link.b, true), (link.b, link.a, false)] {
            let at = |s: usize, t: usize| if by_row { link.costs[s * columns + t] } else { link.costs[t * columns + s] };
            let lost: Vec<usize> = (0..alive[from].len())
                .filter(|s| alive[from][*s] && !(0..alive[to].len()).any(|t| alive[to][t] && at(*s, t).is_finite()))
                .collect();
            if !lost.is_empty() {
                lost.iter().for_each(|s| alive[from][*s] = false);
                todo.extend(around[from].iter().copied().filter(|other| *other != id));
                if !by_row {
                    todo.insert(id);
                }
            }
        }
    }
    if alive.iter().any(|options| !options.contains(&true)) {
        return None;
    }
    keep(model, &alive);
    Some(())
}

/// Leaves only the options that are marked.
pub fn keep(model: &mut Model, alive: &[Vec<bool>]) {
    if alive.iter().all(|options| options.iter().all(|alive| *alive)) {
        return;
    }
    let columns_before: Vec<usize> = model.vars.iter().map(|var| var.costs.len()).collect();
    for (var, alive) in model.vars.iter_mut().zip(alive) {
        let mut at = alive.iter();
        var.costs.retain(|_| *at.next().expect("one mark an option"));
        let mut at = alive.iter();
        var.strategies.retain(|_| *at.next().expect("one mark an option"));
        for hold in &mut var.holds {
            let mut at = alive.iter();
            hold.bytes.retain(|_| *at.next().expect("one mark an option"));
        }
    }
    for link in &mut model.links {
        let columns = columns_before[link.b];
        if alive[link.a].contains(&false) || alive[link.b].contains(&false) {
            let kept = (0..link.costs.len()).filter(|at| alive[link.a][at / columns] && alive[link.b][at % columns]);
            link.costs = kept.map(|at| link.costs[at]).collect();
        }
    }
}

/// Joins variables that are functions of others to them.
fn determined(model: &mut Model) {
    // leader[v] and, for each option of the leader, the option of v
    let n = model.vars.len();
    let mut leader: Vec<(usize, Vec<usize>)> = (0..n).map(|v| (v, (0..model.vars[v].costs.len()).collect())).collect();
    let mut leads: Vec<bool> = vec![false; n];
    for link in &model.links {
        let columns = model.vars[link.b].costs.len();
        let rows = model.vars[link.a].costs.len();
        // as few options as may be: the variable with more of them leads
        let ways = if rows >= columns {
            [(link.a, link.b, true), (link.b, link.a, false)]
        } else {
            [(link.b, link.a, false), (link.a, link.b, true)]
        };
        for (a, b, by_row) in ways {
            let root = leader[a].0;
            if leader[b].0 != b || leads[b] || root == b {
                continue;
            }
            let at = |s: usize, t: usize| if by_row { link.costs[s * columns + t] } else { link.costs[t * columns + s] };
            let only = |s: usize| {
                let mut finite = (0..model.vars[b].costs.len()).filter(|t| at(s, *t).is_finite());
                finite.next().filter(|_| finite.next().is_none())
            };
            let Some(map) = (0..model.vars[a].costs.len()).map(only).collect::<Option<Vec<usize>>>() else { continue };
            leader[b] = (root, leader[a].1.iter().map(|s| map[*s]).collect());
            leads[root] = true;
            break;
        }
    }
    if leads.contains(&true) {
        contract(model, &leader);
    }
}

/// Puts every variable into its leader.
fn contract(model: &mut Model, leader: &[(usize, Vec<usize>)]) {
    let roots: Vec<usize> = (0..leader.len()).filter(|v| leader[*v].0 == *v).collect();
    let place: Vec<usize> = leader.iter().map(|(root, _)| roots.binary_search(root).expect("a leader leads itself")).collect();
    let columns: Vec<usize> = model.vars.iter().map(|var| var.costs.len()).collect();
    let mut vars: Vec<_> = roots.iter().map(|root| model.vars[*root].clone()).collect();
    for (v, (_, map)) in leader.iter().enumerate().filter(|(v, (root, _))| v != root) {
        let (var, into) = (&model.vars[v], &mut vars[place[v]]);
        into.nodes.extend(&var.nodes);
        for (option, of) in map.iter().enumerate() {
            into.costs[option] += var.costs[*of];
            into.strategies[option].extend(&var.strategies[*of]);
        }
        let moved = var.holds.iter().map(|hold| Hold { bytes: map.iter().map(|of| hold.bytes[*of]).collect(), ..*hold });
        into.holds.extend(moved);
    }
    let mut links = Vec::new();
    for link in std::mem::take(&mut model.links) {
        let ((a, of_a), (b, of_b)) = (&leader[link.a], &leader[link.b]);
        let at = |s: usize, t: usize| link.costs[s * columns[link.b] + t];
        if a == b {
            let costs = &mut vars[place[link.a]].costs;
            costs.iter_mut().enumerate().for_each(|(option, cost)| *cost += at(of_a[option], of_b[option]));
        } else {
            let costs = of_a.iter().flat_map(|s| of_b.iter().map(move |t| at(*s, *t)));
            links.push((place[link.a], place[link.b], costs.collect()));
        }
    }
    model.links = merged(links.into_iter(), &vars);
    model.vars = vars;
    // an option that its own members forbid has infinite cost: the next pass over supports drops it
    model.vars.iter_mut().for_each(|var| join_holds(&mut var.holds));
}

/// Holds of the same rows become one.
fn join_holds(holds: &mut Vec<Hold>) {
    holds.sort_by_key(|hold| (hold.from, hold.to));
    holds.dedup_by(|next, hold| {
        let same = (next.from, next.to) == (hold.from, hold.to);
        if same {
            hold.bytes.iter_mut().zip(&next.bytes).for_each(|(sum, bytes)| *sum += bytes);
        }
        same
    });
}

/// Drops dominated options.
fn dominated(model: &mut Model) {
    let around = model.around();
    let mut alive: Vec<Vec<bool>> = model.vars.iter().map(|var| vec![true; var.costs.len()]).collect();
    for v in 0..model.vars.len() {
        let var = &model.vars[v];
        for worse in 0..var.costs.len() {
            let better = (0..var.costs.len()).any(|better| {
                let first = var.costs[better] - var.costs[worse];
                better != worse
                    && alive[v][better]
                    && first <= 0.0
                    && var.holds.iter().all(|hold| hold.bytes[better] <= hold.bytes[worse])
                    && regret(model, &around[v], &alive, v, better, worse, first) <= 0.0
            });
            alive[v][worse] = !better;
        }
    }
    keep(model, &alive);
}

/// The most that exchanging one option for another may cost over all links, given what is left of the neighbours.
fn regret(model: &Model, around: &[usize], alive: &[Vec<bool>], v: usize, better: usize, worse: usize, first: f64) -> f64 {
    let mut total = first;
    for link in around.iter().map(|id| &model.links[*id]) {
        let columns = model.vars[link.b].costs.len();
        let other = link.a + link.b - v;
        let at = |s: usize, t: usize| if link.a == v { link.costs[s * columns + t] } else { link.costs[t * columns + s] };
        let mut most = f64::NEG_INFINITY;
        for t in (0..model.vars[other].costs.len()).filter(|t| alive[other][*t]) {
            let (now, then) = (at(worse, t), at(better, t));
            if now.is_finite() {
                most = most.max(then - now);
            }
        }
        total += most;
        if total > 0.0 {
            return total;
        }
    }
    total
}

/// Variables of one option become constants.
fn decided(model: &mut Model) {
    let single: Vec<bool> = model.vars.iter().map(|var| var.costs.len() == 1).collect();
    if !single.contains(&true) {
        return;
    }
    let columns: Vec<usize> = model.vars.iter().map(|var| var.costs.len()).collect();
    let mut links = Vec::new();
    for link in std::mem::take(&mut model.links) {
        match (single[link.a], single[link.b]) {
            (false, false) => links.push(link),
            (true, _) => (0..columns[link.b]).for_each(|t| model.vars[link.b].costs[t] += link.costs[t]),
            (false, true) => (0..columns[link.a]).for_each(|s| model.vars[link.a].costs[s] += link.costs[s]),
        }
    }
    let mut place = vec![usize::MAX; single.len()];
    let mut vars = Vec::new();
    for (v, var) in std::mem::take(&mut model.vars).into_iter().enumerate() {
        if single[v] {
            model.constant += var.costs[0];
            model.decided.extend(var.nodes.iter().copied().zip(var.strategies[0].iter().copied()));
            for hold in &var.holds {
                model.rows[hold.from..hold.to].iter_mut().for_each(|row| *row -= hold.bytes[0] as i64);
            }
        } else {
            place[v] = vars.len();
            vars.push(var);
        }
    }
    for link in &mut links {
        (link.a, link.b) = (place[link.a], place[link.b]);
    }
    (model.vars, model.links) = (vars, links);
}

/// Drops rows that never bind or are implied, and what options keep in common. `None` if a row is overfull whatever is chosen.
fn rows(model: &mut Model) -> Option<()> {
    // what every option keeps is no choice
    for var in &mut model.vars {
        for hold in &mut var.holds {
            let least = hold.bytes.iter().copied().min().unwrap_or(0);
            if least > 0 {
                model.rows[hold.from..hold.to].iter_mut().for_each(|row| *row -= least as i64);
                hold.bytes.iter_mut().for_each(|bytes| *bytes -= least);
            }
        }
        var.holds.retain(|hold| hold.from < hold.to && hold.bytes.iter().any(|bytes| *bytes > 0));
    }
    if model.rows.iter().any(|row| *row < 0) {
        return None;
    }
    let n = model.rows.len();
    let (mut most, mut starts, mut ends) = (vec![0i64; n + 1], vec![false; n + 1], vec![false; n + 1]);
    for hold in model.vars.iter().flat_map(|var| &var.holds) {
        let largest = hold.bytes.iter().copied().max().unwrap_or(0) as i64;
        most[hold.from] += largest;
        most[hold.to] -= largest;
        (starts[hold.from], ends[hold.to]) = (true, true);
    }
    let mut binds = vec![false; n];
    let mut live = 0;
    for row in 0..n {
        live += most[row];
        binds[row] = live > model.rows[row];
    }
    // what is held in a row and where it does not begin is held before it too, where it does not end after it too
    for row in 0..n {
        let before = row > 0 && binds[row - 1] && !starts[row] && model.rows[row - 1] <= model.rows[row];
        let after = row + 1 < n && binds[row + 1] && !ends[row + 1] && model.rows[row + 1] <= model.rows[row];
        if before || after {
            binds[row] = false;
        }
    }
    let mut place = vec![0; n + 1];
    for row in 0..n {
        place[row + 1] = place[row] + usize::from(binds[row]);
    }
    for hold in model.vars.iter_mut().flat_map(|var| &mut var.holds) {
        (hold.from, hold.to) = (place[hold.from], place[hold.to]);
    }
    let mut kept = binds.iter();
    model.row_ids.retain(|_| *kept.next().expect("one mark a row"));
    let mut kept = binds.iter();
    model.rows.retain(|_| *kept.next().expect("one mark a row"));
    for var in &mut model.vars {
        var.holds.retain(|hold| hold.from < hold.to);
        join_holds(&mut var.holds);
    }
    Some(())
}
