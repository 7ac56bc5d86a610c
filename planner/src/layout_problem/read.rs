//! Reading a layout problem: JSON as the ASPLOS 2025 contest wrote it, compressed by gzip or not.
//!
//! ```json
//! {"problem": {
//!   "name": "example",
//!   "nodes": {"intervals": [[0, 5], [2, 2]], "costs": [[15, 55], [65, 75, 85]], "usages": [[10, 15], [5, 5, 5]]},
//!   "edges": {"nodes": [[0, 1]], "costs": [[0, 7, 1000000000000000000, 7, 0, 7]]},
//!   "usage_limit": 50}}
//! ```
//!
//! Per node: a half-open interval of time, the cost of each strategy, and the bytes that each strategy holds during the
//! interval. Per edge: its two nodes, and the cost of each pair of strategies, those of the second node running
//! fastest. Keys come in any order and unknown ones are skipped. `name` may be absent. Without `usage_limit` no memory
//! is limited, and the intervals and usages are checked and forgotten. Numbers are whole, also where they are written
//! like `1e18`; costs of 10^18 and more mean forbidden.
//!
//! An extension for nodes that hold memory several times, or of several limits, takes the place of `intervals`,
//! `usages` and `usage_limit`, which may then be absent: for each node a list of spans, each
//! `[limit, start, end, [bytes per strategy]]`, a limit being an index into `limits`.
//!
//! ```json
//! {"problem": {
//!   "nodes": {"costs": [[15, 55], [65, 75, 85]]},
//!   "edges": {"nodes": [], "costs": []},
//!   "holds": {"limits": [50, 8], "spans": [[[0, 0, 5, [10, 15]], [1, 3, 4, [1, 0]]], []]}}}
//! ```

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use thiserror::Error;

use super::json::{Json, Result};
use super::problem::{FORBIDDEN, Problem, ProblemBuilder, ProblemError, Span, check_costs};

/// The longest text that is read, in bytes. Indices below it fit 32 bits, and a small file that unpacks to a huge text
/// does not exhaust the memory.
const LONGEST_TEXT: u64 = 1 << 32;

/// Deflate shrinks nothing further than to one part in so many.
const BEST_COMPRESSION: usize = 1032;

const SHAPE: &str = "a problem has `nodes` with `costs`, `intervals` and `usages`, and `edges` with `nodes` and `costs`";
const HOLDS_SHAPE: &str = "`holds` has `limits` and `spans`, and a span is `[limit, start, end, [bytes per strategy]]`";

const GZIP_MAGIC: &[u8] = &[0x1F, 0x8B];

/// The first thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.shown())]
pub struct ReadError {
    /// The file's name, empty if the text came from elsewhere.
    pub file: String,
    /// The place in the problem, such as `problem.edges.costs[17][3]`; empty if it is the whole file.
    pub path: String,
    /// Stable code such as `partita::layout_problem::truncated`.
    pub code: &'static str,
    /// What is wrong, with the numbers.
    pub message: String,
    /// What would fix it, empty where the message says it.
    pub help: String,
}

impl ReadError {
    pub(super) fn new(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { file: String::new(), path: String::new(), code, message: message.into(), help: help.into() }
    }

    /// The same error seen from the list in which it happened at `index`.
    #[cold]
    pub(super) fn within_index(self, index: usize) -> Self {
        self.within_key(&format!("[{index}]"))
    }

    /// The same error seen from the object in which it happened at `key`.
    #[cold]
    pub(super) fn within_key(mut self, key: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{dot}{}", self.path);
        self
    }

    fn shown(&self) -> String {
        let places = [&self.file, &self.path].into_iter().filter(|place| !place.is_empty());
        let mut text: String = places.map(|place| format!("{place}: ")).collect();
        text += &format!("{} ({})", self.message, self.code);
        if !self.help.is_empty() {
            text += &format!("\n  help: {}", self.help);
        }
        text
    }
}

