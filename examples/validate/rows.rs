//! The published runs, and each as a plan of this planner.

use std::collections::BTreeMap;
use std::path::Path;

use partita_frontend::{Setting, Source, load};
use partita_ir::grad::Recompute;
use partita_planner::cluster::Cluster;
use partita_planner::estimate::choose::{Decisions, prepare, step_graph};
use partita_planner::estimate::constants::reach;
use partita_planner::estimate::stack::Stack;
use partita_planner::estimate::step::{Estimate, Prepared};
use partita_planner::mesh::{Degrees, ExpertDegrees};
use partita_planner::pins::ScheduleKind;
use partita_planner::search::Model;
use serde::Deserialize;

/// A row of `measured_runs.jsonl`, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub id: String,
    pub source: String,
    pub model: String,
    pub arch: Option<String>,
    pub layers: Option<u64>,
    pub hidden: Option<u64>,
    pub heads: Option<u64>,
    pub kv_heads: Option<u64>,
    pub ffn: Option<u64>,
    pub vocab: Option<u64>,
    pub seq_len: Option<u64>,
    pub n_experts: Option<u64>,
    pub moe_topk: Option<u64>,
    pub moe_ffn: Option<u64>,
    pub ep: Option<u64>,
    pub etp: Option<u64>,
    pub gpu: String,
    pub n_gpus: Option<u64>,
    pub tp: Option<u64>,
    pub pp: Option<u64>,
    pub vpp: Option<u64>,
    pub cp: Option<u64>,
    pub dp: Option<u64>,
    pub mbs: Option<u64>,
    pub gbs: Option<u64>,
    pub zero: Option<String>,
    pub zero_stage: Option<u8>,
    pub sequence_parallel: Option<bool>,
    pub precision_class: Option<String>,
    pub recompute_class: Option<String>,
    pub framework: Option<String>,
    pub task: Option<String>,
    pub step_time_s: Option<f64>,
    pub mem_gb_per_gpu: Option<f64>,
    pub mem_kind: Option<String>,
    pub outcome: Option<String>,
    pub intra_gb_per_s: Option<f64>,
    pub inter_gb_per_s: Option<f64>,
    pub domain: Option<u64>,
    #[serde(rename = "use")]
    pub verdict: String,
    pub stack: Option<String>,
}

impl Row {
    /// Whether everything that a prediction needs is there, but perhaps what is recomputed.
    fn is_whole(&self) -> bool {
        let numbers = [
            self.layers,
            self.hidden,
            self.heads,
            self.ffn,
            self.vocab,
            self.seq_len,
            self.tp,
            self.pp,
            self.dp,
            self.mbs,
            self.gbs,
            self.n_gpus,
        ];
        matches!(self.task.as_deref(), None | Some("pretrain"))
            && numbers.iter().all(Option::is_some)
            && self.zero_stage.is_some()
            && self.precision_class.is_some()
    }

    /// Whether a row counts for the bars.
    pub fn is_usable(&self) -> bool {
        let said = self.recompute_class.is_some() && self.step_time_s.is_some();
        self.is_whole() && self.n_experts.is_none() && self.verdict == "ok" && said
    }

    /// Whether it is a run of a model with experts, which are reported by themselves. What does not say how its optimizer is
    /// sharded has the default of its recipe, ZeRO 1.
    pub fn is_of_experts(&self) -> bool {
        let numbers = [self.n_experts, self.moe_topk, self.moe_ffn, self.ep];
        let whole = Row { zero_stage: self.zero_stage.or(Some(1)), ..self.clone() }.is_whole();
        whole && numbers.iter().all(Option::is_some) && self.verdict == "ok" && self.step_time_s.is_some()
    }

    /// Whether it is reported beside them.
    pub fn is_apart(&self) -> bool {
        let open = self.verdict == "ok" && self.recompute_class.is_none();
        self.is_whole() && self.n_experts.is_none() && self.step_time_s.is_some() && (open || self.verdict.starts_with("flag"))
    }

    /// Whether it ran out of memory.
    pub fn ran_out(&self) -> bool {
        self.is_whole() && self.verdict == "ok" && self.outcome.as_deref().is_some_and(|outcome| outcome.contains("OOM"))
    }
}

