//! Boxing: for every pair of layouts the steps end in the right shards, and move as many bytes as they say.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::boxing::{Shape, Step, StepKind};
use partita_ir::interpret::Tensor;
use partita_ir::layout::{Layout, Mesh, Partition, Share, Split, Window, count};
use partita_ir::rule::Reduce;

use super::sharded::{Dice, Sharded, elements, identity, merge, pending, permutations, row};

/// How many cases a test does: `PARTITA_CASES` multiplies what it does anyway.
fn times(cases: usize) -> usize {
    let factor = std::env::var("PARTITA_CASES").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
    cases * factor.max(1)
}

fn mesh(sizes: &[u64]) -> Mesh {
    let names = ["x", "y", "z", "w"];
    Mesh::new(&sizes.iter().zip(names).map(|(size, name)| (name, *size)).collect::<Vec<_>>())
}

/// Every share of one axis that the tests know, all splits outermost.
fn shares(dims: &[u64], op: Reduce, plain_only: bool) -> Vec<Share> {
    let mut shares = vec![Share::Broadcast, Share::Partial(op)];
    for (dim, &size) in dims.iter().enumerate() {
        let mut add = |size: u64, inner: u64, partition: Partition| shares.push(Share::Split(Split::new(dim, size, inner, 0, partition)));
        add(size, 1, Partition::Balanced);
        if plain_only {
            continue;
        }
        if dim == 0 {
            add(size, 1, Partition::Zigzag);
        }
        // a merged dimension has a minor and a major factor, either of which may be dealt out
        for factor in (2..size).filter(|factor| size % factor == 0).take(1) {
            add(size / factor, factor, Partition::Balanced);
            add(factor, 1, Partition::Balanced);
        }
        // places of a window, the first and the last of them beyond the dimension
        for (places, stride) in [(size + 1, 1), (size / 2 + 1, 2)].into_iter().filter(|_| dim == 0) {
            let window = Some(Window { stride, first: -1, reach: 3 });
            shares.push(Share::Split(Split { window, ..Split::new(dim, places, 1, 0, Partition::Balanced) }));
        }
    }
    shares
}

/// Every layout with these shares, splits of one dimension nested in every order.
fn layouts(mesh: &Mesh, rank: usize, shares: &[Share]) -> Vec<Layout> {
    let mut all: Vec<Vec<Share>> = vec![Vec::new()];
    for _ in &mesh.axes {
        all = all.into_iter().flat_map(|so_far| shares.iter().map(move |share| [&so_far[..], &[*share]].concat())).collect();
    }
    all.into_iter().flat_map(|shares| nestings(&shares, rank)).collect()
}

fn nestings(shares: &[Share], rank: usize) -> Vec<Layout> {
    let mut out = vec![shares.to_vec()];
    for dim in 0..rank {
        let axes: Vec<usize> = (0..shares.len()).filter(|axis| matches!(shares[*axis], Share::Split(split) if split.dim == dim)).collect();
        out = out
            .into_iter()
            .flat_map(|layout| {
                let axes = axes.clone();
                permutations(axes.len()).into_iter().map(move |depths| {
                    let mut layout = layout.clone();
                    for (axis, position) in axes.iter().zip(depths) {
                        if let Share::Split(split) = &mut layout[*axis] {
                            split.depth = position;
                        }
                    }
                    layout
                })
            })
            .collect();
    }
    let mut out: Vec<Layout> = out.into_iter().map(Layout).collect();
    // while the merge of tuples is pending their components are not dealt out
    out.retain(|layout| layout.splits(rank - 1).is_empty() || !pending(layout).is_some_and(Reduce::is_tuple));
    out
}

/// A tensor whose last dimension holds what `op` merges at once.
fn with_row(dims: &[u64], op: Reduce) -> Vec<u64> {
    let row: &[u64] = match op {
        Reduce::ArgMax => &[2],
        Reduce::Softmax => &[3],
        _ => &[],
    };
    [dims, row].concat()
}

