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

/// What a mesh axis is for to the operators of experts, which tile the same ranks in their own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertUse {
    /// Expert-data parallelism: what experts are given is split, experts are replicated.
    Data,
    /// Expert parallelism: experts are split.
    Expert,
    /// Tensor parallelism of each expert: its weights are split.
    Tensor,
}

/// How experts tile the ranks of a stage: `etp · ep` divides dp · cp · tp, and the rest is expert-data parallel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpertDegrees {
    /// Expert-parallel ranks.
    pub ep: u64,
    /// Tensor-parallel ranks of each expert.
    pub etp: u64,
}

impl AxisUse {
    /// The name of axes of this use.
    pub fn word(self) -> &'static str {
        match self {
            AxisUse::Data => "data",
            AxisUse::Micro => "micro",
            AxisUse::Context => "context",
            AxisUse::Tensor => "tensor",
        }
    }
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
    /// How experts tile the ranks; `None` of a model without experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertDegrees>,
}

impl Degrees {
    /// How experts tile the ranks: as everything else does, unless it is said otherwise.
    pub fn tiling(&self) -> ExpertDegrees {
        self.experts.unwrap_or(ExpertDegrees { ep: 1, etp: self.tp })
    }

    /// Expert-data-parallel ranks.
    pub fn edp(&self) -> u64 {
        let ExpertDegrees { ep, etp } = self.tiling();
        self.dp * self.cp * self.tp / (ep * etp)
    }
}

/// The mesh of a stage with the use of each axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshPlan {
    /// The mesh. Axes of size 1 are left out.
    pub mesh: Mesh,
    /// What each axis is for.
    pub uses: Vec<AxisUse>,
    /// What each axis is for to operators of experts. Nobody asks it of an axis of time.
    pub experts: Vec<ExpertUse>,
    /// How positions are dealt out over context axes, and samples over micro-batches.
    pub partitions: Vec<Partition>,
    /// Micro-batches of a step.
    pub micro_batches: u64,
}

impl MeshPlan {
    /// The mesh for these degrees: data outermost, tensor innermost, so that tensor-parallel ranks are neighbours; of
    /// experts in the same way, which cuts axes that both tilings cross. `None` if the tilings have no common refinement.
    pub fn new(degrees: Degrees, batch: u64, graph: &Graph, zigzag: bool) -> Option<Self> {
        let local = batch.div_ceil(degrees.dp);
        let mbs = degrees.mbs.min(local).max(1);
        let micro_batches = local.div_ceil(mbs);
        let mut dense = vec![(AxisUse::Data, degrees.dp), (AxisUse::Context, degrees.cp)];
        dense.extend(refine(degrees.tp, graph).into_iter().map(|part| (AxisUse::Tensor, part)));
        let ExpertDegrees { ep, etp } = degrees.tiling();
        if !(degrees.dp * degrees.cp * degrees.tp).is_multiple_of(ep * etp) {
            return None;
        }
        let mut axes = common_refinement(&dense, &[(ExpertUse::Data, degrees.edp()), (ExpertUse::Expert, ep), (ExpertUse::Tensor, etp)])?;
        if micro_batches > 1 {
            let behind_data = axes.iter().filter(|axis| axis.0 == AxisUse::Data).count();
            axes.insert(behind_data, (AxisUse::Micro, ExpertUse::Data, micro_batches));
        }
        let partition = |used: AxisUse| match used {
            AxisUse::Micro => Partition::Chunk(mbs),
            AxisUse::Context if zigzag => Partition::Zigzag,
            AxisUse::Data | AxisUse::Context | AxisUse::Tensor => Partition::Balanced,
        };
        let name = |n: usize| {
            let used = axes[n].0;
            let alike = |axis: &&(AxisUse, ExpertUse, u64)| axis.0 == used;
            let before = axes[..n].iter().filter(alike).count();
            if axes.iter().filter(alike).count() == 1 { used.word().to_owned() } else { format!("{}{before}", used.word()) }
        };
        let of = |n: usize| MeshAxis { name: name(n), size: axes[n].2, time: axes[n].0 == AxisUse::Micro };
        Some(Self {
            mesh: Mesh { axes: (0..axes.len()).map(of).collect() },
            uses: axes.iter().map(|axis| axis.0).collect(),
            experts: axes.iter().map(|axis| axis.1).collect(),
            partitions: axes.iter().map(|axis| partition(axis.0)).collect(),
            micro_batches,
        })
    }

