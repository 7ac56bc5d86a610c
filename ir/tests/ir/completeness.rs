//! Signatures: what numbers say that an operator admits is what its rule derives, and nothing else.
//!
//! For every operator of the language, forward, backward and update, on meshes of 2 and 3 ranks: every reading of the
//! operands and the result as S of a dimension or a factor of one, B, P(sum) or P(max) is tried on random numbers.
//! An operand's shards say which indices of each factor a rank walks; where operands contradict one another there is
//! nothing to run. What holds must be derived, up to readings weaker than one that holds: a result that is B may also
//! be read as S (a local slice) or as P(max) (the same everywhere), and an operand that is not read as anything.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::{Def, Graph, Leaf};
use partita_ir::id::{Id, ValueId};
use partita_ir::interpret::{Tensor, eval_rule, initial_leaves, run, whole};
use partita_ir::layout::{Intervals, Layout, Mesh, Partition, Share, Split, count};
use partita_ir::random::DrawContext;
use partita_ir::rule::{Reduce, Rule};
use partita_ir::sample;
use partita_ir::signature::{Choice, Signature, SizedRule};
use partita_ir::train::Optimizer;

use super::operators::{OPERATORS, step_of};
use super::sharded::{Dice, Sharded, identity, pending, permutations, row};

/// What holds and is not derived: operator ("" for any), result, readings ("" for any), reason.
const EXCEPTIONS: &[(&str, &str, &[&str], &str)] = &[
    ("", "update loss", &["P(max) B -> P(max)"], POSITIVE),
    ("", "update correction", &["P(max) -> P(max)"], POSITIVE),
    ("", "update", &["P(max) B B B B B -> P(max)"], POSITIVE),
    ("exp", "backward grad", &["B P(max) -> P(max)"], POSITIVE),
    ("sqrt", "backward grad", &["B P(max) -> P(max)"], POSITIVE),
    ("tanh", "backward grad", &["B P(max) -> P(max)"], POSITIVE),
    ("sigmoid", "backward grad", &["B P(max) -> P(max)"], POSITIVE),
    ("erf", "backward grad", &["B P(max) -> P(max)"], POSITIVE),
    ("pow", "backward grad", &["B P(max) -> P(max)"], POSITIVE),
    ("logsumexp", "backward grad", &["B P(max) B -> P(max)"], POSITIVE),
    ("softmax", "backward grad", &["B B P(max) -> P(max)", "B P(max) B -> P(max)"], POSITIVE),
    ("cross-entropy", "backward grad", &["B P(max) B -> P(max)"], POSITIVE),
    ("attention with everything", "backward grad", &["B B B P(max) -> P(max)"], POSITIVE),
    ("jitter", "forward jitter", &["P(max) -> P(max)"], POSITIVE),
    ("argmax", "forward argmax", &["P(max) -> P(argmax)"], ONE_OP),
    ("max", "backward place", &["P(max) -> P(argmax)"], ONE_OP),
    ("a user's fold", "backward place", &["P(max) B -> P(argmax)"], ONE_OP),
    ("softmax fold", "backward spread", &[""], UNREACHED),
    ("softmax fold", "backward grad", &[""], UNREACHED),
];

/// The largest of the largest parts is where the largest is, but P(max) and P(argmax) are two reductions.
const ONE_OP: &str = "a choice has one op, of operands and result";

/// The scale is an expression that is never negative, but no literal. It may be 0, and then the identity of a maximum
/// would become a NaN: such a P(max) is right only by luck.
const POSITIVE: &str = "a scale that is positive, but no literal";

/// The expression chooses between operands by comparing an index with constants, and never comes to read them.
const UNREACHED: &str = "an operand that no index reads";

/// A rule with numbers to try it on.
struct Case<'a> {
    name: String,
    rule: SizedRule<'a>,
    operands: Vec<Tensor>,
    result: Tensor,
    ctx: DrawContext,
}