impl Problem {
    /// Reads a file, compressed by gzip or not, whatever its name.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = |error: ReadError| ReadError { file: path.display().to_string(), ..error };
        let file = File::open(path).map_err(|error| named(io_error(&error)))?;
        Self::from_reader(file).map_err(named)
    }

    /// Reads all that a reader gives, compressed by gzip or not.
    pub fn from_reader(reader: impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        reader.take(LONGEST_TEXT).read_to_end(&mut bytes).map_err(|error| io_error(&error))?;
        if !bytes.starts_with(GZIP_MAGIC) {
            return parse(&bytes);
        }
        let text = unpack(&bytes)?;
        drop(bytes);
        parse(&text)
    }

    /// Reads a text, compressed by gzip or not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(GZIP_MAGIC) { parse(&unpack(bytes)?) } else { parse(bytes) }
    }
}

fn io_error(error: &std::io::Error) -> ReadError {
    ReadError::new("partita::layout_problem::io", format!("cannot be read: {error}"), "")
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    // the file ends with the length of the text by its own word; without that room, reading makes room as it goes
    if let Some(length) = bytes.last_chunk() {
        text.try_reserve((u32::from_le_bytes(*length) as usize).min(bytes.len().saturating_mul(BEST_COMPRESSION))).ok();
    }
    match MultiGzDecoder::new(bytes).take(LONGEST_TEXT).read_to_end(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let message = format!("the compressed text is damaged after its first {} bytes: {error}", text.len());
            let help = "the file is not complete or not gzip: write or download it again";
            Err(ReadError::new("partita::layout_problem::compression", message, help))
        }
    }
}

/// Lists of numbers, one after the other: list i is `first[i]..first[i + 1]` in `values`.
struct Lists<T> {
    first: Vec<usize>,
    values: Vec<T>,
}

impl<T> Lists<T> {
    fn new() -> Self {
        Self { first: vec![0], values: Vec::new() }
    }

    fn len(&self) -> usize {
        self.first.len() - 1
    }

    fn range(&self, list: usize) -> Range<usize> {
        self.first[list]..self.first[list + 1]
    }

    fn list(&self, list: usize) -> &[T] {
        &self.values[self.range(list)]
    }

    /// Ends the list of the values pushed since the last one.
    fn close(&mut self) {
        self.first.push(self.values.len());
    }
}

/// A span whose limit has not been looked at.
struct RawSpan {
    limit: u64,
    start: u64,
    end: u64,
}

struct Holds {
    limits: Vec<u64>,
    spans: Lists<RawSpan>,
    /// One list for each span of all nodes.
    bytes: Lists<u64>,
}

/// What the text says, key by key.
#[derive(Default)]
struct Raw {
    name: Option<String>,
    usage_limit: Option<u64>,
    costs: Option<Lists<i64>>,
    intervals: Option<Vec<[u64; 2]>>,
    usages: Option<Lists<u64>>,
    ends: Option<Vec<[u64; 2]>>,
    /// The builder's list of entries for each edge.
    contents: Option<Vec<u32>>,
    holds: Option<Holds>,
}

fn parse(text: &[u8]) -> Result<Problem> {
    if text.len() as u64 >= LONGEST_TEXT {
        return Err(ReadError::new("partita::layout_problem::too_long", format!("the text has {LONGEST_TEXT} bytes or more"), ""));
    }
    let mut json = Json::new(text);
    let mut builder = ProblemBuilder::new("", Vec::new());
    let mut raw = None;
    json.object("an object with the key `problem`", |json, key| match key {
        "problem" => put(&mut raw, || read_problem(json, &mut builder)),
        _ => Ok(false),
    })?;
    json.end()?;
    assemble(required(raw, "problem", SHAPE)?, builder)
}

/// Reads the value of a key that may come once.
fn put<T>(slot: &mut Option<T>, read: impl FnOnce() -> Result<T>) -> Result<bool> {
    if slot.is_some() {
        return Err(ReadError::new("partita::layout_problem::duplicate_key", "the key comes twice", "leave one out"));
    }
    *slot = Some(read()?);
    Ok(true)
}

fn required<T>(value: Option<T>, path: &str, help: &str) -> Result<T> {
    value.ok_or_else(|| ReadError::new("partita::layout_problem::missing_key", "the key is missing", help).within_key(path))
}

