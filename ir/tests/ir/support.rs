//! What the tests share: leaves with known numbers and comparisons.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::dtype::DType;
use partita_ir::graph::{Graph, Init};
use partita_ir::id::{AxisId, ValueId};
use partita_ir::interpret::{Env, Tensor, run};

/// A model with a parameter as input for whatever numbers a test wants.
pub struct Case {
    pub b: Builder,
    leaves: BTreeMap<(ValueId, u64), Tensor>,
}

impl Case {
    pub fn new() -> Self {
        Self { b: Builder::new("case", DType::F64), leaves: BTreeMap::new() }
    }

    pub fn axis(&mut self, name: &str, size: u64) -> AxisId {
        self.b.axis(name, size, Role::None)
    }

    /// A leaf that holds these numbers.
    pub fn given(&mut self, name: &str, dims: &[AxisId], data: &[f64]) -> ValueId {
        let value = self.b.param(name, dims, Init::Constant(0.0));
        self.leaves.insert((value, 0), Tensor::new(self.b.graph.shape(value), data.to_vec()));
        value
    }

    /// A leaf that holds numbers with nothing special about them, between -1.5 and 1.5.
    pub fn varied(&mut self, name: &str, dims: &[AxisId]) -> ValueId {
        let elements: u64 = dims.iter().map(|axis| self.b.graph.size(*axis)).product();
        let phase = name.len() as f64;
        let data: Vec<f64> = (0..elements).map(|i| 1.5 * (1.7 * i as f64 + phase).sin()).collect();
        self.given(name, dims, &data)
    }

    pub fn numbers(&self, value: ValueId) -> &[f64] {
        &self.leaves[&(value, 0)].data
    }

    pub fn run(self) -> (Graph, Env) {
        let graph = self.b.finish();
        let env = run(&graph, self.leaves, 7, 0);
        (graph, env)
    }

    /// The numbers of one value after a run.
    pub fn value(self, value: ValueId) -> Vec<f64> {
        self.run().1.get(value, 0).expect("the run computed it").data.clone()
    }
}

/// Equal within 1e-12 of the largest magnitude; infinities must match.
pub fn assert_close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{got:?} has as many elements as {want:?}");
    let largest = want.iter().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
    for (index, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(a == b || (a - b).abs() <= 1e-12 * largest, "element {index}: {a}, not {b}\n got {got:?}\nwant {want:?}");
    }
}
