//! Problems of the same character as the public ones, of any size: a training step of equal layers on a mesh.
//!
//! The step is a graph of loops over named letters, as `bsh, hf -> bsf`. Its forward pass has residual branches, its
//! backward pass reads forward values from far, and an optimizer updates every parameter. A strategy gives each mesh
//! axis to one letter or to none, which says how the result and the operands are split. From the public problems come:
//!
//! - Layers of one kind draw equal random numbers, so their tables are equal.
//! - A node pays for sums over split letters and for work done twice; most nodes cost nothing.
//! - An edge pays for the move from the layout of the result to that of the operand: nothing where they are equal or
//!   where a copy is cut. An edge may instead be **tied**: all but equal layouts are forbidden.
//! - Results live until their last reader, so forward values until the backward pass; some hold nothing.
//! - All layers read one mask, all updates one scalar, and the norm of the gradient reads every gradient.
//! - The limit lies between the peak of the leanest strategies (the public problems' are some 10 % above it) and that
//!   of the cheapest. It can always be kept, because splitting every result as far as it goes is never forbidden.

use partita_ir::random::{DrawContext, salt_of, stream, uniform};

use super::problem::{FORBIDDEN, Problem, ProblemBuilder, Span};

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// How many nodes. One layer at least is made, which is some 400 nodes with what surrounds it; nodes that are too
    /// few for another layer are a chain behind the last one.
    pub nodes: usize,
    /// Same options and seed, same problem.
    pub seed: u64,
    /// Layers of so many kinds take turns; one at least.
    pub kinds: usize,
    /// Devices along each mesh axis, four axes at most. A loop over k letters has up to `(k + 1) ^ axes` strategies.
    pub mesh: Vec<u64>,
    /// A node keeps so many strategies at most.
    pub most_strategies: usize,
    /// Share of the edges into elementwise nodes that are tied: 0 forbids nothing, 0.7 some 45 % of all table entries.
    pub tied: f64,
    /// Share of the nodes that hold no memory.
    pub empty: f64,
    /// Where the limit lies: 0 at the peak of the cheapest strategy of every node, 1 at that of the leanest.
    pub tightness: f64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { nodes: 1000, seed: 0, kinds: 4, mesh: vec![4, 8], most_strategies: 40, tied: 0.5, empty: 0.2, tightness: 0.95 }
    }
}

/// A problem of the character described above.
///
/// # Panics
///
/// If the mesh has more than four axes, or an axis without devices.
pub fn generate(options: &GenerateOptions) -> Problem {
    generate_with_choice(options).0
}

/// The problem and a choice that keeps its limit.
fn generate_with_choice(options: &GenerateOptions) -> (Problem, Vec<u32>) {
    let count = |layers| Step::new(options).train(layers).nodes.len();
    let (one, two) = (count(1), count(2));
    let layers = 1 + options.nodes.saturating_sub(one) / (two - one);
    let mut step = Step::new(options).train(layers);
    let mut last = step.sections[layers] - 1;
    for index in 0..options.nodes.saturating_sub(step.nodes.len()) {
        if index.is_multiple_of(FILLING) {
            step.section("filling", index / FILLING);
        }
        last = step.node("bsh", &[(last, "bsh")]);
    }
    step.problem()
}

/// Nodes that do not make a layer are a chain of pieces of so many nodes.
const FILLING: usize = 16;

const MOST_AXES: usize = 4;

/// Stands for no dimension.
const NONE: u8 = u8::MAX;

/// The dimension that each mesh axis splits, or [`NONE`].
type Layout = [u8; MOST_AXES];

struct Strategy {
    result: Layout,
    operands: Vec<Layout>,
    cost: i64,
}

struct Node {
    /// The letters of the result, one per dimension.
    letters: &'static str,
    strategies: Vec<Strategy>,
    /// The strategy that splits the result as far as it goes, alike in all nodes of equal letters.
    finest: usize,
    /// What is read, under which letters, and whether the edge is tied.
    operands: Vec<(usize, &'static str, bool)>,
    /// The edges to the operands begin at this node.
    backwards: bool,
    time: u64,
    last_read: u64,
    holds_memory: bool,
}

/// A layer's parameter and the state of its optimizer.
#[derive(Clone, Copy)]
struct Parameter {
    value: usize,
    moments: [usize; 2],
}

/// The parameters of one layer, by letters.
const LAYER: [&str; 10] = ["h", "h", "hnd", "hnd", "hnd", "ndh", "h", "h", "hf", "fh"];

/// The tokens and the mask are the first nodes, and have no gradients.
const INPUTS: usize = 2;

struct Step<'o> {
    options: &'o GenerateOptions,
    draws: Draws,
    sizes: Vec<(char, u64)>,
    nodes: Vec<Node>,
    clock: u64,
    /// Where in `nodes` the forward pass of each layer begins.
    sections: Vec<usize>,
}

