//! The mesh of a stage: which axes it has and what they are for.

use partita_ir::axis::Role;
use partita_ir::graph::Graph;
use partita_ir::layout::{Mesh, MeshAxis, Partition};
use serde::{Deserialize, Serialize};

/// What a mesh axis is for. It constrains the choices of operators; it is never a template of layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AxisUse {
    /// Data parallelism: operators that walk the batch split it.
    Data,
    /// Micro-batches, in time: operators that walk the batch split it.
    Micro,
    /// Context parallelism: operators that walk positions, of a sequence or an image, split them.
    Context,
    /// Tensor parallelism: weights of contractions are split; everything else is free.
    Tensor,
}

/// Degrees of parallelism of a candidate plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Degrees {
    /// Data parallel ranks.
    pub dp: u64,
    /// Context parallel ranks.
    pub cp: u64,
    /// Tensor parallel ranks.
    pub tp: u64,
    /// Pipeline stages.
    pub pp: u64,
    /// Sequences per data-parallel rank and micro-batch.
    pub mbs: u64,
}

/// The mesh of a stage with the use of each axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshPlan {
    /// The mesh. Axes of size 1 are left out.
    pub mesh: Mesh,
    /// What each axis is for.
    pub uses: Vec<AxisUse>,
    /// How positions are dealt out over context axes, and samples over micro-batches.
    pub partitions: Vec<Partition>,
    /// Micro-batches of a step.
    pub micro_batches: u64,
}

impl MeshPlan {
    /// The mesh for these degrees: data outermost, tensor innermost, so that tensor-parallel ranks are neighbours.
    pub fn new(degrees: Degrees, batch: u64, graph: &Graph, zigzag: bool) -> Self {
        let local = batch.div_ceil(degrees.dp);
        let mbs = degrees.mbs.min(local).max(1);
        let micro_batches = local.div_ceil(mbs);
        let mut axes: Vec<(String, u64, AxisUse, Partition)> = vec![
            ("data".into(), degrees.dp, AxisUse::Data, Partition::Balanced),
            ("micro".into(), micro_batches, AxisUse::Micro, Partition::Chunk(mbs)),
            ("context".into(), degrees.cp, AxisUse::Context, if zigzag { Partition::Zigzag } else { Partition::Balanced }),
        ];
        let parts = refine(degrees.tp, graph);
        for (n, part) in parts.iter().enumerate() {
            let name = if parts.len() == 1 { "tensor".into() } else { format!("tensor{n}") };
            axes.push((name, *part, AxisUse::Tensor, Partition::Balanced));
        }
        axes.retain(|axis| axis.1 > 1);
        Self {
            mesh: Mesh {
                axes: axes.iter().map(|axis| MeshAxis { name: axis.0.clone(), size: axis.1, time: axis.2 == AxisUse::Micro }).collect(),
            },
            uses: axes.iter().map(|axis| axis.2).collect(),
            partitions: axes.iter().map(|axis| axis.3).collect(),
            micro_batches,
        }
    }

    /// Mesh axes in the order in which splits nest while a micro-batch runs: as they stand.
    pub fn running_order(&self) -> Vec<usize> {
        (0..self.uses.len()).collect()
    }

    /// Mesh axes in the order in which splits of what is at rest nest: tensor outside data, so that gathering over
    /// data gives each tensor rank its own contiguous block.
    pub fn resting_order(&self) -> Vec<usize> {
        let mut order = self.running_order();
        order.sort_by_key(|axis| (self.uses[*axis] != AxisUse::Tensor, *axis));
        order
    }
}

/// Tensor parallelism over `tp` ranks as one axis, or as two where the model has head axes that all have a common
/// factor with `tp` but are not all multiples of it: 4 ranks on 2 key-value heads in groups of 4 are 2 × 2.
fn refine(tp: u64, graph: &Graph) -> Vec<u64> {
    let heads = graph.axes.iter().filter(|axis| axis.role == Role::Head).map(|axis| axis.size);
    let common = heads.fold(tp, gcd);
    if common > 1 && common < tp { vec![common, tp / common] } else { vec![tp] }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