/// Every row of a file.
pub fn read(path: &Path) -> Result<Vec<Row>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let rows = text
        .lines()
        .enumerate()
        .map(|(n, line)| serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", path.display(), n + 1)));
    rows.collect()
}

/// The device's kind in the catalogue.
pub fn kind(gpu: &str) -> Option<&'static str> {
    let kinds = [
        ("V100-SXM2-16GB", "v100-16gb"),
        ("V100-SXM2-32GB", "v100-32gb"),
        ("V100-SXM3-32GB", "v100-32gb"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("A100-SXM4-80GB", "a100-80gb"),
        ("A800", "a800"),
        ("H100-SXM5-80GB", "h100"),
        ("H100-SXM5-96GB", "h100-500w"),
        ("H800", "h800"),
        ("H200", "h200"),
        ("B200", "b200"),
        ("B300", "b300"),
        ("GB200", "gb200"),
        ("GB300", "gb300"),
        ("RTX4090", "rtx4090"),
    ];
    kinds.iter().filter(|(name, _)| gpu.starts_with(name)).map(|(_, kind)| *kind).next()
}

/// A row with everything that its prediction is worked out from.
pub struct Case {
    pub row: Row,
    pub recompute: Recompute,
    pub cluster: Cluster,
    pub stack: Stack,
    pub prepared: Prepared,
}

fn cluster(row: &Row) -> Result<Cluster, String> {
    let kind = kind(&row.gpu).ok_or_else(|| format!("no device `{}`", row.gpu))?;
    let ranks = row.n_gpus.ok_or("no number of devices")?;
    let domain = row.domain.unwrap_or(8).min(ranks);
    let mut text = format!("name = \"{}\"\n[device]\nkind = \"{kind}\"\n[[level]]\nname = \"node\"\ncount = {domain}\n", row.id);
    if let Some(rate) = row.intra_gb_per_s {
        text += &format!("bandwidth_gb_per_s = {rate}\n");
    }
    if ranks > domain {
        text += &format!("[[level]]\nname = \"network\"\ncount = {}\n", ranks.div_ceil(domain));
        if let Some(rate) = row.inter_gb_per_s {
            text += &format!("bandwidth_gb_per_s = {rate}\n");
        }
    }
    Cluster::parse(&text, &row.id).map_err(|error| error.to_string())
}

/// What rows do not say of models whose heads are not `hidden / heads` wide: their width, and whether queries and keys are
/// normed (the models' own configuration files, 2025).
const HEADS: [(&str, &str, &str); 2] = [("Qwen3", "128", "true"), ("GPT OSS", "64", "false")];

/// The model file and the settings that a row's model is.
fn settings(row: &Row) -> Result<(&'static str, Vec<Setting>), String> {
    let arch = row.arch.clone().unwrap_or_default();
    let gated = arch.contains("swiglu") || arch.contains("geglu") || arch.contains("llama");
    let mut all = BTreeMap::new();
    for (name, value) in [
        ("layers", row.layers),
        ("hidden", row.hidden),
        ("heads", row.heads),
        ("ffn", row.moe_ffn.or(row.ffn)),
        ("vocab", row.vocab),
        ("seq", row.seq_len),
        ("batch", row.gbs),
    ] {
        all.insert(name, value.ok_or_else(|| format!("no {name}"))?.to_string());
    }
    if gated {
        all.insert("kv_heads", row.kv_heads.or(row.heads).unwrap_or(1).to_string());
    }
    let mut switch = |name, value: &str| drop(all.insert(name, value.to_owned()));
    if let (Some(experts), Some(chosen)) = (row.n_experts, row.moe_topk) {
        switch("experts", &experts.to_string());
        switch("chosen", &chosen.to_string());
        // routing is balanced by force: each expert has the same load
        switch("capacity", "1");
        for (name, head_dim, qk_norm) in HEADS {
            if row.model.starts_with(name) {
                switch("head_dim", head_dim);
                switch("qk_norm", qk_norm);
            }
        }
    }
    if !gated {
        // BLOOM has biases and a norm behind the embedding; MPT and Nemotron have no biases
        let bloom = arch.contains("embedding LN");
        switch("bias", if arch.contains("no bias") || arch.contains("sqrelu") { "false" } else { "true" });
        switch("alibi", if arch.contains("ALiBi") || arch.contains("sqrelu") { "true" } else { "false" });
        switch("embedding_norm", if bloom { "true" } else { "false" });
        if arch.contains("sqrelu") {
            switch("activation", "relu2");
            switch("tied", "false");
        }
    }
    let precision = row.precision_class.as_deref().unwrap_or("bf16");
    all.insert(
        "precision",
        match precision {
            "fp16" => "fp16",
            "fp8" => "fp8",
            "fp4" => "fp4",
            "fp32" => "f32",
            _ => "bf16",
        }
        .to_owned(),
    );
    let settings = all.into_iter().map(|(name, value)| Setting { name: name.into(), value }).collect();
    let file = match (row.n_experts, gated) {
        (Some(_), _) => "mixtral",
        (None, true) => "llama",
        (None, false) => "gpt",
    };
    Ok((file, settings))
}

