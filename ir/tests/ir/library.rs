//! Each composite of the library against its formula.

use partita_ir::formula::{index, lit, x};
use partita_ir::id::Id;
use partita_ir::library::{Pointwise, Scores, gelu, silu};

use super::support::{Case, assert_close};

/// Softmax of one row.
fn softmax(row: &[f64]) -> Vec<f64> {
    let total: f64 = row.iter().map(|x| x.exp()).sum();
    row.iter().map(|x| x.exp() / total).collect()
}

#[test]
fn softmax_rows_sum_to_one() {
    let mut case = Case::new();
    let (row, col) = (case.axis("row", 3), case.axis("col", 4));
    let value = case.varied("x", &[row, col]);
    let want: Vec<f64> = case.numbers(value).chunks(4).flat_map(softmax).collect();
    let out = case.b.softmax(value, col);
    let got = case.value(out);
    assert_close(&got, &want);
    for row in got.chunks(4) {
        assert_close(&[row.iter().sum()], &[1.0]);
    }
}

#[test]
fn softmax_of_a_masked_row_is_zero() {
    let mut case = Case::new();
    let axis = case.axis("a", 2);
    let value = case.given("x", &[axis], &[f64::NEG_INFINITY; 2]);
    let out = case.b.softmax(value, axis);
    assert_close(&case.value(out), &[0.0, 0.0]);
}

#[test]
fn layer_norm_has_mean_zero_and_variance_one() {
    let mut case = Case::new();
    let (row, col) = (case.axis("row", 2), case.axis("col", 5));
    let value = case.varied("x", &[row, col]);
    let out = case.b.layer_norm(value, col, 0.0);
    for row in case.value(out).chunks(5) {
        assert_close(&[row.iter().sum::<f64>(), row.iter().map(|x| x * x).sum::<f64>() / 5.0], &[0.0, 1.0]);
    }
}

#[test]
fn rms_norm_has_mean_square_below_one_by_eps() {
    let mut case = Case::new();
    let axis = case.axis("a", 3);
    let value = case.given("x", &[axis], &[1.0, -2.0, 3.0]);
    let out = case.b.rms_norm(value, axis, 0.5);
    let scale = (14.0_f64 / 3.0 + 0.5).sqrt();
    assert_close(&case.value(out), &[1.0 / scale, -2.0 / scale, 3.0 / scale]);
}