/// The rules of a graph with the numbers that a run gives them.
fn cases<'a>(graph: &'a Graph, of: &str, leaves: BTreeMap<(ValueId, u64), Tensor>) -> Vec<Case<'a>> {
    let env = run(graph, leaves, 11, 0);
    let mut found = Vec::new();
    for phase in &graph.phases {
        graph.visit(&phase.ops, &mut |op, within| {
            let rule = SizedRule::of(graph, op).unwrap();
            let read = |value: ValueId| env.get(value, 0).unwrap().clone();
            let node = graph.op(op);
            let name = format!("{of}: {} {}", phase.kind.word(), graph.value(node.result()).name);
            let operands = node.operands.iter().map(|operand| read(*operand)).collect();
            let _ = within;
            found.push(Case { name, rule, operands, result: read(node.result()), ctx: DrawContext { seed: 11, step: 0, iteration: 0 } });
        });
    }
    found
}

/// Random tokens, parameters and states that are not at rest.
fn leaves(graph: &Graph) -> BTreeMap<(ValueId, u64), Tensor> {
    let mut dice = Dice::new(5);
    let mut leaves = initial_leaves(graph, 3);
    for (index, value) in graph.values.iter().enumerate() {
        let id = ValueId::new(index);
        match value.def {
            Def::Leaf(Leaf::Input(_)) => drop(leaves.insert((id, 0), Tensor::from_fn(graph.shape(id), |_| dice.below(6) as f64))),
            Def::Leaf(Leaf::State { .. }) => drop(leaves.insert((id, 0), Tensor::from_fn(graph.shape(id), |_| dice.real(0.1, 1.0)))),
            _ => {}
        }
    }
    leaves
}

fn mesh(ranks: u64) -> Mesh {
    Mesh::new(&[("x", ranks)])
}

fn split(dim: usize, size: u64, inner: u64) -> Share {
    Share::Split(Split::new(dim, size, inner, 0, Partition::Balanced))
}

/// The share of operand `n` on one mesh axis that deals out a factor.
fn dealt(rule: &SizedRule<'_>, n: usize, factor: usize) -> Share {
    let choice = Choice::Split { factor, partition: Partition::Balanced };
    rule.operand_layout(n, &Signature { choices: vec![choice], order: vec![0] }).0[0]
}

/// Every S of operand `n`, or of the result: its dimensions, the factors that an access of it walks in one, and those that
/// walk one through a window.
fn splits(rule: &SizedRule<'_>, n: Option<usize>) -> Vec<Share> {
    let (access, shape) = n.map_or((&rule.rule.result, &rule.result), |n| (&rule.rule.operands[n], &rule.operands[n]));
    let mut found = BTreeSet::new();
    for (dim, (at, &size)) in access.iter().zip(shape).enumerate() {
        found.insert(split(dim, size, 1));
        if at.is_exact(size, &|factor| rule.factors[factor]) {
            found.extend(at.terms.iter().map(|term| split(dim, rule.factors[term.factor], term.stride as u64)));
        } else if let Some(n) = n {
            found.extend(at.terms.iter().map(|term| dealt(rule, n, term.factor)));
        }
    }
    found.into_iter().collect()
}

/// The local indices of every factor that a shard of an exact dimension stands for, `None` if it is no product.
fn factors_of_dim(rule: &SizedRule<'_>, at: &partita_ir::rule::DimAccess, size: u64, held: &Intervals) -> Option<Vec<(usize, Intervals)>> {
    let indices: Vec<u64> = held.iter().flat_map(|(start, end)| *start..*end).collect();
    let mut found = Vec::new();
    let mut product = 1;
    for term in &at.terms {
        let digits: BTreeSet<u64> = indices.iter().map(|index| index / term.stride as u64 % rule.factors[term.factor]).collect();
        product *= digits.len() as u64;
        let mut intervals: Intervals = Vec::new();
        for digit in digits {
            match intervals.last_mut() {
                Some(last) if last.1 == digit => last.1 += 1,
                _ => intervals.push((digit, digit + 1)),
            }
        }
        found.push((term.factor, intervals));
    }
    let _ = size;
    (product == indices.len() as u64).then_some(found)
}

