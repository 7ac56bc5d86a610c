//! One small model for every operator of the language, on odd sizes: what the tests of sharding rules are about.

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::{Formula, index, lit, random, x};
use partita_ir::graph::{Graph, Init, Source};
use partita_ir::id::{AxisId, Id, ValueId};
use partita_ir::library::{Pointwise, Scores, Window, gelu, silu};
use partita_ir::precision::Precision;
use partita_ir::rule::{DimAccess, Reduce, Rule};
use partita_ir::scalar::{Binary, Expr, Unary};
use partita_ir::step::{Options, training_step};
use partita_ir::train::{Optimizer, Train};

/// A builder with axes b, s, h, v, k, d of different odd sizes.
pub struct Bench {
    pub b: Builder,
    tokens: Option<ValueId>,
    named: usize,
}

impl Bench {
    fn axis(&mut self, name: &str, size: u64) -> AxisId {
        let known = self.b.graph.axes.iter().position(|axis| axis.name == name);
        known.map_or_else(|| self.b.axis(name, size, Role::None), Id::new)
    }

    fn dims(&mut self, names: &str) -> Vec<AxisId> {
        let size = |name: char| match name {
            'b' | 'k' => 3,
            's' | 'p' => 5,
            'h' => 7,
            'v' => 5,
            'd' => 3,
            'e' => 6,
            other => panic!("no axis {other}"),
        };
        names.chars().map(|name| self.axis(&name.to_string(), size(name))).collect()
    }

    fn value(&mut self, dims: &str) -> ValueId {
        let dims = self.dims(dims);
        self.named += 1;
        let name = format!("w{}", self.named);
        self.b.param(&name, &dims, Init::Normal(1.0))
    }

    /// A value above 0.3.
    fn positive(&mut self, dims: &str) -> ValueId {
        let value = self.value(dims);
        self.b.elementwise("positive", &[value], (x(0) * x(0) + lit(0.3)).expr())
    }

    /// An axis through a window of the places of `d`.
    fn window(&mut self, axis: &str, out: &str, stride: u64, pad: u64) -> Window {
        self.window_over(axis, out, stride, pad, "d")
    }

    fn window_over(&mut self, axis: &str, out: &str, stride: u64, pad: u64, taps: &str) -> Window {
        let (axis, taps) = (self.dims(axis)[0], self.dims(taps)[0]);
        let size = |axis: AxisId| self.b.graph.size(axis);
        let places = Window::places(size(axis), size(taps), stride, 1, pad);
        let out = self.axis(out, places);
        Window { axis, out, taps, stride, dilation: 1, pad }
    }

    fn tokens(&mut self) -> ValueId {
        if let Some(tokens) = self.tokens {
            return tokens;
        }
        let dims = self.dims("bs");
        let tokens = self.b.input("tokens", &dims, Source::Tokens);
        self.tokens = Some(tokens);
        tokens
    }

    fn map(&mut self, dims: &[&str], expr: Formula) -> ValueId {
        let values: Vec<ValueId> = dims.iter().map(|dims| self.value(dims)).collect();
        self.b.elementwise("map", &values, expr.expr())
    }

    fn einsum(&mut self, operands: &[&str], out: &str) -> ValueId {
        let values: Vec<ValueId> = operands.iter().map(|dims| self.value(dims)).collect();
        let out = self.dims(out);
        self.b.einsum("einsum", &values, &out)
    }

    fn fold(&mut self, reduce: Reduce, dims: &str, over: &str) -> ValueId {
        let value = self.value(dims);
        let over = self.dims(over);
        self.b.fold("fold", reduce, value, &over)
    }
}

type Build = fn(&mut Bench) -> ValueId;

