//! One random training run: a model, how it is trained, a mesh, layouts, stages.

use partita_codegen::compile;
use partita_ir::axis::Role;
use partita_ir::dtype::DType;
use partita_ir::grad::Recompute;
use partita_ir::graph::Graph;
use partita_ir::layout::{Mesh, MeshAxis, Partition};
use partita_ir::precision::{Column, LossScale, Recipe};
use partita_ir::program::Program;
use partita_ir::rule::Reduce;
use partita_ir::sample;
use partita_ir::step::{Options, training_step};
use partita_ir::train::{Optimizer, Schedule, Train};
use partita_planner::cluster::Cluster;
use partita_planner::layouts::Task;
use partita_planner::mesh::{AxisUse, Degrees, ExpertUse, MeshPlan};
use partita_planner::pins::ScheduleKind;
use partita_planner::plan::{Plan, Predicted};
use partita_planner::search::finish;
use partita_planner::stages::{StageCut, path};
use partita_planner::strategy::Constraints;

use super::sharded::Dice;

/// Everything that a seed decides but the layouts.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub model: Graph,
    pub train: Train,
    pub mesh: MeshPlan,
    pub stages: u64,
    pub zero: u8,
    pub recompute: Recompute,
    pub schedule: ScheduleKind,
    pub constraints: Constraints,
    /// Signatures that an operator is drawn from.
    pub most: usize,
}

/// A case in words, for a failure that somebody has to find.
impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let axes: Vec<String> = self
            .mesh
            .mesh
            .axes
            .iter()
            .zip(self.mesh.uses.iter().zip(&self.mesh.partitions))
            .map(|(axis, (used, partition))| format!("{:?}={} {partition:?}", used, axis.size))
            .collect();
        write!(
            f,
            "seed {}: [{}] stages={} {:?} zero={} recompute={} clip={:?} {}",
            self.seed,
            axes.join(", "),
            self.stages,
            self.schedule,
            self.zero,
            self.recompute.word(),
            self.train.clip,
            self.train.optimizer.word()
        )
    }
}

/// Sizes of the axes of ranks that cases have.
pub const MESHES: &[&[u64]] =
    &[&[], &[2], &[3], &[4], &[5], &[6], &[7], &[8], &[2, 2], &[2, 3], &[3, 2], &[2, 4], &[2, 2, 2], &[2, 2, 2], &[2, 2, 2, 2]];