/// A stream of random numbers.
struct Draws {
    stream: u64,
    drawn: u64,
}

impl Draws {
    fn new(seed: u64, purpose: &str) -> Self {
        Self { stream: stream(DrawContext { seed, ..DrawContext::default() }, salt_of(purpose)), drawn: 0 }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.drawn += 1;
        uniform(self.stream, self.drawn) < probability
    }

    fn one_of(&mut self, values: &[u64]) -> u64 {
        self.drawn += 1;
        values[(uniform(self.stream, self.drawn) * values.len() as f64) as usize]
    }
}

impl<'o> Step<'o> {
    fn new(options: &'o GenerateOptions) -> Self {
        assert!(options.mesh.len() <= MOST_AXES, "a mesh of more than {MOST_AXES} axes");
        assert!(!options.mesh.contains(&0), "a mesh axis without devices");
        let devices: u64 = options.mesh.iter().product();
        let mut draws = Draws::new(options.seed, "sizes");
        let hidden = draws.one_of(&[1024, 2048, 4096, 5120]);
        let seq = draws.one_of(&[512, 1024, 2048]);
        let sizes = vec![
            ('b', devices * draws.one_of(&[1, 2, 4])),
            ('s', seq),
            ('t', seq),
            ('h', hidden),
            ('n', draws.one_of(&[8, 16, 24, 32])),
            ('d', draws.one_of(&[64, 128])),
            ('f', 4 * hidden),
            ('v', draws.one_of(&[32_768, 50_304, 128_256])),
        ];
        Self { options, draws, sizes, nodes: Vec::new(), clock: 0, sections: Vec::new() }
    }

    fn size(&self, letter: char) -> u64 {
        self.sizes.iter().find(|(known, _)| *known == letter).map_or(1, |(_, size)| *size)
    }

    /// How many elements a loop over these letters visits.
    fn elements(&self, letters: &str) -> u64 {
        letters.chars().map(|letter| self.size(letter)).product()
    }

    /// Draws from here on what this part of every layer of the same kind draws.
    fn section(&mut self, part: &str, layer: usize) {
        self.draws = Draws::new(self.options.seed, &format!("{part} {}", layer % self.options.kinds.max(1)));
    }