/// What a layout of an operand (or result) says about the factors on a rank; `None` if it says no product of them.
fn extents_of(rule: &SizedRule<'_>, n: usize, layout: &Layout, mesh: &Mesh, rank: u64) -> Option<Vec<(usize, Intervals)>> {
    let (access, shape) = (&rule.rule.operands[n], &rule.operands[n]);
    let at = mesh.coordinates(rank, 0);
    let shard = layout.shard(shape, mesh, &at);
    let mut found = Vec::new();
    for (dim, at_dim) in access.iter().enumerate() {
        let exact = at_dim.is_exact(shape[dim], &|factor| rule.factors[factor]);
        if !exact {
            // read at the global index: it must be there, for the part of one factor or for all
            let windowed = at_dim.terms.iter().find(|term| layout.0[0].is_windowed() && dealt(rule, n, term.factor) == layout.0[0]);
            if windowed.is_none() && count(&shard[dim]) != shape[dim] {
                return None;
            }
            for term in &at_dim.terms {
                let size = rule.factors[term.factor];
                let part = windowed.is_some_and(|other| other.factor == term.factor);
                let walked = if part { Partition::Balanced.part(size, mesh.ranks(), rank) } else { whole(&[size]).remove(0) };
                found.push((term.factor, walked));
            }
            continue;
        }
        // an empty shard of a factor leaves the others whole
        if let (Share::Split(split), 0) = (layout.0[0], count(&shard[dim]))
            && split.dim == dim
        {
            let term = at_dim.terms.iter().find(|term| term.stride as u64 == split.inner && rule.factors[term.factor] == split.size)?;
            found.extend(
                at_dim.terms.iter().map(|other| {
                    (other.factor, if other.factor == term.factor { Vec::new() } else { vec![(0, rule.factors[other.factor])] })
                }),
            );
            continue;
        }
        found.extend(factors_of_dim(rule, at_dim, shape[dim], &shard[dim])?);
    }
    Some(found)
}

/// Puts what several tensors say about factors together; `None` if they contradict one another.
fn agreed(says: &[(usize, Intervals)], factors: usize) -> Option<Vec<Option<Intervals>>> {
    let mut extents: Vec<Option<Intervals>> = vec![None; factors];
    for (factor, intervals) in says {
        match &extents[*factor] {
            Some(known) if known != intervals => return None,
            _ => extents[*factor] = Some(intervals.clone()),
        }
    }
    Some(extents)
}

/// Random parts whose merge by `op` is `value`. Now and then one part has it all and the others the identity, as a
/// boxing to P leaves them.
fn parts(value: &Tensor, op: Reduce, n: usize, kept: bool, dice: &mut Dice) -> Vec<Tensor> {
    if n == 1 {
        return vec![value.clone()];
    }
    let mut parts: Vec<Tensor> = (0..n).map(|_| identity(op, value.shape.clone())).collect();
    if kept {
        parts[0] = value.clone();
        return parts;
    }
    let row = row(op, &value.shape).max(1);
    for at in (0..value.data.len()).step_by(row) {
        let held = &value.data[at..at + row];
        let owner = dice.below(n);
        for (which, part) in parts.iter_mut().enumerate() {
            let out = &mut part.data[at..at + row];
            match op {
                Reduce::Sum => out[0] = dice.real(-1.0, 1.0),
                Reduce::Max | Reduce::Min if which != owner => {
                    // now and then several hold the extreme, or another value that is there
                    let apart = [0.0, 1.0, dice.real(0.1, 2.0), dice.real(0.1, 2.0)][dice.below(4)];
                    out[0] = if op == Reduce::Max { held[0] - apart } else { held[0] + apart };
                }
                // each holds its share of the weight
                Reduce::LogSumExp => out[0] = held[0] - (n as f64).ln(),
                Reduce::Softmax => {
                    out.copy_from_slice(held);
                    out[row - 1] -= (n as f64).ln();
                }
                Reduce::ArgMax if which != owner => {
                    out[0] = held[0] - dice.real(0.1, 2.0);
                    out[1] = dice.below(7) as f64;
                }
                _ => out.copy_from_slice(held),
            }
        }
        if op == Reduce::Sum {
            let others: f64 = parts[1..].iter().map(|part| part.data[at]).sum();
            parts[0].data[at] = value.data[at] - others;
        }
    }
    parts
}

