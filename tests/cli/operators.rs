//! An operator that only a model file knows is differentiated, split and trained like any other.

use crate::agreement::assert_same_losses;
use crate::support::{Setting, Work, losses};

/// A layer whose mixing step (a fold with a scalar expression of its own) and activation are defined here alone.
const MODEL: &str = "
model own
set layers = 2
set hidden = 32
set ffn = 48
set vocab = 64
set seq = 16
axis batch : batch
axis seq : seq
axis vocab : vocab
axis hidden
axis ffn
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens

# a smooth hinge with a width for each element, and a product that squashes each term before it is summed
op soft_hinge(x[.., i], width[i]) -> [.., i] = 0.5 * (x + sqrt(x * x + width * width))
op squashed(a[.., k], w[k, n]) -> [.., n], sum k = a * w / (1 + a * a * w * w)

weight table[vocab, hidden] = normal(0.5)
block layer(x[batch, seq, hidden]) {
    weight w_up[hidden, ffn] = normal(0.2)
    weight width[ffn] = constant(0.3)
    weight w_down[ffn, hidden] = normal(0.2)
    h = soft_hinge(squashed(x, w_up), width)
    return x + einsum[batch, seq, hidden](h, w_down)
}
x = gather[vocab](table, tokens)
repeat layers {
    x = layer(x)
}
logits = einsum[batch, seq, vocab](x, table)
loss cross_entropy[vocab](logits, targets)
train {
    optimizer adamw(beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1)
    lr = 1e-2
    batch = 8
}
";

#[test]
fn an_operator_of_the_users_own_is_split_and_trained() {
    let work = Work::new();
    let model = work.file("own.partita", MODEL);
    let of = |ranks| Setting::new(&model, ranks, &[]);
    let single = losses(&work.run(&work.compile("single", &of(1), ""), 12, &[]));
    assert!(single.last().unwrap() < &(single[0] - 0.1), "it learns: {single:?}");
    for (ranks, pins) in [(4, "dp=4"), (4, "tp=4"), (4, "dp=2,tp=2,zero=3"), (2, "pp=2,mbs=2"), (3, "tp=3"), (2, "cp=2")] {
        let directory = work.compile("split", &of(ranks), pins);
        assert_same_losses(pins, &single, &losses(&work.run(&directory, 12, &[])));
    }
    // in f64 the two agree to rounding, so the gradients are those of one rank and no others
    let wide = |ranks| of(ranks).with(&["precision=f64"]);
    let single = losses(&work.run(&work.compile("wide", &wide(1), ""), 12, &[]));
    let split = losses(&work.run(&work.compile("wide-split", &wide(4), "dp=2,tp=2"), 12, &[]));
    let worst = single.iter().zip(&split).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f64::max);
    assert!(worst < 1e-11, "{worst:e}");
}