fn read_problem(json: &mut Json<'_>, builder: &mut ProblemBuilder) -> Result<Raw> {
    let mut raw = Raw::default();
    let (mut nodes, mut edges) = (None, None);
    json.object("an object with `nodes` and `edges`", |json, key| match key {
        "name" => put(&mut raw.name, || json.string("a text in quotes")),
        "usage_limit" => put(&mut raw.usage_limit, || amount(json, "a number of bytes (leave the key out for no limit)")),
        "holds" => put(&mut raw.holds, || read_holds(json)),
        "nodes" => put(&mut nodes, || {
            json.object("an object with `costs`, `intervals` and `usages`", |json, key| match key {
                "costs" => put(&mut raw.costs, || lists(json, cost)),
                "intervals" => put(&mut raw.intervals, || pairs(json, "an interval `[start, end]`")),
                "usages" => put(&mut raw.usages, || lists(json, |json| amount(json, "a number of bytes"))),
                _ => Ok(false),
            })
        }),
        "edges" => put(&mut edges, || {
            json.object("an object with `nodes` and `costs`", |json, key| match key {
                "nodes" => put(&mut raw.ends, || pairs(json, "an edge `[first node, second node]`")),
                "costs" => put(&mut raw.contents, || read_tables(json, builder)),
                _ => Ok(false),
            })
        }),
        _ => Ok(false),
    })?;
    required(nodes, "nodes", SHAPE)?;
    required(edges, "edges", SHAPE)?;
    Ok(raw)
}

fn read_tables(json: &mut Json<'_>, builder: &mut ProblemBuilder) -> Result<Vec<u32>> {
    let mut contents = Vec::new();
    json.list("a list of tables", |json, _| {
        json.list("a list of costs", |json, _| {
            builder.push_entry(cost(json)?);
            Ok(())
        })?;
        contents.push(builder.close_content());
        Ok(())
    })?;
    Ok(contents)
}

fn read_holds(json: &mut Json<'_>) -> Result<Holds> {
    let (mut limits, mut spans) = (None, None);
    let mut bytes = Lists::new();
    json.object("an object with `limits` and `spans`", |json, key| match key {
        "limits" => put(&mut limits, || {
            let mut limits = Vec::new();
            json.list("a list of bytes", |json, _| {
                limits.push(amount(json, "a number of bytes")?);
                Ok(())
            })?;
            Ok(limits)
        }),
        "spans" => put(&mut spans, || {
            let mut spans = Lists::new();
            json.list("a list of lists of spans", |json, _| {
                json.list("a list of spans", |json, _| {
                    spans.values.push(read_span(json, &mut bytes)?);
                    Ok(())
                })?;
                spans.close();
                Ok(())
            })?;
            Ok(spans)
        }),
        _ => Ok(false),
    })?;
    Ok(Holds { limits: required(limits, "limits", HOLDS_SHAPE)?, spans: required(spans, "spans", HOLDS_SHAPE)?, bytes })
}

fn read_span(json: &mut Json<'_>, bytes: &mut Lists<u64>) -> Result<RawSpan> {
    let what = "a span `[limit, start, end, [bytes per strategy]]`";
    let mut numbers = [0; 3];
    let length = json.list(what, |json, index| {
        if index < 3 {
            numbers[index] = amount(json, ["the index of a limit", "a time", "a time"][index])?;
        } else if index == 3 {
            json.list("a list of bytes per strategy", |json, _| {
                bytes.values.push(amount(json, "a number of bytes")?);
                Ok(())
            })?;
        } else {
            return Err(wrong_length(format!("more than 4 entries are no {}", &what[2..])));
        }
        Ok(())
    })?;
    if length != 4 {
        return Err(wrong_length(format!("{length} entries are no {}", &what[2..])));
    }
    bytes.close();
    let [limit, start, end] = numbers;
    Ok(RawSpan { limit, start, end })
}