/// What every rank computes from these layouts of the operands.
fn evaluate(case: &Case<'_>, layouts: &[Layout], extents: &[Vec<Intervals>], mesh: &Mesh, kept: bool, dice: &mut Dice) -> Vec<Tensor> {
    let sharded: Vec<Sharded> = case
        .operands
        .iter()
        .zip(layouts)
        .map(|(operand, layout)| {
            let op = pending(layout).unwrap_or(Reduce::Sum);
            Sharded::of_parts(&parts(operand, op, Sharded::parts(layout, mesh), kept, dice), layout, mesh)
        })
        .collect();
    (0..mesh.ranks() as usize)
        .map(|rank| {
            let operands: Vec<&Tensor> = sharded.iter().map(|sharded| &sharded.shards[rank]).collect();
            eval_rule(case.rule.rule, &extents[rank], &case.rule.factors, &operands, &case.rule.operands, case.ctx)
        })
        .collect()
}

/// Whether what the ranks have computed is the result in this layout. A NaN of a rank is not.
fn holds(case: &Case<'_>, results: &[Tensor], layout: &Layout, mesh: &Mesh) -> bool {
    if results.iter().any(|result| result.data.iter().any(|x| x.is_nan())) && !case.result.data.iter().any(|x| x.is_nan()) {
        return false;
    }
    let largest = case.result.data.iter().filter(|x| x.is_finite()).fold(1.0f64, |most, x| most.max(x.abs()));
    let sharded = Sharded { layout: layout.clone(), shards: results.to_vec() };
    // merging tuples or sums needs rows that are whole
    let shape_fits = (0..mesh.ranks()).all(|rank| {
        let wanted = layout.local_shape(&case.result.shape, mesh, &mesh.coordinates(rank, 0));
        wanted == results[rank as usize].shape
    });
    shape_fits && sharded.distance(&case.result, mesh) <= 1e-9 * largest
}

const TRIALS: u64 = 3;

/// A reading of operands and result on one mesh axis, by the shards that it means.
type Reading = (Vec<Share>, Share);

fn words(reading: &Reading) -> String {
    let operands: Vec<String> = reading.0.iter().map(ToString::to_string).collect();
    format!("{} -> {}", operands.join(" "), reading.1)
}

/// The same rule on other numbers: whole ones with many ties, of the sign that `signs` gives each operand, so that
/// what holds is no accident of the run's numbers. `None` where the result is then no number.
fn renumbered<'a>(case: &Case<'a>, signs: u64) -> Option<Case<'a>> {
    let mut dice = Dice::new(signs);
    let rule = &case.rule;
    let operands: Vec<Tensor> = case
        .operands
        .iter()
        .enumerate()
        .map(|(n, operand)| {
            let sign = if signs >> n & 1 == 1 { -1.0 } else { 1.0 };
            Tensor::from_fn(operand.shape.clone(), |at| {
                if rule.floats[n] { sign * (1 + dice.below(3)) as f64 } else { operand.data[at as usize] }
            })
        })
        .collect();
    let read: Vec<&Tensor> = operands.iter().collect();
    let result = eval_rule(rule.rule, &whole(&rule.factors), &rule.factors, &read, &rule.operands, case.ctx);
    let fine = result.data.iter().all(|x| x.is_finite());
    fine.then(|| Case { name: case.name.clone(), rule: rule.clone(), operands, result, ctx: case.ctx })
}

