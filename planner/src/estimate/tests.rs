//! What comes out of the graph, held against the closed formulas of the field.

use std::collections::BTreeMap;

use partita_frontend::{Setting, Source, load};
use partita_ir::grad::Recompute;
use partita_ir::graph::PhaseKind;
use partita_ir::precision::Recipe;

use super::choose::{Decisions, choose, prepare, step_graph};
use super::constants::reach;
use super::sections::{Place, Section, Work};
use super::stack::Stack;
use super::step::{Estimate, Prepared, model_flops};
use crate::cluster::Cluster;
use crate::collective::Collective;
use crate::mesh::{Degrees, ExpertDegrees};
use crate::pins::{Pins, ScheduleKind};
use crate::search::Model;

/// b, s, h, a, the feed-forward's width and the vocabulary.
const SIZES: (f64, f64, f64, f64, f64, f64) = (2.0, 512.0, 256.0, 16.0, 1024.0, 640.0);

fn cluster(counts: &[u64]) -> Cluster {
    let levels = counts.iter().enumerate().map(|(n, count)| format!("[[level]]\nname = 'l{n}'\ncount = {count}\n"));
    let text = format!("name = 'x'\n[device]\nkind = 'a100-80gb'\n{}", levels.collect::<String>());
    Cluster::parse(&text, "x.toml").unwrap()
}

fn gpt(file: &str, more: &[(&str, &str)]) -> partita_frontend::Model {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let sizes =
        [("layers", "4"), ("hidden", "256"), ("heads", "16"), ("ffn", "1024"), ("vocab", "640"), ("seq", "512"), ("precision", "bf16")];
    let settings: BTreeMap<&str, &str> = sizes.into_iter().chain(more.iter().copied()).collect();
    let settings: Vec<Setting> = settings.iter().map(|(name, value)| Setting { name: (*name).into(), value: (*value).into() }).collect();
    load(Source { name: file, text: &text }, &settings).unwrap()
}

fn decisions(dp: u64, tp: u64, pp: u64) -> Decisions {
    Decisions {
        degrees: Degrees { dp, cp: 1, tp, pp, mbs: 2, experts: None },
        vpp: 1,
        sp: false,
        zero: 0,
        zero_group: None,
        recompute: Recompute::None,
        schedule: ScheduleKind::OneFOneB,
    }
}

fn prepared(model: &partita_frontend::Model, cluster: &Cluster, stack: &str, decisions: &Decisions) -> Prepared {
    let given = Model { name: "gpt", graph: &model.graph, train: model.train.clone(), settings: &model.settings };
    let stack = Stack::named(stack).unwrap();
    let graph = step_graph(&given, &stack, decisions.options()).unwrap();
    prepare(&given, cluster, &stack, decisions, &graph).unwrap()
}

fn of_layer(prepared: &Prepared, phase: PhaseKind) -> &Section {
    prepared.sections.iter().find(|section| section.phase == phase && matches!(section.place, Place::Loop(_))).unwrap()
}

/// Korthikanti et al. 2022: bytes of a layer in 16 bits.
#[test]
fn activations_are_korthikantis() {
    let (b, s, h, a, ..) = SIZES;
    let sbh = s * b * h;
    let model = gpt("gpt.partita", &[("dropout", "0.1"), ("batch", "2")]);
    // logarithms of sums, which the formulas leave out: two bytes for each position and head
    let statistics = |t: f64| 2.0 * s * b * a / t;
    for t in [1.0, 2.0, 8.0] {
        let scores = 5.0 * a * s / h;
        let cases = [
            (false, Recompute::None, sbh * (10.0 + 24.0 / t + scores / t), 0.0),
            (true, Recompute::None, sbh / t * (34.0 + scores), 0.0),
            (false, Recompute::Selective, sbh * (10.0 + 24.0 / t), statistics(t)),
            (true, Recompute::Selective, sbh / t * 34.0, statistics(t)),
            (false, Recompute::Full, 2.0 * sbh, 0.0),
            (true, Recompute::Full, 2.0 * sbh / t, 0.0),
        ];
        for (sp, recompute, bytes, beside) in cases {
            let plan = Decisions { sp, recompute, ..decisions(1, t as u64, 1) };
            let saved = of_layer(&prepared(&model, &cluster(&[t as u64]), "megatron-2021", &plan), PhaseKind::Forward).saved;
            assert_eq!(saved, bytes + beside, "t={t} sp={sp} {recompute:?}");
        }
    }
    // flash attention saves no scores, whatever is recomputed
    for recompute in [Recompute::None, Recompute::Selective] {
        let plan = Decisions { recompute, ..decisions(1, 1, 1) };
        let saved = of_layer(&prepared(&model, &cluster(&[1]), "megatron", &plan), PhaseKind::Forward).saved;
        assert_eq!(saved, 34.0 * sbh + statistics(1.0));
    }
}