#[test]
fn gather_takes_rows_and_zeros_outside() {
    let mut case = Case::new();
    let (vocab, seq, hidden) = (case.axis("vocab", 3), case.axis("seq", 4), case.axis("hidden", 2));
    let table = case.given("table", &[vocab, hidden], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let tokens = case.given("tokens", &[seq], &[2.0, 0.0, 3.0, -1.0]);
    let out = case.b.gather("rows", table, tokens, vocab);
    assert_close(&case.value(out), &[5.0, 6.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn dropout_keeps_and_scales() {
    let mut case = Case::new();
    let axis = case.axis("a", 4000);
    let value = case.given("x", &[axis], &vec![3.0; 4000]);
    assert_eq!(case.b.dropout(value, 0.0, 1), value);
    let out = case.b.dropout(value, 0.25, 1);
    let got = case.value(out);
    assert!(got.iter().all(|x| *x == 0.0 || (*x - 4.0).abs() < 1e-12));
    let kept = got.iter().filter(|x| **x != 0.0).count();
    assert!((2900..3100).contains(&kept), "{kept} of 4000 were kept");
}

#[test]
fn rotary_turns_pairs() {
    turns_pairs(4);
    turns_pairs(2);
}

/// Rotary of four elements, `turned` of which turn.
fn turns_pairs(turned: u64) {
    let (n, size, base) = (3, 4, 100.0);
    let mut case = Case::new();
    let (seq, dim) = (case.axis("seq", n), case.axis("dim", size));
    let value = case.varied("x", &[seq, dim]);
    let data = case.numbers(value).to_vec();
    let out = case.b.rotary(value, seq, dim, base, turned);
    let half = size as usize / 2;
    let mut want = data.clone();
    for p in 0..n as usize {
        for i in 0..half {
            let turns = 2 * i < turned as usize;
            let angle = if turns { p as f64 * f64::powf(base, -2.0 * i as f64 / turned as f64) } else { 0.0 };
            let (low, high) = (p * size as usize + i, p * size as usize + i + half);
            want[low] = data[low] * angle.cos() - data[high] * angle.sin();
            want[high] = data[high] * angle.cos() + data[low] * angle.sin();
        }
    }
    assert_close(&case.value(out), &want);
}

/// Attention by its definition, heads outermost: `q` and `k` are [head, seq, dim], `v` is [head, seq, width].
fn naive_attention(q: &[f64], k: &[f64], v: &[f64], [heads, seq, dim, width]: [usize; 4], causal: bool) -> Vec<f64> {
    let mut out = Vec::new();
    for head in 0..heads {
        for s in 0..seq {
            let past = if causal { s + 1 } else { seq };
            let score = |t: usize| (0..dim).map(|d| q[(head * seq + s) * dim + d] * k[(head * seq + t) * dim + d]).sum::<f64>();
            let weights = softmax(&(0..past).map(|t| score(t) / (dim as f64).sqrt()).collect::<Vec<_>>());
            out.extend((0..width).map(|w| (0..past).map(|t| weights[t] * v[(head * seq + t) * width + w]).sum::<f64>()));
        }
    }
    out
}

#[test]
fn attention_is_its_definition() {
    for causal in [false, true] {
        let mut case = Case::new();
        let (head, seq, past, dim, width) =
            (case.axis("head", 2), case.axis("seq", 4), case.axis("past", 4), case.axis("dim", 3), case.axis("width", 2));
        let (q, k, v) =
            (case.varied("q", &[head, seq, dim]), case.varied("key", &[head, past, dim]), case.varied("value", &[head, past, width]));
        let want = naive_attention(case.numbers(q), case.numbers(k), case.numbers(v), [2, 4, 3, 2], causal);
        let out = case.b.attention(q, k, v, past, dim, causal.then_some(seq), None);
        assert_eq!(case.b.dims(out), [head, seq, width]);
        assert_close(&case.value(out), &want);
    }
}

#[test]
fn scores_are_capped_then_biased_then_masked() {
    let [seq, dim] = [5_usize, 3];
    for (causal, softcap, biased, masked) in (0..16).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0, n & 8 > 0)) {
        let mut case = Case::new();
        let (head, at, past, depth) = (case.axis("head", 2), case.axis("seq", 5), case.axis("past", 5), case.axis("dim", 3));
        let (q, k, v) = (case.varied("q", &[head, at, depth]), case.varied("key", &[head, past, depth]), case.varied("v", &[past, depth]));
        let slope = case.given("slope", &[head], &[0.3, -0.7]);
        // position 2 belongs to nothing, so that its row is hidden whole
        let document = case.given("document", &[at], &[0.0, 0.0, 9.0, 1.0, 1.0]);
        let [qs, ks, vs] = [q, k, v].map(|value| case.numbers(value).to_vec());
        let distance = index(past.index()) - index(at.index());
        let bias = Pointwise { expr: (x(0) * distance).expr(), operands: vec![(slope, vec![head])] };
        let same = x(0).equal(x(1)) * x(0).below(lit(9.0));
        let mask = Pointwise { expr: same.expr(), operands: vec![(document, vec![at]), (document, vec![past])] };
        let how = Scores {
            scale: None,
            softcap: softcap.then_some(0.4),
            bias: biased.then_some(bias),
            mask: masked.then_some(mask),
            causal: causal.then_some(at),
            dropout: None,
        };
        let out = case.b.attention_by(q, k, v, past, depth, &how);
        let mut want = Vec::new();
        for (h, s) in (0..2).flat_map(|h| (0..seq).map(move |s| (h, s))) {
            let documents = [0, 0, 9, 1, 1];
            let seen = |t: &usize| (!causal || *t <= s) && (!masked || (documents[*t] == documents[s] && s != 2));
            let score = |t: usize| {
                let dot: f64 = (0..dim).map(|d| qs[(h * seq + s) * dim + d] * ks[(h * seq + t) * dim + d]).sum();
                let scaled = dot / (dim as f64).sqrt();
                let capped = if softcap { 0.4 * (scaled / 0.4).tanh() } else { scaled };
                capped + if biased { [0.3, -0.7][h] * (t as f64 - s as f64) } else { 0.0 }
            };
            let seen: Vec<usize> = (0..seq).filter(seen).collect();
            let weights = softmax(&seen.iter().map(|t| score(*t)).collect::<Vec<_>>());
            want.extend((0..dim).map(|d| seen.iter().zip(&weights).map(|(t, weight)| weight * vs[t * dim + d]).sum::<f64>()));
        }
        assert_close(&case.value(out), &want);
    }
}

#[test]
fn gather_at_reads_where_an_expression_says() {
    let mut case = Case::new();
    let (rows, seq, past, head) = (case.axis("rows", 3), case.axis("seq", 2), case.axis("past", 4), case.axis("head", 2));
    let table = case.given("table", &[rows, head], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let place = Pointwise { expr: (index(past.index()) - index(seq.index())).expr(), operands: Vec::new() };
    let out = case.b.gather_at("rows", table, &place, &[seq, past], rows);
    assert_eq!(case.b.dims(out), [seq, past, head]);
    // row 3 of three and row -1 are zeros
    assert_close(&case.value(out), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn softmax_fold_is_attention_with_its_logsumexp() {
    let mut case = Case::new();
    let (seq, past, dim, packed) = (case.axis("seq", 2), case.axis("past", 3), case.axis("dim", 2), case.axis("packed", 3));
    let score = case.varied("score", &[seq, past]);
    let value = case.varied("v", &[past, dim]);
    let (scores, values) = (case.numbers(score).to_vec(), case.numbers(value).to_vec());
    let out = case.b.softmax_fold(score, value, past, dim, packed);
    let mut want = Vec::new();
    for row in scores.chunks(3) {
        let weights = softmax(row);
        want.extend((0..2).map(|d| (0..3).map(|t| weights[t] * values[t * 2 + d]).sum::<f64>()));
        want.push(row.iter().map(|x| x.exp()).sum::<f64>().ln());
    }
    assert_close(&case.value(out), &want);
}

#[test]
fn cross_entropy_ignores_targets() {
    let mut case = Case::new();
    let (seq, vocab) = (case.axis("seq", 3), case.axis("vocab", 4));
    let logits = case.varied("logits", &[seq, vocab]);
    let targets = case.given("targets", &[seq], &[2.0, -100.0, 0.0]);
    let data = case.numbers(logits).to_vec();
    let (sum, count) = case.b.cross_entropy(logits, targets, vocab, -100.0);
    let env = case.run().1;
    let want = -softmax(&data[..4])[2].ln() - softmax(&data[8..])[0].ln();
    assert_close(&env.get(sum, 0).unwrap().data, &[want]);
    assert_close(&env.get(count, 0).unwrap().data, &[2.0]);
}

#[test]
fn argmax_takes_the_lower_index_on_ties() {
    let mut case = Case::new();
    let (row, col, pair) = (case.axis("row", 2), case.axis("col", 3), case.axis("pair", 2));
    let value = case.given("x", &[row, col], &[1.0, 5.0, 5.0, -2.0, -1.0, -3.0]);
    let out = case.b.argmax(value, col, pair);
    assert_close(&case.value(out), &[5.0, 1.0, -1.0, 1.0]);
}

#[test]
fn activations() {
    let mut case = Case::new();
    let axis = case.axis("a", 3);
    let value = case.given("x", &[axis], &[0.0, 1.0, -1.0]);
    let soft = case.b.elementwise("silu", &[value], silu(x(0)).expr());
    let bell = case.b.elementwise("gelu", &[value], gelu(x(0)).expr());
    let env = case.run().1;
    let sigmoid = 1.0 / (1.0 + (-1.0_f64).exp());
    assert_close(&env.get(soft, 0).unwrap().data, &[0.0, sigmoid, sigmoid - 1.0]);
    // tanh's gelu at 1 from the paper's formula
    assert_close(&env.get(bell, 0).unwrap().data, &[0.0, 0.841_191_990_607_477_8, -0.158_808_009_392_522_2]);
}
