//! The table of `docs/validation/README.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use partita_planner::estimate::step::Estimate;
use partita_planner::plan::recompute_word;

use crate::fit::{KNOBS, Values};
use crate::rows::Case;

/// Why some rows are missed.
const NOTES: &str = "\
- `bloom-136` (82 layers of 14,336, 203 G parameters, tp=4, pp=12, micro-batch 2) is recorded as out of memory. `bloom-130` (94 layers of 13,312, \
also 203 G parameters, the same plan and recipe) ran with 67 GiB, and the measured growth by layer from `bloom-132` to it gives the same. What ran out \
there is not in the row.
- `mpt-143`, `mpt-144`, `mpt-149`, `mpt-150`, `mpt-151` (13B on one node of A100-40GB) take 14 to 16 % longer than predicted at any micro-batch, where \
13B on 16 to 128 devices and 7B on one node are met within 5 %. It is the one configuration with 16 micro-batches a step and the fullest by its states \
alone (26 GB of 40): retries of the allocator would explain it, and no row can tell.
- `dgxc-117` to `121` and `dgxc-013` to `017` are one plan on two releases of NeMo, 4 % apart: one prediction lies between them.
- `fms-005`, `fms-007` checkpoint some blocks (*selective* there), taken as none: their time is met, and their memory is called too much.
- `dgxc-159`, `dgxc-175` (Nemotron 15B) have grouped queries, which `gpt.partita` has not: 4 to 9 % too long, and 18 % too much memory.
- `bloom-047`, `050`, `061`, `062` were measured before a fault of the machines was mended (1 to 5 % slower); `bloom-061` repeats as `bloom-098` and `113`, 5 % apart.
";

/// What the runs of models with experts are, and what stands in the way where they are missed.
const EXPERTS: &str = "\
Constants are those of dense runs. Each is predicted from `models/mixtral.partita`. NVIDIA's runs force balanced routing, so each expert has the same load \
(`capacity=1`). No row says what is recomputed: it is the fastest of none, selective and full that is predicted to fit, whatever was measured. ZeRO 1, \
which is the recipes' default, where a row does not say. GPT OSS stands without its biases (0.04 of 116.8 G parameters), attention sinks and windows \
(estimates count scores in a window as if all were computed). `mlm-033` has no step time and `mb-312` no precision.

What stands in the way:

- One plan is one prediction, and releases differ by more than that can follow: Qwen3 on 8 GB200 took 11.0 s in NeMo 25.11, 10.0 in 26.02 and 26.04, 6.4 in \
26.06; GPT OSS in 8 bits 2.8 and 4.5 s in two builds of 26.06; Qwen3 on H100 with vpp=12 28.9 and 51.3 s in two of 26.02.
- What a layer takes beside its bytes and products is not in the model: `mb-227`, `mb-258` (micro-batch 1) took 8.8 ms a layer and micro-batch where `mb-190` \
took 12.8 ms with four times the tokens. `mb-284`, the same plan with dropped tokens, whose shapes are known beforehand, took half of that. The stack's 2 µs a \
kernel are those of dense models under CUDA graphs.
- An exchange sends a token once for each of its experts, and nothing hides it. Dispatchers that send it once to each node, or under other work, take less: \
exchanges are 19.2 of the 30.4 s predicted for `mb-050`, which happens to be met; `mb-312`, the same plan with both, took 20.1 s.
- Products of experts reach what dense batched products do, whole tiles counted. Under context parallelism tokens are gathered ahead of their experts, where \
Megatron exchanges those of a rank (`nemo-059`).

";

const GIB: f64 = 1_073_741_824.0;

/// A case with what is predicted of it.
pub struct Met<'a> {
    pub case: &'a Case,
    pub estimate: Estimate,
}

impl Met<'_> {
    /// Off by, as a part of what was measured.
    pub fn off(&self) -> f64 {
        self.estimate.step_seconds / self.measured() - 1.0
    }

    pub fn measured(&self) -> f64 {
        self.case.row.step_time_s.unwrap_or(f64::NAN)
    }

    fn eight_bit(&self) -> bool {
        self.case.row.precision_class.as_deref() == Some("fp8")
    }
}

