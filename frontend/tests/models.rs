//! The models of the repository: they load, with the sizes and the structure that they are known for.

use std::collections::BTreeMap;

use partita_frontend::{Model, Setting, Source, load, render};
use partita_ir::graph::{Class, Graph, Kind, Leaf, PhaseKind};
use partita_ir::id::ValueId;
use partita_ir::interpret::{self, Tensor};
use partita_ir::precision::Recipe;
use partita_ir::train::{Optimizer, Schedule};

const MODELS: [(&str, &str); 5] = [
    ("bert", include_str!("../../models/bert.partita")),
    ("gpt", include_str!("../../models/gpt.partita")),
    ("llama", include_str!("../../models/llama.partita")),
    ("neox", include_str!("../../models/neox.partita")),
    ("mlp", include_str!("../../models/mlp.partita")),
];

/// Those with experts.
const OF_EXPERTS: [(&str, &str); 3] = [
    ("deepseek", include_str!("../../models/deepseek.partita")),
    ("glam", include_str!("../../models/glam.partita")),
    ("mixtral", include_str!("../../models/mixtral.partita")),
];

/// Those that read images.
const OF_IMAGES: [(&str, &str); 2] =
    [("resnet50", include_str!("../../models/resnet50.partita")), ("vit", include_str!("../../models/vit.partita"))];

fn model(name: &str, settings: &[(&str, &str)]) -> Model {
    let (name, text) = MODELS.into_iter().chain(OF_EXPERTS).chain(OF_IMAGES).find(|row| row.0 == name).expect("the model is in the list");
    let source = Source { name, text };
    let settings: Vec<Setting> = settings.iter().map(|(name, value)| Setting { name: (*name).into(), value: (*value).into() }).collect();
    load(source, &settings).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)))
}

fn parameters(graph: &Graph) -> u64 {
    graph.params().map(|id| graph.elements(id) * graph.iterations(graph.value(id).within)).sum()
}

/// The primitives of the forward phase, bodies once.
fn primitives(graph: &Graph) -> Vec<partita_ir::id::OpId> {
    let mut ops = Vec::new();
    graph.visit(graph.phase(PhaseKind::Forward), &mut |op, _| ops.push(op));
    ops
}

#[test]
fn models_load_as_they_are() {
    for (name, _) in MODELS {
        let model = model(name, &[]);
        assert_eq!(model.name, name);
        assert!(!model.graph.loss.is_empty());
        assert_eq!(model.train.batch, 8);
        assert_eq!(model.train.clip, Some(1.0));
        let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-6, decay: 0.01 };
        assert_eq!(model.train.optimizer, if name == "bert" { adamw } else { Optimizer::adamw() });
        assert_eq!(model.graph.phases.len(), 1);
        assert_eq!(partita_ir::verify::verify(&model.graph), Vec::new(), "{name}");
    }
}

#[test]
fn all_models_share_the_names_of_their_settings() {
    for (name, _) in MODELS {
        let model = model(name, &[]);
        for wanted in ["layers", "hidden", "ffn", "vocab", "seq", "dropout", "batch", "precision", "lr"] {
            assert!(model.settings.iter().any(|(known, _)| known == wanted), "{name} has no setting `{wanted}`");
        }
        // every setting, set to its own value, gives the same model
        let values: Vec<(&str, &str)> = model.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let again = self::model(name, &values);
        assert_eq!((again.graph, again.train, &again.settings), (model.graph.clone(), model.train, &model.settings));
    }
}

#[test]
fn models_of_experts_have_the_parameters_of_their_papers() {
    let of = |name: &str, set: &[(&str, &str)]| parameters(&model(name, set).graph) as f64 / 1e9;
    let close = |found: f64, published: f64| assert!((found / published - 1.0).abs() < 0.005, "{found} beside {published}");
    let mixtral = [("layers", "32"), ("hidden", "4096"), ("heads", "32"), ("kv_heads", "8"), ("ffn", "14336"), ("vocab", "32000")];
    close(of("mixtral", &mixtral), 46.7);
    let deepseek = [
        ("layers", "58"),
        ("dense_layers", "3"),
        ("hidden", "7168"),
        ("heads", "128"),
        ("q_latent", "1536"),
        ("kv_latent", "512"),
        ("nope", "128"),
        ("rope", "64"),
        ("value", "128"),
        ("ffn", "2048"),
        ("dense_ffn", "18432"),
        ("experts", "256"),
        ("groups", "8"),
        ("limit", "4"),
        ("chosen", "8"),
        ("vocab", "129280"),
        ("further", "false"),
    ];
    close(of("deepseek", &deepseek), 671.0);
    // the paper says 1.2 trillion, and 96.6 billion that a token meets: 2 of 64 experts
    let glam = |experts| {
        [
            ("layers", "64"),
            ("hidden", "8192"),
            ("heads", "128"),
            ("head_dim", "128"),
            ("ffn", "32768"),
            ("experts", experts),
            ("vocab", "256000"),
        ]
    };
    close(of("glam", &glam("64")), 1161.76);
    close(of("glam", &glam("2")), 96.6);
}

