//! What the random cases have met, and what they have to meet.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::{Graph, Kind, Leaf, PhaseKind};
use partita_ir::id::{Id, OpId};
use partita_ir::program::Program;
use partita_ir::signature::{Choice, SizedRule};
use partita_planner::layouts::primitives;
use partita_planner::mesh::AxisUse;
use partita_planner::plan::Plan;

/// An operator as its phase, composite or class, and name; with a kind of signature.
type Pair = (String, String);

/// Counts of what was met.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Operator × kind of signature on an axis of more than one rank or moment: in how many places it was drawn.
    pub signatures: BTreeMap<Pair, usize>,
    /// In how many places its rule admits it.
    pub admitted: BTreeMap<Pair, usize>,
    /// Kinds of boxing steps.
    pub boxings: BTreeMap<&'static str, usize>,
    /// Shares of boxing steps before and after on the axes along which they run.
    pub shares: BTreeMap<(&'static str, &'static str), usize>,
    /// Sizes of the axes of ranks.
    pub meshes: BTreeMap<Vec<u64>, usize>,
    /// Cases with a shard of a buffer that is empty.
    pub empty: usize,
    /// Anything else worth a word: zero=3, stages=2, ...
    pub settings: BTreeMap<String, usize>,
}

/// What an operator is called here.
fn operator(graph: &Graph, op: OpId, phase: PhaseKind) -> String {
    let node = graph.op(op);
    let name = graph.value(node.result()).name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // parameters' names differ by their numbers, and an update's result has its parameter's
    let group = node.composite.map_or(node.class.word(), |composite| &graph.composites[composite.index()].name);
    format!("{} {group}: {name}", phase.word())
}

fn kind(rule: &SizedRule<'_>, choice: &Choice) -> String {
    match choice {
        Choice::Replicate => "replicate".to_owned(),
        Choice::Split { factor, .. } if rule.rule.keeps(*factor) => "split".to_owned(),
        Choice::Split { .. } => format!("fold P({})", rule.rule.reduce.expect("a fold has an op").word()),
        Choice::Pass { op, .. } => format!("pass P({})", op.word()),
    }
}

fn share(share: &partita_ir::layout::Share) -> &'static str {
    use partita_ir::layout::{Partition, Share};
    match share {
        Share::Broadcast => "B",
        Share::Split(split) if split.partition == Partition::Zigzag => "zigzag S",
        Share::Split(split) if split.inner > 1 => "major S",
        Share::Split(_) => "S",
        Share::Partial(op) if op.is_tuple() => "P(tuple)",
        Share::Partial(op) => match op {
            partita_ir::rule::Reduce::Sum => "P(sum)",
            _ => "P(max)",
        },
    }
}

impl Coverage {
    /// Adds what a case has.
    pub fn add(&mut self, plan: &Plan, program: &Program) {
        let graph = &plan.graph;
        for (op, phase, _) in primitives(graph) {
            let rule = SizedRule::of(graph, op).expect("a primitive");
            let name = operator(graph, op, phase);
            for (axis, choice) in plan.layouts.signatures[&op].choices.iter().enumerate() {
                if plan.mesh.mesh.axes[axis].size == 1 {
                    continue;
                }
                *self.signatures.entry((name.clone(), kind(&rule, choice))).or_default() += 1;
                // on these axes an operator is free
                if plan.mesh.uses[axis] == AxisUse::Tensor || plan.mesh.uses[axis] != AxisUse::Micro && !phase.per_micro_batch() {
                    let kinds: BTreeSet<String> = rule.choices().iter().map(|choice| kind(&rule, choice)).collect();
                    kinds.into_iter().for_each(|kind| *self.admitted.entry((name.clone(), kind)).or_default() += 1);
                }
            }
        }
        for spec in &program.boxings {
            *self.boxings.entry(spec.step.kind.word()).or_default() += 1;
            for axis in &spec.step.axes {
                *self.shares.entry((share(&spec.step.from.0[*axis]), share(&spec.step.to.0[*axis]))).or_default() += 1;
            }
        }
        let sizes: Vec<u64> = program.mesh.axes.iter().filter(|axis| !axis.time).map(|axis| axis.size).collect();
        *self.meshes.entry(sizes).or_default() += 1;
        let empty = program.roles.iter().flat_map(|role| &role.buffers).any(|buffer| {
            (0..program.mesh.ranks())
                .any(|rank| buffer.layout.local_shape(&buffer.shape, &program.mesh, &program.mesh.coordinates(rank, 0)).contains(&0))
        });
        self.empty += usize::from(empty);
        let mut setting = |word: String| *self.settings.entry(word).or_default() += 1;
        setting(format!("zero={}", plan.zero));
        setting(format!("stages={}", plan.cut.stages));
        setting(format!("micro-batches={}", plan.mesh.micro_batches));
        setting(format!("recompute={}", plan.recompute.word()));
        setting(plan.train.optimizer.word().to_owned());
        plan.mesh.uses.iter().for_each(|used| setting(format!("{used:?}")));
        if graph.ops.iter().any(|op| matches!(op.kind, Kind::Repeat(_))) {
            setting("repeat".to_owned());
        }
        if graph.ops.iter().any(|op| matches!(&op.kind, Kind::Repeat(repeat) if repeat.is_scan())) {
            setting("scan".to_owned());
            if plan.cut.stages > 1 {
                setting("scan in stages".to_owned());
            }
            if plan.mesh.micro_batches > 1 {
                setting("scan of micro-batches".to_owned());
            }
        }
        if graph.leaves(|leaf| matches!(leaf, Leaf::State { of: None, .. })).next().is_some() {
            setting("state".to_owned());
            if plan.mesh.micro_batches > 1 {
                setting("state of micro-batches".to_owned());
            }
        }
    }