/// One step done by pulls alone, as the runtime's exchange does it.
fn perform(shape: &Shape<'_>, step: &Step, before: &Sharded) -> Result<Sharded, String> {
    let mesh = shape.mesh;
    let op = pending(&step.from).or(pending(&step.to));
    let changes = |axis: &usize| step.from.0[*axis] != step.to.0[*axis];
    let partial = |share: Share| matches!(share, Share::Partial(_));
    let merges = step.axes.iter().any(|axis| partial(step.from.0[*axis]) && !partial(step.to.0[*axis]));
    let becomes = step.axes.iter().any(|axis| partial(step.to.0[*axis]) && changes(axis));
    let mut shards = Vec::new();
    for rank in 0..mesh.ranks() {
        let at = mesh.coordinates(rank, 0);
        let target = step.to.shard(shape.dims, mesh, &at);
        let places: BTreeMap<usize, usize> = elements(shape.dims, &target).into_iter().enumerate().map(|(n, at)| (at, n)).collect();
        let local: Vec<u64> = target.iter().map(|held| count(held)).collect();
        let mut out =
            if merges || becomes { identity(op.expect("something is pending"), local) } else { Tensor::from_fn(local, |_| f64::NAN) };
        let mut seen = vec![0u32; out.data.len()];
        let group = mesh.group(rank, &step.axes);
        for pull in shape.pulls(step, rank, 0) {
            if !group.contains(&pull.rank) || (step.kind.is_local() && pull.rank != rank) {
                return Err(format!("rank {rank} pulls from {} outside its group {group:?}", pull.rank));
            }
            let held = step.from.shard(shape.dims, mesh, &mesh.coordinates(pull.rank, 0));
            let source: BTreeMap<usize, usize> = elements(shape.dims, &held).into_iter().enumerate().map(|(n, at)| (at, n)).collect();
            let region = elements(shape.dims, &pull.region);
            let unit = if merges { row(op.expect("something is pending"), shape.dims) } else { 1 };
            for chunk in region.chunks(unit.max(1)) {
                let index = |at: &usize, of: &BTreeMap<usize, usize>| {
                    of.get(at).copied().ok_or(format!("rank {rank} pulls an element that is not there"))
                };
                let mut kept = Vec::new();
                let mut came = Vec::new();
                for at in chunk {
                    kept.push(index(at, &places)?);
                    came.push(before.shards[pull.rank as usize].data[index(at, &source)?]);
                }
                if merges {
                    let mut held: Vec<f64> = kept.iter().map(|place| out.data[*place]).collect();
                    op.expect("something is pending").merge(&mut held, &came);
                    came = held;
                }
                for (place, value) in kept.into_iter().zip(came) {
                    out.data[place] = value;
                    seen[place] += 1;
                }
            }
        }
        if !merges && !becomes && seen.iter().any(|times| *times != 1) {
            return Err(format!("rank {rank} gets its elements {seen:?} times"));
        }
        shards.push(out);
    }
    Ok(Sharded { layout: step.to.clone(), shards })
}

/// How a step is weighed: the choice of path must not matter.
fn cost(kind: usize, shape: &Shape<'_>, step: &Step) -> f64 {
    match kind {
        0 => shape.received(step) + 0.01,
        // everything at once
        1 => f64::from(u8::from(step.kind != StepKind::Exchange)),
        // never at once
        2 => f64::from(u8::from(step.kind == StepKind::Exchange)) * 1e9 + 1.0,
        // anything
        _ => {
            let word = format!("{}{}{}", step.from, step.to, step.kind.word());
            let hash = word.bytes().fold(kind as u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
            1.0 + (hash >> 40) as f64
        }
    }
}

/// What was met.
#[derive(Default)]
struct Coverage {
    pairs: BTreeSet<(&'static str, &'static str)>,
    steps: BTreeMap<&'static str, usize>,
    ops: BTreeSet<&'static str>,
    cases: usize,
    empty: usize,
    nested: usize,
    meshes: BTreeSet<Vec<u64>>,
}

fn word(share: Share) -> &'static str {
    match share {
        Share::Broadcast => "B",
        Share::Partial(op) if op.is_tuple() => "P(tuple)",
        Share::Partial(_) => "P",
        Share::Split(Split { window: Some(_), .. }) => "windowed S",
        Share::Split(Split { partition: Partition::Zigzag, .. }) => "zigzag S",
        Share::Split(split) if split.inner != 1 => "major S",
        Share::Split(_) => "S",
    }
}

