//! Expressions. Arithmetic is gathered until a tensor is needed, so that `a * b + c` is one operator.

use partita_ir::formula::x;
use partita_ir::graph::{Class, Def, Span};
use partita_ir::id::{AxisId, Id, ValueId};
use partita_ir::library::Pointwise;
use partita_ir::rule::{Access, DimAccess, Reduce, Rule};
use partita_ir::scalar::{Binary, Expr as Scalar, Node, NodeId, Unary};

use super::scope::{Gone, What};
use super::{DEEPEST, Elaborator};
use crate::diagnostics::Diagnostic;
use crate::evaluate::{self, Found, Known, Num, Scope, not_a_number, unknown_name};
use crate::operators::{self, Form, Operator};
use crate::syntax::{BinaryOp, Call, Expr, ExprKind, Move};

/// Most nodes of one operator's expression.
const MOST_NODES: usize = 1024;

/// Arithmetic that is not an operator yet. Its `Index` nodes name axes; they name factors once it is one.
#[derive(Debug, Default)]
pub(super) struct Fusion {
    expr: Scalar,
    /// The operands, each with the axes that it is read along.
    operands: Vec<(ValueId, Vec<AxisId>)>,
}

/// A part of a fusion and the axes that it varies over.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub node: NodeId,
    pub dims: Vec<AxisId>,
}

/// The value of an expression at one element.
#[derive(Clone, Debug)]
pub(super) enum Element {
    Number(Num),
    Piece(Piece),
}

impl Fusion {
    pub(super) fn operand(&mut self, value: ValueId, dims: Vec<AxisId>) -> Piece {
        let known = self.operands.iter().position(|known| known.0 == value && known.1 == dims);
        let position = known.unwrap_or_else(|| {
            self.operands.push((value, dims.clone()));
            self.operands.len() - 1
        });
        Piece { node: self.expr.push(Node::Operand(position)), dims }
    }

    /// A number that varies over nothing.
    pub(super) fn constant(&mut self, value: Num) -> Piece {
        Piece { node: self.expr.literal(value.to_f64()), dims: Vec::new() }
    }

    /// A piece times a number.
    pub(super) fn scaled(&mut self, piece: &Piece, factor: f64) -> Piece {
        let factor = self.expr.literal(factor);
        Piece { node: self.expr.binary(Binary::Mul, piece.node, factor), dims: piece.dims.clone() }
    }

    /// `value`, with a derivative of its own by those operands that one is given for.
    pub(super) fn sloped(&mut self, value: &Piece, operands: &[(Piece, Option<Piece>)]) -> Piece {
        let zero = self.expr.literal(0.0);
        let held: Vec<(usize, NodeId)> = operands
            .iter()
            .filter(|(_, slope)| slope.is_some())
            .filter_map(|(operand, _)| match self.expr.nodes[operand.node as usize] {
                Node::Operand(n) => Some((n, self.expr.binary(Binary::Sloped, operand.node, zero))),
                _ => None,
            })
            .collect();
        let mut terms: Vec<NodeId> = Vec::new();
        for (operand, slope) in operands {
            let Some(slope) = slope else { continue };
            let slope = self.expr.binary(Binary::Sloped, slope.node, zero);
            terms.push(self.expr.binary(Binary::Mul, slope, operand.node));
        }
        if held.len() < operands.len() {
            let whole = Scalar { nodes: self.expr.nodes.clone(), root: value.node }.pruned();
            let mut operand = |expr: &mut Scalar, n: usize| {
                held.iter().find(|(known, _)| *known == n).map_or_else(|| expr.push(Node::Operand(n)), |(_, held)| *held)
            };
            terms.push(self.expr.graft(&whole, &mut operand, &|axis| axis));
        }
        let slope = terms.into_iter().reduce(|sum, term| self.expr.binary(Binary::Add, sum, term)).unwrap_or(zero);
        Piece { node: self.expr.binary(Binary::Sloped, value.node, slope), dims: value.dims.clone() }
    }

    fn piece(&mut self, element: &Element) -> Piece {
        match element {
            Element::Number(value) => self.constant(*value),
            Element::Piece(piece) => piece.clone(),
        }
    }