/// `72 B L s h² (1 + s / 6h + V / 12hL)` of a step, and what full recomputation adds.
#[test]
fn products_are_those_of_the_formula() {
    let (_, s, h, _, _, v) = SIZES;
    let (batch, layers) = (8.0, 4.0);
    let model = gpt("gpt.partita", &[("batch", "8")]);
    let formula = 72.0 * batch * layers * s * h * h * (1.0 + s / (6.0 * h) + v / (12.0 * h * layers));
    assert!((model_flops(&model.graph) / formula - 1.0).abs() < 1e-12);
    let cases = [
        ("megatron-2021", 1, 1, Recompute::None),
        ("megatron-2021", 4, 1, Recompute::None),
        ("megatron-2021", 2, 4, Recompute::None),
        ("megatron-2021", 2, 2, Recompute::Full),
        ("megatron-2021", 2, 2, Recompute::Selective),
        ("megatron", 2, 2, Recompute::None),
        ("megatron", 2, 2, Recompute::Full),
        ("alpa", 2, 2, Recompute::Full),
    ];
    for (stack, dp, tp, recompute) in cases {
        let plan = Decisions { recompute, ..decisions(dp, tp, 1) };
        let prepared = prepared(&model, &cluster(&[dp * tp]), stack, &plan);
        let mut sum = 0.0;
        for section in &prepared.sections {
            let times = if matches!(section.place, Place::Loop(_)) { layers } else { 1.0 };
            for kernel in &section.kernels {
                sum += match kernel.work {
                    Work::Gemm { m, n, k, batch, .. } => times * 2.0 * m * n * k * batch,
                    // half of it is masked
                    Work::Flash { flops, .. } => times * 2.0 * flops,
                    Work::Stream => 0.0,
                };
            }
        }
        sum *= prepared.micro_batches() as f64 * (dp * tp) as f64;
        let block = batch * layers * s * h * h;
        let again = match (recompute, stack) {
            (Recompute::Full, "megatron-2021") => 24.0 * block * (1.0 + s / (6.0 * h)),
            // all of attention between its projections
            (Recompute::Selective, _) => 4.0 * block * s / h,
            // the backward kernel of flash attention works the scores out once more in any case
            (Recompute::Full, "megatron") => 24.0 * block * (1.0 + s / (6.0 * h)) + 2.0 * block * s / h,
            (_, "megatron") => 2.0 * block * s / h,
            // what stops once it has what it needs leaves out the last product of a block
            (Recompute::Full, _) => (16.0 + 4.0 * s / h) * block,
            _ => 0.0,
        };
        assert!((sum / (formula + again) - 1.0).abs() < 1e-12, "{stack} dp={dp} tp={tp} {recompute:?}: {}", sum / formula);
    }
}