/// Every operator with the name by which tests speak of it.
pub const OPERATORS: &[(&str, Build)] = &[
    ("matmul", |t| t.einsum(&["bh", "hv"], "bv")),
    ("batched matmul", |t| t.einsum(&["bsh", "bhv"], "bsv")),
    ("matmul transposed", |t| t.einsum(&["hs", "vh"], "vs")),
    ("outer product", |t| t.einsum(&["b", "h"], "bh")),
    ("inner product", |t| t.einsum(&["h", "h"], "")),
    ("einsum of three", |t| t.einsum(&["bh", "hs", "s"], "b")),
    ("einsum sums a lone axis", |t| t.einsum(&["bh", "sh"], "b")),
    ("add", |t| t.map(&["bs", "bs"], x(0) + x(1))),
    ("add broadcast", |t| t.map(&["bsh", "h"], x(0) + x(1))),
    ("add of three", |t| t.map(&["bs", "bs", "s"], x(0) + x(1) + x(2))),
    ("sub", |t| t.map(&["bs", "bs"], x(0) - x(1))),
    ("mul", |t| t.map(&["bs", "s"], x(0) * x(1))),
    ("square", |t| t.map(&["bs"], x(0) * x(0))),
    ("div", |t| {
        let (a, b) = (t.value("bs"), t.positive("bs"));
        t.b.elementwise("div", &[a, b], (x(0) / x(1)).expr())
    }),
    ("reciprocal", |t| {
        let a = t.positive("bs");
        t.b.elementwise("reciprocal", &[a], (lit(1.0) / x(0)).expr())
    }),
    ("neg", |t| t.map(&["bs"], -x(0))),
    ("scale", |t| t.map(&["bs"], x(0) * lit(0.7))),
    ("scale negative", |t| t.map(&["bs"], x(0) * lit(-0.7))),
    ("shift", |t| t.map(&["bs"], x(0) + lit(0.7))),
    ("affine of scalars", |t| t.map(&["bs", "", ""], x(0) * x(1) + x(2))),
    ("a user's map", |t| t.map(&["bs", "s", "b"], (x(0) - x(1)).tanh() * x(2) + x(0) * lit(0.5))),
    ("a user's fold", |t| {
        let (a, b) = (t.value("bs"), t.value("sh"));
        let out = t.dims("bh");
        t.b.map("rule", &[a, b], &out, Some(Reduce::Max), (x(0) - x(1)).expr())
    }),
    ("a user's sum", |t| {
        let (a, b) = (t.value("bs"), t.value("sh"));
        let out = t.dims("bh");
        t.b.map("rule", &[a, b], &out, Some(Reduce::Sum), (x(0) - x(1)).unary(Unary::Abs).expr())
    }),
    ("rank", |t| {
        let (value, axes) = (t.value("bse"), t.dims("e"));
        let rank = t.b.rank("rank", value, &axes);
        t.b.elementwise("ranked", &[value, rank], (x(0) * (x(1) + lit(1.0))).expr())
    }),
    ("rank over two axes", |t| {
        let (value, axes) = (t.value("bsk"), t.dims("sk"));
        let rank = t.b.rank("rank", value, &axes);
        t.b.elementwise("ranked", &[value, rank], (x(0) * (x(1) + lit(1.0))).expr())
    }),
    ("sort", |t| {
        let (value, axis) = (t.value("bh"), t.dims("h")[0]);
        t.b.top("sort", value, value, axis, axis)
    }),
    ("top k by key", |t| {
        let (value, by, axes) = (t.value("bsh"), t.value("bh"), t.dims("hk"));
        t.b.top("top", value, by, axes[0], axes[1])
    }),
    ("running sum", |t| {
        let (value, axis) = (t.value("bs"), t.dims("s")[0]);
        t.b.running_sum("sums", value, axis)
    }),
    ("scatter of the n-th", |t| {
        let (scores, value, axes) = (t.value("bse"), t.value("bekh"), t.dims("sek"));
        let holds = t.b.elementwise("holds", &[scores], lit(0.0).below(x(0)).expr());
        let place = t.b.nth("place", holds, axes[0], axes[2]);
        let place = Pointwise { expr: x(0).expr(), operands: vec![(place, t.b.dims(place))] };
        t.b.scatter("scatter", value, &place, axes[0], &axes[1..])
    }),
    ("gather of the n-th", |t| {
        let (scores, value, axes) = (t.value("bse"), t.value("bsh"), t.dims("sk"));
        let holds = t.b.elementwise("holds", &[scores], lit(0.0).below(x(0)).expr());
        let place = t.b.nth("place", holds, axes[0], axes[1]);
        t.b.gather("gather", value, place, axes[0])
    }),
    ("jitter", |t| {
        let value = t.value("bs");
        t.b.jitter(value, 0.2, 17)
    }),
    ("exp", |t| t.map(&["bs"], x(0).exp())),
    ("log", |t| {
        let a = t.positive("bs");
        t.b.elementwise("log", &[a], x(0).log().expr())
    }),
    ("sqrt", |t| {
        let a = t.positive("bs");
        t.b.elementwise("sqrt", &[a], x(0).sqrt().expr())
    }),
    ("rsqrt", |t| {
        let a = t.positive("bs");
        t.b.elementwise("rsqrt", &[a], x(0).rsqrt().expr())
    }),
    ("tanh", |t| t.map(&["bs"], x(0).tanh())),
    ("sigmoid", |t| t.map(&["bs"], x(0).sigmoid())),
    ("sin", |t| t.map(&["bs"], x(0).unary(Unary::Sin))),
    ("cos", |t| t.map(&["bs"], x(0).unary(Unary::Cos))),
    ("erf", |t| t.map(&["bs"], x(0).unary(Unary::Erf))),
    ("abs", |t| t.map(&["bs"], x(0).unary(Unary::Abs))),
    ("floor", |t| t.map(&["bs", "bs"], (x(0) * lit(3.0)).unary(Unary::Floor) + x(1) * lit(0.1))),
    ("sign", |t| t.map(&["bs", "bs"], x(0).unary(Unary::Sign) * x(1))),
    ("not", |t| t.map(&["bs", "bs"], x(0).max(lit(0.0)).unary(Unary::Not) * x(1))),
    ("pow", |t| {
        let a = t.positive("bs");
        t.b.elementwise("pow", &[a], x(0).pow(lit(1.5)).expr())
    }),
    ("relu", |t| t.map(&["bs"], x(0).max(lit(0.0)))),
    ("gelu", |t| t.map(&["bs"], gelu(x(0)))),
    ("silu", |t| t.map(&["bs"], silu(x(0)))),
    ("swiglu", |t| t.map(&["bs", "bs"], silu(x(0)) * x(1))),
    ("select", |t| t.map(&["bs", "bs", "bs"], x(0).below(lit(0.2)).select(x(1), x(2)))),
    ("where by index", |t| t.map(&["bs", "bs"], index(1).at_most(index(0)).select(x(0), x(1)))),
    ("max of two", |t| t.map(&["bs", "bs"], x(0).max(x(1)))),
    ("min of two", |t| t.map(&["bs", "bs"], x(0).min(x(1)))),
    ("clamp", |t| t.map(&["bs"], x(0).max(lit(-0.5)).min(lit(0.5)))),
    ("less", |t| t.map(&["bs", "bs"], x(0).below(x(1)) + x(0) * lit(0.0))),
    ("equal", |t| t.map(&["bs", "bs"], x(0).max(lit(0.0)).equal(lit(0.0)) + x(1) * lit(2.0))),
    ("sum", |t| t.fold(Reduce::Sum, "bsh", "s")),
    ("sum over two axes", |t| t.fold(Reduce::Sum, "bsh", "bh")),
    ("sum over all", |t| t.fold(Reduce::Sum, "bs", "bs")),
    ("mean", |t| {
        let (value, out) = (t.value("bs"), t.dims("b"));
        t.b.map("mean", &[value], &out, Some(Reduce::Sum), (x(0) * lit(0.2)).expr())
    }),
    ("max", |t| t.fold(Reduce::Max, "bsh", "h")),
    ("max over two axes", |t| t.fold(Reduce::Max, "bsh", "bs")),
    ("min", |t| t.fold(Reduce::Min, "bs", "s")),
    ("logsumexp", |t| t.fold(Reduce::LogSumExp, "bsh", "h")),
    ("logsumexp over two axes", |t| t.fold(Reduce::LogSumExp, "bsh", "sh")),
    ("softmax", |t| {
        let (value, axis) = (t.value("bs"), t.dims("s"));
        t.b.softmax(value, axis[0])
    }),
    ("layer norm", |t| {
        let (value, axis) = (t.value("bh"), t.dims("h"));
        t.b.layer_norm(value, axis[0], 1e-3)
    }),
    ("rms norm", |t| {
        let (value, axis) = (t.value("bh"), t.dims("h"));
        t.b.rms_norm(value, axis[0], 1e-3)
    }),
    ("gather", |t| {
        let (table, tokens, axis) = (t.value("vd"), t.tokens(), t.dims("v"));
        t.b.gather("gathered", table, tokens, axis[0])
    }),
    ("gather of a minor axis", |t| {
        let (table, tokens, axis) = (t.value("dv"), t.tokens(), t.dims("v"));
        t.b.gather("gathered", table, tokens, axis[0])
    }),
    ("gather by distance", |t| {
        let (table, dims) = (t.value("vk"), t.dims("spv"));
        let distance = (index(dims[0].index()) - index(dims[1].index())).unary(Unary::Abs);
        let place = Pointwise { expr: distance.min(lit(3.0)).expr(), operands: Vec::new() };
        t.b.gather_at("gathered", table, &place, &dims[..2], dims[2])
    }),
    ("chosen logit", |t| {
        let (logits, tokens, out) = (t.value("bsv"), t.tokens(), t.dims("bs"));
        let one_hot = x(1).equal(index(2)).select(x(0), lit(0.0));
        t.b.map("chosen", &[logits, tokens], &out, Some(Reduce::Sum), one_hot.expr())
    }),
    ("one-hot", |t| {
        let (scale, tokens, out) = (t.value("v"), t.tokens(), t.dims("bsv"));
        let one_hot = x(0).equal(index(2)).select(x(1), lit(0.0));
        t.b.map("one_hot", &[tokens, scale], &out, None, one_hot.expr())
    }),
    ("cross-entropy", |t| {
        let (logits, tokens, axis) = (t.value("bsv"), t.tokens(), t.dims("v"));
        let (sum, count) = t.b.cross_entropy(logits, tokens, axis[0], 2.0);
        t.b.elementwise("mean", &[sum, count], (x(0) / x(1)).expr())
    }),
    ("dropout", |t| {
        let value = t.value("bsh");
        t.b.dropout(value, 0.4, 77)
    }),
    ("noise", |t| t.map(&["bs"], x(0) + random(5, vec![1, 0]))),
    ("rotary", |t| {
        let (value, axis) = (t.value("bse"), t.dims("se"));
        t.b.rotary(value, axis[0], axis[1], 50.0, 6)
    }),
    ("rotary of a part", |t| {
        let (value, axis) = (t.value("bse"), t.dims("se"));
        t.b.rotary(value, axis[0], axis[1], 50.0, 4)
    }),
    ("causal mask", |t| {
        let scores = t.value("bsp");
        let mask = index(2).at_most(index(1)).select(x(0) * lit(0.5), lit(f64::NEG_INFINITY));
        let masked = t.b.elementwise("masked", &[scores], mask.expr());
        let past = t.dims("p");
        t.b.softmax(masked, past[0])
    }),
    ("causal attention", |t| {
        let (q, k, v) = (t.value("ksd"), t.value("kpd"), t.value("kpb"));
        let axes = t.dims("spd");
        t.b.attention(q, k, v, axes[1], axes[2], Some(axes[0]), Some((0.3, 9)))
    }),
    ("attention with a bias", |t| {
        let (q, k, v, slope, rate) = (t.value("ksd"), t.value("kpd"), t.value("kpb"), t.value("k"), t.value("ps"));
        let axes = t.dims("spd");
        let distance = index(axes[1].index()) - index(axes[0].index());
        let bias = (x(0) * distance * lit(0.3) + x(1)).expr();
        let read = [slope, rate].map(|value| (value, t.b.dims(value))).to_vec();
        let bias = Some(Pointwise { expr: bias, operands: read });
        t.b.attention_by(q, k, v, axes[1], axes[2], &Scores { causal: Some(axes[0]), bias, ..Scores::default() })
    }),
    ("attention with everything", |t| {
        let (q, k, v, slope, tokens) = (t.value("bsd"), t.value("bpd"), t.value("bpk"), t.value("b"), t.tokens());
        let (axes, read) = (t.dims("spd"), t.b.dims(tokens));
        // the same integers along two axes, and a window
        let same = x(0).equal(x(1));
        let near = (index(axes[0].index()) - index(axes[1].index())).below(lit(2.0));
        let along_past = vec![read[0], axes[1]];
        let mask = Some(Pointwise { expr: (same * near).expr(), operands: vec![(tokens, read), (tokens, along_past)] });
        let bias = Some(Pointwise { expr: x(0).expr(), operands: vec![(slope, t.dims("b"))] });
        let how = Scores { scale: Some(0.4), softcap: Some(0.7), bias, mask, causal: None, dropout: Some((0.3, 9)) };
        t.b.attention_by(q, k, v, axes[1], axes[2], &how)
    }),
    ("split", |t| {
        let (value, merged) = (t.value("b"), t.axis("m", 15));
        let parts = t.dims("bs");
        let (dims, out) = (t.dims("b"), [parts[1], merged]);
        let source = t.b.param("merged", &[dims[0], merged], Init::Normal(1.0));
        let minor = [t.axis("major", 5), t.axis("minor", 3)];
        let split = t.b.split_axis("split", source, merged, &minor);
        let _ = out;
        t.b.elementwise("use", &[split, value], (x(0) * x(1)).expr())
    }),
    ("merge", |t| {
        let value = t.value("bsh");
        let (parts, merged) = (t.dims("sh"), t.axis("sh", 35));
        t.b.merge_axes("merge", value, &parts, merged)
    }),
    ("merge of major axes", |t| {
        let value = t.value("bsd");
        let (parts, merged) = (t.dims("bs"), t.axis("bs", 15));
        t.b.merge_axes("merge", value, &parts, merged)
    }),
    ("transpose", |t| {
        let (value, out) = (t.value("bsh"), t.dims("hbs"));
        t.b.map("transpose", &[value], &out, None, Expr::operand(0))
    }),
    ("slice", |t| {
        let value = t.value("bh");
        let (from, short) = (t.dims("h"), t.axis("short", 4));
        t.b.slice("slice", value, from[0], 2, short)
    }),
    ("slice past the end", |t| {
        let value = t.value("bh");
        let (from, short) = (t.dims("h"), t.axis("short", 5));
        t.b.slice("slice", value, from[0], 4, short)
    }),
    ("rename", |t| {
        let value = t.value("bh");
        let (from, same) = (t.dims("h"), t.axis("same", 7));
        t.b.slice("rename", value, from[0], 0, same)
    }),
    ("take", |t| {
        let value = t.value("hb");
        let b = t.dims("b");
        let access = vec![DimAccess { terms: Vec::new(), offset: 3 }, DimAccess::factor(0)];
        let rule =
            Rule { factors: b.clone(), operands: vec![access], result: vec![DimAccess::factor(0)], reduce: None, expr: Expr::operand(0) };
        t.b.rule("take", rule, &[value], &b)
    }),
    ("argmax", |t| {
        let value = t.value("bsh");
        let (along, pair) = (t.dims("h"), t.axis("pair", 2));
        t.b.argmax(value, along[0], pair)
    }),
    ("argmax moved", |t| {
        let value = t.value("bsh");
        let (along, pair, mut out) = (t.dims("h"), t.axis("pair", 2), t.dims("sb"));
        let found = t.b.argmax(value, along[0], pair);
        out.push(pair);
        t.b.map("moved", &[found], &out, None, Expr::operand(0))
    }),
    ("softmax fold", |t| {
        let (score, value) = (t.value("bsp"), t.value("bpd"));
        let (axes, packed) = (t.dims("pd"), t.axis("packed", 4));
        t.b.softmax_fold(score, value, axes[0], axes[1], packed)
    }),
    ("conv", |t| {
        let (value, weight) = (t.value("bsh"), t.value("dhv"));
        let window = t.window("s", "s", 1, 1);
        t.b.conv("conv", value, weight, &[window], None)
    }),
    ("conv of two axes", |t| {
        let (value, weight) = (t.value("sh"), t.value("dk"));
        let windows = [t.window_over("s", "x", 2, 1, "d"), t.window_over("h", "y", 3, 0, "k")];
        t.b.conv("conv", value, weight, &windows, None)
    }),
    ("conv of groups", |t| {
        let (value, weight) = (t.value("shv"), t.value("dhvk"));
        let window = t.window("s", "x", 2, 2);
        let groups = t.dims("v")[0];
        t.b.conv("conv", value, weight, &[window], Some(groups))
    }),
    ("max pool", |t| {
        let value = t.value("bs");
        let window = t.window("s", "x", 2, 1);
        t.b.max_pool("pool", value, &[window])
    }),
    ("mean pool", |t| {
        let value = t.value("bs");
        let window = t.window("s", "x", 2, 0);
        t.b.mean_pool("pool", value, &[window])
    }),
    ("positions", |t| {
        let dims = t.dims("sh");
        let table = t.b.map("positions", &[], &dims, None, (index(0) * lit(0.3) + index(1)).unary(Unary::Sin).expr());
        let value = t.value("sh");
        t.b.elementwise("use", &[table, value], (x(0) * x(1)).expr())
    }),
];

/// The training step of one operator: forward, backward and update rules.
pub fn step_of(build: Build, optimizer: Optimizer) -> Graph {
    let mut bench = Bench { b: Builder::new("operator", DType::F64), tokens: None, named: 0 };
    let out = build(&mut bench);
    // a loss in which every element counts differently, and whose count only data decides
    let dims = bench.b.dims(out);
    let weight = bench.b.param("probe", &dims, Init::Normal(1.0));
    let finite = x(0).max(lit(-20.0));
    let probed = bench.b.map("probed", &[out, weight], &[], Some(Reduce::Sum), (finite.clone() * x(1) + finite.tanh() * x(1)).expr());
    let tokens = bench.tokens();
    let counted = bench.b.map("count", &[tokens], &[], Some(Reduce::Sum), x(0).binary(Binary::Ne, lit(2.0)).expr());
    bench.b.loss(probed, counted);
    let model = bench.b.finish();
    let train = Train { optimizer, precision: Precision::F64, ..Train::default() };
    training_step(&model, &train, Options::default()).expect("every operator has a gradient")
}