/// Mean, mean of absolute values, 90th percentile and largest of errors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    pub rows: usize,
    pub signed: f64,
    pub mean: f64,
    pub ninety: f64,
    pub worst: f64,
}

pub fn errors(offs: impl Iterator<Item = f64>) -> Errors {
    let offs: Vec<f64> = offs.collect();
    if offs.is_empty() {
        return Errors::default();
    }
    let n = offs.len() as f64;
    let mut sizes: Vec<f64> = offs.iter().map(|off| off.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    Errors {
        rows: offs.len(),
        signed: offs.iter().sum::<f64>() / n,
        mean: sizes.iter().sum::<f64>() / n,
        ninety: sizes[((n * 0.9).ceil() as usize).saturating_sub(1)],
        worst: sizes[sizes.len() - 1],
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

/// A line of the summary: a figure beside its bar.
struct Bar {
    what: String,
    bar: String,
    figure: String,
    met: bool,
}

/// Everything that the report shows.
pub struct Report<'a> {
    pub usable: Vec<Met<'a>>,
    pub apart: Vec<Met<'a>>,
    /// Runs of models with experts, whose constants were fitted on others.
    pub experts: Vec<Met<'a>>,
    /// Rows that ran out of memory, or that ran, with memory alone.
    pub memory: Vec<Met<'a>>,
    /// Rows without a prediction, and why.
    pub refused: Vec<(String, String)>,
    pub values: Values,
    pub refitted: Values,
    /// By source: errors of its rows under constants fitted without them.
    pub left_out: Vec<(String, Errors, bool)>,
}

impl Report<'_> {
    pub fn text(&self) -> String {
        let mut out = String::from(
            "# Predictions beside published runs\n\nWritten by `make validate`. The runs are those of `measured_runs.jsonl`, which is not part of this \
             repository; each is predicted from the graph of `models/gpt.partita` or `models/llama.partita` with its settings, its plan pinned, under \
             its software stack. *Usable* rows say everything that a prediction needs.\n\n![Predicted beside measured step time](scatter.svg)\n\n## Bars\n\n",
        );
        table(
            &mut out,
            &["what", "bar", "figure", ""],
            self.bars().into_iter().map(|bar| vec![bar.what, bar.bar, bar.figure, if bar.met { "met" } else { "**missed**" }.to_owned()]),
        );
        out += "\n## By source\n\n";
        self.by_source(&mut out);
        out += "\n## Constants\n\nFitted by damped least squares on the logarithm of step times (soft loss beyond 5 %). The planner has the values of the \
                first column; the second is what a fit on today's rows gives. Everything else in the model is a specification or comes from the graph.\n\n";
        let constants = KNOBS.iter().zip(&self.values).zip(&self.refitted);
        table(
            &mut out,
            &["constant", "value", "fitted now", "meaning"],
            constants.map(|((knob, value), refitted)| {
                vec![knob.name.to_owned(), format!("{value:.3}"), format!("{refitted:.3}"), knob.meaning.to_owned()]
            }),
        );
        out += "\nEach source predicted with constants that were fitted without it:\n\n";
        table(
            &mut out,
            &["source left out", "rows", "mean error", "worst", "its stack is known from other rows"],
            self.left_out.iter().map(|(source, errors, known)| {
                vec![
                    source.clone(),
                    errors.rows.to_string(),
                    percent(errors.mean),
                    percent(errors.worst),
                    if *known { "yes" } else { "no" }.to_owned(),
                ]
            }),
        );
        out += "\n## Order of plans\n\nPairs of rows of one model on one cluster that differ by more than 5 % in time per sequence, and how far the plan that is \
                predicted best is from the best that was measured. Then pairs of one model and device of any length and number of devices, \
                by device-seconds of a token.\n\n";
        self.ordering(&mut out);
        out += "\n## Memory\n\n";
        self.memory_table(&mut out);
        out += "\n## Rows that cannot be met\n\n";
        out += NOTES;
        out += "\n## Rows\n\nSeconds of a step; compute, exposed communication and bubble are parts of the prediction.\n\n";
        rows(&mut out, &self.usable);
        out += "\n## Apart, without a bar\n\nFlagged rows, and rows that do not say what is recomputed (taken as nothing).\n\n";
        rows(&mut out, &self.apart);
        out += "\n## Models with experts, without a bar\n\n";
        self.of_experts(&mut out);
        if !self.refused.is_empty() {
            out += "\n## Not predicted\n\n";
            table(&mut out, &["row", "why"], self.refused.iter().map(|(id, why)| vec![id.clone(), why.clone()]));
        }
        out
    }

    fn bars(&self) -> Vec<Bar> {
        let sixteen = || self.usable.iter().filter(|met| !met.eight_bit());
        let all = errors(sixteen().map(Met::off));
        let of_source: Vec<f64> =
            groups(sixteen(), |met| met.case.row.source.clone()).into_values().map(|offs| errors(offs.into_iter()).mean).collect();
        let over_sources = of_source.iter().sum::<f64>() / of_source.len() as f64;
        let signed = groups(self.usable.iter().filter(|met| !met.eight_bit()), |met| {
            format!("{} {}", met.case.row.source, met.case.cluster.device.kind)
        });
        let most_signed = signed.into_values().map(|offs| errors(offs.into_iter()).signed.abs()).fold(0.0, f64::max);
        let dgxc = errors(self.usable.iter().filter(|met| met.case.row.id.starts_with("dgxc")).map(Met::off));
        let eight = errors(self.usable.iter().filter(|met| met.eight_bit()).map(Met::off));
        let memory = errors(self.measured_memory().map(|(met, gib)| met.estimate.memory_reserved_bytes / GIB / gib - 1.0));
        let over = |met: &&Met<'_>| met.estimate.memory_reserved_bytes > met.case.cluster.device.memory_bytes as f64;
        let ran_out = || self.memory.iter().filter(|met| met.case.row.ran_out());
        let called = ran_out().filter(over).count();
        let false_alarms = self.usable.iter().filter(over).count();
        let (right, wrong) = self.ordered(&|met| met.case.row.id.starts_with("bloom"), false);
        let pairs = right + wrong.len();
        let left_out = self.left_out.iter().filter(|(.., known)| *known).map(|(_, errors, _)| errors.mean).fold(0.0, f64::max);
        let bar = |what: &str, bar: String, figure: String, met: bool| Bar { what: what.into(), bar, figure, met };
        let below =
            |what: &str, limit: f64, figure: f64| bar(what, format!("at most {}", percent(limit)), percent(figure), figure <= limit);
        vec![
            below("16-bit rows, mean absolute error over rows", 0.045, all.mean),
            below("the same over sources", 0.045, over_sources),
            below("90th percentile", 0.10, all.ninety),
            below("worst", 0.18, all.worst),
            below("largest mean signed error of a (source, device)", 0.05, most_signed),
            below("NVIDIA's H100 rows (dgxc), mean", 0.03, dgxc.mean),
            below("fp8 rows, mean", 0.05, eight.mean),
            bar("fitted constants", "at most 20".into(), KNOBS.len().to_string(), KNOBS.len() <= 20),
            below("a source left out of the fit, its stack known: largest mean", 0.12, left_out),
            bar("BLOOM pairs ordered right", "at least 92 %".into(), format!("{right} of {pairs}"), right as f64 >= 0.92 * pairs as f64),
            below("memory, mean where measured", 0.08, memory.mean),
            bar("out-of-memory rows called so", "all".into(), format!("{called} of {}", ran_out().count()), called == ran_out().count()),
            below("of those that ran called out of memory", 0.05, false_alarms as f64 / self.usable.len() as f64),
        ]
    }

    fn by_source(&self, out: &mut String) {
        let key = |met: &Met<'_>| {
            let row = &met.case.row;
            let word = |text: &Option<String>| text.clone().unwrap_or_default();
            format!(
                "{} | {} | {} | {} | {}",
                row.source,
                met.case.stack.name,
                met.case.cluster.device.kind,
                word(&row.precision_class),
                word(&row.recompute_class)
            )
        };
        let rows = groups(self.usable.iter(), key).into_iter().map(|(key, offs)| {
            let errors = errors(offs.into_iter());
            let mut cells: Vec<String> = key.split(" | ").map(str::to_owned).collect();
            cells.extend([
                errors.rows.to_string(),
                percent(errors.mean),
                format!("{:+.1} %", 100.0 * errors.signed),
                percent(errors.ninety),
                percent(errors.worst),
            ]);
            cells
        });
        table(out, &["source", "stack", "device", "precision", "recompute", "rows", "mean", "signed", "90 %", "worst"], rows);
    }

    /// Runs of models with experts: by source, then each.
    fn of_experts(&self, out: &mut String) {
        out.push_str(EXPERTS);
        let mut sets: BTreeMap<[String; 4], Vec<f64>> = BTreeMap::new();
        for met in &self.experts {
            let row = &met.case.row;
            let precision = row.precision_class.clone().unwrap_or_default();
            let of = |model: String, device: String, precision: String| [row.source.clone(), model, device, precision];
            let model = row.model.replace('_', "-");
            sets.entry(of(model, met.case.cluster.device.kind.clone(), precision)).or_default().push(met.off());
            sets.entry(of(" all".into(), String::new(), String::new())).or_default().push(met.off());
        }
        let lines = sets.into_iter().map(|(key, offs)| {
            let errors = errors(offs.into_iter());
            let mut cells = key.map(|word| word.trim().to_owned()).to_vec();
            cells.push(errors.rows.to_string());
            cells.extend([percent(errors.mean), format!("{:+.1} %", 100.0 * errors.signed), percent(errors.ninety), percent(errors.worst)]);
            cells
        });
        table(out, &["source", "model", "device", "precision", "rows", "mean", "signed", "90 %", "worst"], lines);
        out.push('\n');
        let lines = self.experts.iter().map(|met| {
            let (row, b) = (&met.case.row, &met.estimate.breakdown);
            let d = met.case.prepared.setup.degrees;
            let tiling = d.tiling();
            let number = |seconds: f64| format!("{seconds:.3}");
            vec![
                row.id.clone(),
                row.model.clone(),
                format!("{} {}", row.n_gpus.unwrap_or(0), met.case.cluster.device.kind),
                row.precision_class.clone().unwrap_or_default(),
                format!("tp={} cp={} pp={} ep={} etp={} mbs={}", d.tp, d.cp, d.pp, tiling.ep, tiling.etp, d.mbs),
                recompute_word(met.case.recompute).to_owned(),
                format!("{:.0} %", 100.0 * met.estimate.memory_full),
                number(met.measured()),
                number(met.estimate.step_seconds),
                format!("{:+.1} %", 100.0 * met.off()),
                number(b.gemm),
                number(b.attention),
                number(b.streaming + b.optimizer + b.host),
                number(b.tensor_exposed + b.context_exposed),
                number(b.data_exposed),
                number(b.bubble),
            ]
        });
        let heads = [
            "row",
            "model",
            "devices",
            "precision",
            "plan",
            "recompute",
            "memory",
            "measured",
            "predicted",
            "off",
            "products",
            "attention",
            "streaming",
            "exchanges",
            "gradients",
            "bubble",
        ];
        table(out, &heads, lines);
    }

    /// Rows of one model and cluster; `wide` ones of one model and device, of any number and length.
    fn sets(&self, of: &dyn Fn(&Met<'_>) -> bool, wide: bool) -> Vec<Vec<&Met<'_>>> {
        let mut sets: BTreeMap<String, Vec<&Met<'_>>> = BTreeMap::new();
        for met in self.usable.iter().filter(|met| of(met)) {
            let row = &met.case.row;
            let own = if wide { (None, None) } else { (row.seq_len, row.n_gpus) };
            let model = (row.layers, row.hidden, row.heads, row.ffn, row.vocab);
            let key = format!("{} {:?}", row.source, (model, &row.gpu, &row.precision_class, own));
            sets.entry(key).or_default().push(met);
        }
        sets.into_values().filter(|set| set.len() > 1).collect()
    }

    /// Of pairs more than 5 % apart, how many are ordered right, and which are not.
    fn ordered(&self, of: &dyn Fn(&Met<'_>) -> bool, wide: bool) -> (usize, Vec<String>) {
        let (mut right, mut wrong) = (0, Vec::new());
        for set in self.sets(of, wide) {
            for (n, a) in set.iter().enumerate() {
                for b in &set[n + 1..] {
                    // device-seconds of a token
                    let each = |met: &Met<'_>, seconds: f64| {
                        let [gbs, seq, devices] =
                            [met.case.row.gbs, met.case.row.seq_len, met.case.row.n_gpus].map(|n| n.unwrap_or(1) as f64);
                        seconds * devices / (gbs * seq)
                    };
                    let measured = (each(a, a.measured()) / each(b, b.measured())).ln();
                    let predicted = (each(a, a.estimate.step_seconds) / each(b, b.estimate.step_seconds)).ln();
                    // repeats of one plan, on other days or versions, say nothing of plans
                    let plan = |met: &Met<'_>| {
                        let row = &met.case.row;
                        (row.tp, row.pp, row.vpp, row.cp, row.dp, row.mbs, row.gbs, row.zero.clone(), row.recompute_class.clone())
                    };
                    if measured.abs() > 1.05f64.ln() && plan(a) != plan(b) {
                        if measured * predicted > 0.0 {
                            right += 1;
                        } else {
                            wrong.push(format!("`{}` `{}`", a.case.row.id, b.case.row.id));
                        }
                    }
                }
            }
        }
        (right, wrong)
    }

    fn ordering(&self, out: &mut String) {
        let sources: BTreeMap<&str, ()> = self.usable.iter().map(|met| (met.case.row.source.as_str(), ())).collect();
        let mut misordered: Vec<String> = Vec::new();
        let rows = sources.into_keys().filter_map(|source| {
            let of = |met: &Met<'_>| met.case.row.source == source;
            let [own, all] = [false, true].map(|wide| self.ordered(&of, wide));
            misordered.extend(all.1.iter().cloned());
            let sets = self.sets(&of, false);
            let behind = |set: &Vec<&Met<'_>>| {
                // repeats of one plan count as their mean
                let mut plans: Vec<(f64, Vec<f64>)> = Vec::new();
                for met in set {
                    let each = |seconds: f64| seconds / met.case.row.gbs.unwrap_or(1) as f64;
                    let (predicted, measured) = (each(met.estimate.step_seconds), each(met.measured()));
                    match plans.iter_mut().find(|plan| plan.0 == predicted) {
                        Some(plan) => plan.1.push(measured),
                        None => plans.push((predicted, vec![measured])),
                    }
                }
                let mean = |times: &Vec<f64>| times.iter().sum::<f64>() / times.len() as f64;
                let best = plans.iter().map(|plan| mean(&plan.1)).fold(f64::INFINITY, f64::min);
                let picked = plans.iter().min_by(|a, b| a.0.total_cmp(&b.0));
                picked.map_or(0.0, |plan| mean(&plan.1) / best - 1.0)
            };
            let worst = sets.iter().map(behind).fold(0.0, f64::max);
            let of_pairs = [own, all].map(|(right, wrong)| format!("{right} of {}", right + wrong.len()));
            (!of_pairs[1].ends_with("of 0"))
                .then(|| vec![source.to_owned(), sets.len().to_string(), of_pairs[0].clone(), percent(worst), of_pairs[1].clone()])
        });
        table(
            out,
            &[
                "source",
                "sets",
                "pairs ordered right",
                "picked plan behind the best, worst set",
                "pairs of any length and number of devices",
            ],
            rows,
        );
        *out += &format!("\nOrdered wrong: {}.\n", misordered.join(", "));
    }

    /// Rows whose memory `nvidia-smi` or the allocator's reserve is printed, in GiB.
    fn measured_memory(&self) -> impl Iterator<Item = (&Met<'_>, f64)> {
        let reserved = |met: &&Met<'_>| {
            met.case
                .row
                .mem_kind
                .as_deref()
                .is_some_and(|kind| kind.contains("nvidia-smi") || kind.contains("reserved") || kind.contains("prequel"))
        };
        self.usable.iter().filter(reserved).filter_map(|met| met.case.row.mem_gb_per_gpu.map(|gib| (met, gib)))
    }

    fn memory_table(&self, out: &mut String) {
        let rows = self.measured_memory().map(|(met, gib)| {
            let of = |bytes: f64| format!("{:.1}", bytes / GIB);
            let parts = &met.estimate.memory;
            vec![
                met.case.row.id.clone(),
                format!("{gib:.1}"),
                of(met.estimate.memory_reserved_bytes),
                format!("{:+.1} %", 100.0 * (met.estimate.memory_reserved_bytes / GIB / gib - 1.0)),
                of(parts.parameters),
                of(parts.gradients),
                of(parts.optimizer),
                of(parts.activations),
                of(parts.temporaries),
            ]
        });
        table(
            out,
            &["row", "measured GiB", "predicted", "off", "parameters", "gradients", "optimizer", "activations", "temporaries"],
            rows,
        );
        out.push_str("\nRows that ran out of memory:\n\n");
        let rows = self.memory.iter().filter(|met| met.case.row.ran_out()).map(|met| {
            let has = met.case.cluster.device.memory_bytes as f64;
            vec![
                met.case.row.id.clone(),
                format!("{:.1}", met.estimate.memory_reserved_bytes / GIB),
                format!("{:.1}", has / GIB),
                if met.estimate.memory_reserved_bytes > has { "does not fit" } else { "**fits**" }.to_owned(),
            ]
        });
        table(out, &["row", "predicted GiB", "device", "called"], rows);
        let over = |met: &&Met<'_>| met.estimate.memory_reserved_bytes > met.case.cluster.device.memory_bytes as f64;
        let over: Vec<&str> = self.usable.iter().filter(over).map(|met| met.case.row.id.as_str()).collect();
        let _ = writeln!(
            out,
            "\nRows that ran and are called out of memory: {}.",
            if over.is_empty() { "none".to_owned() } else { over.join(", ") }
        );
    }
}