    /// Lines for people.
    pub fn print(&self) {
        println!("operator: kind of signature and in how many places of those that admit it");
        let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((name, kind), places) in &self.admitted {
            let drawn = self.signatures.get(&(name.clone(), kind.clone())).copied().unwrap_or(0);
            by_name.entry(name).or_default().push(format!("{kind} {drawn}/{places}"));
        }
        by_name.iter().for_each(|(name, kinds)| println!("  {name}: {}", kinds.join(", ")));
        let line = |what: &str, counts: Vec<String>| println!("{what}: {}", counts.join(", "));
        line("boxings", self.boxings.iter().map(|(word, n)| format!("{word} {n}")).collect());
        line("shares", self.shares.iter().map(|((from, to), n)| format!("{from} -> {to} {n}")).collect());
        line("meshes", self.meshes.iter().map(|(sizes, n)| format!("{sizes:?} {n}")).collect());
        line("settings", self.settings.iter().map(|(word, n)| format!("{word} {n}")).collect());
        println!("cases with empty shards: {}", self.empty);
    }

    /// What is demanded and was not met.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut demand = |met: bool, what: String| {
            if !met {
                missing.push(what);
            }
        };
        // in so many places one of several dozen kinds would be drawn by chance
        let often = |places: &&usize| **places >= OFTEN;
        for ((name, kind), places) in self.admitted.iter().filter(|(_, places)| often(places)) {
            let met = self.signatures.contains_key(&(name.clone(), kind.clone()));
            demand(met, format!("{name} × {kind}, which {places} places admit"));
        }
        for name in OPERATORS {
            let met = self.signatures.keys().any(|(known, _)| known == name);
            demand(met, format!("the operator {name}"));
        }
        let words = ["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "slice", "keep", "pad", "exchange"];
        words.iter().for_each(|word| demand(self.boxings.contains_key(word), (*word).to_owned()));
        for pair in SHARES {
            demand(self.shares.contains_key(pair), format!("{} -> {}", pair.0, pair.1));
        }
        for sizes in super::case::MESHES {
            demand(self.meshes.contains_key(*sizes), format!("mesh {sizes:?}"));
        }
        for word in SETTINGS {
            demand(self.settings.contains_key(*word), (*word).to_owned());
        }
        demand(self.empty > 10, "empty shards".to_owned());
        missing
    }
}

/// A kind of signature that so many places admit has to occur.
const OFTEN: usize = 60;

