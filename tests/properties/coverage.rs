//! What the random cases have met, and what they have to meet.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::Kind;
use partita_ir::program::Program;
use partita_ir::signature::{Choice, SizedRule};
use partita_planner::layouts::primitives;
use partita_planner::plan::Plan;

/// Counts of what was met.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Operator (phase and name of its result) × kind of signature on an axis of more than one rank or moment.
    pub signatures: BTreeMap<(String, String), usize>,
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
            let name = graph.value(graph.op(op).result()).name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').to_owned();
            for (axis, choice) in plan.layouts.signatures[&op].choices.iter().enumerate() {
                if plan.mesh.mesh.axes[axis].size == 1 {
                    continue;
                }
                let kind = match choice {
                    Choice::Replicate => "replicate".to_owned(),
                    Choice::Split { factor, .. } if rule.rule.keeps(*factor) => "split".to_owned(),
                    Choice::Split { .. } => format!("fold P({})", rule.rule.reduce.expect("a fold has an op").word()),
                    Choice::Pass { op, .. } => format!("pass P({})", op.word()),
                };
                *self.signatures.entry((format!("{} {name}", phase.word()), kind)).or_default() += 1;
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
    }

    /// Lines for people.
    pub fn print(&self) {
        println!(
            "meshes {:?}\nboxings {:?}\nshares {:?}\nsettings {:?}\nempty {}",
            self.meshes, self.boxings, self.shares, self.settings, self.empty
        );
        let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((name, kind), times) in &self.signatures {
            by_name.entry(name).or_default().push(format!("{kind} {times}"));
        }
        by_name.iter().for_each(|(name, kinds)| println!("{name}: {}", kinds.join(", ")));
    }

    /// What is demanded and was not met.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut demand = |met: bool, what: String| {
            if !met {
                missing.push(what);
            }
        };
        for (name, kinds) in SIGNATURES {
            for kind in *kinds {
                demand(self.signatures.contains_key(&((*name).to_owned(), (*kind).to_owned())), format!("{name} × {kind}"));
            }
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

    /// How many different things were met.
    pub fn breadth(&self) -> usize {
        let names: BTreeSet<&String> = self.signatures.keys().map(|(name, _)| name).collect();
        names.len()
    }
}

const ALWAYS: &[&str] = &["replicate", "split"];

/// Operators and the kinds of signatures that must occur.
const SIGNATURES: &[(&str, &[&str])] = &[("forward embedded", ALWAYS)];

/// Shares before and after, on an axis along which a boxing runs.
const SHARES: &[(&str, &str)] = &[("B", "S")];

/// Words that must occur among the settings.
const SETTINGS: &[&str] =
    &["zero=0", "zero=1", "zero=2", "zero=3", "stages=1", "stages=2", "stages=3", "repeat", "Data", "Micro", "Context", "Tensor"];
