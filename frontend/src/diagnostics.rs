//! What is wrong with a model file, and how it is shown.

use std::fmt::{self, Write as _};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};
use partita_ir::graph::Span;

use crate::{Source, locate};

/// One error of a user: a stable code, what is wrong with the numbers, where, and what would fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code such as `partita::shape::does_not_divide`.
    pub code: &'static str,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Places in the text with a word on each, the most telling one first. Empty where the text is not at fault, as
    /// for a misspelt setting of the command line.
    pub labels: Vec<(Span, String)>,
    /// What would fix it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: Vec::new(), help: None }
    }

    pub(crate) fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push((span, text.into()));
        self
    }

    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    pub(crate) fn help_if(self, text: Option<String>) -> Self {
        match text {
            Some(text) => self.help(text),
            None => self,
        }
    }

    /// Where the error is, for sorting: errors without a place come first.
    fn position(&self) -> (u32, u32) {
        self.labels.first().map_or((0, 0), |(span, _)| (span.start + 1, span.end))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.labels.is_empty() {
            return None;
        }
        Some(Box::new(self.labels.iter().enumerate().map(|(position, (span, text))| {
            let place = SourceSpan::new((span.start as usize).into(), (span.end - span.start) as usize);
            let text = Some(text.clone()).filter(|text| !text.is_empty());
            if position == 0 { LabeledSpan::new_primary_with_span(text, place) } else { LabeledSpan::new_with_span(text, place) }
        })))
    }
}

/// A diagnostic with the text that it speaks of, its places those of that text.
#[derive(Debug)]
struct Located {
    diagnostic: Diagnostic,
    source: NamedSource<String>,
}

impl Located {
    /// Places in other files than the first are told in the help.
    fn new(diagnostic: &Diagnostic, sources: &[Source<'_>]) -> Self {
        let first = diagnostic.labels.first().and_then(|(span, _)| locate(sources, span.start));
        let source = first.map(|(source, _)| source).or(sources.first().copied()).unwrap_or(Source { name: "", text: "" });
        let (mut labels, mut elsewhere) = (Vec::new(), Vec::new());
        for (span, said) in &diagnostic.labels {
            let Some((at, start)) = locate(sources, span.start) else { continue };
            if at.name == source.name {
                labels.push((Span { start, end: start + (span.end - span.start) }, said.clone()));
            } else {
                let before = at.text.get(..start as usize).unwrap_or(at.text);
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                elsewhere.push(format!("{}:{}:{column}: {said}", at.name, before.matches('\n').count() + 1));
            }
        }
        let help: Vec<String> = elsewhere.into_iter().chain(diagnostic.help.clone()).collect();
        let help = (!help.is_empty()).then(|| help.join("\n"));
        let diagnostic = Diagnostic { labels, help, ..diagnostic.clone() };
        Self { diagnostic, source: NamedSource::new(source.name, source.text.to_owned()) }
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostic.fmt(f)
    }
}

impl std::error::Error for Located {}

impl miette::Diagnostic for Located {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.code()
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        miette::Diagnostic::help(&self.diagnostic)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.diagnostic.labels()
    }
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }
}

/// The diagnostics as people read them, one after the other with the lines of the files that they speak of.
pub fn render(sources: &[Source<'_>], diagnostics: &[Diagnostic], color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(120);
    let mut out = String::new();
    for (position, diagnostic) in diagnostics.iter().enumerate() {
        if position > 0 {
            out.push('\n');
        }
        let located = Located::new(diagnostic, sources);
        // a report that cannot be drawn is still told in words
        if handler.render_report(&mut out, &located).is_err() {
            let _ = writeln!(out, "{}: {}", diagnostic.code, diagnostic.message);
        }
    }
    out
}

/// Collects what is wrong; the same complaint about the same place is kept once, as a block is checked at each call.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    found: Vec<Diagnostic>,
}

/// A file with more errors than this is no model file; the first ones say so.
const MOST: usize = 100;

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.found.len() < MOST && !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether there is no room for more, so that looking on is of no use.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MOST
    }

    /// All of them in order of position.
    pub(crate) fn sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| (a.position(), a.code, &a.message).cmp(&(b.position(), b.code, &b.message)));
        self.found
    }
}

/// `1 axis`, `2 axes`.
pub(crate) fn plural(count: usize, word: &str) -> String {
    let (stem, ending) = match word {
        "axis" => ("ax", if count == 1 { "is" } else { "es" }),
        _ => (word, if count == 1 { "" } else { "s" }),
    };
    format!("{count} {stem}{ending}")
}

/// `a`, `b` and `c`, each in backquotes.
pub(crate) fn listed<T: fmt::Display>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The candidate nearest to `word`, if it is near enough to be what was meant: one edit in three letters.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let distance = edits(word, candidate);
        let wholly_other = distance >= candidate.chars().count();
        if distance <= allowed && !wholly_other && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or else `otherwise`.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, otherwise: impl FnOnce() -> String) -> String {
    match nearest(word, candidates) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => otherwise(),
    }
}

/// `all`, behind the candidate that was perhaps meant.
pub(crate) fn did_you_mean_of<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, all: String) -> String {
    match nearest(word, candidates) {
        Some(candidate) => format!("did you mean `{candidate}`? {all}"),
        None => all,
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // longer words are never near each other by a typing slip alone
    if a.len().abs_diff(b.len()) > 4 || a.len() > 64 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_typing_slips() {
        assert_eq!(edits("softmax", "sfotmax"), 1);
        assert_eq!(edits("gather", "gathr"), 1);
        assert_eq!(edits("abc", "xyz"), 3);
        assert_eq!(nearest("hiden", ["heads", "hidden", "head_dim"]), Some("hidden"));
        assert_eq!(nearest("k", ["q", "v"]), None);
    }
}