fn random_parts(dims: &[u64], parts: usize, op: Reduce, dice: &mut Dice) -> Vec<Tensor> {
    let mut parts: Vec<Tensor> = (0..parts).map(|_| Tensor::from_fn(dims.to_vec(), |_| (dice.below(19) as f64 - 9.0) / 4.0)).collect();
    if matches!(op, Reduce::Max | Reduce::LogSumExp) && parts.len() > 1 {
        parts[0].data.iter_mut().step_by(3).for_each(|x| *x = f64::NEG_INFINITY);
    }
    parts
}

/// Boxes one tensor from `from` to `to` and checks every shard, and that steps move what they say.
fn check(dims: &[u64], mesh: &Mesh, from: &Layout, to: &Layout, kind: usize, coverage: &mut Coverage, dice: &mut Dice) {
    let op = pending(from).or(pending(to)).unwrap_or(Reduce::Sum);
    let parts = random_parts(dims, Sharded::parts(from, mesh), op, dice);
    let mut whole = parts[0].clone();
    parts[1..].iter().for_each(|part| merge(op, &mut whole, part));
    let shape = Shape { dims, mesh };
    let found = shape.boxing(from, to, &|step| cost(kind, &shape, step));
    if from.is_windowed() && !from.same_shards(to, dims, mesh) {
        assert_eq!(found, None, "what is seen through a window is not boxed");
        return;
    }
    let steps = found.expect("ranks can exchange anything");
    let case = || {
        let sizes: Vec<u64> = mesh.axes.iter().map(|axis| axis.size).collect();
        let steps: Vec<String> = steps.iter().map(|step| format!("{} along {:?} to {}", step.kind.word(), step.axes, step.to)).collect();
        format!("{dims:?} on {sizes:?}: {from} -> {to}: {steps:?}")
    };
    let mut held = Sharded::of_parts(&parts, from, mesh);
    for step in &steps {
        assert!(step.from == held.layout, "steps follow one another: {}", case());
        held = perform(&shape, step, &held).unwrap_or_else(|error| panic!("{error}: {}", case()));
        *coverage.steps.entry(step.kind.word()).or_default() += 1;
        counts(&shape, step).unwrap_or_else(|error| panic!("{error}: {}", case()));
        coverage.empty += usize::from(held.shards.iter().any(|shard| shard.data.is_empty()));
    }
    assert!(held.layout.same_shards(to, dims, mesh), "ends elsewhere: {}", case());
    let apart = held.distance(&whole, mesh);
    assert!(apart <= 1e-12, "off by {apart}: {}", case());
    coverage.cases += 1;
    coverage.meshes.insert(mesh.axes.iter().map(|axis| axis.size).collect());
    coverage.nested += usize::from((0..dims.len()).any(|dim| from.splits(dim).len() > 1 || to.splits(dim).len() > 1));
    coverage.ops.insert(op.word());
    for (a, b) in from.0.iter().zip(&to.0) {
        coverage.pairs.insert((word(*a), word(*b)));
    }
}

/// Whether every shard of a layout has one size.
fn even(shape: &Shape<'_>, layout: &Layout) -> bool {
    let sizes: BTreeSet<u64> = (0..shape.mesh.ranks())
        .map(|rank| layout.local_shape(shape.dims, shape.mesh, &shape.mesh.coordinates(rank, 0)).iter().product())
        .collect();
    sizes.len() == 1
}

