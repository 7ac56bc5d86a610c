//! Graph to text.

use super::lex::is_name;
use super::{SUPPLIES, formula};
use crate::axis::Role;
use crate::graph::{Class, Graph, Init, Kind, Leaf, LossTerm, Op, Repeat};
use crate::id::{AxisId, Id, OpId, ValueId};
use crate::rule::{Access, DimAccess, Rule, Term};

/// The text of a graph; it ends in a line break.
pub fn print(graph: &Graph) -> String {
    let mut printer = Printer { graph, out: String::new() };
    printer.line(0, &format!("graph {:?}", graph.name));
    printer.tables();
    printer.leaves();
    for phase in &graph.phases {
        printer.line(0, &format!("phase {} {{", phase.kind.word()));
        phase.ops.iter().for_each(|op| printer.op(1, *op));
        printer.line(0, "}");
    }
    for assign in &graph.assigns {
        printer.line(0, &format!("assign {} = {}", assign.target, assign.value));
    }
    for term in &graph.loss {
        let named = if term.name == LossTerm::MAIN && term.weight == 1.0 {
            String::new()
        } else {
            format!("{:?} = {} * ", term.name, formula::number(term.weight))
        };
        printer.line(0, &format!("loss {named}{} / {}", term.sum, term.count));
    }
    for (name, value) in &graph.reports {
        printer.line(0, &format!("report {name:?} = {value}"));
    }
    printer.out
}

struct Printer<'a> {
    graph: &'a Graph,
    out: String,
}

impl Printer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        self.out.push_str(&"  ".repeat(depth));
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn tables(&mut self) {
        let graph = self.graph;
        if !graph.axes.is_empty() {
            self.line(0, "axes {");
            for (index, axis) in graph.axes.iter().enumerate() {
                let sign = self.axis(AxisId::new(index));
                let name = if sign[1..] == axis.name { String::new() } else { format!(" {:?}", axis.name) };
                let role = if axis.role == Role::None { String::new() } else { format!(" {}", axis.role.word()) };
                self.line(1, &format!("{sign}{name} = {}{role}", axis.size));
            }
            self.line(0, "}");
        }
        if !graph.loops.is_empty() {
            self.line(0, "loops {");
            for (index, entry) in graph.loops.iter().enumerate() {
                self.line(1, &format!("loop{index} {:?} = {}", entry.name, entry.count));
            }
            self.line(0, "}");
        }
        if !graph.composites.is_empty() {
            self.line(0, "composites {");
            for (index, entry) in graph.composites.iter().enumerate() {
                let recompute = if entry.recompute { " recompute" } else { "" };
                self.line(1, &format!("composite{index} {:?}{recompute}", entry.name));
            }
            self.line(0, "}");
        }
    }

    fn leaves(&mut self) {
        let graph = self.graph;
        let mut leaves = graph.leaves(|_| true).peekable();
        if leaves.peek().is_none() {
            return;
        }
        self.line(0, "leaves {");
        for id in leaves {
            let within = graph.value(id).within.map_or(String::new(), |within| format!(" in {within}"));
            let leaf = graph.leaf(id).map_or(String::new(), leaf);
            let value = self.value(id);
            self.line(1, &format!("{value}{within} = {leaf}"));
        }
        self.line(0, "}");
    }

    /// How an axis is referred to: by its name if no other axis has it and it is made of letters, else by its number.
    fn axis(&self, id: AxisId) -> String {
        let name = self.graph.axes.get(id.index()).map_or("", |axis| &axis.name);
        let plain = name.chars().all(is_name) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let unique = || self.graph.axes.iter().filter(|axis| axis.name == name).count() == 1;
        if plain && unique() { format!("@{name}") } else { format!("@{}", id.0) }
    }

    /// Id, name and type of a value.
    fn value(&self, id: ValueId) -> String {
        let value = self.graph.value(id);
        let dims: Vec<String> = value.ty.dims.iter().map(|axis| self.axis(*axis)).collect();
        format!("{id} {:?} {}[{}]", value.name, value.ty.dtype, dims.join(", "))
    }

    fn op(&mut self, depth: usize, id: OpId) {
        let op = self.graph.op(id);
        let results: Vec<String> = op.results.iter().map(|value| self.value(*value)).collect();
        let equals = if results.is_empty() { "" } else { " = " };
        let class = if op.class == Class::Other { String::new() } else { format!(" {}", op.class.word()) };
        let composite = op.composite.map_or(String::new(), |composite| format!(" {composite}"));
        let span = op.span.map_or(String::new(), |span| format!(" at {}..{}", span.start, span.end));
        let head = format!("{id}: {}{equals}", results.join(", "));
        match &op.kind {
            Kind::Map(rule) => {
                let rule = self.rule(op, rule);
                self.line(depth, &format!("{head}map{class} {rule}{composite}{span}"));
            }
            Kind::Repeat(repeat) => {
                let header = self.repeat(repeat);
                self.line(depth, &format!("{head}repeat{class} {header}{composite}{span} {{"));
                repeat.body.iter().for_each(|inner| self.op(depth + 1, *inner));
                self.line(depth, "}");
            }
        }
    }

    fn rule(&self, op: &Op, rule: &Rule) -> String {
        let factors: Vec<String> =
            rule.factors.iter().enumerate().map(|(n, axis)| format!("{} {}", formula::factor(n), self.axis(*axis))).collect();
        let operands: Vec<String> = op.operands.iter().zip(&rule.operands).map(|(value, at)| format!("{value}{}", access(at))).collect();
        let operands = if operands.is_empty() { String::new() } else { format!(" {}", operands.join(", ")) };
        let reduce = rule.reduce.map_or(String::new(), |reduce| format!(" {}", reduce.word()));
        let (result, expr) = (access(&rule.result), formula::print(&rule.expr));
        format!("[{}]{operands} -> {result}{reduce} {expr}", factors.join(", "))
    }

    fn repeat(&self, repeat: &Repeat) -> String {
        let reversed = if repeat.reversed { " reversed" } else { "" };
        let carried: Vec<String> =
            repeat.carried.iter().map(|carried| format!("{} = {} then {}", self.value(carried.arg), carried.init, carried.next)).collect();
        let taken: Vec<String> = repeat.taken.iter().map(|slice| format!("{} = {}", self.value(slice.each), slice.whole)).collect();
        let collected: Vec<String> = repeat.collected.iter().map(|slice| slice.each.to_string()).collect();
        let list = |word: &str, entries: Vec<String>| {
            if entries.is_empty() { String::new() } else { format!(" {word} ({})", entries.join(", ")) }
        };
        let (taken, collected) = (list("taking", taken), list("collecting", collected));
        format!("{}{reversed} ({}){taken}{collected}", repeat.over, carried.join(", "))
    }
}