fn lists<T>(json: &mut Json<'_>, mut value: impl FnMut(&mut Json<'_>) -> Result<T>) -> Result<Lists<T>> {
    let mut lists = Lists::new();
    json.list("a list of lists of numbers, one per node", |json, _| {
        json.list("a list of numbers, one per strategy", |json, _| {
            lists.values.push(value(json)?);
            Ok(())
        })?;
        lists.close();
        Ok(())
    })?;
    Ok(lists)
}

fn pairs(json: &mut Json<'_>, what: &str) -> Result<Vec<[u64; 2]>> {
    let mut pairs = Vec::new();
    json.list("a list of lists of two numbers", |json, _| {
        let mut pair = [0; 2];
        let length = json.list(what, |json, index| {
            let number = amount(json, "a number")?;
            if let Some(place) = pair.get_mut(index) {
                *place = number;
            }
            Ok(())
        })?;
        if length != 2 {
            return Err(wrong_length(format!("{length} numbers are not {what}")));
        }
        pairs.push(pair);
        Ok(())
    })?;
    Ok(pairs)
}

/// A cost; what is forbidden comes out as [`FORBIDDEN`].
#[inline]
fn cost(json: &mut Json<'_>) -> Result<i64> {
    let number = json.whole("a number")?.min(FORBIDDEN.into());
    if number <= -i128::from(FORBIDDEN) {
        return Err(out_of_range(format!("{number} is not above -{FORBIDDEN}"), "scale all costs down"));
    }
    Ok(number as i64)
}

/// A number of bytes, a time or an index.
#[inline]
fn amount(json: &mut Json<'_>, what: &str) -> Result<u64> {
    let number = json.whole(what)?;
    u64::try_from(number).map_err(|_| {
        let why = if number < 0 { "negative" } else { "not below 2^64" };
        out_of_range(format!("{number} is {why}, and this is {what}"), "")
    })
}

fn out_of_range(message: String, help: &str) -> ReadError {
    ReadError::new("partita::layout_problem::out_of_range", message, help)
}

fn wrong_length(message: String) -> ReadError {
    ReadError::new("partita::layout_problem::wrong_length", message, "")
}

/// Two lists that go together must be as long as one another.
fn same_length(path: &str, found: usize, what: &str, needed: usize) -> Result<()> {
    if found == needed {
        return Ok(());
    }
    Err(wrong_length(format!("{found} entries for {needed} {what}; there must be one each")).within_key(path))
}

fn assemble(raw: Raw, mut builder: ProblemBuilder) -> Result<Problem> {
    let costs = required(raw.costs, "problem.nodes.costs", SHAPE)?;
    let ends = required(raw.ends, "problem.edges.nodes", SHAPE)?;
    let contents = required(raw.contents, "problem.edges.costs", SHAPE)?;
    let nodes = costs.len();
    for node in 0..nodes {
        check_costs(costs.list(node)).map_err(|error| broken_rule(error).within_index(node).within_key("problem.nodes.costs"))?;
    }
    same_length("problem.edges.nodes", ends.len(), "tables in problem.edges.costs", contents.len())?;

    let name = raw.name.unwrap_or_default();
    let memory = if let Some(holds) = raw.holds {
        builder.set_head(name, holds.limits.clone());
        add_holds(&mut builder, &costs, &holds)?;
        "problem.holds.spans"
    } else {
        let intervals = required(raw.intervals, "problem.nodes.intervals", SHAPE)?;
        let usages = required(raw.usages, "problem.nodes.usages", SHAPE)?;
        builder.set_head(name, raw.usage_limit.into_iter().collect());
        add_intervals(&mut builder, &costs, raw.usage_limit.is_some(), &intervals, &usages)?;
        "problem.nodes.usages"
    };
    builder.set_costs(costs.first, costs.values);
    for (edge, (ends, content)) in ends.iter().zip(contents).enumerate() {
        builder.join(*ends, content).map_err(|error| {
            let path = match error {
                ProblemError::NoSuchNode { end, .. } => format!("problem.edges.nodes[{edge}][{end}]"),
                ProblemError::EdgeToItself { .. } => format!("problem.edges.nodes[{edge}]"),
                _ => format!("problem.edges.costs[{edge}]"),
            };
            broken_rule(error).within_key(&path)
        })?;
    }
    builder.finish().map_err(|error| broken_rule(error).within_key(memory))
}