/// Whether a reading holds on all the numbers that it is tried on.
fn holds_always(case: &Case<'_>, reading: &Reading, mesh: &Mesh) -> bool {
    let layouts: Vec<Layout> = reading.0.iter().map(|share| Layout(vec![*share])).collect();
    let mut dice = Dice::new(17);
    (0..1u64 << case.operands.len().min(6)).filter_map(|signs| renumbered(case, signs)).all(|case| {
        walks(&case.rule, &layouts, mesh).iter().any(|extents| {
            (0..8 * TRIALS).all(|trial| {
                let results = evaluate(&case, &layouts, extents, mesh, trial == 2, &mut Dice::new(dice.below(1 << 40) as u64));
                holds(&case, &results, &Layout(vec![reading.1]), mesh)
            })
        })
    })
}

/// Every reading that holds.
fn holding(case: &Case<'_>, mesh: &Mesh) -> BTreeSet<Reading> {
    let rule = &case.rule;
    let mut per_operand: Vec<Vec<Share>> = Vec::new();
    for n in 0..rule.rule.operands.len() {
        let mut shares = vec![Share::Broadcast];
        shares.extend(splits(rule, Some(n)));
        // integers are data: nothing sums them up
        if rule.floats[n] {
            shares.extend([Share::Partial(Reduce::Sum), Share::Partial(Reduce::Max)]);
        }
        per_operand.push(shares);
    }
    let mut results = vec![Share::Broadcast, Share::Partial(Reduce::Sum), Share::Partial(Reduce::Max)];
    results.extend(rule.rule.reduce.filter(|op| !matches!(op, Reduce::Sum | Reduce::Max)).map(Share::Partial));
    results.extend(splits(rule, None));
    let mut found = BTreeSet::new();
    let mut chosen = vec![0; per_operand.len()];
    loop {
        let shares: Vec<Share> = chosen.iter().zip(&per_operand).map(|(at, shares)| shares[*at]).collect();
        let layouts: Vec<Layout> = shares.iter().map(|share| Layout(vec![*share])).collect();
        for extents in walks(rule, &layouts, mesh) {
            let tries: Vec<Vec<Tensor>> =
                (0..TRIALS).map(|trial| evaluate(case, &layouts, &extents, mesh, trial == 2, &mut Dice::new(trial))).collect();
            for result in &results {
                let layout = Layout(vec![*result]);
                if tries.iter().all(|results| holds(case, results, &layout, mesh)) {
                    found.insert((shares.clone(), *result));
                }
            }
        }
        // the next choice of all
        let Some(at) = (0..chosen.len()).find(|at| chosen[*at] + 1 < per_operand[*at].len()) else { break };
        chosen[at] += 1;
        chosen[..at].fill(0);
    }
    found
}

/// What each rank may walk, given the operands' layouts: as they say, and where no operand says anything about a
/// factor, all of it or a part.
fn walks(rule: &SizedRule<'_>, layouts: &[Layout], mesh: &Mesh) -> Vec<Vec<Vec<Intervals>>> {
    let mut by_rank: Vec<Vec<Option<Intervals>>> = Vec::new();
    for rank in 0..mesh.ranks() {
        let mut says = Vec::new();
        for (n, layout) in layouts.iter().enumerate() {
            match extents_of(rule, n, layout, mesh, rank) {
                Some(more) => says.extend(more),
                None => return Vec::new(),
            }
        }
        match agreed(&says, rule.factors.len()) {
            Some(extents) => by_rank.push(extents),
            None => return Vec::new(),
        }
    }
    // a tuple is folded by rows, and half a row cannot be
    let component = |factor: usize| {
        rule.rule.reduce.is_some_and(Reduce::is_tuple)
            && rule.rule.result.last().is_some_and(|dim| dim.terms.iter().any(|term| term.factor == factor))
    };
    let free: Vec<usize> = (0..rule.factors.len()).filter(|factor| by_rank[0][*factor].is_none() && !component(*factor)).collect();
    let with = |dealt: Option<usize>| -> Vec<Vec<Intervals>> {
        by_rank
            .iter()
            .enumerate()
            .map(|(rank, extents)| {
                extents
                    .iter()
                    .enumerate()
                    .map(|(factor, known)| {
                        let size = rule.factors[factor];
                        match known {
                            Some(known) => known.clone(),
                            None if dealt == Some(factor) => Partition::Balanced.part(size, mesh.ranks(), rank as u64),
                            None => whole(&[size]).remove(0),
                        }
                    })
                    .collect()
            })
            .collect()
    };
    let split = by_rank
        .iter()
        .any(|extents| extents.iter().enumerate().any(|(factor, known)| known.as_ref().is_some_and(|k| count(k) < rule.factors[factor])));
    let mut all = vec![with(None)];
    if !split {
        all.extend(free.iter().map(|factor| with(Some(*factor))));
    }
    all
}