/// Where a gradient is 0 but for rounding, so is its root or its norm: a larger eps than usual keeps the step small. Lion's sign knows no
/// eps, and is tested elsewhere.
const OTHERS: [Optimizer; 7] = [
    Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::Adam { beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::Adafactor { power: 0.8, eps: 0.01, floor: 1e-3, limit: 1.0, decay: 0.1 },
    Optimizer::Lamb { beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::Lars { momentum: 0.9, trust: 0.1, decay: 0.0, eps: 0.01 },
    Optimizer::Muon { momentum: 0.95, beta1: 0.9, beta2: 0.95, eps: 0.01, decay: 0.1 },
    Optimizer::AdamW { beta1: 0.8, beta2: 0.9, eps: 0.01, decay: 0.0 },
];

fn train(dice: &mut Dice, seed: u64) -> Train {
    let optimizer = match dice.below(3) {
        0 => Optimizer::Sgd { momentum: 0.0, decay: 0.0 },
        1 => Optimizer::Sgd { momentum: 0.9, decay: 0.1 },
        _ => OTHERS[(seed % OTHERS.len() as u64) as usize],
    };
    let clip = *dice.pick(&[None, Some(0.01), Some(1.0), Some(100.0)]);
    let schedule = *dice.pick(&[Schedule::Constant, Schedule::Cosine { warmup: 2, steps: 5, min: 0.1 }]);
    Train {
        optimizer,
        lr: 0.05,
        schedule,
        clip,
        batch: 0,
        precision: partita_ir::precision::Precision::F64,
        loss_scale: None,
        groups: Vec::new(),
    }
}

impl Case {
    /// The case of this seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let steps = 2 + dice.below(5);
        // a third of the models are for micro-batches
        let apart = dice.below(3) == 0;
        let options = sample::Options { steps, kinks: dice.below(2) == 0, apart, ..sample::Options::default() };
        let model = sample::graph(seed, options);
        let sizes: &[u64] = if dice.below(12) == 0 { &[2, 2, 2, 2] } else { dice.pick::<&[u64]>(&MESHES[..MESHES.len() - 1]) };
        let ranks: u64 = sizes.iter().product();
        let blocks = path(&model).map_or(0, |units| units.len() as u64);
        let stages = (1..=blocks.min(3)).rev().find(|stages| ranks * stages <= 16 && dice.below(2) == 0).unwrap_or(1);
        let batch = model.axes.iter().find(|axis| axis.role == Role::Batch).unwrap().size;
        let micro = if apart { 1 + dice.below(4) as u64 } else { 1 };
        let mesh = mesh(sizes, micro, batch, &mut dice);
        let constraints = Constraints {
            sp: *dice.pick(&[None, None, None, Some(true), Some(false)]),
            split_weights: false,
            exchange: dice.below(2) == 0,
            even: false,
            pending: Reduce::ALL.iter().map(|(op, _)| *op).collect(),
        };
        Self {
            seed,
            train: Train { batch, ..train(&mut dice, seed) },
            model,
            mesh,
            stages,
            zero: dice.below(4) as u8,
            recompute: *dice.pick(&[Recompute::None, Recompute::Full]),
            schedule: *dice.pick(&[ScheduleKind::OneFOneB, ScheduleKind::GPipe]),
            constraints,
            most: 1 + dice.below(12),
        }
    }

    /// The same case with its numbers held in 16 bits, with a scaled loss every other time.
    pub fn narrow(seed: u64) -> Self {
        let mut case = Self::new(seed);
        for value in case.model.values.iter_mut().filter(|value| value.ty.dtype.is_float()) {
            value.ty.dtype = DType::F32;
        }
        let recipe = if seed.is_multiple_of(2) { Recipe::Bf16 } else { Recipe::Fp16 };
        case.train.precision = recipe.precision();
        if seed.is_multiple_of(5) {
            case.train.precision = case.train.precision.with(Column::Gradient, case.train.precision.parameter);
        }
        case.train.loss_scale =
            [None, Some(LossScale::Static(16.0)), None, Some(LossScale::Dynamic { start: 64.0, interval: 1, growth: 2.0, backoff: 0.5 })]
                [seed as usize / 2 % 4];
        case
    }

    /// The training step.
    pub fn step(&self) -> Graph {
        let options = Options { recompute: self.recompute, meet_in_update: self.stages > 1, exchange: self.constraints.exchange };
        training_step(&self.model, &self.train, options).expect("every sampled model can be trained")
    }

    /// The search for the layouts of its training step.
    pub fn task<'a>(&'a self, graph: &'a Graph, cluster: &'a Cluster) -> Task<'a> {
        Task {
            graph,
            mesh: &self.mesh,
            cluster,
            constraints: self.constraints.clone(),
            zero: self.zero,
            product: self.train.precision.product,
        }
    }

    /// A plan with random layouts and a random cut, and its program. `None` if no layouts go together: some operator
    /// couples the samples of different micro-batches.
    pub fn plan(&self, cluster: &Cluster) -> Option<(Plan, Program)> {
        let graph = self.step();
        let mut dice = Dice::new(self.seed ^ 0xD1CE);
        let task = self.task(&graph, cluster);
        let layouts = (0..3).find_map(|again| task.sample(self.most.max(4 * again), &mut |bound| dice.below(bound)).ok())?;
        let plan = Plan {
            model: graph.name.clone(),
            settings: Vec::new(),
            cluster: String::new(),
            train: self.train.clone(),
            degrees: Degrees { dp: 1, cp: 1, tp: 1, pp: self.stages, mbs: 1, experts: None },
            zero: self.zero,
            recompute: self.recompute,
            schedule: self.schedule,
            mesh: self.mesh.clone(),
            cut: StageCut::default(),
            graph,
            layouts: partita_planner::layouts::Layouts::default(),
            predicted: Predicted::default(),
        };
        let mut plan = finish(plan, cluster, layouts).expect("the model has enough blocks");
        if self.stages > 1 {
            plan.cut = cut(&plan.graph, self.stages, &mut dice);
        }
        let program = compile(&plan, cluster);
        Some((plan, program))
    }
}

/// Axes of these sizes for any use, perhaps with one of time somewhere among them.
fn mesh(sizes: &[u64], micro: u64, batch: u64, dice: &mut Dice) -> MeshPlan {
    let mut axes: Vec<(u64, AxisUse)> =
        sizes.iter().map(|size| (*size, *dice.pick(&[AxisUse::Data, AxisUse::Context, AxisUse::Tensor, AxisUse::Tensor]))).collect();
    if micro > 1 {
        axes.insert(dice.below(axes.len() + 1), (micro, AxisUse::Micro));
    }
    let mut local = batch;
    let mut partitions = Vec::new();
    for (size, used) in &axes {
        partitions.push(match used {
            AxisUse::Data => {
                local = local.div_ceil(*size);
                Partition::Balanced
            }
            // pieces may be larger than they need be, and the last ones empty
            AxisUse::Micro => {
                let length = local.div_ceil(*size) + dice.below(2) as u64;
                local = length.min(local);
                Partition::Chunk(length)
            }
            AxisUse::Context => *dice.pick(&[Partition::Balanced, Partition::Zigzag]),
            AxisUse::Tensor => Partition::Balanced,
        });
    }
    let mesh = Mesh {
        axes: axes
            .iter()
            .enumerate()
            .map(|(n, (size, used))| MeshAxis { name: format!("a{n}"), size: *size, time: *used == AxisUse::Micro })
            .collect(),
    };
    let experts = axes.iter().map(|_| *dice.pick(&[ExpertUse::Data, ExpertUse::Expert, ExpertUse::Tensor])).collect();
    MeshPlan { mesh, uses: axes.iter().map(|axis| axis.1).collect(), experts, partitions, micro_batches: micro }
}

/// A cut that gives every stage some iteration.
fn cut(graph: &Graph, stages: u64, dice: &mut Dice) -> StageCut {
    let units = path(graph).expect("sampled models have a loop of its own for each repeat");
    let mut first: Vec<usize> = (1..units.len()).collect();
    while first.len() as u64 > stages - 1 {
        first.remove(dice.below(first.len()));
    }
    let of_unit: Vec<u64> = (0..units.len()).map(|unit| first.iter().filter(|start| **start <= unit).count() as u64).collect();
    StageCut::of_units(graph, stages, &units, &of_unit)
}