    /// What a piece computes, with only the operands that it reads. Indices still name axes.
    pub(super) fn finish(&self, piece: &Piece) -> Pointwise {
        let part = Scalar { nodes: self.expr.nodes.clone(), root: piece.node }.pruned();
        let mut operands: Vec<(ValueId, Vec<AxisId>)> = Vec::new();
        let mut expr = Scalar::default();
        let mut operand = |expr: &mut Scalar, n: usize| {
            let read = &self.operands[n];
            let position = operands.iter().position(|known| known == read).unwrap_or_else(|| {
                operands.push(read.clone());
                operands.len() - 1
            });
            expr.push(Node::Operand(position))
        };
        expr.root = expr.graft(&part, &mut operand, &|axis| axis);
        Pointwise { expr, operands }
    }

    /// The operand that a piece is, if it is nothing but one.
    pub(super) fn operand_of(&self, piece: &Piece) -> Option<ValueId> {
        match self.expr.nodes[piece.node as usize] {
            Node::Operand(n) => Some(self.operands[n].0),
            _ => None,
        }
    }
}

/// The axes of a result: those of an operand that has them all, else `a`'s first.
fn union(a: &[AxisId], b: &[AxisId]) -> Vec<AxisId> {
    if b.len() > a.len() && a.iter().all(|axis| b.contains(axis)) {
        return b.to_vec();
    }
    let mut dims = a.to_vec();
    dims.extend(b.iter().filter(|axis| !a.contains(axis)));
    dims
}