/// Four all-reduces a layer of tensor parallelism; with sequence parallelism as many pairs, and the two inputs of products that
/// are saved in parts are gathered once more for the weights' gradients (Korthikanti et al., section 4.2.2).
#[test]
fn tensor_parallelism_moves_what_megatron_moves() {
    let (b, s, h, ..) = SIZES;
    let t = 4.0;
    let model = gpt("gpt.partita", &[("batch", "2")]);
    let count = |prepared: &Prepared, phase: PhaseKind, kind: Collective| {
        let moves = &of_layer(prepared, phase).moves;
        let found: Vec<f64> = moves.iter().filter(|step| step.collective == kind).map(|step| step.received).collect();
        let each = 2.0 * s * b * h * (t - 1.0) / t * if kind == Collective::AllReduce { 2.0 } else { 1.0 };
        assert!(found.iter().all(|received| *received == each), "{phase:?} {kind:?} {found:?} {each}");
        found.len()
    };
    let (forward, backward) = (PhaseKind::Forward, PhaseKind::Backward);
    let plain = prepared(&model, &cluster(&[4]), "megatron", &decisions(1, 4, 1));
    let of = |prepared: &Prepared, kind: Collective| (count(prepared, forward, kind), count(prepared, backward, kind));
    assert_eq!(of(&plain, Collective::AllReduce), (2, 2));
    assert_eq!((of(&plain, Collective::AllGather), of(&plain, Collective::ReduceScatter)), ((0, 0), (0, 0)));
    let sequence = prepared(&model, &cluster(&[4]), "megatron", &Decisions { sp: true, ..decisions(1, 4, 1) });
    assert_eq!(of(&sequence, Collective::AllReduce), (0, 0));
    assert_eq!(of(&sequence, Collective::ReduceScatter), (2, 2));
    assert_eq!(of(&sequence, Collective::AllGather), (2, 4));
    let full = prepared(&model, &cluster(&[4]), "megatron", &Decisions { recompute: Recompute::Full, ..decisions(1, 4, 1) });
    assert_eq!(of(&full, Collective::AllReduce).0, 2);
    assert_eq!(of(&full, Collective::AllReduce).1, 4);
    // data parallelism moves nothing inside a micro-batch but scalars
    let data = prepared(&model, &cluster(&[4]), "megatron", &decisions(4, 1, 1));
    assert!(data.sections.iter().all(|section| section.moves.is_empty()));
}

fn estimate(prepared: &Prepared, cluster: &Cluster, stack: &str) -> Estimate {
    prepared.estimate(cluster, &Stack::named(stack).unwrap(), &reach)
}

/// 18 bytes a parameter, 6 + 12 / d under ZeRO 1 (README of Megatron-LM), and so on.
#[test]
fn states_are_those_of_zero() {
    let model = gpt("gpt.partita", &[("batch", "16"), ("bias", "false"), ("alibi", "true")]);
    let (_, _, h, _, f, v) = SIZES;
    let parameters = 4.0 * (4.0 * h * h + 2.0 * h * f + 2.0 * h) + v * h + h;
    let d = 8.0;
    for (zero, group, bytes) in [
        (0, None, [2.0, 4.0, 12.0]),
        (1, None, [2.0, 4.0, 12.0 / d]),
        (2, None, [2.0, 4.0 / d, 12.0 / d]),
        (1, Some(4), [2.0, 4.0, 12.0 / 4.0]),
        (3, None, [2.0 / d, 4.0 / d, 12.0 / d]),
    ] {
        let plan = Decisions { zero, zero_group: group, ..decisions(8, 1, 1) };
        let on = cluster(&[8]);
        let memory = estimate(&prepared(&model, &on, "megatron", &plan), &on, "megatron").memory;
        // ZeRO 3 holds two layers more, gathered
        let gathered = if zero == 3 { 2.0 * 2.0 * (4.0 * h * h + 2.0 * h * f + 2.0 * h) } else { 0.0 };
        let held = [memory.parameters - gathered, memory.gradients, memory.optimizer];
        for (held, bytes) in held.iter().zip(bytes) {
            assert!((held / (bytes * parameters) - 1.0).abs() < 1e-9, "zero={zero} {held} {}", bytes * parameters);
        }
    }
}

