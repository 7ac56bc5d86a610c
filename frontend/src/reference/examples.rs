//! What the tables do not say: an example of each operator, and a line on each word.

use partita_ir::graph::Source;

use crate::operators::{Operator, Takes};

/// Stands before the head.
pub(super) const PREFACE: &str = "Examples stand behind this head, in which every tensor is a weight, so that \"gradient\" tells what a gradient reaches. \
Below each example are the primitive rules that it becomes: the loop's axes, how operands are read and the result is written, the fold, and the \
scalar expression (`x0`, `x1`: operands; `#a`: the index of a loop). Plans and gradients follow from these.";

/// Declares what examples use.
pub(super) const HEAD: &str = "model reference
axis batch         : batch
axis seq = 4       : seq
axis past = seq    : seq
axis short = 2     : seq
axis vocab = 6     : vocab
axis heads = 2     : head
axis dim = 4
axis hidden = 8
axis wide = 10
axis double = 16
axis taps = 3
axis pair = 2
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
weight x[seq, hidden] = normal(1)
weight a[hidden] = normal(1)
weight w[hidden, wide] = normal(1)
weight filter[taps, hidden, wide] = normal(1)
weight table[vocab, hidden] = normal(1)
weight q[seq, heads, dim] = normal(1)
weight k[past, heads, dim] = normal(1)
weight v[past, heads, dim] = normal(1)
weight logits[batch, seq, vocab] = normal(1)
";

/// Stands behind an example that is no loss.
pub(super) const LOSS: &str = "loss mean[batch, seq](index[batch] + index[seq])\n";

/// A line that uses an operator.
pub(super) fn example(row: &Operator) -> Option<String> {
    let name = row.name;
    if row.arguments.iter().all(|argument| argument.takes == Takes::Element) {
        let arguments = match row.arguments.len() {
            1 => "x",
            2 => "x, a",
            _ => "x > 0, x, a",
        };
        return Some(format!("y = {name}({arguments})"));
    }
    Some(match name {
        "einsum" => "y = einsum[seq, wide](x, w)".to_owned(),
        "sum" | "mean" | "max" | "min" | "logsumexp" | "softmax" | "layer_norm" | "rms_norm" | "rank" | "sort" => {
            format!("y = {name}[hidden](x)")
        }
        "cumsum" => "y = cumsum[seq](x)".to_owned(),
        "argmax" | "top_k" => format!("y = {name}[hidden, pair](x)"),
        "conv" => "y = conv[seq over taps](x, filter, pad = 1)".to_owned(),
        "max_pool" | "mean_pool" => format!("y = {name}[seq -> short over taps](x, stride = 2, pad = 1)"),
        "gather" => "y = gather[vocab](table, tokens)".to_owned(),
        "scatter" => "y = scatter[wide, seq](logits, tokens)".to_owned(),
        "one_hot" => "y = one_hot[vocab](tokens)".to_owned(),
        "concat" => "y = concat[hidden -> double](x, x)".to_owned(),
        "pad" => "y = pad[hidden -> wide](x, after = 2)".to_owned(),
        "nth" => "y = nth[seq, pair](x > 0)".to_owned(),
        "jitter" | "dropout" => format!("y = {name}(x, 0.1)"),
        "rotary" => "y = rotary[seq, hidden](x)".to_owned(),
        "attention" => "y = attention[past, dim](q, k, v, causal = seq)".to_owned(),
        "cross_entropy" => "loss cross_entropy[vocab](logits, targets)".to_owned(),
        _ => return None,
    })
}

/// What a source of an input is.
pub(super) fn source(source: Source) -> &'static str {
    match source {
        Source::Tokens => "the tokens of each sample, from the first",
        Source::NextTokens => "the same, one position further",
        Source::TokensFrom(_) => "the tokens of each sample from this position on",
        Source::Documents(_) => "the number of the document that each token is in; this token separates documents",
        Source::MaskedTokens(_) => "the tokens, some hidden behind this one as for BERT (Devlin et al., 2018)",
        Source::MaskedTargets => "the hidden tokens where they are to be found, elsewhere -100",
        Source::Pixels => "the image of each sample, from 0 to 1",
        Source::Labels => "the class of each sample",
    }
}

/// What the elements of a weight begin as.
pub(super) fn init(word: &str) -> &'static str {
    match word {
        "normal" => "normal with mean 0 and this standard deviation",
        "uniform" => "uniform from minus this number to this number",
        "constant" => "this number",
        "zeros" => "0",
        "ones" => "1",
        _ => "",
    }
}

/// What a word of the `train` section stands for.
pub(super) fn training_word(word: &str) -> &'static str {
    match word {
        "adamw" => "AdamW (Loshchilov and Hutter, 2017): decay apart from the gradient",
        "sgd" => "gradient descent with momentum",
        "adam" => "Adam (Kingma and Ba, 2014)",
        "adafactor" => "Adafactor (Shazeer and Stern, 2018)",
        "lamb" => "LAMB (You et al., 2019)",
        "lars" => "LARS (You et al., 2017)",
        "lion" => "Lion (Chen et al., 2023)",
        "muon" => "Muon (Jordan et al., 2024)",
        "constant" => "the rate as it is",
        "cosine" => "rises linearly over `warmup` steps, then falls as half a cosine to `min` times the rate at `steps`",
        "linear" => "the same with a linear fall",
        "inverse_sqrt" => "rises linearly over `warmup` steps, then falls as one over the square root of the step",
        "wsd" => "rises over `warmup` steps, stays, and falls over the last `decay` of `steps` to `min` times the rate",
        "none" => "the loss as it is; a number in place of a word scales by that",
        "dynamic" => "begins at `start`, grows by `growth` after `interval` steps without overflow, shrinks by `backoff` after one with it",
        _ => "",
    }
}