impl<'a> Elaborator<'a> {
    /// The tensor that an expression is, as an operator called `name` if it is none yet.
    pub(super) fn tensor(&mut self, expr: &'a Expr, name: &str) -> Option<ValueId> {
        match &expr.kind {
            // these are tensors without any arithmetic around them
            ExprKind::Call(call) if !is_scalar(call) => return self.nested(expr.span, |this| this.call(call, expr.span, name)),
            ExprKind::Bracket(base, moves) => return self.nested(expr.span, |this| this.moves(base, moves, name)),
            _ => {}
        }
        let mut fusion = Fusion::default();
        let sides = match &expr.kind {
            ExprKind::Binary(BinaryOp::Add, left, right) => {
                let sides = (self.element(&mut fusion, left), self.element(&mut fusion, right));
                Some((left, sides.0?, right, sides.1?))
            }
            _ => None,
        };
        if let Some((left_expr, Element::Piece(left), right_expr, Element::Piece(right))) = &sides
            && self.is_residual(&fusion, left_expr, left, right_expr, right)
        {
            self.builder.span = Some(left_expr.span);
            let stream = self.emit(&fusion, left, None, name);
            self.builder.span = Some(right_expr.span);
            let branch = self.emit(&fusion, right, None, "branch");
            self.builder.span = Some(expr.span);
            let dims = self.builder.dims(stream);
            let sum = Scalar::sum(2);
            return Some(self.builder.classed(Class::Residual, |b| b.map(name, &[stream, branch], &dims, None, sum)));
        }
        let element = match sides {
            Some((left_expr, left, right_expr, right)) => {
                self.binary(&mut fusion, BinaryOp::Add, (left, left_expr), (right, right_expr), expr.span)?
            }
            None => self.element(&mut fusion, expr)?,
        };
        match element {
            Element::Number(value) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::name::not_a_tensor", "a tensor is needed here, and this is a number")
                        .label(expr.span, format!("the number {value}")),
                );
                None
            }
            Element::Piece(piece) => {
                if !self.fits(&piece.dims, expr.span) {
                    return None;
                }
                self.builder.span = Some(expr.span);
                Some(self.emit(&fusion, &piece, None, name))
            }
        }
    }

    /// Whether a sum is that of a residual stream, which has a name, and a branch: both of the same axes and computed
    /// from the data. It stays an operator of its own, which pins and layouts can speak of.
    fn is_residual(&self, fusion: &Fusion, left_expr: &Expr, left: &Piece, right_expr: &Expr, right: &Piece) -> bool {
        let same = left.dims.len() >= 2 && left.dims.len() == right.dims.len() && left.dims.iter().all(|axis| right.dims.contains(axis));
        let computed =
            |piece: &Piece| fusion.operand_of(piece).is_some_and(|value| !matches!(self.builder.graph.value(value).def, Def::Leaf(_)));
        let stream = |expr: &Expr, piece: &Piece| matches!(expr.kind, ExprKind::Name(_)) && computed(piece);
        // a branch that is a value already costs no operator more on the left
        let branch = |piece: &Piece| fusion.operand_of(piece).is_none() || computed(piece);
        same && ((stream(left_expr, left) && branch(right)) || (stream(right_expr, right) && computed(left)))
    }

    /// Runs `inner` one level deeper, or reports that it is too deep.
    pub(super) fn nested<T>(&mut self, span: Span, inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= DEEPEST {
            self.diagnostics.push(
                Diagnostic::new("partita::syntax::too_deep", format!("calls and expressions are nested more than {DEEPEST} deep"))
                    .label(span, "here"),
            );
            return None;
        }
        self.depth += 1;
        let out = inner(self);
        self.depth -= 1;
        out
    }

    /// Adds an expression to a fusion.
    pub(super) fn element(&mut self, fusion: &mut Fusion, expr: &'a Expr) -> Option<Element> {
        if !self.step(expr.span) {
            return None;
        }
        if fusion.expr.nodes.len() > MOST_NODES {
            self.diagnostics.push(
                Diagnostic::new("partita::size::too_large", format!("this expression has more than {MOST_NODES} parts"))
                    .label(expr.span, "from here on")
                    .help("give a part of it a name on a line of its own"),
            );
            return None;
        }
        self.nested(expr.span, |this| this.element_of(fusion, expr))
    }

    fn element_of(&mut self, fusion: &mut Fusion, expr: &'a Expr) -> Option<Element> {
        match &expr.kind {
            ExprKind::Number(text) => evaluate::literal(text, expr.span, self.diagnostics).map(Element::Number),
            ExprKind::Name(name) => self.named(fusion, name, expr.span),
            ExprKind::Truth(_) | ExprKind::Logic(..) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::name::not_a_number", "this is true or false; a tensor or a number is needed here")
                        .label(expr.span, "a condition")
                        .help("conditions stand behind `if`; comparisons of elements give 0 or 1: `a * b` is 1 where both hold, `max(a, b)` where one does, `1 - a` where it does not"),
                );
                None
            }
            ExprKind::Index(axis) => {
                let name = axis;
                let axis = self.axis(name)?;
                if self.scanned == Some(axis) {
                    self.diagnostics.push(
                        Diagnostic::new(
                            "partita::scan::index",
                            format!("a scan along `{}` does not know the number of its entry", name.text),
                        )
                        .label(name.span, "the axis of the scan")
                        .help(format!("make a tensor of positions before it, such as `place = 1 * index[{}]`, and read that", name.text)),
                    );
                    return None;
                }
                Some(Element::Piece(Piece { node: fusion.expr.push(Node::Index(axis.index())), dims: vec![axis] }))
            }
            ExprKind::Negate(inner) => match self.element(fusion, inner)? {
                Element::Number(value) => Some(Element::Number(value.negate())),
                Element::Piece(piece) => {
                    let piece = self.floats(fusion, piece, inner.span)?;
                    Some(Element::Piece(Piece { node: fusion.expr.unary(Unary::Neg, piece.node), dims: piece.dims }))
                }
            },
            ExprKind::Binary(op, left_expr, right_expr) => {
                // both sides are looked at, so that both are reported
                let (left, right) = (self.element(fusion, left_expr), self.element(fusion, right_expr));
                self.binary(fusion, *op, (left?, left_expr), (right?, right_expr), expr.span)
            }
            ExprKind::Call(call) if is_scalar(call) => self.scalar_call(fusion, call, expr.span),
            ExprKind::Call(call) => {
                let value = self.call(call, expr.span, &call.name.text)?;
                let dims = self.builder.dims(value);
                Some(Element::Piece(fusion.operand(value, dims)))
            }
            ExprKind::Bracket(base, moves) => {
                if let Some(value) = self.integers(base)
                    && moves.iter().all(Move::is_rename)
                {
                    let dims = self.renamed(value, base, moves)?;
                    return Some(Element::Piece(fusion.operand(value, dims)));
                }
                let value = self.moves(base, moves, "moved")?;
                let dims = self.builder.dims(value);
                Some(Element::Piece(fusion.operand(value, dims)))
            }
        }
    }

    fn named(&mut self, fusion: &mut Fusion, name: &str, span: Span) -> Option<Element> {
        match self.frame().names.get(name).map(|binding| &binding.what) {
            Some(What::Tensor(value)) => {
                let value = *value;
                let dims = self.builder.dims(value);
                return Some(Element::Piece(fusion.operand(value, dims)));
            }
            Some(What::Known(Known::Number(value))) => return Some(Element::Number(*value)),
            Some(What::Broken) => return None,
            _ => {}
        }
        let diagnostic = match self.find(name) {
            Found::Known(Known::Number(value)) => return Some(Element::Number(value)),
            Found::Known(value) => self.switch(name, &value, span),
            Found::Broken | Found::Tensor(_) => return None,
            found => match self.elsewhere(name) {
                Some((place, text, help)) => Diagnostic::new("partita::name::unknown", format!("nothing is named `{name}` here"))
                    .label(span, "unknown name")
                    .label(place, text)
                    .help(help),
                None => {
                    let known = self.names();
                    unknown_name(name, span, found, &known)
                }
            },
        };
        self.diagnostics.push(diagnostic);
        None
    }

    /// A report of a switch where a number or tensor is needed.
    fn switch(&self, name: &str, value: &Known, span: Span) -> Diagnostic {
        let diagnostic = not_a_number(value, span);
        match self.frame().gone.get(name) {
            Some((given, Gone::Branch { .. })) => diagnostic.label(*given, "a tensor of its name, not given in every branch"),
            _ => diagnostic,
        }
    }

    fn binary(
        &mut self,
        fusion: &mut Fusion,
        op: BinaryOp,
        left: (Element, &Expr),
        right: (Element, &Expr),
        span: Span,
    ) -> Option<Element> {
        if let (Element::Number(a), Element::Number(b)) = (&left.0, &right.0) {
            return evaluate::binary(op, *a, *b, span, self.diagnostics).map(Element::Number);
        }
        if let (BinaryOp::Div, Element::Number(b)) = (op, &right.0)
            && b.to_f64() == 0.0
        {
            self.diagnostics
                .push(Diagnostic::new("partita::number::division_by_zero", "a tensor is divided by zero").label(right.1.span, "this is 0"));
            return None;
        }
        let (mut a, mut b) = (fusion.piece(&left.0), fusion.piece(&right.0));
        if !op.compares() {
            let floats = (self.floats(fusion, a, left.1.span), self.floats(fusion, b, right.1.span));
            (a, b) = (floats.0?, floats.1?);
        }
        let dims = union(&a.dims, &b.dims);
        let (scalar, swapped) = op.scalar();
        let (first, second) = if swapped { (b.node, a.node) } else { (a.node, b.node) };
        Some(Element::Piece(Piece { node: fusion.expr.binary(scalar, first, second), dims }))
    }

    /// The piece, unless it is a tensor of integers, which is reported.
    pub(super) fn floats(&mut self, fusion: &Fusion, piece: Piece, span: Span) -> Option<Piece> {
        let Some(value) = fusion.operand_of(&piece) else { return Some(piece) };
        if self.is_float(value, span) { Some(piece) } else { None }
    }

    /// The tensor of integers that a name stands for.
    pub(super) fn integers(&self, expr: &Expr) -> Option<ValueId> {
        let ExprKind::Name(name) = &expr.kind else { return None };
        let Some(What::Tensor(value)) = self.frame().names.get(name).map(|binding| &binding.what) else { return None };
        (!self.builder.graph.value(*value).ty.dtype.is_float()).then_some(*value)
    }

    /// Whether a tensor has floating-point elements; a report if not.
    pub(super) fn is_float(&mut self, value: ValueId, span: Span) -> bool {
        let value = self.builder.graph.value(value);
        let floats = value.ty.dtype.is_float();
        if !floats {
            let name = value.name.clone();
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::dtype::integers",
                    format!("`{name}` holds integers, which name things and are not computed with"),
                )
                .label(span, format!("elements are of type {}", value.ty.dtype))
                .help(
                    "integers are indices of `gather`, targets of `cross_entropy`, and may be compared, as in `where(tokens == 0, a, b)`",
                ),
            );
        }
        floats
    }

    /// A call of a function that works element by element.
    fn scalar_call(&mut self, fusion: &mut Fusion, call: &'a Call, span: Span) -> Option<Element> {
        let row = operators::scalar(&call.name.text).expect("the caller found it");
        let found: Vec<Option<Element>> = call.arguments.iter().map(|argument| self.element(fusion, &argument.value)).collect();
        if let Some(named) = call.arguments.iter().find_map(|argument| argument.name.as_ref()) {
            self.unknown_option(row, named);
            return None;
        }
        if found.len() != row.arguments.len() {
            self.diagnostics.push(operators::wrong_arguments(row, found.len(), span));
            return None;
        }
        let elements: Vec<Element> = found.into_iter().collect::<Option<_>>()?;
        let numbers: Option<Vec<Num>> =
            elements.iter().map(|element| if let Element::Number(value) = element { Some(*value) } else { None }).collect();
        if let Some(numbers) = numbers {
            return evaluate::function(row.form, &numbers, span, self.diagnostics).map(Element::Number);
        }
        let mut pieces = Vec::new();
        for (element, argument) in elements.iter().zip(&call.arguments) {
            let piece = fusion.piece(element);
            pieces.push(self.floats(fusion, piece, argument.value.span)?);
        }
        let dims = pieces.iter().fold(Vec::new(), |dims, piece| union(&dims, &piece.dims));
        let nodes: Vec<NodeId> = pieces.iter().map(|piece| piece.node).collect();
        Some(Element::Piece(Piece { node: apply(&mut fusion.expr, row, &nodes), dims }))
    }

    /// The operator of a piece: the value of a bare operand, else a new one. With `fold`, axes that are folded.
    pub(super) fn emit(&mut self, fusion: &Fusion, piece: &Piece, fold: Option<(Reduce, &[AxisId])>, name: &str) -> ValueId {
        if let (Some(value), None) = (fusion.operand_of(piece), fold)
            && self.builder.dims(value) == piece.dims
        {
            return value;
        }
        let folded = fold.map_or(&[] as &[AxisId], |(_, axes)| axes);
        let dims: Vec<AxisId> = piece.dims.iter().copied().filter(|axis| !folded.contains(axis)).collect();
        let mut factors = dims.clone();
        factors.extend_from_slice(folded);
        let factor = |axis: AxisId| factors.iter().position(|known| *known == axis).expect("a piece has the axes of its operands");
        let part = fusion.finish(piece);
        let mut expr = Scalar::default();
        expr.root = expr.graft(&part.expr, &mut |expr, n| expr.push(Node::Operand(n)), &|axis| factor(AxisId::new(axis)));
        let access = |axes: &Vec<AxisId>| axes.iter().map(|axis| DimAccess::factor(factor(*axis))).collect();
        let accesses: Vec<Access> = part.operands.iter().map(|(_, axes)| access(axes)).collect();
        let operands: Vec<ValueId> = part.operands.iter().map(|(value, _)| *value).collect();
        // a rule reads every factor: the sum of a constant counts those points that exist, which are all
        for folded in dims.len()..factors.len() {
            if !accesses.iter().any(|access| Rule::factors_of(access).any(|read| read == folded)) {
                let (zero, one, index) = (expr.literal(0.0), expr.literal(1.0), expr.push(Node::Index(folded)));
                let exists = expr.binary(Binary::Le, zero, index);
                let other = if expr.root == zero { one } else { zero };
                expr.root = expr.select(exists, expr.root, other);
            }
        }
        let expr = expr.pruned();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let reduce = fold.map(|(reduce, _)| reduce).filter(|_| !folded.is_empty());
        let rule = Rule { factors, operands: accesses, result, reduce, expr };
        self.builder.rule(name, rule, &operands, &dims)
    }
}

/// Whether a call is a function that works element by element.
fn is_scalar(call: &Call) -> bool {
    call.axes.is_none() && operators::scalar(&call.name.text).is_some()
}

/// Adds a function of the table to an expression.
fn apply(expr: &mut Scalar, row: &Operator, arguments: &[NodeId]) -> NodeId {
    match (row.form, arguments) {
        (Form::Unary(op), [a]) => expr.unary(op, *a),
        (Form::Binary(op), [a, b]) => expr.binary(op, *a, *b),
        (Form::Where, [c, a, b]) => expr.select(*c, *a, *b),
        (Form::Function(function), [a]) => {
            let a = *a;
            expr.graft(&function(x(0)).expr(), &mut |_, _| a, &|factor| factor)
        }
        (Form::Function2(function), [a, b]) => {
            let both = [*a, *b];
            expr.graft(&function(x(0), x(1)).expr(), &mut |_, n| both[n], &|factor| factor)
        }
        _ => unreachable!("`{}` has no scalar form", row.name),
    }
}