/// What a step says that it moves against what ranks pull, and against the closed forms where shards are even
/// (T bytes in all, p ranks, summed over ranks): S→B and P→S T(p−1), S→S T(p−1)/p, P→B twice P→S.
fn counts(shape: &Shape<'_>, step: &Step) -> Result<(), String> {
    let ranks = shape.mesh.ranks();
    let pulled: Vec<u64> = (0..ranks).map(|rank| shape.pulled(step, rank, 0)).collect();
    let (most, all) = (pulled.iter().copied().max().unwrap_or(0) as f64, pulled.iter().sum::<u64>() as f64);
    let received = shape.received(step);
    if step.kind.is_local() {
        return if received == 0.0 && most == 0.0 { Ok(()) } else { Err("a local step moves something".into()) };
    }
    let same =
        |a: f64, b: f64, what: &str| if (a - b).abs() <= 1e-9 * (1.0 + b.abs()) { Ok(()) } else { Err(format!("{what}: {a}, not {b}")) };
    if step.kind == StepKind::Exchange {
        return same(received, most, "an exchange");
    }
    if !even(shape, &step.from) || !even(shape, &step.to) || step.to.is_windowed() {
        return Ok(());
    }
    let p: f64 = step.axes.iter().map(|axis| shape.mesh.axes[*axis].size as f64).product();
    let total = shape.dims.iter().product::<u64>() as f64;
    match step.kind {
        // pulling all of every rank is p/2 times what a ring receives
        StepKind::AllReduce => same(received, 2.0 * most / p, "an all-reduce")?,
        _ => same(received, most, "a collective")?,
    }
    if shape.mesh.axes.len() == 1 {
        let wanted = match step.kind {
            StepKind::AllReduce => 2.0 * total * (p - 1.0),
            StepKind::AllToAll => return crossing(shape, step, all),
            _ => total * (p - 1.0),
        };
        same(received * p, wanted, "the table")?;
    }
    Ok(())
}

/// S(i)→S(j) of two dimensions that the ranks divide keeps 1/p of what each rank has.
fn crossing(shape: &Shape<'_>, step: &Step, all: f64) -> Result<(), String> {
    let (Some(before), Some(after)) = (step.from.split_on(0), step.to.split_on(0)) else { return Ok(()) };
    let p = shape.mesh.axes[0].size;
    let total = shape.dims.iter().product::<u64>() as f64;
    let wanted = total * (p - 1) as f64 / p as f64;
    if before.dim == after.dim || (all - wanted).abs() < 1e-9 { Ok(()) } else { Err(format!("all-to-all moves {all}, not {wanted}")) }
}

const OPS: [Reduce; 6] = [Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::LogSumExp, Reduce::ArgMax, Reduce::Softmax];

#[test]
fn every_pair_of_layouts_has_a_boxing() {
    let mut coverage = Coverage::default();
    let mut dice = Dice::new(1);
    // one axis: all pairs, all ops, every size up to 7
    for p in [2, 3, 4, 5] {
        let mesh = mesh(&[p]);
        for n in 1..=7u64 {
            for (dims, op) in [vec![n], vec![n, 8 - n], vec![n, 3, 2]].into_iter().flat_map(|dims| OPS.map(|op| (with_row(&dims, op), op)))
            {
                all_pairs(&dims, &mesh, &shares(&dims, op, false), 1, &mut coverage, &mut dice);
            }
        }
    }
    // two axes: all pairs of all layouts of small tensors, every so many of larger ones
    for sizes in [[2, 2], [2, 3], [3, 2]] {
        let mesh = mesh(&sizes);
        for (n, dims) in [vec![1], vec![4], vec![6], vec![7], vec![3, 5], vec![6, 2], vec![2, 4, 3]].into_iter().enumerate() {
            for (m, op) in OPS.into_iter().enumerate() {
                if op == Reduce::Sum || (n + m) % 3 == 0 {
                    let dims = with_row(&dims, op);
                    all_pairs(
                        &dims,
                        &mesh,
                        &shares(&dims, op, dims.len() > 2),
                        if dims.len() > 1 { 7 } else { 1 },
                        &mut coverage,
                        &mut dice,
                    );
                }
            }
        }
    }
    // three axes: every so many of all pairs of plain layouts
    for dims in [vec![5], vec![7, 4], vec![3, 2, 6]] {
        all_pairs(&dims, &mesh(&[2, 2, 2]), &shares(&dims, Reduce::Sum, true), 41, &mut coverage, &mut dice);
    }
    report(&coverage);
    let kinds = ["B", "P", "S", "zigzag S", "major S", "P(tuple)"];
    for from in kinds {
        assert!(coverage.pairs.contains(&(from, "windowed S")), "no {from} -> windowed S");
        for to in kinds.into_iter().filter(|to| (from == "P") != (*to == "P(tuple)") || from == *to) {
            assert!((from, to) == ("P(tuple)", "P") || coverage.pairs.contains(&(from, to)), "no {from} -> {to}");
        }
    }
    for step in ["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "slice", "keep", "pad", "exchange"] {
        assert!(coverage.steps.contains_key(step), "no {step}");
    }
    assert_eq!(coverage.ops.len(), OPS.len());
    assert!(coverage.empty > 1000 && coverage.nested > 1000);
}