/// Every reading that the rule derives.
fn derived(rule: &SizedRule<'_>) -> Vec<(Choice, Reading)> {
    rule.choices()
        .into_iter()
        .map(|choice| {
            let signature = Signature { choices: vec![choice.clone()], order: vec![0] };
            let operands = (0..rule.rule.operands.len()).map(|n| rule.operand_layout(n, &signature).0[0]).collect();
            (choice, (operands, rule.result_layout(&signature).0[0]))
        })
        .collect()
}

/// Whether two shares of a tensor mean the same shards.
fn same(a: Share, b: Share, shape: &[u64], mesh: &Mesh) -> bool {
    a == b || Layout(vec![a]).same_shards(&Layout(vec![b]), shape, mesh)
}

/// Whether a reading is derived, or weaker than one that is.
fn covered(case: &Case<'_>, reading: &Reading, derived: &[(Choice, Reading)], mesh: &Mesh) -> bool {
    let rule = &case.rule;
    derived.iter().any(|(_, (operands, result))| {
        let alike = operands
            .iter()
            .zip(&reading.0)
            .enumerate()
            .all(|(n, (a, b))| same(*a, *b, &rule.operands[n], mesh) || (!rule.rule.expr.reads(n) && matches!(b, Share::Partial(_))));
        let weaker = *result == Share::Broadcast && matches!(reading.1, Share::Split(_) | Share::Partial(Reduce::Max));
        alike && (same(*result, reading.1, &rule.result, mesh) || weaker || idempotent(*result, reading.1))
    })
}

/// A value that is the same everywhere is its own maximum, or merge of tuples that keeps one.
fn idempotent(derived: Share, read: Share) -> bool {
    derived == Share::Broadcast && matches!(read, Share::Partial(Reduce::Max | Reduce::Min | Reduce::ArgMax))
}

/// A rule that is worth trying: small enough.
fn affordable(case: &Case<'_>) -> bool {
    let readings: usize = case.rule.operands.iter().map(|shape| 3 + shape.len()).product();
    let points: u64 = case.rule.factors.iter().product();
    readings as u64 * points < 4_000_000
}

fn check_derived(case: &Case<'_>, mesh: &Mesh, wrong: &mut Vec<String>) {
    for (choice, (operands, result)) in derived(&case.rule) {
        let layouts: Vec<Layout> = operands.iter().map(|share| Layout(vec![*share])).collect();
        let extents: Vec<Vec<Intervals>> =
            (0..mesh.ranks()).map(|rank| extents_by(&case.rule, std::slice::from_ref(&choice), &[0], mesh, rank)).collect();
        for trial in 0..TRIALS {
            let results = evaluate(case, &layouts, &extents, mesh, trial == 2, &mut Dice::new(trial));
            if !holds(case, &results, &Layout(vec![result]), mesh) {
                wrong.push(format!(
                    "{} on {}: {choice:?} is derived and does not hold: {}",
                    case.name,
                    mesh.ranks(),
                    words(&(operands.clone(), result))
                ));
                break;
            }
        }
    }
}

/// What a rank walks under these choices, as programs have it.
fn extents_by(rule: &SizedRule<'_>, choices: &[Choice], order: &[usize], mesh: &Mesh, rank: u64) -> Vec<Intervals> {
    let at = mesh.coordinates(rank, 0);
    (0..rule.factors.len())
        .map(|factor| {
            let size = rule.factors[factor];
            let mut layout = Layout::broadcast(mesh);
            let mut depth = 0;
            for &axis in order {
                if let Choice::Split { factor: dealt, partition } = &choices[axis]
                    && *dealt == factor
                {
                    layout.0[axis] = Share::Split(Split::new(0, size, 1, depth, *partition));
                    depth += 1;
                }
            }
            layout.shard(&[size], mesh, &at).remove(0)
        })
        .collect()
}