fn leaf(leaf: &Leaf) -> String {
    let init = |init: &Init| match init {
        Init::Constant(value) => format!("constant {}", formula::number(*value)),
        Init::Normal(std) => format!("normal {}", formula::number(*std)),
        Init::Uniform(bound) => format!("uniform {}", formula::number(*bound)),
        Init::Copy => "copy".to_owned(),
    };
    match leaf {
        Leaf::Input(source) => {
            let number = source.number().map_or(String::new(), |number| format!(" {number}"));
            format!("input {}{number}", source.word())
        }
        Leaf::Param(begin) => format!("param {}", init(begin)),
        Leaf::State { init: begin, of, slot } => {
            let of = of.map_or(String::new(), |of| format!(" of {of}"));
            format!("state {} slot {slot:?}{of}", init(begin))
        }
        Leaf::Progress(begin) => format!("progress {}", formula::number(*begin)),
        Leaf::Supplied(supplied) => {
            let word = SUPPLIES.iter().find(|row| row.0 == *supplied).map_or("", |row| row.1);
            format!("supplied {word}")
        }
        Leaf::Accumulated(of) => format!("accumulated {of}"),
    }
}

fn access(access: &Access) -> String {
    let dims: Vec<String> = access.iter().map(dim).collect();
    format!("({})", dims.join(", "))
}

/// `4*a + b - 1`
fn dim(dim: &DimAccess) -> String {
    let mut out = String::new();
    let mut add = |size: u64, negative: bool, factor: Option<usize>| {
        out.push_str(match (out.is_empty(), negative) {
            (true, true) => "-",
            (true, false) => "",
            (false, true) => " - ",
            (false, false) => " + ",
        });
        match factor {
            Some(factor) if size == 1 => out.push_str(&formula::factor(factor)),
            Some(factor) => out.push_str(&format!("{size}*{}", formula::factor(factor))),
            None => out.push_str(&size.to_string()),
        }
    };
    for Term { factor, stride } in &dim.terms {
        add(stride.unsigned_abs(), *stride < 0, Some(*factor));
    }
    if dim.offset != 0 || dim.terms.is_empty() {
        add(dim.offset.unsigned_abs(), dim.offset < 0, None);
    }
    out
}
