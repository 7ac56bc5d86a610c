//! Taking options and variables out of the model's arrays.

use crate::layout_solver::model::Model;

/// Leaves only the options that are marked.
pub fn keep(model: &mut Model, alive: &[Vec<bool>]) {
    let whole: Vec<bool> = alive.iter().map(|options| !options.contains(&false)).collect();
    let kept = |v: usize| (0..alive[v].len()).filter(move |option| alive[v][*option]);
    for link in model.links.iter_mut().filter(|link| !(whole[link.a] && whole[link.b])) {
        let columns: Vec<usize> = kept(link.b).collect();
        let rows = kept(link.a).map(|s| &link.costs[s * alive[link.b].len()..][..alive[link.b].len()]);
        link.costs = rows.flat_map(|row| columns.iter().map(|t| row[*t])).collect();
    }
    for (v, var) in model.vars.iter_mut().enumerate().filter(|(v, _)| !whole[*v]) {
        var.options = kept(v).map(|option| var.options[option]).collect();
        var.costs = kept(v).map(|option| var.costs[option]).collect();
        for hold in &mut var.holds {
            hold.bytes = kept(v).map(|option| hold.bytes[option]).collect();
        }
    }
}

/// Drops variables that no link names any more.
pub fn drop_vars(model: &mut Model, gone: &[bool]) {
    let mut place = vec![0; gone.len() + 1];
    for (v, gone) in gone.iter().enumerate() {
        place[v + 1] = place[v] + usize::from(!gone);
    }
    let mut marks = gone.iter();
    model.vars.retain(|_| !marks.next().expect("one mark a variable"));
    for link in &mut model.links {
        (link.a, link.b) = (place[link.a], place[link.b]);
    }
}