/// Of the first so many optimizers what holds must be derived too. The others' directions and rates rise with a gradient because a
/// root below them is never negative; that is not derived, and gradients are sums, never maxima.
const COMPLETE: usize = 2;
/// Each brings rules of its own.
const OPTIMIZERS: [Optimizer; 7] = [
    Optimizer::Sgd { momentum: 0.9, decay: 0.0 },
    Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1 },
    Optimizer::Adafactor { power: 0.8, eps: 0.01, floor: 1e-3, limit: 1.0, decay: 0.1 },
    Optimizer::Lamb { beta1: 0.9, beta2: 0.95, eps: 1e-6, decay: 0.1 },
    Optimizer::Lars { momentum: 0.9, trust: 0.1, decay: 0.1, eps: 1e-8 },
    Optimizer::Lion { beta1: 0.9, beta2: 0.99, decay: 0.1 },
    Optimizer::Muon { momentum: 0.95, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1 },
];

#[test]
fn what_holds_is_what_is_derived() {
    let mut wrong = Vec::new();
    let mut used: BTreeSet<usize> = BTreeSet::new();
    let mut seen: Vec<(Rule, Vec<u64>, Vec<bool>)> = Vec::new();
    let (mut rules, mut readings, mut too_large) = (0, 0, Vec::new());
    for (name, build) in OPERATORS {
        for (n, optimizer) in OPTIMIZERS.into_iter().enumerate() {
            let graph = step_of(*build, optimizer);
            for case in cases(&graph, name, leaves(&graph)) {
                let key = (case.rule.rule.clone(), case.rule.factors.clone(), case.rule.floats.clone());
                let same_rule = |known: &(Rule, Vec<u64>, Vec<bool>)| {
                    known.1 == key.1 && known.2 == key.2 && Rule { factors: key.0.factors.clone(), ..known.0.clone() } == key.0
                };
                if seen.iter().any(same_rule) {
                    continue;
                }
                seen.push(key);
                if !affordable(&case) {
                    too_large.push(case.name.clone());
                    continue;
                }
                rules += 1;
                for ranks in [2, 3] {
                    let mesh = mesh(ranks);
                    check_derived(&case, &mesh, &mut wrong);
                    if n >= COMPLETE {
                        continue;
                    }
                    let derived = derived(&case.rule);
                    for reading in holding(&case, &mesh) {
                        readings += 1;
                        if covered(&case, &reading, &derived, &mesh) || !holds_always(&case, &reading, &mesh) {
                            continue;
                        }
                        let words = words(&reading);
                        let excepted = |(operator, result, readings, _): &(&str, &str, &[&str], &str)| {
                            let (from, what) = case.name.split_once(": ").unwrap();
                            from.starts_with(operator)
                                && what.starts_with(result)
                                && (readings.contains(&"") || readings.contains(&words.as_str()))
                        };
                        match EXCEPTIONS.iter().position(excepted) {
                            Some(at) => drop(used.insert(at)),
                            None => wrong.push(format!("{} on {ranks}: {words} holds and is not derived", case.name)),
                        }
                    }
                }
            }
        }
    }
    println!("{rules} rules, {readings} readings hold; too large: {too_large:?}");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    let unused: Vec<_> = (0..EXCEPTIONS.len()).filter(|at| !used.contains(at)).map(|at| EXCEPTIONS[at]).collect();
    assert!(unused.is_empty(), "exceptions that are none any more: {unused:?}");
}