/// Rank 0 of 1F1B holds p micro-batches, and `p (1 + (p − 1) / pv)` of a rank's layers interleaved.
#[test]
fn what_is_in_flight_is_held() {
    let model = gpt("gpt.partita", &[("batch", "32"), ("layers", "16")]);
    let on = cluster(&[4]);
    for (schedule, vpp, layers) in [(ScheduleKind::OneFOneB, 1, 4.0 * 4.0), (ScheduleKind::Interleaved, 2, 4.0 * 4.0 * (1.0 + 3.0 / 8.0))] {
        let plan = Decisions { schedule, vpp, ..decisions(1, 1, 4) };
        let prepared = prepared(&model, &on, "megatron", &plan);
        let each = of_layer(&prepared, PhaseKind::Forward).saved;
        let estimate = estimate(&prepared, &on, "megatron");
        let held = estimate.memory.activations / each;
        // the embedding saves nothing; bytes are whole ones
        assert!((held / layers - 1.0).abs() < 1e-6, "{schedule}: {held} and not {layers}, rank {}", estimate.fullest_stage);
    }
}

#[test]
fn every_stack_is_read() {
    for name in Stack::names() {
        let stack = Stack::named(name).unwrap();
        assert_eq!(stack.name, name);
        for precision in [Recipe::F32, Recipe::Bf16, Recipe::Fp16].map(Recipe::precision) {
            assert!(stack.has_recipe(&precision), "{name} {precision}");
        }
    }
    assert_eq!(Stack::named("megatrn"), None);
}

/// A faster network is never slower; ZeRO never holds more; recomputation never saves more.
#[test]
fn what_is_better_is_not_worse() {
    let model = gpt("llama.partita", &[("batch", "32"), ("kv_heads", "4")]);
    let on = cluster(&[4, 2]);
    for name in Stack::names() {
        let mut held = f64::INFINITY;
        for zero in 0..=3 {
            let plan = Decisions { zero, ..decisions(8, 1, 1) };
            let memory = estimate(&prepared(&model, &on, name, &plan), &on, name).memory;
            // ZeRO 3 gathers layers, which is more than it saves of so small a model
            let states = memory.optimizer + memory.gradients + if zero < 3 { memory.parameters } else { 0.0 };
            assert!(states <= held, "{name} zero={zero}");
            held = states;
        }
        let saved =
            |recompute| of_layer(&prepared(&model, &on, name, &Decisions { recompute, ..decisions(8, 1, 1) }), PhaseKind::Forward).saved;
        assert!(saved(Recompute::Full) < saved(Recompute::Selective) && saved(Recompute::Selective) <= saved(Recompute::None), "{name}");
        let mut seconds = f64::INFINITY;
        for rate in [1.0, 10.0, 100.0] {
            let mut faster = on.clone();
            faster.levels[1].bandwidth_gb_per_s = rate;
            let plan = Decisions { zero: 1, ..decisions(4, 1, 2) };
            let step = estimate(&prepared(&model, &faster, name, &plan), &faster, name).step_seconds;
            assert!(step <= seconds, "{name} at {rate} GB/s");
            seconds = step;
        }
    }
}

