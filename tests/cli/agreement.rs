//! Every plan gives the losses of one rank, with dropout on.

use crate::support::{Setting, Work, losses};

/// The most that losses may differ by, relative. Orders of summation differ, so they are seldom equal to the bit.
const TOLERANCE: f64 = 1e-4;
const STEPS: u64 = 4;

/// Fails where losses differ by more than the tolerance.
pub fn assert_same_losses(what: &str, expected: &[f64], found: &[f64]) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (step, (a, b)) in expected.iter().zip(found).enumerate() {
        assert!((a - b).abs() <= TOLERANCE * a.abs(), "{what}: step {} has loss {b}, one rank {a}", step + 1);
    }
}

/// Trains a setting on one rank, and under each of the pins on as many ranks as they multiply to.
fn agree(setting: &Setting, pins: &[&str]) {
    let work = Work::new();
    let of = |ranks| Setting { ranks, ..setting.clone() };
    let single = losses(&work.run(&work.compile("single", &of(1), ""), STEPS, &[]));
    for pins in pins {
        let directory = work.compile("plan", &of(ranks(pins)), pins);
        let found = losses(&work.run(&directory, STEPS, &[]));
        assert_same_losses(&format!("{} {:?} {pins}", setting.model, setting.set), &single, &found);
    }
}

/// The product of the degrees in some pins.
fn ranks(pins: &str) -> u64 {
    let degrees = pins.split(',').filter_map(|pin| pin.split_once('='));
    degrees.filter(|(name, _)| ["dp", "tp", "cp", "pp"].contains(name)).map(|(_, n)| n.parse::<u64>().unwrap()).product()
}

/// Each of the pins with every ZeRO stage and recompute setting that means something there.
fn varied(pins: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for pins in pins {
        let shards = pins.contains("dp=") || pins.contains("cp=");
        for zero in [0, 1, 3].into_iter().filter(|zero| shards || *zero == 0) {
            for recompute in ["none", "full"] {
                all.push(format!("{pins},zero={zero},recompute={recompute}"));
            }
        }
    }
    all
}