#[test]
fn models_of_images_have_the_parameters_of_their_papers() {
    let resnet = model("resnet50", &[("image", "224"), ("width", "64"), ("classes", "1000")]);
    // as torchvision counts them
    assert_eq!(parameters(&resnet.graph), 25_557_032);
    assert_eq!(resnet.train.optimizer, Optimizer::Sgd { momentum: 0.9, decay: 1e-4 });
    let large = [("image", "224"), ("patch", "16"), ("layers", "24"), ("hidden", "1024"), ("heads", "16"), ("classes", "1000")];
    assert_eq!(parameters(&model("vit", &large).graph), 304_326_632);
    for (name, _) in OF_IMAGES {
        let model = model(name, &[]);
        assert_eq!((model.name.as_str(), partita_ir::verify::verify(&model.graph)), (name, Vec::new()));
    }
}

#[test]
fn stages_of_a_resnet_may_be_of_one_block() {
    let blocks = [("blocks1", "1"), ("blocks2", "1"), ("blocks3", "1"), ("blocks4", "1"), ("image", "33")];
    let small = model("resnet50", &blocks);
    assert!(small.graph.loops.is_empty());
    let size = |name: &str| small.graph.axes.iter().find(|axis| axis.name == name).expect("an axis of the file").size;
    assert_eq!(["rows0", "rows1", "rows2", "rows3", "rows4"].map(size), [17, 9, 5, 3, 2]);
}

#[test]
fn gpt_has_the_parameters_of_its_formula() {
    let (layers, hidden, ffn, vocab, seq) = (4, 256, 1024, 8192, 256);
    let gpt = model("gpt", &[("layers", "4"), ("hidden", "256"), ("heads", "4"), ("vocab", "8192"), ("seq", "256")]);
    let attention = 4 * (hidden * hidden + hidden);
    let feed_forward = 2 * hidden * ffn + ffn + hidden;
    let layer = 2 * 2 * hidden + attention + feed_forward;
    assert_eq!(parameters(&gpt.graph), vocab * hidden + seq * hidden + layers * layer + 2 * hidden);
    assert_eq!(parameters(&gpt.graph), 5_322_240);
    // the embedding is tied: one parameter, read by the gather and by the head
    let tied = gpt.graph.params().find(|id| gpt.graph.value(*id).name == "wte").expect("gpt has an embedding");
    let readers = primitives(&gpt.graph).into_iter().filter(|op| gpt.graph.op(*op).operands.contains(&tied)).count();
    assert_eq!(readers, 2);
}

#[test]
fn published_models_have_their_parameters() {
    let large = [("layers", "24"), ("hidden", "1024"), ("heads", "16"), ("vocab", "30522"), ("seq", "512")];
    // without the pooler (1024² + 1024) and the head for the next sentence (2050) that 336,226,108 count
    assert_eq!(parameters(&model("bert", &large).graph), 336_226_108 - 1_049_600 - 2_050);
    let neox = [("layers", "44"), ("hidden", "6144"), ("heads", "64"), ("vocab", "50432"), ("seq", "2048")];
    assert_eq!(parameters(&model("neox", &neox).graph), 20_554_567_680);
}

#[test]
fn layers_are_a_repeat_with_named_instances() {
    let gpt = model("gpt", &[("layers", "12")]).graph;
    assert_eq!(gpt.loops.len(), 1);
    assert_eq!((gpt.loops[0].name.as_str(), gpt.loops[0].count), ("layer", 12));
    let wq = gpt.params().find(|id| gpt.value(*id).name == "wq").expect("layers have queries");
    assert_eq!(gpt.instance_name(wq, 3), "layer.3.wq");
    let more = model("gpt", &[("layers", "96")]).graph;
    assert_eq!(more.ops.len(), gpt.ops.len(), "a repeat is written out once");
}

