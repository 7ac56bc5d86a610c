//! Groups of parameters that are trained otherwise than the rest: what the `train` section says of some names.

use partita_ir::graph::{Graph, Span};
use partita_ir::id::ValueId;
use partita_ir::train::{Group, Optimizer, Train};

use crate::diagnostics::{Diagnostic, Diagnostics, did_you_mean, listed};
use crate::syntax::{File, Name, Statement, StatementKind};

/// What is said of the parameters that one of some patterns fits.
#[derive(Debug)]
pub(crate) struct Treatment {
    pub patterns: Vec<Name>,
    pub frozen: Option<bool>,
    pub lr_factor: Option<f64>,
    pub optimizer: Option<Optimizer>,
    /// That of its optimizer, or of the one that the parameters have anyway.
    pub decay: Option<f64>,
}

/// The groups of a graph's parameters. Where several treatments speak of a parameter, each adds to those above it.
pub(crate) fn groups(treatments: &[Treatment], train: &Train, graph: &Graph, file: &File, diagnostics: &mut Diagnostics) -> Vec<Group> {
    let mut declared = Vec::new();
    weights(&file.statements, &mut declared);
    for pattern in treatments.iter().flat_map(|treatment| &treatment.patterns) {
        // a weight that these settings leave out is meant all the same
        let last = pattern.text.rsplit('.').next().unwrap_or_default();
        if !graph.params().any(|param| is_meant(pattern, graph, param)) && !declared.iter().any(|name| fits(last, name)) {
            diagnostics.push(
                Diagnostic::new("partita::train::no_such_weight", format!("no weight is called `{}`", pattern.text))
                    .label(Span { start: pattern.span.start, end: pattern.span.end }, "fits no name")
                    .help(did_you_mean(&pattern.text, declared.iter().copied(), || {
                        format!("`*` stands for any letters; weights are {}", listed(declared.iter().take(20)))
                    })),
            );
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for param in graph.params() {
        let rest = Group { params: Vec::new(), frozen: false, lr_factor: 1.0, optimizer: train.optimizer };
        let mut group = rest.clone();
        for treatment in treatments.iter().filter(|treatment| treatment.patterns.iter().any(|pattern| is_meant(pattern, graph, param))) {
            group.frozen = treatment.frozen.unwrap_or(group.frozen);
            group.lr_factor = treatment.lr_factor.unwrap_or(group.lr_factor);
            group.optimizer = treatment.optimizer.unwrap_or(group.optimizer);
            group.optimizer = treatment.decay.map_or(group.optimizer, |decay| group.optimizer.with_decay(decay));
        }
        if group == rest {
            continue;
        }
        let name = graph.value(param).name.clone();
        let same = |known: &&mut Group| Group { params: Vec::new(), ..(**known).clone() } == group;
        match groups.iter_mut().find(same) {
            Some(known) => known.params.push(name),
            None => groups.push(Group { params: vec![name], ..group }),
        }
    }
    groups
}

/// The names of the weights that statements declare, in any branch.
fn weights<'a>(statements: &'a [Statement], names: &mut Vec<&'a str>) {
    for statement in statements {
        match &statement.kind {
            StatementKind::Weight { name, trained: true, .. } if !names.contains(&name.text.as_str()) => names.push(&name.text),
            StatementKind::Block(block) => weights(&block.body, names),
            StatementKind::Repeat { body, .. } | StatementKind::For { body, .. } => weights(body, names),
            StatementKind::If { then, otherwise, .. } => {
                weights(then, names);
                weights(otherwise, names);
            }
            _ => {}
        }
    }
}

/// Whether a pattern fits a parameter: its name, the last part of that, or both behind the name of its loop.
fn is_meant(pattern: &Name, graph: &Graph, param: ValueId) -> bool {
    let value = graph.value(param);
    let last = value.name.rsplit('.').next().unwrap_or_default();
    let looped =
        value.within.map(|within| format!("{}.{}", graph.loops[usize::try_from(within.0).expect("a loop has an index")].name, value.name));
    fits(&pattern.text, &value.name) || fits(&pattern.text, last) || looped.is_some_and(|name| fits(&pattern.text, &name))
}

/// Whether a text is a pattern's, whose `*` stand for any characters.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text, holds) in [
            ("gain", "gain", true),
            ("gain", "gain1", false),
            ("gain*", "gain1", true),
            ("*", "", true),
            ("*_a", "w_a", true),
            ("*_a", "w_ab", false),
            ("layer.*.w", "layer.attention.w", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*", "abc", true),
        ] {
            assert_eq!(fits(pattern, text), holds, "{pattern} {text}");
        }
    }
}
