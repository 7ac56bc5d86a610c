//! Writing a layout problem in the format that [`read`](mod@super::read) describes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::problem::Problem;

impl Problem {
    /// Writes a file, compressed by gzip if its name ends in `.gz`.
    pub fn write(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let mut file = BufWriter::new(File::create(path)?);
        self.write_as(path, &mut file)?;
        file.flush()
    }

    /// Writes what a file of this name holds.
    pub fn write_as(&self, name: &Path, out: impl Write) -> io::Result<()> {
        if name.extension().is_none_or(|extension| extension != "gz") {
            return self.write_to(out);
        }
        let mut packed = BufWriter::new(GzEncoder::new(out, Compression::default()));
        self.write_to(&mut packed)?;
        packed.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        Ok(())
    }

    /// Writes the text, in many small pieces. What is read from it equals this problem.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        let out = &mut out;
        out.write_all(b"{\"problem\": {\n\"name\": ")?;
        json(out, &self.name)?;
        out.write_all(b",\n\"nodes\": {\"costs\": ")?;
        list(out, 0..self.nodes(), |out, node| json(out, self.cost(node)))?;
        let plain = self.limits.len() <= 1 && (0..self.nodes()).all(|node| self.spans(node).len() <= 1);
        if plain {
            out.write_all(b",\n\"intervals\": ")?;
            list(out, 0..self.nodes(), |out, node| json(out, &self.spans(node).first().map_or([0, 0], |span| [span.start, span.end])))?;
            out.write_all(b",\n\"usages\": ")?;
            list(out, 0..self.nodes(), |out, node| match self.spans(node).first() {
                Some(_) => json(out, self.bytes(node, 0)),
                None => json(out, &vec![0; self.strategies(node)]),
            })?;
        }
        out.write_all(b"},\n\"edges\": {\"nodes\": ")?;
        list(out, self.edges(), |out, edge| json(out, &[edge.a, edge.b]))?;
        out.write_all(b",\n\"costs\": ")?;
        list(out, self.edges(), |out, edge| json(out, self.table(edge.table)))?;
        out.write_all(b"}")?;
        match self.limits.first() {
            Some(limit) if plain => write!(out, ",\n\"usage_limit\": {limit}")?,
            None if plain => {}
            _ => self.write_holds(out)?,
        }
        out.write_all(b"}}\n")
    }

    fn write_holds(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b",\n\"holds\": {\"limits\": ")?;
        json(out, &self.limits)?;
        out.write_all(b", \"spans\": ")?;
        list(out, 0..self.nodes(), |out, node| {
            let spans: Vec<_> =
                self.spans(node).iter().zip(0..).map(|(span, k)| (span.limit, span.start, span.end, self.bytes(node, k))).collect();
            json(out, &spans)
        })?;
        out.write_all(b"}")
    }
}

fn json(out: &mut impl Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    serde_json::to_writer(out, value).map_err(io::Error::from)
}

/// Writes a list, one entry a line.
fn list<W: Write, T>(
    out: &mut W,
    entries: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut W, T) -> io::Result<()>,
) -> io::Result<()> {
    let mut before: &[u8] = b"[\n";
    for entry in entries {
        out.write_all(before)?;
        write(out, entry)?;
        before = b",\n";
    }
    out.write_all(if before == b"[\n" { b"[]" } else { b"\n]" })
}
