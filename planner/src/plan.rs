//! Plans: what was decided, and what is expected of it.

use partita_ir::grad::Recompute;
use partita_ir::graph::Graph;
use partita_ir::train::Train;
use serde::{Deserialize, Serialize};

use crate::layouts::Layouts;
use crate::mesh::{Degrees, ExpertDegrees, MeshPlan};
use crate::pins::ScheduleKind;
use crate::stages::StageCut;

/// A complete plan of training one model on one cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the model.
    pub model: String,
    /// Final value of everything that can be set.
    pub settings: Vec<(String, String)>,
    /// Name of the cluster.
    pub cluster: String,
    /// The training section.
    pub train: Train,
    /// Degrees of parallelism.
    pub degrees: Degrees,
    /// ZeRO stage.
    pub zero: u8,
    /// What backward computes again.
    pub recompute: Recompute,
    /// Order of micro-batches.
    pub schedule: ScheduleKind,
    /// The mesh of every stage.
    pub mesh: MeshPlan,
    /// The cut into stages.
    pub cut: StageCut,
    /// The training step.
    pub graph: Graph,
    /// Its layouts.
    pub layouts: Layouts,
    /// What is expected.
    pub predicted: Predicted,
}

/// What a plan is expected to take.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Predicted {
    /// Seconds of a step.
    pub step_seconds: f64,
    /// Of these, computing on the busiest stage.
    pub compute_seconds: f64,
    /// Of these, boxing on the busiest stage.
    pub boxing_seconds: f64,
    /// Of these, waiting for the pipeline to fill and drain.
    pub bubble_seconds: f64,
    /// Tokens (or samples, for models without positions) of a step.
    pub tokens: u64,
    /// US dollars that all devices cost for that time.
    #[serde(default)]
    pub usd_per_step: f64,
}

impl Plan {
    /// Ranks of the whole plan.
    pub fn ranks(&self) -> u64 {
        self.mesh.mesh.ranks() * self.cut.stages
    }

    /// One line that says what the plan is: `dp=2 tp=2 zero=1`.
    pub fn strategy(&self) -> String {
        let d = self.degrees;
        let mut words = vec![format!("dp={}", d.dp), format!("tp={}", d.tp), format!("cp={}", d.cp), format!("pp={}", d.pp)];
        if let Some(ExpertDegrees { ep, etp }) = d.experts {
            words.extend([format!("ep={ep}"), format!("etp={etp}")]);
        }
        words.push(format!("mbs={}", d.mbs));
        words.push(format!("zero={}", self.zero));
        words.push(format!("recompute={}", recompute_word(self.recompute)));
        if d.pp > 1 {
            words.push(format!("schedule={}", self.schedule.word()));
        }
        words.join(" ")
    }
}

/// The word of a recompute setting.
pub fn recompute_word(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::None => "none",
        Recompute::Selective => "selective",
        Recompute::Full => "full",
    }
}
