//! `if`: one of two bodies, chosen when the model is compiled.
//!
//! The branch that is taken is elaborated as if it stood there alone. The other one is read and no more: that its shapes
//! do not fit may be why it is not taken. What it would give to the lines behind the `if` is known all the same, so that
//! a model does not mean something under one setting and nothing under another: a name that only some branches give ends
//! with the `if`, unless it existed before.

use std::collections::BTreeMap;

use super::Elaborator;
use super::scope::{Gone, Kind, What};
use crate::diagnostics::Diagnostics;
use crate::evaluate::truth;
use crate::syntax::{Defines, Expr, Name, Statement, StatementKind};

/// What some branch gives: its name, whether every branch does, and whether it is a weight.
#[derive(Clone, Copy, Debug)]
struct Given<'a> {
    name: &'a Name,
    always: bool,
    weight: bool,
}

/// The names that statements give to the lines behind them.
fn given(statements: &[Statement]) -> BTreeMap<&str, Given<'_>> {
    let mut names: BTreeMap<&str, Given<'_>> = BTreeMap::new();
    for statement in statements {
        let each = match &statement.kind {
            StatementKind::Assign { name, .. } | StatementKind::Broken { defines: Defines::Tensor, name } => {
                vec![Given { name, always: true, weight: false }]
            }
            StatementKind::Let { name, .. } => vec![Given { name, always: true, weight: false }],
            StatementKind::Weight { name, .. } => vec![Given { name, always: true, weight: true }],
            StatementKind::If { then, otherwise, .. } => either(then, otherwise),
            StatementKind::Scan(scan) => {
                let emitted =
                    scan.body.iter().filter_map(|inner| if let StatementKind::Emit { name, .. } = &inner.kind { Some(name) } else { None });
                let names = scan.carried.iter().map(|(name, ..)| name).chain(emitted);
                names.map(|name| Given { name, always: true, weight: false }).collect()
            }
            _ => Vec::new(),
        };
        for given in each {
            let known = names.entry(&given.name.text).or_insert(given);
            (known.always, known.weight) = (known.always | given.always, known.weight | given.weight);
        }
    }
    names
}

/// The names that one branch or the other gives.
fn either<'a>(then: &'a [Statement], otherwise: &'a [Statement]) -> Vec<Given<'a>> {
    let (mut names, others) = (given(then), given(otherwise));
    for (name, given) in &mut names {
        given.always &= others.get(name).is_some_and(|other| other.always);
    }
    for (name, other) in others {
        names.entry(name).or_insert(Given { always: false, ..other }).weight |= other.weight;
    }
    names.into_values().collect()
}

impl<'a> Elaborator<'a> {
    /// The value of a condition.
    pub(super) fn truth(&mut self, condition: &Expr) -> Option<bool> {
        self.reading(|this, diagnostics| truth(condition, this, diagnostics))
    }

    /// The statements of a body with each `if` replaced by what it comes to. Nothing is reported: that is done where the
    /// body is elaborated.
    pub(super) fn taken(&self, body: &'a [Statement]) -> Vec<&'a Statement> {
        let branch = |statement: &'a Statement| match &statement.kind {
            StatementKind::If { condition, then, otherwise } => match truth(condition, self, &mut Diagnostics::default()) {
                Some(true) => self.taken(then),
                Some(false) => self.taken(otherwise),
                None => Vec::new(),
            },
            _ => vec![statement],
        };
        body.iter().flat_map(branch).collect()
    }

    /// Takes the names of the inputs and weights of a file, those of all branches: what a block's weights are called does
    /// not depend on what is chosen.
    pub(super) fn reserve_leaves(&mut self, statements: &[Statement]) {
        for statement in statements {
            match &statement.kind {
                StatementKind::Input { name, .. } | StatementKind::Weight { name, .. } => {
                    self.leaves.insert(name.text.clone());
                }
                StatementKind::If { then, otherwise, .. } => [then, otherwise].into_iter().for_each(|body| self.reserve_leaves(body)),
                _ => {}
            }
        }
    }

    /// An `if`: the branch that is taken, and what becomes of the names that both would give.
    pub(super) fn branches(&mut self, condition: &'a Expr, then: &'a [Statement], otherwise: &'a [Statement]) {
        let before = |name: &Name| self.frame().names.get(&name.text).map(|binding| binding.kind);
        let given: Vec<_> = either(then, otherwise).into_iter().map(|given| (given, before(given.name))).collect();
        let chosen = self.truth(condition);
        let body = match chosen {
            Some(true) => then,
            Some(false) => otherwise,
            None => &[],
        };
        self.nested(condition.span, |this| {
            body.iter().for_each(|statement| this.statement(statement));
            Some(())
        });
        for (Given { name, always, weight }, before) in given {
            if chosen.is_none() && before.is_none_or(|kind| kind == Kind::Variable) {
                self.bind(&name.text, What::Broken, Kind::Variable, name.span);
            } else if before.is_none() && !always {
                let frame = self.frame_mut();
                frame.names.remove(&name.text);
                frame.gone.insert(name.text.clone(), (name.span, Gone::Branch { weight }));
            }
        }
    }
}