/// Makes the case of a row. Models with experts say how they were recomputed in no row: theirs is the fastest that is predicted to
/// fit, whatever was measured.
pub fn case(row: &Row, models: &Path) -> Result<Case, String> {
    let said = row.recompute_class.as_deref().and_then(Recompute::from_word);
    if row.n_experts.is_none() || said.is_some() {
        return case_of(row, models, said.unwrap_or_default());
    }
    let cases = [Recompute::None, Recompute::Selective, Recompute::Full].map(|recompute| case_of(row, models, recompute));
    let cases = cases.into_iter().collect::<Result<Vec<Case>, String>>()?;
    let estimates = cases.into_iter().map(|case| (case.prepared.estimate(&case.cluster, &case.stack, &reach), case));
    let rank = |estimate: &Estimate| match estimate.memory_full <= 1.0 {
        true => (0, estimate.step_seconds),
        false => (1, estimate.memory_full),
    };
    let order = |a: &Estimate, b: &Estimate| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal);
    let (_, case) = estimates.min_by(|a, b| order(&a.0, &b.0)).ok_or("nothing to recompute")?;
    Ok(case)
}

fn case_of(row: &Row, models: &Path, recompute: Recompute) -> Result<Case, String> {
    let cluster = cluster(row)?;
    let name = match row.framework.as_deref() {
        Some(words) if words.contains("FSDP + compile") => "fsdp-compiled",
        // rows of NVIDIA's that did not run on NeMo
        Some(words) if words.contains("JAX") => "jax",
        _ => row.stack.as_deref().ok_or("no stack")?,
    };
    let stack = Stack::named(name).ok_or_else(|| format!("no stack `{name}`"))?;
    let (file, settings) = settings(row)?;
    let path = models.join(format!("{file}.partita"));
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let model = load(Source { name: file, text: &text }, &settings)
        .map_err(|told| told.into_iter().map(|one| one.message).collect::<Vec<_>>().join("; "))?;
    let given = Model { name: file, graph: &model.graph, train: model.train, settings: &model.settings };
    let need = |value: Option<u64>, name: &str| value.ok_or_else(|| format!("no {name}"));
    let degrees = Degrees {
        dp: need(row.dp, "dp")?,
        cp: row.cp.unwrap_or(1),
        tp: need(row.tp, "tp")?,
        pp: need(row.pp, "pp")?,
        mbs: need(row.mbs, "mbs")?,
        // tensor ranks are the experts' as well, unless the row says otherwise
        experts: row.ep.filter(|_| row.n_experts.is_some()).map(|ep| ExpertDegrees { ep, etp: row.etp.or(row.tp).unwrap_or(1) }),
    };
    let vpp = if degrees.pp > 1 { row.vpp.unwrap_or(1) } else { 1 };
    let within_eight = |zero: &&str| zero.contains("8 ranks") || zero.contains("within 8");
    let decisions = Decisions {
        degrees,
        vpp,
        sp: row.sequence_parallel == Some(true),
        zero: row.zero_stage.unwrap_or(u8::from(row.n_experts.is_some())),
        zero_group: row.zero.as_deref().filter(within_eight).map(|_| 8),
        recompute,
        schedule: if vpp > 1 { ScheduleKind::Interleaved } else { ScheduleKind::OneFOneB },
    };
    let graph = step_graph(&given, &stack, decisions.options()).map_err(|error| error.to_string())?;
    let prepared = prepare(&given, &cluster, &stack, &decisions, &graph).map_err(|error| error.to_string())?;
    Ok(Case { row: row.clone(), recompute, cluster, stack, prepared })
}