    /// A node that computes `letters` from operands read under the letters beside them.
    fn node(&mut self, letters: &'static str, operands: &[(usize, &'static str)]) -> usize {
        let (strategies, finest) = self.strategies(letters, operands);
        let elementwise = operands.iter().all(|(_, read)| read.chars().all(|letter| letters.contains(letter)));
        let operands: Vec<(usize, &'static str, bool)> = operands
            .iter()
            .map(|&(node, read)| {
                let alike = elementwise && !read.is_empty() && read == letters && read == self.nodes[node].letters;
                (node, read, alike && self.draws.chance(self.options.tied))
            })
            .collect();
        for (node, _, _) in &operands {
            self.nodes[*node].last_read = self.clock;
        }
        let holds_memory = operands.is_empty() || !self.draws.chance(self.options.empty);
        let backwards = self.draws.chance(0.1);
        self.nodes.push(Node { letters, strategies, finest, operands, backwards, time: self.clock, last_read: self.clock, holds_memory });
        self.clock += u64::from(holds_memory);
        self.nodes.len() - 1
    }

    /// The strategies of a node, and which of them splits the result furthest.
    fn strategies(&mut self, letters: &str, operands: &[(usize, &str)]) -> (Vec<Strategy>, usize) {
        let mut all = letters.to_owned();
        for letter in operands.iter().flat_map(|(_, read)| read.chars()) {
            if !all.contains(letter) {
                all.push(letter);
            }
        }
        let possible = self.all_picks(&all);
        let mut finest = 0;
        for index in 0..possible.len() {
            if self.shards(&possible[index], letters) > self.shards(&possible[finest], letters) {
                finest = index;
            }
        }
        // some nodes lack strategies that others have, and in a few many are forbidden, but the finest is always there
        let surplus = possible.len().saturating_sub(self.options.most_strategies) as f64 / possible.len() as f64;
        let dropped = surplus.max(if self.draws.chance(0.3) { 0.3 } else { 0.0 });
        let forbidden = if self.options.tied > 0.0 && self.draws.chance(0.06) { 0.5 } else { 0.0 };
        let mut strategies = Vec::new();
        let mut place = None;
        for (index, picks) in possible.iter().enumerate() {
            let mut cost = self.cost(&all, letters, operands, picks);
            if index == finest {
                place = Some(strategies.len());
            } else {
                let reserved = usize::from(place.is_none());
                if self.draws.chance(dropped) || strategies.len() + reserved >= self.options.most_strategies {
                    continue;
                }
                if self.draws.chance(forbidden) {
                    cost = FORBIDDEN;
                }
            }
            let operands = operands.iter().map(|(_, read)| layout(picks, read)).collect();
            strategies.push(Strategy { result: layout(picks, letters), operands, cost });
        }
        (strategies, place.expect("to split nothing is always possible, so there is a finest strategy"))
    }

    /// All ways to give each mesh axis a letter or none so that every letter's size divides. As in the public problems,
    /// little splitting comes first and none at all last.
    fn all_picks(&self, letters: &str) -> Vec<Vec<Option<char>>> {
        let (axes, digits) = (self.options.mesh.len() as u32, letters.len() + 1);
        let divides = |picks: &[Option<char>], letter: char| self.size(letter).is_multiple_of(self.shards(picks, &letter.to_string()));
        let mut all: Vec<Vec<Option<char>>> = (0..digits.pow(axes))
            // the digits of the number are the letters of the axes; the highest digit is none
            .map(|number| (0..axes).map(|axis| letters.chars().nth(number / digits.pow(axis) % digits)).collect())
            .filter(|picks: &Vec<Option<char>>| letters.chars().all(|letter| divides(picks, letter)))
            .collect();
        all.sort_by_key(|picks| match picks.iter().flatten().count() {
            0 => usize::MAX,
            used => used,
        });
        all
    }

    /// Into how many pieces these picks split something of these letters.
    fn shards(&self, picks: &[Option<char>], letters: &str) -> u64 {
        let devices = picks.iter().zip(&self.options.mesh).filter(|(pick, _)| pick.is_some_and(|letter| letters.contains(letter)));
        devices.map(|(_, devices)| devices).product()
    }

    /// Sums over split letters are passed around, and work that is not split is done by all.
    fn cost(&self, all: &str, letters: &str, operands: &[(usize, &str)], picks: &[Option<char>]) -> i64 {
        let local = 4 * self.elements(letters) / self.shards(picks, letters);
        let summed = picks.iter().zip(&self.options.mesh).filter(|(pick, _)| pick.is_some_and(|letter| !letters.contains(letter)));
        let passed: u64 = summed.map(|(_, devices)| 2 * local * (devices - 1) / devices + devices).sum();
        let is_product = operands.len() == 2 && all.len() > letters.len();
        let devices: u64 = self.options.mesh.iter().product();
        let work = if is_product { self.elements(all) / 1024 } else { 0 };
        let repeated = work / self.shards(picks, all) - work / devices;
        i64::try_from(passed + repeated).expect("a layer's costs are far below 2^63")
    }

    /// A whole training step.
    fn train(mut self, layers: usize) -> Self {
        self.section("ends", 0);
        let tokens = self.node("bs", &[]);
        let mask = self.node("st", &[]);
        let embedding = self.parameter("vh");
        let mut parameters = Vec::new();
        for layer in 0..layers {
            self.section("parameters", layer);
            parameters.push(LAYER.map(|letters| self.parameter(letters)));
        }
        self.section("ends", 0);
        let first = self.nodes.len();
        let mut x = self.node("bsh", &[(tokens, "bs"), (embedding.value, "vh")]);
        for (layer, parameters) in parameters.iter().enumerate() {
            self.section("layer", layer);
            self.sections.push(self.nodes.len());
            x = self.layer(x, mask, parameters);
        }
        self.section("ends", 0);
        self.sections.push(self.nodes.len());
        let logits = self.node("bsv", &[(x, "bsh"), (embedding.value, "vh")]);
        let likely = self.softmax(logits, "bsv", "bs");
        let loss = self.node("", &[(likely, "bsv"), (tokens, "bs")]);

        let gradients = self.backward(first, loss);
        self.section("ends", 0);
        let rate = self.node("", &[]);
        let all = [[embedding].as_slice(), parameters.as_flattened()].concat();
        let gradients: Vec<(Parameter, usize)> = all.iter().filter_map(|one| Some((*one, gradients[one.value]?))).collect();
        let mut norms = Vec::new();
        for (_, gradient) in &gradients {
            self.section("norm", 0);
            norms.push((self.node("", &[(*gradient, self.nodes[*gradient].letters)]), ""));
        }
        self.section("ends", 0);
        let norm = self.node("", &norms);
        for (index, (parameter, gradient)) in gradients.into_iter().enumerate() {
            // the embedding comes first
            if index % LAYER.len() == 1 {
                self.section("update", index / LAYER.len());
            }
            self.update(parameter, gradient, [rate, norm]);
        }
        self
    }

    fn parameter(&mut self, letters: &'static str) -> Parameter {
        let [value, first, second] = [(); 3].map(|()| self.node(letters, &[]));
        Parameter { value, moments: [first, second] }
    }

    fn layer(&mut self, x: usize, mask: usize, parameters: &[Parameter; LAYER.len()]) -> usize {
        // the copies in low precision that the products read
        let weights = parameters.map(|parameter| {
            let letters = self.nodes[parameter.value].letters;
            self.node(letters, &[(parameter.value, letters)])
        });
        let [gain, bias, wq, wk, wv, wo, gain2, bias2, w1, w2] = weights;
        let a = self.norm(x, gain, bias);
        let [q, k, v] = [wq, wk, wv].map(|weight| self.product("bnsd", &[(a, "bsh"), (weight, "hnd")]));
        let scale = self.node("", &[]);
        let q = self.node("bnsd", &[(q, "bnsd"), (scale, "")]);
        let scores = self.product("bnst", &[(q, "bnsd"), (k, "bntd")]);
        let scores = self.node("bnst", &[(scores, "bnst"), (mask, "st")]);
        let p = self.softmax(scores, "bnst", "bns");
        let mixed = self.product("bnsd", &[(p, "bnst"), (v, "bntd")]);
        let out = self.product("bsh", &[(mixed, "bnsd"), (wo, "ndh")]);
        let x = self.node("bsh", &[(x, "bsh"), (out, "bsh")]);
        let a = self.norm(x, gain2, bias2);
        let up = self.product("bsf", &[(a, "bsh"), (w1, "hf")]);
        let half = self.node("", &[]);
        let cubed = self.node("bsf", &[(up, "bsf"), (half, "")]);
        let tanh = self.node("bsf", &[(cubed, "bsf")]);
        let active = self.node("bsf", &[(tanh, "bsf"), (up, "bsf")]);
        let down = self.product("bsh", &[(active, "bsf"), (w2, "fh")]);
        self.node("bsh", &[(x, "bsh"), (down, "bsh")])
    }

    /// A node and the change of its result to another precision.
    fn product(&mut self, letters: &'static str, operands: &[(usize, &'static str)]) -> usize {
        let exact = self.node(letters, operands);
        self.node(letters, &[(exact, letters)])
    }

    fn norm(&mut self, x: usize, gain: usize, bias: usize) -> usize {
        let square = self.node("bsh", &[(x, "bsh"), (x, "bsh")]);
        let mean = self.node("bs", &[(square, "bsh")]);
        let epsilon = self.node("", &[]);
        let root = self.node("bs", &[(mean, "bs"), (epsilon, "")]);
        let spread = self.node("bsh", &[(root, "bs")]);
        let normed = self.node("bsh", &[(x, "bsh"), (spread, "bsh")]);
        let scaled = self.node("bsh", &[(normed, "bsh"), (gain, "h")]);
        self.node("bsh", &[(scaled, "bsh"), (bias, "h")])
    }

    fn softmax(&mut self, x: usize, letters: &'static str, rows: &'static str) -> usize {
        let most = self.node(rows, &[(x, letters)]);
        let shifted = self.node(letters, &[(x, letters), (most, rows)]);
        let raised = self.node(letters, &[(shifted, letters)]);
        let sum = self.node(rows, &[(raised, letters)]);
        self.node(letters, &[(raised, letters), (sum, rows)])
    }

    /// The gradient of every node that has one, from the last node of the forward pass back to its first.
    fn backward(&mut self, first: usize, loss: usize) -> Vec<Option<usize>> {
        let mut gradients = vec![None; self.nodes.len()];
        gradients[loss] = Some(loss);
        for node in (first..=loss).rev() {
            if let Some(layer) = self.sections.iter().position(|start| *start == node + 1) {
                self.section("backward", layer);
            }
            let (Some(gradient), letters) = (gradients[node], self.nodes[node].letters) else { continue };
            let operands = self.nodes[node].operands.clone();
            for (index, &(operand, read, _)) in operands.iter().enumerate() {
                let is_constant = self.nodes[operand].letters.is_empty() || operand < INPUTS;
                let comes_twice = operands[..index].iter().any(|(earlier, _, _)| *earlier == operand);
                if is_constant || comes_twice {
                    continue;
                }
                let mut reads = vec![(gradient, letters)];
                // the derivative of a function of one value reads the value, that of a product the other factor
                let others = operands.iter().filter(|(other, _, _)| operands.len() == 1 || *other != operand);
                reads.extend(others.map(|&(other, read, _)| (other, read)));
                let part = self.product(read, &reads);
                gradients[operand] = Some(match gradients[operand] {
                    None => part,
                    Some(sum) => {
                        self.node(self.nodes[operand].letters, &[(sum, self.nodes[operand].letters), (part, self.nodes[operand].letters)])
                    }
                });
            }
        }
        gradients
    }

    /// Updates one parameter as Adam does.
    fn update(&mut self, Parameter { value, moments }: Parameter, gradient: usize, [rate, norm]: [usize; 2]) {
        let letters = self.nodes[value].letters;
        let clipped = self.node(letters, &[(gradient, letters), (norm, "")]);
        let [fading, small] = [moments[0], clipped].map(|part| self.node(letters, &[(part, letters)]));
        let first = self.node(letters, &[(fading, letters), (small, letters)]);
        let square = self.node(letters, &[(clipped, letters), (clipped, letters)]);
        let [fading, small] = [moments[1], square].map(|part| self.node(letters, &[(part, letters)]));
        let second = self.node(letters, &[(fading, letters), (small, letters)]);
        let root = self.node(letters, &[(second, letters)]);
        let epsilon = self.node("", &[]);
        let divisor = self.node(letters, &[(root, letters), (epsilon, "")]);
        let change = self.node(letters, &[(first, letters), (divisor, letters)]);
        let scaled = self.node(letters, &[(change, letters), (rate, "")]);
        let decayed = self.node(letters, &[(value, letters), (scaled, letters)]);
        for kept in [first, second, decayed] {
            self.nodes[kept].last_read = u64::MAX;
        }
    }

    /// The step as a layout problem, and the choice of the finest strategies.
    fn problem(self) -> (Problem, Vec<u32>) {
        let mut builder = ProblemBuilder::new(format!("generated-{}-{}", self.options.nodes, self.options.seed), vec![0]);
        for node in &self.nodes {
            let costs: Vec<i64> = node.strategies.iter().map(|strategy| strategy.cost).collect();
            let whole = 4 * self.elements(node.letters);
            let bytes: Vec<u64> = node.strategies.iter().map(|strategy| whole / self.pieces(strategy.result)).collect();
            let span = Span { limit: 0, start: node.time, end: node.last_read.min(self.clock) + 1 };
            let added = if node.holds_memory { builder.add_node(&costs, &[span], &bytes) } else { builder.add_node(&costs, &[], &[]) };
            added.expect("generated nodes obey the rules");
        }
        for (reader, node) in self.nodes.iter().enumerate() {
            for (index, &(operand, read, tied)) in node.operands.iter().enumerate() {
                let entry = |from: &Strategy, to: &Strategy| match to.operands[index] {
                    layout if layout == from.result => 0,
                    _ if tied => FORBIDDEN,
                    layout => self.move_cost(4 * self.elements(read), from.result, layout),
                };
                let (froms, tos) = (&self.nodes[operand].strategies, &node.strategies);
                let added = if node.backwards {
                    let table: Vec<i64> = tos.iter().flat_map(|to| froms.iter().map(move |from| entry(from, to))).collect();
                    builder.add_edge(reader as u32, operand as u32, &table)
                } else {
                    let table: Vec<i64> = froms.iter().flat_map(|from| tos.iter().map(move |to| entry(from, to))).collect();
                    builder.add_edge(operand as u32, reader as u32, &table)
                };
                added.expect("generated edges obey the rules");
            }
        }
        let mut problem = builder.finish().expect("a step's bytes are far below 2^63");
        let finest: Vec<u32> = self.nodes.iter().map(|node| node.finest as u32).collect();
        let least = |costs: &[i64]| (0..costs.len() as u32).min_by_key(|strategy| costs[*strategy as usize]).unwrap_or(0);
        let cheapest: Vec<u32> = (0..problem.nodes()).map(|node| least(problem.cost(node))).collect();
        let [lean, cheap] = [&finest, &cheapest].map(|choice| problem.peaks(choice)[0]);
        problem.limits[0] = cheap.saturating_sub((self.options.tightness * (cheap - lean) as f64) as u64);
        (problem, finest)
    }

    fn pieces(&self, layout: Layout) -> u64 {
        layout.iter().zip(&self.options.mesh).filter(|(dimension, _)| **dimension != NONE).map(|(_, devices)| devices).product()
    }

    /// What it costs to bring a tensor from one layout to another: an axis that splits no longer gathers, one that
    /// splits another dimension exchanges, and one that newly splits cuts for nothing.
    fn move_cost(&self, bytes: u64, from: Layout, to: Layout) -> i64 {
        let mut local = bytes / self.pieces(from);
        let mut cost = 0;
        for (axis, devices) in self.options.mesh.iter().enumerate() {
            match (from[axis], to[axis]) {
                (before, after) if before == after => {}
                (NONE, _) => local /= devices,
                (_, NONE) => {
                    local *= devices;
                    cost += local * (devices - 1) / devices + devices;
                }
                _ => cost += local * (devices - 1) / devices / 2 + devices,
            }
        }
        i64::try_from(cost).expect("a tensor's bytes are far below 2^63")
    }
}

