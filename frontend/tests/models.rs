//! The models of the repository: they load, with the sizes and the structure that they are known for.

use std::collections::BTreeMap;

use partita_frontend::{Model, Setting, Source, load, render};
use partita_ir::dtype::DType;
use partita_ir::graph::{Class, Graph, Kind, Leaf, PhaseKind};
use partita_ir::interpret::{self, Tensor};
use partita_ir::train::{Optimizer, Schedule};

const MODELS: [(&str, &str); 5] = [
    ("bert", include_str!("../../models/bert.partita")),
    ("gpt", include_str!("../../models/gpt.partita")),
    ("llama", include_str!("../../models/llama.partita")),
    ("neox", include_str!("../../models/neox.partita")),
    ("mlp", include_str!("../../models/mlp.partita")),
];

/// Those that read images.
const OF_IMAGES: [(&str, &str); 2] =
    [("resnet50", include_str!("../../models/resnet50.partita")), ("vit", include_str!("../../models/vit.partita"))];

fn model(name: &str, settings: &[(&str, &str)]) -> Model {
    let (name, text) = MODELS.into_iter().chain(OF_IMAGES).find(|row| row.0 == name).expect("the model is in the list");
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
    assert_eq!((llama.train.batch, llama.train.lr, llama.train.clip, llama.train.precision), (3, 1e-3, None, DType::Bf16));
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