fn all_pairs(dims: &[u64], mesh: &Mesh, shares: &[Share], every: usize, coverage: &mut Coverage, dice: &mut Dice) {
    let all = layouts(mesh, dims.len(), shares);
    let mut number = dice.below(every);
    for from in &all {
        for to in &all {
            number += 1;
            if number.is_multiple_of(every) {
                check(dims, mesh, from, to, number / every % 5, coverage, dice);
            }
        }
    }
}

#[test]
fn random_pairs_on_many_axes() {
    let mut coverage = Coverage::default();
    let mut dice = Dice::new(2);
    for case in 0..times(3000) {
        let sizes: &[u64] = dice.pick::<&[u64]>(&[&[2, 2, 2], &[2, 2, 2], &[2, 3, 2], &[2, 2, 2, 2], &[8], &[4, 2]]);
        let mesh = mesh(sizes);
        let op = *dice.pick(&OPS);
        let dims: Vec<u64> = (0..1 + dice.below(3)).map(|_| 1 + dice.below(7) as u64).collect();
        let dims = with_row(&dims, op);
        let shares = shares(&dims, op, false);
        let mut draw = || {
            let drawn: Vec<Share> = sizes.iter().map(|_| *dice.pick(&shares)).collect();
            let nestings = nestings(&drawn, dims.len());
            if nestings.is_empty() { Layout::broadcast(&mesh) } else { dice.pick(&nestings).clone() }
        };
        let (from, to) = (draw(), draw());
        check(&dims, &mesh, &from, &to, case % 5, &mut coverage, &mut dice);
    }
    report(&coverage);
    assert!(coverage.meshes.contains(&vec![2, 2, 2]) && coverage.meshes.contains(&vec![2, 2, 2, 2]));
}

fn report(coverage: &Coverage) {
    let Coverage { pairs, steps, ops, cases, empty, nested, meshes } = coverage;
    println!("{cases} boxings on {meshes:?}, {nested} nested, {empty} steps with empty shards, ops {ops:?}\n{steps:?}\n{pairs:?}");
}

fn split(dim: usize, size: u64, depth: usize, partition: Partition) -> Share {
    Share::Split(Split::new(dim, size, 1, depth, partition))
}

/// The outer of two nested splits changes how it deals out: what the inner one holds comes from other ranks of its
/// own axis too. (Positions dealt out zigzag over context, within tensor; four ranks lost half of a gradient.)
#[test]
fn an_outer_split_changes_under_an_inner_one() {
    let mesh = mesh(&[2, 2]);
    let from = Layout(vec![split(0, 8, 0, Partition::Zigzag), split(0, 8, 1, Partition::Balanced)]);
    let to = Layout(vec![split(0, 8, 0, Partition::Balanced), split(0, 8, 1, Partition::Balanced)]);
    for kind in 0..8 {
        check(&[8], &mesh, &from, &to, kind, &mut Coverage::default(), &mut Dice::new(3));
        check(&[8], &mesh, &to, &from, kind, &mut Coverage::default(), &mut Dice::new(3));
    }
}

/// What a moment holds never comes from another.
#[test]
fn time_is_not_boxed() {
    let mut mesh = mesh(&[2, 2]);
    mesh.axes[1].time = true;
    let shape = Shape { dims: &[8], mesh: &mesh };
    let split = |depth| split(0, 8, depth, Partition::Balanced);
    let cases = [
        (vec![Share::Broadcast, split(0)], vec![Share::Broadcast, Share::Broadcast]),
        (vec![split(0), split(1)], vec![Share::Broadcast, split(0)]),
        (vec![Share::Broadcast, Share::Partial(Reduce::Sum)], vec![Share::Broadcast, Share::Broadcast]),
    ];
    for (from, to) in cases {
        assert_eq!(shape.boxing(&Layout(from), &Layout(to), &|_| 1.0), None);
    }
    let (from, to) = (Layout(vec![split(1), split(0)]), Layout(vec![Share::Broadcast, split(0)]));
    assert_eq!(shape.boxing(&from, &to, &|_| 1.0).map(|steps| steps.len()), Some(1));
}