/// Operators that have to occur: every kind of step of `partita_ir::sample`, forward and backward, and the update.
const OPERATORS: &[&str] = &[
    "backward attention_grad: attention",
    "backward attention_grad: dropout",
    "backward attention_grad: grad",
    "backward attention_grad: logsumexp",
    "backward attention_grad: masked",
    "backward attention_grad: scores",
    "backward attention_grad: weights",
    "backward contraction: grad",
    "backward contraction: joined",
    "backward contraction: projection",
    "backward cross_entropy_grad: grad",
    "backward dropout_grad: grad",
    "backward layer_norm_grad: grad",
    "backward other: elementwise",
    "backward other: grad",
    "backward other: linear",
    "backward other: mean",
    "backward other: merge",
    "backward other: past",
    "backward other: place",
    "backward other: rule",
    "backward other: scaled",
    "backward other: score",
    "backward other: slice",
    "backward other: softmax_fold",
    "backward other: spread",
    "backward other: sum",
    "backward other: transpose",
    "backward other: zeros",
    "backward rms_norm_grad: grad",
    "backward rotary_grad: cos",
    "backward rotary_grad: grad",
    "backward rotary_grad: rotary",
    "backward rotary_grad: sin",
    "backward softmax_grad: grad",
    "backward softmax_grad: logsumexp",
    "backward softmax_grad: softmax",
    "count loss: loss_count",
    "count other: count",
    "forward attention: attention",
    "forward attention: dropout",
    "forward attention: logsumexp",
    "forward attention: masked",
    "forward attention: scores",
    "forward attention: weights",
    "forward contraction: contraction",
    "forward contraction: embedded",
    "forward contraction: gathered",
    "forward contraction: joined",
    "forward contraction: logits",
    "forward contraction: projection",
    "forward cross_entropy: chosen",
    "forward cross_entropy: logsumexp",
    "forward cross_entropy: loss_sum",
    "forward dropout: dropout",
    "forward layer_norm: layer_norm",
    "forward layer_norm: mean",
    "forward layer_norm: scale",
    "forward layer_norm: squares",
    "forward layer_norm: sum",
    "forward other: argmax",
    "forward other: elementwise",
    "forward other: fold",
    "forward other: join",
    "forward other: linear",
    "forward other: mean",
    "forward other: merge",
    "forward other: past",
    "forward other: rule",
    "forward other: scaled",
    "forward other: slice",
    "forward other: softmax_fold",
    "forward other: split",
    "forward other: squares",
    "forward other: take",
    "forward other: transpose",
    "forward rms_norm: rms_norm",
    "forward rms_norm: scale",
    "forward rms_norm: squares",
    "forward rotary: cos",
    "forward rotary: rotary",
    "forward rotary: sin",
    "forward softmax: logsumexp",
    "forward softmax: softmax",
    "seed loss: seed",
    "update loss: loss",
    "update optimizer: clip",
    "update optimizer: clipped",
    "update optimizer: correction",
    "update optimizer: grad_norm",
    "update optimizer: lr",
    "update optimizer: m",
    "update optimizer: square",
    "update optimizer: squares",
    "update optimizer: v",
    "update optimizer: w",
];

/// Shares before and after that have to occur on an axis along which a boxing runs.
const SHARES: &[(&str, &str)] = &[
    ("B", "P(max)"),
    ("B", "P(sum)"),
    ("B", "P(tuple)"),
    ("B", "S"),
    ("B", "major S"),
    ("B", "zigzag S"),
    ("P(max)", "B"),
    ("P(max)", "S"),
    ("P(max)", "major S"),
    ("P(max)", "zigzag S"),
    ("P(sum)", "B"),
    ("P(sum)", "S"),
    ("P(sum)", "major S"),
    ("P(sum)", "zigzag S"),
    ("P(tuple)", "B"),
    ("P(tuple)", "S"),
    ("S", "B"),
    ("S", "P(max)"),
    ("S", "P(sum)"),
    ("S", "P(tuple)"),
    ("S", "S"),
    ("S", "major S"),
    ("S", "zigzag S"),
    ("major S", "B"),
    ("major S", "P(max)"),
    ("major S", "P(sum)"),
    ("major S", "S"),
    ("zigzag S", "B"),
    ("zigzag S", "P(max)"),
    ("zigzag S", "P(sum)"),
    ("zigzag S", "S"),
    ("zigzag S", "zigzag S"),
];

/// Words that have to occur among the settings.
const SETTINGS: &[&str] = &[
    "zero=0",
    "zero=1",
    "zero=2",
    "zero=3",
    "stages=1",
    "stages=2",
    "stages=3",
    "repeat",
    "scan",
    "state",
    "Data",
    "Micro",
    "Context",
    "Tensor",
    "recompute=none",
    "recompute=full",
    "sgd",
    "adamw",
];