fn add_intervals(
    builder: &mut ProblemBuilder,
    costs: &Lists<i64>,
    limited: bool,
    intervals: &[[u64; 2]],
    usages: &Lists<u64>,
) -> Result<()> {
    same_length("problem.nodes.intervals", intervals.len(), "nodes in problem.nodes.costs", costs.len())?;
    same_length("problem.nodes.usages", usages.len(), "nodes in problem.nodes.costs", costs.len())?;
    for (node, [start, end]) in intervals.iter().copied().enumerate() {
        let (bytes, strategies) = (usages.list(node), costs.list(node).len());
        if bytes.len() != strategies {
            let message = format!("{} usages for {strategies} strategies; there must be one each", bytes.len());
            return Err(wrong_length(message).within_index(node).within_key("problem.nodes.usages"));
        }
        if start > end {
            let message = format!("the interval starts at {start} and ends before, at {end}");
            let error = out_of_range(message, "equal times stand for a node that holds nothing");
            return Err(error.within_index(node).within_key("problem.nodes.intervals"));
        }
        let span = Span { limit: 0, start, end };
        let added = if limited { builder.add_spans(strategies, &[span], bytes) } else { builder.add_spans(strategies, &[], &[]) };
        added.map_err(|error| broken_rule(error).within_index(node).within_key("problem.nodes.usages"))?;
    }
    Ok(())
}

fn add_holds(builder: &mut ProblemBuilder, costs: &Lists<i64>, holds: &Holds) -> Result<()> {
    let Holds { limits, spans: raw, bytes } = holds;
    same_length("problem.holds.spans", raw.len(), "nodes in problem.nodes.costs", costs.len())?;
    let mut spans = Vec::new();
    for node in 0..raw.len() {
        let at = |error: ReadError| error.within_index(node).within_key("problem.holds.spans");
        let strategies = costs.list(node).len();
        spans.clear();
        for (k, span) in raw.list(node).iter().enumerate() {
            let found = bytes.list(raw.range(node).start + k).len();
            if found != strategies {
                let message = format!("{found} numbers of bytes for {strategies} strategies; there must be one each");
                return Err(at(wrong_length(message).within_index(3).within_index(k)));
            }
            let limit = u32::try_from(span.limit).map_err(|_| {
                let error = ProblemError::NoSuchLimit { span: k, limit: span.limit, limits: limits.len() };
                at(broken_rule(error).within_index(0).within_index(k))
            })?;
            spans.push(Span { limit, start: span.start, end: span.end });
        }
        let of_node = bytes.first[raw.range(node).start]..bytes.first[raw.range(node).end];
        builder.add_spans(strategies, &spans, &bytes.values[of_node]).map_err(|error| {
            let place = match error {
                ProblemError::NoSuchLimit { span, .. } => format!("[{span}][0]"),
                ProblemError::EndsBeforeStart { span, .. } => format!("[{span}]"),
                _ => String::new(),
            };
            at(broken_rule(error).within_key(&place))
        })?;
    }
    Ok(())
}

/// A broken rule of problems as an error whose path is still to come.
fn broken_rule(error: ProblemError) -> ReadError {
    let code = match error {
        ProblemError::NoStrategies => "partita::layout_problem::no_strategies",
        ProblemError::CostTooLow { .. } | ProblemError::EndsBeforeStart { .. } | ProblemError::TooManyBytes { .. } => {
            "partita::layout_problem::out_of_range"
        }
        ProblemError::NoSuchLimit { .. } => "partita::layout_problem::no_such_limit",
        ProblemError::NoSuchNode { .. } => "partita::layout_problem::no_such_node",
        ProblemError::EdgeToItself { .. } => "partita::layout_problem::edge_to_itself",
        ProblemError::WrongBytes { .. } | ProblemError::TableSize { .. } => "partita::layout_problem::wrong_length",
    };
    ReadError::new(code, error.to_string(), "")
}

#[cfg(test)]
mod tests;