/// How picks split the dimensions of something of these letters.
fn layout(picks: &[Option<char>], letters: &str) -> Layout {
    let mut layout = [NONE; MOST_AXES];
    for (axis, pick) in layout.iter_mut().zip(picks) {
        if let Some(dimension) = pick.and_then(|letter| letters.find(letter)) {
            *axis = dimension as u8;
        }
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_binds_and_can_be_kept() {
        for seed in 0..4 {
            for (tightness, tied, mesh) in [(1.0, 0.9, vec![4, 8]), (0.9, 0.0, vec![2, 16]), (0.95, 0.5, vec![2, 2, 4])] {
                let options = GenerateOptions { nodes: 700, seed, tightness, tied, mesh, ..GenerateOptions::default() };
                let (problem, choice) = generate_with_choice(&options);
                assert!(problem.is_feasible(&choice), "{options:?}");
                let most = (0..problem.nodes()).map(|node| problem.strategies(node)).max().unwrap();
                assert!((30..=40).contains(&most), "{most} strategies");
                let cheapest: Vec<u32> = (0..problem.nodes())
                    .map(|node| (0..problem.strategies(node) as u32).min_by_key(|s| problem.cost(node)[*s as usize]).unwrap())
                    .collect();
                assert!(problem.peaks(&cheapest)[0] > problem.limits[0], "{options:?}");
            }
        }
    }

    #[test]
    fn sizes_and_seeds_are_as_asked() {
        let options = GenerateOptions { nodes: 3000, ..GenerateOptions::default() };
        let problem = generate(&options);
        assert_eq!(problem.nodes(), 3000);
        assert_eq!(problem, generate(&options));
        assert_ne!(problem, generate(&GenerateOptions { seed: 1, ..options }));
        assert!(
            problem.tables() * 4 < problem.edges().len(),
            "equal layers share tables: {} of {}",
            problem.tables(),
            problem.edges().len()
        );
    }

    #[test]
    fn forbidden_entries_are_as_asked() {
        let share = |tied| {
            let problem = generate(&GenerateOptions { nodes: 1500, tied, ..GenerateOptions::default() });
            let (mut forbidden, mut entries) = (0, 0);
            for edge in problem.edges() {
                let table = problem.table(edge.table);
                forbidden += table.iter().filter(|entry| **entry >= FORBIDDEN).count();
                entries += table.len();
            }
            forbidden as f64 / entries as f64
        };
        assert_eq!(share(0.0), 0.0);
        assert!((0.25..0.4).contains(&share(0.5)) && (0.5..0.7).contains(&share(0.9)), "{} {}", share(0.5), share(0.9));
    }
}