fn gpt_agrees(pins: &[&str]) {
    let all = varied(pins);
    agree(&Setting::gpt(1), &all.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn gpt_over_data_ranks() {
    gpt_agrees(&["dp=2", "dp=3", "dp=4"]);
}

#[test]
fn gpt_over_tensor_ranks() {
    gpt_agrees(&["tp=4", "tp=4,sp=true", "tp=4,sp=false", "tp=3", "dp=2,tp=2"]);
}

#[test]
fn gpt_over_sequence_and_stages() {
    gpt_agrees(&["cp=2", "pp=2,mbs=1", "pp=4,mbs=1", "pp=3,mbs=1"]);
}

#[test]
fn gpt_over_everything() {
    gpt_agrees(&["pp=2,dp=2,tp=2,mbs=1"]);
    agree(
        &Setting::gpt(1),
        &["dp=8,zero=1", "tp=8", "dp=4,tp=2,zero=2", "cp=2,tp=2,dp=2", "cp=4", "cp=8", "pp=2,cp=2,mbs=2", "tp=4,recompute=selective"],
    );
}

#[test]
fn llama_with_fewer_key_heads_than_tensor_ranks() {
    let llama = Setting::new("llama", 1, &["hidden=64", "seq=64", "dropout=0.1", "heads=8", "kv_heads=2", "layers=2"]);
    agree(
        &llama,
        &["tp=4", "tp=2", "tp=8", "dp=2", "dp=2,tp=2,zero=3", "cp=2", "pp=2,mbs=2,tp=2", "tp=4,sp=false", "tp=4,sp=true,recompute=full"],
    );
}

/// Every switch of gpt, alone and as BLOOM has them, also with heads that are no power of two and do not divide.
#[test]
fn gpt_with_its_switches() {
    for switch in ["alibi=true", "embedding_norm=true", "activation=relu2", "activation=relu", "tied=false", "bias=false"] {
        agree(&Setting::gpt(1).with(&["layers=2", switch]), &["tp=2", "cp=2", "pp=2,mbs=1"]);
    }
    let bloom = ["alibi=true", "embedding_norm=true", "layers=2"];
    let pins = ["tp=4,sp=true,recompute=selective", "cp=3", "dp=2,tp=2,zero=3,recompute=full", "pp=2,cp=2,mbs=2"];
    agree(&Setting::gpt(1).with(&bloom), &pins);
    agree(&Setting::gpt(1).with(&bloom).with(&["hidden=60", "heads=6", "seq=50"]), &["tp=4", "tp=2,cp=2"]);
    agree(&Setting::new("llama", 1, &["hidden=64", "seq=64", "dropout=0.1", "layers=2", "tied=true"]), &["tp=2", "pp=2,mbs=2"]);
    // in f64 the two agree to rounding, so the gradients are those of one rank and no others
    let work = Work::new();
    let wide = |ranks| Setting::gpt(ranks).with(&bloom).with(&["activation=relu2", "bias=false", "tied=false", "precision=f64"]);
    let single = losses(&work.run(&work.compile("single", &wide(1), ""), STEPS, &[]));
    for pins in ["tp=2", "cp=2", "pp=2,mbs=2"] {
        let found = losses(&work.run(&work.compile("split", &wide(2), pins), STEPS, &[]));
        let worst = single.iter().zip(&found).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
        assert!(worst < 1e-12, "{pins}: f64 agrees to rounding, not to {worst:e}");
    }
}

#[test]
fn bert_and_neox() {
    for model in ["bert", "neox"] {
        let small = Setting::new(model, 1, &["hidden=64", "seq=48", "dropout=0.1", "layers=2"]);
        agree(&small, &["tp=4", "tp=2,sp=true,recompute=selective", "cp=2", "dp=2,zero=3", "pp=2,mbs=2,tp=2"]);
    }
}

/// Windows, documents, caps, learned biases by distance and normed queries in one model.
#[test]
fn attention_with_every_option() {
    let work = Work::new();
    let model = work.file("options.partita", OPTIONS);
    let of = |ranks| Setting::new(&model, ranks, &["precision=f64"]);
    let single = losses(&work.run(&work.compile("single", &of(1), ""), STEPS, &[]));
    for pins in ["tp=2", "tp=4,sp=true,recompute=selective", "cp=2", "cp=3", "dp=2,zero=3,recompute=full", "pp=2,mbs=2", "tp=2,cp=2"] {
        let found = losses(&work.run(&work.compile("split", &of(ranks(pins)), pins), STEPS, &[]));
        let worst = single.iter().zip(&found).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
        assert!(worst < 1e-12, "{pins}: f64 agrees to rounding, not to {worst:e}");
    }
}

const OPTIONS: &str = "
model options
set layers = 2
set hidden = 32
set heads = 4
set vocab = 64
set seq = 24
set window = 5
axis batch : batch
axis seq : seq
axis past = seq : seq
axis vocab : vocab
axis heads : head
axis head_dim = hidden / heads
axis hidden
axis buckets = 16
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
input documents[batch, seq] : documents(vocab / 8)
weight table[vocab, hidden] = normal(0.5)
weight near[buckets, heads] = normal(0.5)

# T5 (Raffel et al., 2020): a side of the past has `side` buckets, `exact` of them for one distance each and the others by
# its logarithm, up to `most`
block bucket(side, exact, most) {
    far = abs(index[seq] - index[past])
    # what is added keeps rounding from deciding where a logarithm is a whole number
    long = exact + floor(log(max(far, 1) / exact) / log(most / exact) * (side - exact) + 0.0001)
    return where(index[seq] < index[past], side, 0) + where(far < exact, far, min(long, side - 1))
}
bias = gather[buckets](near, bucket(buckets / 2, buckets / 4, 32))

block layer(x[batch, seq, hidden], bias[seq, past, heads], tokens[batch, seq], documents[batch, seq]) {
    weight wq[hidden, heads, head_dim] = normal(0.2)
    weight wk[hidden, heads, head_dim] = normal(0.2)
    weight wv[hidden, heads, head_dim] = normal(0.2)
    weight wo[heads, head_dim, hidden] = normal(0.2)
    weight gain[head_dim] = ones
    q = rms_norm[head_dim](einsum[batch, seq, heads, head_dim](x, wq)) * gain
    k = rms_norm[head_dim](einsum[batch, seq, heads, head_dim](x, wk)) * gain
    v = einsum[batch, seq, heads, head_dim](x, wv)
    a = attention[past, head_dim](
        q, k[seq -> past], v[seq -> past], causal = seq, softcap = 2, bias = bias, dropout = 0.1,
        mask = (documents == documents[seq -> past]) * (index[seq] - index[past] < window) * (tokens[seq -> past] > 0),
    )
    return x + einsum[batch, seq, hidden](a, wo)
}
x = gather[vocab](table, tokens)
repeat layers {
    x = layer(x, bias, tokens, documents)
}
loss cross_entropy[vocab](einsum[batch, seq, vocab](x, table), targets)
train {
    optimizer adamw(beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1)
    lr = 1e-2
    batch = 8
}
";

/// In f64, since batch norm over few samples multiplies what f32 rounds.
#[test]
fn resnet_over_samples_and_rows() {
    let set = ["image=20", "width=4", "blocks1=2", "blocks2=1", "blocks3=1", "blocks4=1", "batch=4", "precision=f64"];
    agree(&Setting::new("resnet50", 1, &set), &["dp=2", "cp=2", "dp=4", "dp=2,cp=2", "cp=3", "tp=2", "dp=2,zero=3,recompute=full"]);
}

#[test]
fn vit_over_samples_heads_and_rows() {
    let set = ["image=12", "patch=4", "layers=2", "hidden=32", "heads=2", "batch=4", "dropout=0.1"];
    agree(&Setting::new("vit", 1, &set), &["dp=2", "tp=2", "cp=2", "dp=2,tp=2,zero=1", "pp=2,mbs=2"]);
}

#[test]
fn mlp() {
    let mlp = Setting::new("mlp", 1, &["dropout=0.1"]);
    agree(&mlp, &["dp=4", "tp=4", "tp=2,dp=2", "pp=2,mbs=4", "cp=2", "tp=3", "dp=2,zero=3,recompute=full"]);
}

/// Experts on ranks of their own, in several tilings; few places, so that some tokens are dropped.
#[test]
fn experts() {
    let pins =
        ["dp=2,ep=2", "dp=4,ep=2,zero=3", "dp=2,tp=2,ep=2,etp=2", "dp=2,tp=2,ep=4,etp=1,recompute=full", "pp=2,dp=2,ep=2,mbs=1,zero=1"];
    let set = ["layers=2", "hidden=32", "heads=4", "ffn=48", "seq=32", "lr=1e-2", "capacity=1.0", "z_loss=0.001", "jitter=0.01"];
    agree(&Setting::new("mixtral", 1, &set), &pins);
    let set = ["layers=2", "hidden=32", "heads=4", "ffn=16", "seq=32", "lr=1e-2"];
    agree(&Setting::new("deepseek", 1, &set), &pins[1..]);
    agree(&Setting::new("glam", 1, &["hidden=32", "heads=4", "ffn=48", "seq=32"]), &["dp=4,ep=4", "dp=2,tp=2,ep=2,etp=1"]);
}

/// Layers of a recurrent net: scans, with stages cut between them.
#[test]
fn lstm() {
    let small = Setting::new("lstm", 1, &["hidden=32", "seq=16", "dropout=0.1", "width=0.3"]);
    let pins =
        ["dp=2", "tp=2", "tp=4,recompute=full", "cp=2", "pp=2,mbs=2", "dp=2,zero=3,recompute=full", "pp=2,tp=2,mbs=4,recompute=full"];
    agree(&small, &pins);
}

#[test]
fn gpipe() {
    agree(
        &Setting::gpt(1),
        &["pp=2,mbs=1,schedule=gpipe", "pp=4,mbs=2,schedule=gpipe", "pp=2,dp=2,mbs=1,schedule=gpipe,zero=1,recompute=full"],
    );
}

/// 8 over 3 is 3, 3, 2, and with one sequence a micro-batch the last rank's last one is empty.
#[test]
fn batches_that_do_not_divide() {
    agree(&Setting::gpt(1), &["dp=3,mbs=1", "dp=3,mbs=2", "dp=3,mbs=1,zero=3", "pp=3,mbs=3"]);
    agree(&Setting::gpt(1).with(&["batch=7"]), &["dp=2,mbs=2", "dp=4,mbs=1", "dp=8", "dp=2,pp=2,mbs=1", "dp=3,mbs=1"]);
    // fewer samples than ranks
    agree(&Setting::gpt(1).with(&["batch=3"]), &["dp=4", "dp=8,zero=1", "dp=2,mbs=1"]);
}

#[test]
fn layers_heads_and_axes_that_do_not_divide() {
    agree(&Setting::gpt(1).with(&["layers=5"]), &["pp=2,mbs=2", "pp=3,mbs=2", "pp=4,mbs=4"]);
    let odd = Setting::new("gpt", 1, &["hidden=60", "heads=5", "ffn=70", "vocab=97", "seq=50", "dropout=0.1", "layers=2"]);
    agree(&odd, &["tp=4", "tp=3", "cp=3", "dp=2,tp=2,zero=3", "tp=8"]);
}

#[test]
fn splits_that_are_even_where_they_must_be() {
    let work = Work::new();
    let single = losses(&work.run(&work.compile("single", &Setting::gpt(1), ""), STEPS, &[]));
    for pins in ["dp=4", "tp=4", "dp=2,tp=2", "cp=2,dp=2"] {
        let four = Setting::gpt(4);
        let out = work.arg("even");
        crate::support::done(&four.arguments("compile", &["--pin", pins, "--even", "-o", &out, "-q"]));
        assert_same_losses(pins, &single, &losses(&work.run(&out, STEPS, &[])));
    }
}

/// The same plan and seed twice, and another number of threads' worth of noise in between, give the same bits.
#[test]
fn a_run_repeats_to_the_bit() {
    let work = Work::new();
    for pins in ["dp=2,tp=2,zero=1", "pp=2,dp=2,mbs=1"] {
        let directory = work.compile("plan", &Setting::gpt(4), pins);
        let run = |name: &str| {
            let saved = work.arg(name);
            let log = work.run(&directory, 3, &["--seed", "5", "--save", &saved]);
            (losses(&log), std::fs::read(saved).unwrap())
        };
        let (first, second) = (run("first.safetensors"), run("second.safetensors"));
        assert_eq!(first.0, second.0, "{pins}");
        assert!(first.1 == second.1, "{pins}: saved bytes differ");
    }
    let directory = work.compile("plan", &Setting::gpt(1), "");
    let run = |seed: &str| losses(&work.run(&directory, 2, &["--seed", seed]));
    assert_ne!(run("1"), run("2"), "another seed is another run");
}

#[test]
fn double_precision_runs() {
    let wide = Setting::gpt(1).with(&["precision=f64"]);
    agree(&wide, &["tp=2", "dp=2,zero=1", "pp=2,mbs=2"]);
    let work = Work::new();
    let single = losses(&work.run(&work.compile("single", &wide, ""), STEPS, &[]));
    let split = Setting { ranks: 4, ..wide.clone() };
    let found = losses(&work.run(&work.compile("split", &split, "dp=2,tp=2"), STEPS, &[]));
    let worst = single.iter().zip(&found).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
    assert!(worst < 1e-12, "f64 agrees to rounding, not to {worst:e}");
    // and f32 is the same training, rounded
    let narrow = losses(&work.run(&work.compile("narrow", &Setting::gpt(1), ""), STEPS, &[]));
    assert_same_losses("f32", &single, &narrow);
}
