//! Cases that were wrong once, each as the smallest model that shows it, under many layouts.

use std::sync::Mutex;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::formula::x;
use partita_ir::graph::{Graph, Init, Source};
use partita_ir::id::{AxisId, ValueId};
use partita_ir::layout::{Mesh, Partition};
use partita_ir::rule::Reduce;
use partita_ir::sample::IGNORE;
use partita_ir::scalar::Expr;
use partita_planner::mesh::{AxisUse, ExpertUse, MeshPlan};

use super::case::Case;
use super::coverage::Coverage;
use super::soundness::{Verdict, cluster, verdict};

/// A model of tokens (2 × 3 of 5) embedded in 4, something in between, and a loss.
fn model(name: &str, middle: impl FnOnce(&mut Model, ValueId) -> ValueId) -> Graph {
    let mut b = Builder::new(name, DType::F64);
    let (batch, seq) = (b.axis("batch", 2, Role::Batch), b.axis("seq", 3, Role::Seq));
    let (vocab, hidden) = (b.axis("vocab", 5, Role::Vocab), b.axis("hidden", 16, Role::None));
    let tokens = b.input("tokens", &[batch, seq], Source::Tokens);
    let table = b.param("table", &[vocab, hidden], Init::Normal(0.5));
    let embedded = b.gather("embedded", table, tokens, vocab);
    let mut model = Model { b, batch, seq, hidden };
    let last = middle(&mut model, embedded);
    let mut b = model.b;
    let head = b.param("head", &[hidden, vocab], Init::Normal(0.5));
    let targets = b.input("targets", &[batch, seq], Source::NextTokens);
    let logits = b.einsum("logits", &[last, head], &[batch, seq, vocab]);
    let (sum, count) = b.cross_entropy(logits, targets, vocab, IGNORE);
    b.loss(sum, count);
    b.finish()
}

struct Model {
    b: Builder,
    batch: AxisId,
    seq: AxisId,
    hidden: AxisId,
}

/// The model under the meshes, stages and settings of many seeds: those of [`Case::new`], which fit any model in which no
/// operator brings samples together.
fn holds(model: &Graph, stages: u64, seeds: u64) {
    holds_on(model, None, stages, seeds);
}

/// The same on one mesh.
fn holds_on(model: &Graph, mesh: Option<&MeshPlan>, stages: u64, seeds: u64) {
    let cluster = cluster();
    let coverage = Mutex::<Coverage>::default();
    for seed in 0..seeds {
        let drawn = Case::new(seed);
        let train = partita_ir::train::Train { batch: 2, ..drawn.train };
        let stages = if drawn.mesh.mesh.ranks() * stages <= 16 { stages } else { 1 };
        let mut case = Case { model: model.clone(), train, stages, most: 6, ..drawn };
        if let Some(mesh) = mesh {
            case.mesh = mesh.clone();
        }
        match verdict(&case, &cluster, &coverage) {
            Verdict::Same => {}
            // none of these models depends on how numbers are rounded
            Verdict::Nothing(why) => panic!("{case}: {why}"),
            Verdict::Wrong(why) => panic!("{case}: {why}"),
        }
    }
}

#[test]
fn a_reversed_repeat_is_cut_in_the_order_of_its_iterations() {
    let graph = model("reversed", |m, x0| {
        let args = m.b.begin_repeat("layer", 3, &[x0]);
        let weight = m.b.param("weight", &[m.hidden], Init::Normal(1.0));
        let next = m.b.elementwise("next", &[args[0], weight], (x(0) + x(0).tanh() * x(1)).expr());
        m.b.end_repeat(&[next], true)[0]
    });
    holds(&graph, 2, 25);
    holds(&graph, 3, 25);
}

#[test]
fn what_enters_a_repeat_of_a_later_stage_is_sent_there() {
    let graph = model("two repeats", |m, x0| {
        let mut value = x0;
        for name in ["first", "second"] {
            let args = m.b.begin_repeat(name, 2, &[value]);
            let weight = m.b.param("weight", &[m.hidden], Init::Normal(1.0));
            let next = m.b.elementwise("next", &[args[0], weight], (x(0).tanh() * x(1)).expr());
            value = m.b.end_repeat(&[next], name == "first")[0];
        }
        value
    });
    holds(&graph, 2, 25);
    holds(&graph, 4, 25);
}

/// The gradient of an extreme must not ask which element equals it: the sums inside may be rounded otherwise where they
/// are computed again, and then none does.
#[test]
fn the_gradient_of_an_extreme_goes_to_one_element() {
    // sums over several axes at once are rounded otherwise than over one after the other
    let sizes = [("a", 2), ("b", 2), ("c", 2)];
    let (uses, partitions) = (vec![AxisUse::Tensor; 3], vec![Partition::Balanced; 3]);
    let experts = vec![ExpertUse::Tensor; 3];
    let mesh = MeshPlan { mesh: Mesh::new(&sizes), uses, experts, partitions, micro_batches: 1 };
    for reduce in [Reduce::Max, Reduce::Min] {
        let graph = model(reduce.word(), |m, x0| {
            // what a repeat computes may be computed again
            let x0 = m.b.begin_repeat("layer", 2, &[x0])[0];
            let wide = m.b.axis("wide", 11, Role::None);
            let weight = m.b.param("weight", &[m.hidden, wide], Init::Normal(1.0));
            let mixed = m.b.einsum("mixed", &[x0, weight], &[m.batch, m.seq, wide]);
            // over two factors, of an expression that fusion and recomputation may change
            let extreme = m.b.map("extreme", &[mixed, x0], &[m.batch], Some(reduce), (x(0).tanh() * x(1)).expr());
            let next = m.b.elementwise("shifted", &[x0, extreme], (x(0) + x(1)).expr());
            m.b.end_repeat(&[next], false)[0]
        });
        holds_on(&graph, Some(&mesh), 1, 40);
    }
}

/// A P(max) of parts cannot be summed over micro-batches, nor rest as a gradient.
#[test]
fn a_gradient_does_not_rest_as_the_largest_of_parts() {
    let graph = model("scalar", |m, x0| {
        let args = m.b.begin_repeat("layer", 2, &[x0]);
        let shift = m.b.param("shift", &[], Init::Normal(1.0));
        let moved = m.b.map("moved", &[shift], &[], None, Expr::operand(0));
        let next = m.b.elementwise("next", &[args[0], moved], Expr::sum(2));
        m.b.end_repeat(&[next], false)[0]
    });
    holds(&graph, 1, 25);
}

/// Simplifying must not lose the only operand that walks a folded factor.
#[test]
fn a_fold_over_what_cancels_keeps_its_factor() {
    let graph = model("cancels", |m, x0| {
        let wide = m.b.axis("wide", 3, Role::None);
        let weight = m.b.param("weight", &[wide], Init::Normal(1.0));
        let dims = [m.batch, m.seq, m.hidden];
        let half = x(0) * partita_ir::formula::lit(0.5);
        m.b.map("fold", &[x0, weight], &dims, Some(Reduce::Sum), (half + (x(1).tanh() - x(1).tanh())).expr())
    });
    holds(&graph, 1, 25);
}