#[test]
fn arithmetic_is_fused_and_residuals_stand_alone() {
    for (name, _) in MODELS {
        let graph = model(name, &[]).graph;
        let residuals = primitives(&graph).into_iter().filter(|op| graph.op(*op).class == Class::Residual).count();
        assert_eq!(residuals, if ["mlp", "neox"].contains(&name) { 1 } else { 2 }, "{name}");
    }
    let graph = model("llama", &[]).graph;
    let names: Vec<&str> = primitives(&graph).into_iter().map(|op| graph.value(graph.op(op).result()).name.as_str()).collect();
    // gain and norm, then silu(gate) * up: one operator each
    assert_eq!(names.iter().filter(|name| **name == "h").count(), 1);
    assert_eq!(names.iter().filter(|name| **name == "y").count(), 2);
}

#[test]
fn settings_reach_the_graph_and_the_training() {
    let llama =
        model("llama", &[("kv_heads", "4"), ("batch", "3"), ("precision", "bf16"), ("lr", "1e-3"), ("beta2", "0.99"), ("clip", "none")]);
    let size = |name: &str| llama.graph.axes.iter().find(|axis| axis.name == name).map(|axis| axis.size);
    assert_eq!((size("kv_heads"), size("group"), size("batch")), (Some(4), Some(2), Some(3)));
    assert_eq!((llama.train.batch, llama.train.lr, llama.train.clip, llama.train.precision), (3, 1e-3, None, Recipe::Bf16.precision()));
    assert_eq!(llama.train.optimizer, Optimizer::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.1 });
    let sgd = model("mlp", &[("optimizer", "sgd"), ("momentum", "0.5"), ("schedule", "cosine"), ("steps", "50"), ("warmup", "5")]);
    assert_eq!(sgd.train.optimizer, Optimizer::Sgd { momentum: 0.5, decay: 0.0 });
    assert_eq!(sgd.train.schedule, Schedule::Cosine { warmup: 5, steps: 50, min: 0.1 });
}

#[test]
fn dropout_draws_once_per_place() {
    let none = model("gpt", &[]).graph;
    let some = model("gpt", &[("dropout", "0.1")]).graph;
    let draws = |graph: &Graph| -> Vec<u64> {
        let salts = primitives(graph).into_iter().filter_map(|op| match &graph.op(op).kind {
            Kind::Map(rule) => rule.expr.nodes.iter().find_map(|node| match node {
                partita_ir::scalar::Node::Random { salt, .. } => Some(*salt),
                _ => None,
            }),
            Kind::Repeat(_) => None,
        });
        salts.collect()
    };
    assert!(draws(&none).is_empty());
    // embedding, attention weights, and the ends of both branches
    let mut salts = draws(&some);
    assert_eq!(salts.len(), 4);
    salts.sort_unstable();
    salts.dedup();
    assert_eq!(salts.len(), 4, "every draw has its own salt");
}

#[test]
fn an_untrained_model_guesses_evenly() {
    let tiny = [("layers", "2"), ("hidden", "16"), ("vocab", "32"), ("seq", "6"), ("batch", "2"), ("precision", "f64"), ("dropout", "0.1")];
    for (name, _) in MODELS {
        // a quarter of a head has a pair
        let heads = [("heads", "2")];
        let graph = model(name, &[&tiny[..], if name == "neox" { &heads[..] } else { &[] }].concat()).graph;
        let mut leaves: BTreeMap<_, Tensor> = interpret::initial_leaves(&graph, 7);
        for input in graph.leaves(|leaf| matches!(leaf, Leaf::Input(_))) {
            let next = graph.value(input).name == "targets";
            let tokens = Tensor::from_fn(graph.shape(input), |element| ((element + u64::from(next)) * 7 % 32) as f64);
            leaves.insert((input, 0), tokens);
        }
        let loss = &graph.loss[0];
        let env = interpret::run(&graph, leaves, 7, 1);
        let read = |value| env.get(value, 0).expect("the loss was computed").data[0];
        assert_eq!(read(loss.count), 12.0);
        let mean = read(loss.sum) / read(loss.count);
        assert!((mean - 32f64.ln()).abs() < 0.05, "{name}: {mean}");
    }
}

/// T5 has an optimizer and sizes of its own.
const T5: &str = include_str!("../../models/t5.partita");

fn t5(settings: &[(&str, &str)]) -> Graph {
    let source = Source { name: "t5", text: T5 };
    let settings: Vec<Setting> = settings.iter().map(|(name, value)| Setting { name: (*name).into(), value: (*value).into() }).collect();
    let model = load(source, &settings).unwrap_or_else(|errors| panic!("{}", render(&[source], &errors, false)));
    assert_eq!(partita_ir::verify::verify(&model.graph), Vec::new());
    model.graph
}