fn rows(out: &mut String, rows: &[Met<'_>]) {
    let cells = rows.iter().map(|met| {
        let b = &met.estimate.breakdown;
        let row = &met.case.row;
        let compute = b.gemm + b.attention + b.streaming + b.optimizer + b.host;
        let exposed = b.tensor_exposed + b.context_exposed + b.data_exposed;
        vec![
            row.id.clone(),
            row.model.clone(),
            met.case.cluster.device.kind.clone(),
            row.n_gpus.unwrap_or(0).to_string(),
            format!("{:.3}", met.measured()),
            format!("{:.3}", met.estimate.step_seconds),
            format!("{:+.1} %", 100.0 * met.off()),
            format!("{compute:.3}"),
            format!("{exposed:.3}"),
            format!("{:.3}", b.bubble),
        ]
    });
    table(out, &["row", "model", "device", "devices", "measured", "predicted", "off", "compute", "exposed", "bubble"], cells);
}

fn groups<'a, 'b: 'a>(rows: impl Iterator<Item = &'a Met<'b>>, key: impl Fn(&Met<'_>) -> String) -> BTreeMap<String, Vec<f64>> {
    let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    rows.for_each(|met| groups.entry(key(met)).or_default().push(met.off()));
    groups
}

fn table(out: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    rows.for_each(|row| {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    });
}