/// Anything that the pins leave is estimated with finite figures, or refused.
#[test]
fn small_models_under_any_pins() {
    let mut estimated = 0;
    for (n, file) in ["gpt.partita", "llama.partita", "gpt.partita"].into_iter().enumerate() {
        let more: &[(&str, &str)] =
            if n == 2 { &[("alibi", "true"), ("embedding_norm", "true"), ("vocab", "1"), ("layers", "3")] } else { &[("batch", "3")] };
        let model = gpt(file, more);
        let given = Model { name: "m", graph: &model.graph, train: model.train, settings: &model.settings };
        for (counts, name) in [(&[8][..], "nemo"), (&[3, 2], "alpa"), (&[1], "fsdp"), (&[2, 4], "partita")] {
            let on = cluster(counts);
            for pins in [
                "",
                "tp=2",
                "pp=2,schedule=zb-v",
                "cp=2",
                "sp=true,tp=3",
                "mbs=7",
                "pp=4,vpp=2",
                "zero=3",
                "recompute=full,pp=2,schedule=gpipe",
                "schedule=dualpipev",
            ] {
                let Ok(picked) = choose(&given, &on, &Stack::named(name).unwrap(), &Pins::parse(pins).unwrap()) else { continue };
                let e = &picked.estimate;
                let figures = [e.step_seconds, e.mfu, e.memory_bytes, e.memory_reserved_bytes];
                assert!(figures.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{file} {name} {pins}: {e:?}");
                assert!((0.0..1.0).contains(&e.bubble_fraction) && e.mfu < 1.0, "{file} {name} {pins}: {e:?}");
                estimated += 1;
            }
        }
    }
    assert!(estimated > 60, "{estimated}");
}

/// 70 layers on 12 stages: embedding and loss weigh, so the ends get fewer.
#[test]
fn uneven_layers_leave_less_to_the_ends() {
    let model = gpt("gpt.partita", &[("layers", "70"), ("batch", "16")]);
    let given = Model { name: "m", graph: &model.graph, train: model.train, settings: &model.settings };
    let pins = Pins::parse("dp=1,tp=1,cp=1,pp=12,vpp=1,mbs=1,zero=0,recompute=none").unwrap();
    let picked = choose(&given, &cluster(&[12]), &Stack::named("megatron").unwrap(), &pins).unwrap();
    let counts: Vec<u64> = picked.chunks.iter().map(|chunk| chunk.values().sum()).collect();
    assert_eq!(counts, [5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5]);
    assert!(picked.warnings.iter().any(|warning| warning.contains("5 6 6 6")), "{:?}", picked.warnings);
}

/// A pinned plan that does not fit is told with its figures; an open search where nothing fits is an error.
#[test]
fn what_does_not_fit_is_said() {
    let model = gpt("gpt.partita", &[("layers", "96"), ("hidden", "12288"), ("heads", "96"), ("ffn", "49152"), ("batch", "4")]);
    let given = Model { name: "m", graph: &model.graph, train: model.train, settings: &model.settings };
    let (on, megatron) = (cluster(&[4]), Stack::named("megatron").unwrap());
    let pins = Pins::parse("dp=1,tp=4,cp=1,pp=1,mbs=1,sp=true,zero=0,recompute=full,schedule=1f1b,vpp=1").unwrap();
    let picked = choose(&given, &on, &megatron, &pins).unwrap();
    assert!(!picked.fits && picked.warnings.iter().any(|warning| warning.contains("does not fit")), "{:?}", picked.warnings);
    let open = choose(&given, &on, &megatron, &Pins::default());
    assert!(matches!(open, Err(crate::search::SearchError::DoesNotFit { .. })), "{open:?}");
}

/// Positions come behind the sequences of a micro-batch: parts of more than one do not lie in one piece. Engines that lay out their
/// tensors by hand put positions first.
#[test]
fn parts_that_do_not_lead_are_packed() {
    let model = gpt("gpt.partita", &[("batch", "8")]);
    let packed = |stack: &str, mbs: u64| {
        let mut plan = Decisions { sp: true, ..decisions(1, 4, 1) };
        plan.degrees.mbs = mbs;
        let prepared = prepared(&model, &cluster(&[4]), stack, &plan);
        let moves = &of_layer(&prepared, PhaseKind::Forward).moves;
        moves.iter().map(|step| (step.collective, step.packed / step.received)).collect::<Vec<_>>()
    };
    assert!(packed("partita", 1).iter().all(|(_, packed)| *packed == 0.0), "one sequence leads");
    // all of what is gathered, read and written
    assert!(packed("partita", 2).contains(&(Collective::AllGather, 2.0 * 4.0 / 3.0)), "{:?}", packed("partita", 2));
    assert!(packed("megatron", 2).iter().all(|(_, packed)| *packed == 0.0));
}

/// Moments are counted in the graph: two of Adam's, one of Lion's, next to none of Adafactor's.
#[test]
fn optimizers_hold_what_they_keep() {
    let on = cluster(&[8]);
    let held = |optimizer: &str| {
        let model = gpt("gpt.partita", &[("batch", "16"), ("optimizer", optimizer)]);
        let memory = estimate(&prepared(&model, &on, "megatron", &decisions(8, 1, 1)), &on, "megatron").memory;
        // the master copy is there in any case
        memory.optimizer / (memory.gradients / 4.0) - 4.0
    };
    assert!((held("adamw") - 8.0).abs() < 1e-9 && (held("lamb") - 8.0).abs() < 1e-9, "{} {}", held("adamw"), held("lamb"));
    assert!((held("lion") - 4.0).abs() < 1e-9 && (held("muon") - 4.0).abs() < 1.0, "{} {}", held("lion"), held("muon"));
    assert!(held("adafactor") > 0.0 && held("adafactor") < 0.1, "{}", held("adafactor"));
}

/// GShard, Lepikhin et al. 2021: tokens go to their experts and back, forward and backward, `k` times the stream each; each expert has
/// `k / E` of the tokens of all ranks that exchange; its weights lie, and are reduced, beside its own copies alone.
#[test]
fn experts_exchange_tokens() {
    let (b, s, h, _, f, _) = SIZES;
    let (experts, chosen) = (8.0, 2.0);
    let model = gpt("mixtral.partita", &[("batch", "32"), ("capacity", "1"), ("experts", "8"), ("chosen", "2")]);
    let plan = |ep, etp, tp| {
        let base = decisions(8 / tp, tp, 1);
        let degrees = Degrees { experts: Some(ExpertDegrees { ep, etp }), ..base.degrees };
        prepared(&model, &cluster(&[8]), "megatron", &Decisions { degrees, zero: 1, ..base })
    };
    for (ep, etp, tp) in [(4, 1, 1), (8, 1, 1), (2, 2, 1), (2, 2, 2), (4, 1, 2)] {
        let prepared = plan(ep, etp, tp);
        let weights = prepared.weights.iter().find(|(place, _)| matches!(place, Place::Loop(_))).unwrap().1;
        let (ep, etp) = (ep as f64, etp as f64);
        assert_eq!(weights.experts, 3.0 * h * f * experts / (ep * etp), "ep={ep} etp={etp}");
        let rows = b * s * chosen / experts * 8.0 / tp as f64;
        // products of several experts at once; of one they are like any other
        let of_experts = |work: Work| match work {
            Work::Gemm { m, batch, .. } if batch > 1.0 => Some((m, batch)),
            _ => None,
        };
        let layer = of_layer(&prepared, PhaseKind::Forward);
        let beside = 8.0 / (ep * etp);
        let products: Vec<(f64, f64)> = layer.kernels.iter().filter_map(|kernel| of_experts(kernel.work)).collect();
        // gate and up as one, and down
        let expected = if ep < experts { vec![(rows / beside, experts / ep); 2] } else { vec![] };
        assert_eq!(products, expected, "ep={ep} etp={etp} tp={tp}");
        let held = prepared.memory(&Stack::named("megatron").unwrap(), 0, 0.0);
        let (all, own) = prepared.weights.values().fold((0.0, 0.0), |(all, own), w| (all + w.elements, own + w.experts));
        let layers = 4.0;
        let outside: f64 = all - weights.elements;
        let dense = outside + layers * weights.elements;
        assert_eq!(held.optimizer, 12.0 * (dense / (8 / tp) as f64 + layers * own / beside), "ep={ep} etp={etp}");
        if (etp, tp) == (1.0, 1) {
            let exchanged = b * s * chosen * h * 2.0 * (1.0 - 1.0 / ep);
            for phase in [PhaseKind::Forward, PhaseKind::Backward] {
                let moves = &of_layer(&prepared, phase).moves;
                assert!(moves.iter().all(|step| step.collective == Collective::AllToAll), "{moves:?}");
                assert_eq!(moves.iter().filter(|step| step.received == exchanged).count(), 2, "{moves:?}");
                // gates, one number for each row
                let small = moves.iter().filter(|step| step.received != exchanged);
                assert!(small.clone().count() <= 2 && small.clone().all(|step| step.received == exchanged / h), "{moves:?}");
            }
        }
    }
}