/// A random signature on a mesh: any choices that go together, nested in any order, dealt out in any way.
fn drawn(rule: &SizedRule<'_>, mesh: &Mesh, dice: &mut Dice) -> Signature {
    let all = rule.choices();
    loop {
        let choices: Vec<Choice> = mesh
            .axes
            .iter()
            .map(|_| match dice.pick(&all).clone() {
                Choice::Split { factor, .. } => {
                    let partition = *dice.pick(&[Partition::Balanced, Partition::Balanced, Partition::Zigzag, Partition::Chunk(2)]);
                    // pieces of a fixed length are enough only if they reach the end
                    let size = rule.factors[factor];
                    let partition = if partition == Partition::Chunk(2) { Partition::Chunk(size.div_ceil(2)) } else { partition };
                    Choice::Split { factor, partition }
                }
                other => other,
            })
            .collect();
        if rule.compatible(&choices) {
            let order = dice.pick(&permutations(mesh.axes.len())).clone();
            return Signature { choices, order };
        }
    }
}

fn check_signature(case: &Case<'_>, mesh: &Mesh, signature: &Signature, dice: &mut Dice) -> Result<(), String> {
    let rule = &case.rule;
    let layouts: Vec<Layout> = (0..rule.operands.len()).map(|n| rule.operand_layout(n, signature)).collect();
    let result = rule.result_layout(signature);
    let extents: Vec<Vec<Intervals>> =
        (0..mesh.ranks()).map(|rank| extents_by(rule, &signature.choices, &signature.order, mesh, rank)).collect();
    for kept in [false, true] {
        let results = evaluate(case, &layouts, &extents, mesh, kept, dice);
        if !holds(case, &results, &result, mesh) {
            let operands: Vec<String> = layouts.iter().map(ToString::to_string).collect();
            let sizes: Vec<u64> = mesh.axes.iter().map(|axis| axis.size).collect();
            return Err(format!("{} on {sizes:?}: {signature:?} does not hold: {} -> {result}", case.name, operands.join(" ")));
        }
    }
    Ok(())
}

/// What holds on each axis alone holds on all of them together.
#[test]
fn signatures_of_several_axes_hold() {
    let mut dice = Dice::new(23);
    let (mut wrong, mut done, mut passed) = (Vec::new(), 0, BTreeSet::new());
    for (name, build) in OPERATORS {
        let graph = step_of(*build, Optimizer::adamw());
        for case in cases(&graph, name, leaves(&graph)) {
            for _ in 0..16 {
                let sizes = *dice.pick::<&[(&str, u64)]>(&[
                    &[("x", 2), ("y", 2)],
                    &[("x", 2), ("y", 3)],
                    &[("x", 3), ("y", 2)],
                    &[("x", 2), ("y", 2), ("z", 2)],
                ]);
                let mesh = Mesh::new(sizes);
                let signature = drawn(&case.rule, &mesh, &mut dice);
                passed.extend(
                    signature.choices.iter().filter_map(|choice| if let Choice::Pass { op, .. } = choice { Some(op.word()) } else { None }),
                );
                wrong.extend(check_signature(&case, &mesh, &signature, &mut dice).err());
                done += 1;
            }
        }
    }
    println!("{done} signatures, passed {passed:?}");
    assert!(wrong.is_empty(), "{} of {done}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(passed.len(), Reduce::ALL.len(), "every op was passed: {passed:?}");
}

/// The rules of random graphs, which nobody chose.
#[test]
fn signatures_of_random_rules_hold() {
    let mut dice = Dice::new(29);
    let (mut wrong, mut done) = (Vec::new(), 0);
    for seed in 0..60 {
        let graph = sample::graph(seed, sample::Options::default());
        for case in cases(&graph, &format!("seed {seed}"), sample::leaves(&graph, seed)) {
            check_derived(&case, &mesh(2 + seed % 2), &mut wrong);
            let mesh = Mesh::new(dice.pick::<&[(&str, u64)]>(&[&[("x", 2), ("y", 2)], &[("x", 2), ("y", 3)]]));
            let signature = drawn(&case.rule, &mesh, &mut dice);
            wrong.extend(check_signature(&case, &mesh, &signature, &mut dice).err());
            done += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {done}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(done > 500);
}
