//! Software stacks: what the engine that executes a plan fuses, overlaps and stores.
//!
//! Each is a small file under `planner/stacks/`. Figures of time that were fitted on published runs are in
//! [`super::constants`], with their meaning.

use partita_ir::dtype::DType;
use partita_ir::precision::Precision;
use std::collections::BTreeMap;

use serde::Deserialize;

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// FlashAttention of 2022 and its Triton version (Dao et al. 2022).
    Flash1,
    /// FlashAttention 2 (Dao 2023).
    Flash2,
    /// cuDNN's fused attention, FlashAttention 3: made for Hopper.
    Cudnn,
    /// Scores are written to memory, a softmax kernel reads them.
    Unfused,
}

/// Which streaming operators run as one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Named operators are a kernel each (a norm, an activation, a dropout).
    Eager,
    /// Chains of pointwise operators as well: bias and activation, bias, dropout and residual.
    Pointwise,
    /// Everything between two matrix products.
    Compiled,
}

/// How parameters come back to all ranks after an update of shards (ZeRO 1 and 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regather {
    /// One all-gather.
    Gather,
    /// A broadcast from each rank in turn.
    Broadcast,
}

/// Bytes that each parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The parameter, as it lies at rest.
    pub parameter: f64,
    /// As it travels between data-parallel ranks, and lies gathered there.
    pub parameter_sent: f64,
    /// Its gradient while it is accumulated.
    pub gradient: f64,
    /// As it travels between data-parallel ranks.
    pub gradient_sent: f64,
    /// The copy that the optimizer updates, and both moments.
    pub optimizer: f64,
    /// One moment.
    #[serde(default = "four")]
    pub moment: f64,
}

fn four() -> f64 {
    4.0
}

impl Recipe {
    /// What this project holds and sends.
    fn of(precision: &Precision) -> Self {
        let bytes = |dtype: DType| dtype.bytes(8) as f64 / 8.0;
        let (parameter, gradient, moment) = (bytes(precision.parameter), bytes(precision.gradient), bytes(precision.moments));
        let master = if precision.has_master() { bytes(precision.master) } else { 0.0 };
        let optimizer = master + 2.0 * moment;
        Self { parameter, parameter_sent: parameter, gradient, gradient_sent: gradient, optimizer, moment }
    }
}

/// What a stack does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub about: String,
    /// The attention kernel.
    pub attention: Attention,
    /// What is fused.
    pub fusion: Fusion,
    /// Whether products of one operand with several weights are one product.
    pub merge_gemms: bool,
    /// Whether a bias is added as a product is written.
    pub epilogue: bool,
    /// Whether dropout keeps a byte an element for the backward pass.
    pub dropout_masks: bool,
    /// Whether recomputation runs a whole block again; else it stops once it has what the backward pass needs.
    pub reruns_blocks: bool,
    /// Bytes of an element of the logits and of what the loss makes of them.
    pub logits_bytes: f64,
    /// Whether tensors lie as the model file says, so that parts of dimensions that do not lead are packed for collectives; else the
    /// engine has laid them out for its own.
    pub packs: bool,
    /// The part of a tensor-parallel collective that nothing hides.
    pub tensor_exposed: f64,
    /// What each tensor-parallel collective takes longer for every other rank that may come late, in jobs of more than one node.
    pub tensor_wait_ms: f64,
    /// The part of a context-parallel transfer that nothing hides.
    pub context_exposed: f64,
    /// The part of gradients' and parameters' transfers that stays exposed although there is work to hide them under.
    pub data_exposed: f64,
    /// What each rank of the group adds to each of these transfers beside the links' latency: waiting for the last to come.
    pub ring_us: f64,
    /// Whether they may be hidden at all; else they come after the backward pass.
    pub data_overlaps: bool,
    /// Whether a pipeline rank does nothing while it sends.
    pub blocking_sends: bool,
    /// Whether tensor ranks that hold the same send a part each and gather it behind.
    pub sends_parts: bool,
    /// Time of the host to issue a kernel, which is the least that one takes.
    pub issue_us: f64,
    /// Time of a step that does not depend on the model: logging, scalars brought to the host.
    pub step_ms: f64,
    /// Times the traffic of streaming kernels that casts and copies of an eager engine make of it.
    pub stream_passes: f64,
    /// How often the optimizer reads and writes what one fused pass would.
    pub optimizer_passes: f64,
    /// How parameters come back under ZeRO 1 and 2.
    pub regather: Regather,
    /// Time of one broadcast beside its bytes.
    pub broadcast_ms: f64,
    /// Whether ZeRO 3 keeps parameters gathered between forward and backward (reshard after forward: false).
    pub keeps_gathered: bool,
    /// Bytes that no rank can use for tensors: the context, libraries' workspaces.
    pub context_mib: f64,
    /// The part of the live peak that the allocator reserves beyond it.
    pub fragmentation: f64,
    /// By the type of products; none where it is the [`Precision`] itself that says so.
    #[serde(default)]
    pub recipe: BTreeMap<String, Recipe>,
}

const FILES: [(&str, &str); 11] = [
    ("partita", include_str!("../../stacks/partita.toml")),
    ("megatron-2021", include_str!("../../stacks/megatron-2021.toml")),
    ("megatron", include_str!("../../stacks/megatron.toml")),
    ("megatron-deepspeed", include_str!("../../stacks/megatron-deepspeed.toml")),
    ("nemo", include_str!("../../stacks/nemo.toml")),
    ("fsdp", include_str!("../../stacks/fsdp.toml")),
    ("fsdp-compiled", include_str!("../../stacks/fsdp-compiled.toml")),
    ("torchtitan", include_str!("../../stacks/torchtitan.toml")),
    ("internevo", include_str!("../../stacks/internevo.toml")),
    ("jax", include_str!("../../stacks/jax.toml")),
    ("alpa", include_str!("../../stacks/alpa.toml")),
];

impl Stack {
    /// The names of all stacks.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|file| file.0)
    }

    /// The stack of this name.
    pub fn named(name: &str) -> Option<Self> {
        let (_, text) = FILES.iter().find(|file| file.0 == name)?;
        Some(toml::from_str(text).expect("a stack of the repository is read; a test reads each"))
    }

    /// What it holds and sends in a precision.
    pub fn recipe(&self, precision: &Precision) -> Recipe {
        let known = self.recipe.get(precision.product.word()).or_else(|| self.recipe.values().next());
        known.copied().unwrap_or_else(|| Recipe::of(precision))
    }

    /// Whether that is known, and not what it does in another.
    pub fn has_recipe(&self, precision: &Precision) -> bool {
        self.recipe.is_empty() || self.recipe.contains_key(precision.product.word())
    }
}