#[test]
fn t5_has_as_many_parameters_as_published() {
    let sizes =
        [("layers", "24"), ("hidden", "1024"), ("heads", "128"), ("head_dim", "128"), ("ffn", "65536"), ("vocab", "32128"), ("seq", "512")];
    assert_eq!(parameters(&t5(&sizes)), 11_307_321_344);
    // T5-small, of Raffel et al.'s sizes
    let small = [("layers", "6"), ("hidden", "512"), ("heads", "8"), ("ffn", "2048"), ("vocab", "32128"), ("seq", "512")];
    assert_eq!(parameters(&t5(&small)), 60_506_624);
}

/// The buckets of T5's published code, for the distance from a query to a key.
fn bucket(key: i64, query: i64, both_ways: bool) -> usize {
    let (mut buckets, mut first) = (32, 0);
    let apart = if both_ways {
        buckets /= 2;
        first = if key > query { buckets } else { 0 };
        (key - query).abs()
    } else {
        (query - key).max(0)
    };
    let exact = buckets / 2;
    let place = if apart < exact {
        apart
    } else {
        let share = (apart as f64 / exact as f64).ln() / (128.0 / exact as f64).ln();
        (exact + (share * (buckets - exact) as f64) as i64).min(buckets - 1)
    };
    usize::try_from(first + place).expect("buckets count from 0")
}

#[test]
fn t5_reads_its_biases_by_buckets() {
    let graph = t5(&[("seq", "150"), ("hidden", "8"), ("heads", "1"), ("ffn", "8"), ("vocab", "8"), ("batch", "1"), ("layers", "1")]);
    let mut leaves = partita_ir::interpret::initial_leaves(&graph, 0);
    for leaf in graph.leaves(|_| true).collect::<Vec<_>>() {
        let counted = graph.value(leaf).name.starts_with("near_");
        let input = matches!(graph.leaf(leaf), Some(Leaf::Input(_)));
        if counted || input {
            leaves.insert((leaf, 0), Tensor::from_fn(graph.shape(leaf), |element| if counted { element as f64 } else { 1.0 }));
        }
    }
    let env = partita_ir::interpret::run(&graph, leaves, 0, 1);
    for (name, both_ways) in [("near", true), ("near_before", false)] {
        let id =
            (0..graph.values.len()).map(|index| ValueId(index as u32)).find(|id| graph.value(*id).name == name).expect("it is computed");
        let found = &env.get(id, 0).expect("it has a value").data;
        for query in 0..150 {
            for key in 0..150 {
                assert_eq!(found[query * 150 + key], bucket(key as i64, query as i64, both_ways) as f64, "{name} {query} {key}");
            }
        }
    }
}

#[test]
fn adapters_train_alone_and_begin_as_nothing() {
    let settings = [("hidden", "32"), ("seq", "8"), ("vocab", "16"), ("layers", "2"), ("precision", "f64")];
    let adapted = model("llama", &[&settings[..], &[("lora", "4")]].concat());
    let trained: Vec<&str> =
        adapted.graph.params().map(|id| adapted.graph.value(id).name.as_str()).filter(|name| !adapted.train.is_frozen(name)).collect();
    assert_eq!(trained, ["lora_q_in", "lora_q_out", "lora_v_in", "lora_v_out"]);
    let step =
        partita_ir::step::training_step(&adapted.graph, &adapted.train, partita_ir::step::Options::default()).expect("it has a loss");
    let assigned: Vec<&str> = step.assigns.iter().map(|assign| step.value(assign.target).name.as_str()).collect();
    assert!(assigned.iter().all(|name| name.starts_with("lora_")), "{assigned:?}");
    // 12 values a layer: four adapters with two moments each
    assert_eq!(assigned.len(), 12);
    let plain = model("llama", &settings);
    assert!(plain.train.groups.is_empty());
    let loss = |graph: &Graph| {
        let mut leaves = partita_ir::interpret::initial_leaves(graph, 1);
        for leaf in graph.leaves(|leaf| matches!(leaf, Leaf::Input(_))).collect::<Vec<_>>() {
            leaves.insert((leaf, 0), Tensor::from_fn(graph.shape(leaf), |element| (element % 16) as f64));
        }
        partita_ir::interpret::run(graph, leaves, 0, 1).get(graph.loss[0].sum, 0).expect("it was computed").data[0]
    };
    assert!((loss(&adapted.graph) - loss(&plain.graph)).abs() < 1e-9);
}