    /// Mesh axes in the order in which splits nest while a micro-batch runs: as they stand.
    pub fn running_order(&self) -> Vec<usize> {
        (0..self.uses.len()).collect()
    }

    /// Whether what experts own is split over a mesh axis.
    pub fn owns_experts(&self, axis: usize) -> bool {
        self.uses[axis] != AxisUse::Micro && self.experts[axis] == ExpertUse::Expert
    }

    /// Mesh axes in the order in which splits of what is at rest nest: tensor outside data, so that gathering over
    /// data gives each tensor rank its own contiguous block.
    pub fn resting_order(&self) -> Vec<usize> {
        let mut order = self.running_order();
        order.sort_by_key(|axis| (self.uses[*axis] != AxisUse::Tensor, *axis));
        order
    }
}

/// Two tilings of the same ranks, each outermost axis first, as one: the axes that both are made of, without those of size
/// 1. `None` if a block of one tiling crosses the border of the other's.
fn common_refinement<A: Copy, B: Copy>(a: &[(A, u64)], b: &[(B, u64)]) -> Option<Vec<(A, B, u64)>> {
    let mut axes = Vec::new();
    let (mut a, mut b) = (a.iter().rev().copied(), b.iter().rev().copied());
    let (mut left, mut right) = (a.next(), b.next());
    while let (Some((of_a, size_a)), Some((of_b, size_b))) = (left, right) {
        let size = size_a.min(size_b);
        if !size_a.is_multiple_of(size) || !size_b.is_multiple_of(size) {
            return None;
        }
        if size > 1 {
            axes.push((of_a, of_b, size));
        }
        left = if size_a == size { a.next() } else { Some((of_a, size_a / size)) };
        right = if size_b == size { b.next() } else { Some((of_b, size_b / size)) };
    }
    axes.reverse();
    Some(axes)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(dp: u64, cp: u64, tp: u64, ep: u64, etp: u64) -> Option<Vec<(String, u64, ExpertUse)>> {
        let degrees = Degrees { dp, cp, tp, pp: 1, mbs: 1, experts: Some(ExpertDegrees { ep, etp }) };
        let plan = MeshPlan::new(degrees, dp, &Graph::default(), false)?;
        Some(plan.mesh.axes.iter().zip(&plan.experts).map(|(axis, used)| (axis.name.clone(), axis.size, *used)).collect())
    }

    #[test]
    fn two_tilings_meet_in_their_common_refinement() {
        use ExpertUse::{Data, Expert, Tensor};
        let axes =
            |axes: &[(&str, u64, ExpertUse)]| Some(axes.iter().map(|(name, size, used)| ((*name).to_owned(), *size, *used)).collect());
        assert_eq!(mesh(4, 1, 1, 4, 1), axes(&[("data", 4, Expert)]));
        assert_eq!(mesh(4, 1, 1, 2, 1), axes(&[("data0", 2, Data), ("data1", 2, Expert)]));
        assert_eq!(mesh(2, 1, 2, 2, 2), axes(&[("data", 2, Expert), ("tensor", 2, Tensor)]));
        assert_eq!(mesh(2, 1, 2, 4, 1), axes(&[("data", 2, Expert), ("tensor", 2, Expert)]));
        assert_eq!(
            mesh(8, 2, 4, 8, 2),
            axes(&[("data0", 4, Data), ("data1", 2, Expert), ("context", 2, Expert), ("tensor0", 2, Expert), ("tensor1", 2, Tensor)])
        );
        // a block of 3 experts' ranks lies across the border of 2 tensor ranks
        assert_eq!(mesh(3, 1, 2, 3, 1), None);
        assert_eq!(mesh(2, 1, 2, 8, 1), None);
    }
}
