//! Where tokens and [images](images) come from: a file, or numbers drawn so that a model has something to learn.
//!
//! Sample `n` of a run (step · batch + index in the batch) is a window of `seq + 1` tokens: inputs are tokens 0..seq,
//! targets 1..seq+1. It depends on the source, the seed and n alone, so every rank reads the part that it needs, and a
//! run that is taken up again goes on where it stopped.

pub mod images;

use std::ops::Range;
use std::path::{Path, PathBuf};

use partita_ir::graph::{IGNORED, Source};
use partita_ir::layout::Intervals;
use partita_ir::program::Program;
use partita_ir::random::{DrawContext, salt_of, stream, uniform};

use crate::mapped::MappedFile;
use images::{ImageSource, Images};

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read the tokens of {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of bytes and a vocabulary that has no entry for each.
    #[error(
        "{} is read as bytes, which need a vocabulary of at least 256, and the model has {vocab}; \
         use vocabulary 256, or write tokens below {vocab} as 16-bit little-endian numbers to a file that ends in .bin",
        path.display()
    )]
    BytesNeedVocabulary {
        /// The file.
        path: PathBuf,
        /// The model's vocabulary.
        vocab: u64,
    },
    /// A token file that ends within a token.
    #[error(
        "{} has {bytes} bytes, which is no multiple of {width}: with a vocabulary of {vocab} a .bin file holds \
         {width}-byte little-endian tokens",
        path.display()
    )]
    PartOfToken {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Bytes of a token.
        width: u64,
        /// The model's vocabulary.
        vocab: u64,
    },
    /// A file with no whole sample.
    #[error("{} has {tokens} tokens, and one sample needs {needed} (seq {} and the next token); use a longer file or seq {}",
        path.display(), needed - 1, tokens.saturating_sub(1).max(1))]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Tokens that it holds.
        tokens: u64,
        /// Tokens of a sample.
        needed: u64,
    },
    /// A token that the model has no entry for.
    #[error("{} holds token {token} at position {position} (counted in tokens from 0), and the vocabulary has {vocab} entries", path.display())]
    OutsideVocabulary {
        /// The file.
        path: PathBuf,
        /// Which token of the file.
        position: u64,
        /// Its value.
        token: u64,
        /// The model's vocabulary.
        vocab: u64,
    },
    /// A file of images that is none, or of others than the model reads.
    #[error("{} is no file of the images that the model reads: {why}", path.display())]
    Images {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A label that the model has no class for.
    #[error("{} gives image {image} (counted from 0) the label {label}, and the model has {classes} classes", path.display())]
    OutsideClasses {
        /// The file.
        path: PathBuf,
        /// Which image of the file.
        image: u64,
        /// Its label.
        label: i64,
        /// The model's classes.
        classes: u64,
    },
    /// A program that reads tokens and images.
    #[error("the model reads tokens and images, and a run has one file of data")]
    TokensAndImages,
    /// A vocabulary or a sequence that no source can serve.
    #[error("a model with vocabulary {vocab} and seq {seq} has no samples: both must be at least 1, the vocabulary at most 2147483648")]
    NoSamples {
        /// The model's vocabulary.
        vocab: u64,
        /// The model's sequence length.
        seq: u64,
    },
}

/// A source of samples.
#[derive(Debug)]
pub enum DataSource {
    /// Drawn tokens.
    Synthetic(MarkovChain),
    /// The tokens of a file.
    File(TokenFile),
    /// Samples that the caller has, each as long, over and over. Any numbers will do.
    Given(Vec<Vec<i32>>),
    /// Images with labels.
    Images(ImageSource),
}

/// Opens the data that a program reads: its images if it reads any, else tokens (see [`open`]).
pub fn of_program(path: Option<&Path>, program: &Program, seed: u64) -> Result<DataSource, DataError> {
    if !program.reads_images() {
        return open(path, program.vocab, program.seq, seed);
    }
    let images = Images { shape: program.image().unwrap_or_default(), classes: program.vocab };
    ImageSource::open(path, images, seed).map(DataSource::Images)
}

/// Opens the tokens of a run. Without a path they are drawn (see [`MarkovChain`]). A file whose name ends in `.bin`
/// holds little-endian tokens, 16-bit ones if the vocabulary has at most 65,536 entries, else 32-bit ones. Any other
/// file is read as bytes, each a token.
pub fn open(path: Option<&Path>, vocab: u64, seq: u64, seed: u64) -> Result<DataSource, DataError> {
    if vocab == 0 || seq == 0 || vocab > 1 << 31 || seq == u64::MAX {
        return Err(DataError::NoSamples { vocab, seq });
    }
    match path {
        None => Ok(DataSource::Synthetic(MarkovChain { vocab, seq, seed })),
        Some(path) => TokenFile::open(path, vocab, seq, seed).map(DataSource::File),
    }
}

impl DataSource {
    /// Writes the tokens at `positions` (within 0..seq+1) of sample `sample`.
    ///
    /// # Panics
    /// If `out` has not one place per position, or a position is outside the sample.
    pub fn fill(&self, sample: u64, positions: Range<u64>, out: &mut [i32]) -> Result<(), DataError> {
        let seq = match self {
            DataSource::Synthetic(chain) => chain.seq,
            DataSource::File(file) => file.seq,
            DataSource::Given(samples) => samples.first().map_or(0, |sample| sample.len() as u64 - 1),
            DataSource::Images(_) => return Err(DataError::TokensAndImages),
        };
        assert!(positions.start <= positions.end && positions.end <= seq + 1, "positions {positions:?} of a sample of {seq} + 1 tokens");
        assert_eq!(out.len() as u64, positions.end - positions.start, "one place per position");
        match self {
            DataSource::Synthetic(chain) => {
                chain.fill(sample, positions, out);
                Ok(())
            }
            DataSource::File(file) => file.fill(sample, positions, out),
            DataSource::Given(samples) => {
                let sample = &samples[(sample % samples.len() as u64) as usize];
                out.copy_from_slice(&sample[positions.start as usize..positions.end as usize]);
                Ok(())
            }
            DataSource::Images(_) => Err(DataError::TokensAndImages),
        }
    }

    /// The images, where these are the data.
    fn images(&self) -> Result<&ImageSource, DataError> {
        if let DataSource::Images(images) = self { Ok(images) } else { Err(DataError::TokensAndImages) }
    }

    /// Calls `visit` with each element of what a part of an input of floating-point numbers holds of a sample.
    pub fn visit(&self, sample: u64, part: &[Intervals], visit: &mut dyn FnMut(f64)) -> Result<(), DataError> {
        self.images()?.pixels(sample, part, visit);
        Ok(())
    }

    /// Writes what an input of integers holds at `positions` (within 0..seq) of sample `sample`; a label has one. `seed`
    /// decides what is masked.
    ///
    /// # Panics
    /// As [`DataSource::fill`].
    pub fn load(&self, source: Source, sample: u64, positions: Range<u64>, seed: u64, out: &mut [i32]) -> Result<(), DataError> {
        match source {
            Source::Tokens => self.fill(sample, positions, out),
            Source::NextTokens => self.fill(sample, positions.start + 1..positions.end + 1, out),
            Source::TokensFrom(first) => {
                let first = u64::from(first.unsigned_abs());
                self.fill(sample, positions.start + first..positions.end + first, out)
            }
            Source::Documents(separator) => {
                let mut before = vec![0; positions.end as usize];
                self.fill(sample, 0..positions.end, &mut before)?;
                let (skipped, within) = before.split_at(positions.start as usize);
                let mut document = skipped.iter().filter(|token| **token == separator).count() as i32;
                for (place, token) in out.iter_mut().zip(within) {
                    *place = document;
                    document += i32::from(*token == separator);
                }
                Ok(())
            }
            Source::MaskedTokens(mask) => {
                self.fill(sample, positions.clone(), out)?;
                for (place, position) in out.iter_mut().zip(positions) {
                    match Hidden::at(seed, sample, position) {
                        Hidden::Behind => *place = mask,
                        // its own sample has tokens as often as they are
                        Hidden::Another(draw) => {
                            let other = (draw * (position + 1) as f64) as u64;
                            self.fill(sample, other..other + 1, std::slice::from_mut(place))?;
                        }
                        Hidden::Kept | Hidden::No => {}
                    }
                }
                Ok(())
            }
            Source::MaskedTargets => {
                self.fill(sample, positions.clone(), out)?;
                for (place, position) in out.iter_mut().zip(positions) {
                    if matches!(Hidden::at(seed, sample, position), Hidden::No) {
                        *place = IGNORED;
                    }
                }
                Ok(())
            }
            Source::Labels => {
                let label = self.images()?.label(sample)?;
                out.fill(label);
                Ok(())
            }
            Source::Pixels => unreachable!("pixels are no integers"),
        }
    }

    /// Samples until the source repeats itself in another order; `None` if it never does.
    pub fn samples_per_epoch(&self) -> Option<u64> {
        match self {
            DataSource::Synthetic(_) => None,
            DataSource::File(file) => Some(file.windows),
            DataSource::Given(samples) => Some(samples.len() as u64),
            DataSource::Images(images) => images.samples_per_epoch(),
        }
    }
}

/// What becomes of a token that may have to be found: 15 in 100 do, and of these 80 in 100 stand behind the mask, 10 are
/// another token (one at an earlier position or the same, where BERT takes any of its vocabulary) and 10 stay (Devlin et
/// al., 2018).
enum Hidden {
    /// It is not asked for.
    No,
    /// The mask stands in its place.
    Behind,
    /// Another token does; a number below 1 says which.
    Another(f64),
    /// It stays, and is asked for all the same.
    Kept,
}

impl Hidden {
    fn at(seed: u64, sample: u64, position: u64) -> Self {
        let stream = stream(DrawContext { seed, step: sample, iteration: 0 }, salt_of("data.mask"));
        match uniform(stream, 3 * position) {
            asked if asked >= 0.15 => Hidden::No,
            _ => match uniform(stream, 3 * position + 1) {
                behind if behind < 0.8 => Hidden::Behind,
                another if another < 0.9 => Hidden::Another(uniform(stream, 3 * position + 2)),
                _ => Hidden::Kept,
            },
        }
    }
}

/// Chances of the likely successors of a token; the rest falls on any token.
const LIKELY: [f64; 4] = [0.5, 0.2, 0.1, 0.1];

/// Tokens that can be learnt: each token has four likely successors, drawn from the seed, with chances 0.5, 0.2, 0.1
/// and 0.1; one time in ten any token follows. A model that has learnt the pairs reaches a loss of about
/// `1.36 + 0.1 ln(vocab)` nats a token (where the vocabulary is large), one that has not `ln(vocab)`.
#[derive(Debug)]
pub struct MarkovChain {
    vocab: u64,
    seq: u64,
    seed: u64,
}

impl MarkovChain {
    fn fill(&self, sample: u64, positions: Range<u64>, out: &mut [i32]) {
        let draws = |salt: &str, step: u64| stream(DrawContext { seed: self.seed, step, iteration: 0 }, salt_of(salt));
        let (choices, successors) = (draws("data.choice", sample), draws("data.successor", 0));
        // a draw has 24 bits, so a larger vocabulary is not met in full
        let any = |stream: u64, element: u64| (uniform(stream, element) * self.vocab as f64) as u64;
        let mut token = any(choices, 0);
        for position in 0..positions.end {
            if position > 0 {
                let choice = uniform(choices, 2 * position);
                let mut below = 0.0;
                let likely = LIKELY.iter().position(|chance| {
                    below += chance;
                    choice < below
                });
                token = match likely {
                    Some(n) => any(successors, token * LIKELY.len() as u64 + n as u64),
                    None => any(choices, 2 * position + 1),
                };
            }
            if position >= positions.start {
                out[(position - positions.start) as usize] = token as i32;
            }
        }
    }
}

/// The tokens of a file, cut into windows that overlap by one token. Every epoch goes through all windows in an order
/// of its own; tokens after the last whole window are not used.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    bytes: MappedFile,
    /// Bytes of a token.
    width: u64,
    vocab: u64,
    seq: u64,
    seed: u64,
    windows: u64,
}

impl TokenFile {
    fn open(path: &Path, vocab: u64, seq: u64, seed: u64) -> Result<TokenFile, DataError> {
        let owned = || path.to_owned();
        let bytes = MappedFile::open(path).map_err(|source| DataError::Unreadable { path: owned(), source })?;
        let is_tokens = path.extension().is_some_and(|end| end == "bin");
        let width = match is_tokens {
            true if vocab <= 1 << 16 => 2,
            true => 4,
            false if vocab < 256 => return Err(DataError::BytesNeedVocabulary { path: owned(), vocab }),
            false => 1,
        };
        let len = bytes.len() as u64;
        if !len.is_multiple_of(width) {
            return Err(DataError::PartOfToken { path: owned(), bytes: len, width, vocab });
        }
        let tokens = len / width;
        if tokens <= seq {
            return Err(DataError::TooShort { path: owned(), tokens, needed: seq + 1 });
        }
        Ok(TokenFile { path: owned(), bytes, width, vocab, seq, seed, windows: (tokens - 1) / seq })
    }

    fn fill(&self, sample: u64, positions: Range<u64>, out: &mut [i32]) -> Result<(), DataError> {
        let (epoch, index) = (sample / self.windows, sample % self.windows);
        let first = shuffled(index, self.windows, self.seed, epoch) * self.seq + positions.start;
        let bytes = &self.bytes[(first * self.width) as usize..][..out.len() * self.width as usize];
        match self.width {
            1 => out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = i32::from(*byte)),
            2 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, token)| *out = i32::from(u16::from_le_bytes(*token))),
            // values of 2^31 and more become negative, which the check below reads back
            _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, token)| *out = u32::from_le_bytes(*token) as i32),
        }
        match out.iter().position(|token| u64::from(*token as u32) >= self.vocab) {
            None => Ok(()),
            Some(n) => Err(DataError::OutsideVocabulary {
                path: self.path.clone(),
                position: first + n as u64,
                token: u64::from(out[n] as u32),
                vocab: self.vocab,
            }),
        }
    }
}

/// Where `index` of `0..count` goes in the order of an epoch: a permutation that needs no table. Four rounds of a
/// Feistel network permute the numbers below the next power of 4; one that leaves the range is permuted again, which
/// leads back into it after at most a few rounds.
fn shuffled(index: u64, count: u64, seed: u64, epoch: u64) -> u64 {
    let half = (u64::BITS - (count - 1).leading_zeros()).div_ceil(2);
    let mask = (1u64 << half) - 1;
    let round_key = |round| stream(DrawContext { seed, step: epoch, iteration: round }, salt_of("data.order"));
    let keys = [0, 1, 2, 3].map(round_key);
    let mut number = index;
    loop {
        let (mut left, mut right) = (number >> half, number & mask);
        for key in keys {
            let mixed = stream(DrawContext { seed: key, step: right, iteration: 0 }, 0);
            (left, right) = (right, left ^ (mixed & mask));
        }
        number = left << half | right;
        if number < count {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn window(source: &DataSource, sample: u64, len: u64) -> Vec<i32> {
        let mut out = vec![-1; len as usize];
        source.fill(sample, 0..len, &mut out).unwrap();
        out
    }

    #[test]
    fn drawn_samples_depend_on_seed_and_number_alone() {
        let source = open(None, 1000, 64, 7).unwrap();
        let whole = window(&source, 123_456, 65);
        let mut part = [0; 10];
        source.fill(123_456, 40..50, &mut part).unwrap();
        assert_eq!(part, whole[40..50]);
        assert_ne!(whole, window(&source, 123_457, 65));
        assert_ne!(whole, window(&open(None, 1000, 64, 8).unwrap(), 123_456, 65));
        assert!(whole.iter().all(|token| (0..1000).contains(token)));
    }

    #[test]
    fn documents_are_counted_from_the_start_of_their_sample() {
        let source = DataSource::Given(vec![vec![5, 0, 7, 0, 0, 3, 9]]);
        let mut out = [-1; 6];
        source.load(Source::Documents(0), 0, 0..6, 1, &mut out).unwrap();
        assert_eq!(out, [0, 0, 1, 1, 2, 3]);
        source.load(Source::Documents(0), 0, 3..5, 1, &mut out[..2]).unwrap();
        assert_eq!(out[..2], [1, 2]);
        source.load(Source::NextTokens, 0, 4..6, 1, &mut out[..2]).unwrap();
        assert_eq!(out[..2], [3, 9]);
    }

    #[test]
    fn masked_tokens_are_targets_and_no_others() {
        let source = open(None, 100, 1000, 7).unwrap();
        let read = |from, sample| {
            let mut out = vec![0; 1000];
            source.load(from, sample, 0..1000, 3, &mut out).unwrap();
            out
        };
        let (mut asked, mut behind, mut others) = (0, 0, 0);
        for sample in 0..20 {
            let (tokens, seen, targets) =
                (read(Source::Tokens, sample), read(Source::MaskedTokens(200), sample), read(Source::MaskedTargets, sample));
            for ((token, seen), target) in tokens.iter().zip(&seen).zip(&targets) {
                assert!(*target == IGNORED || target == token);
                assert!(*target != IGNORED || seen == token, "what is not asked for is as it was");
                asked += u32::from(*target != IGNORED);
                behind += u32::from(*seen == 200);
                others += u32::from(*seen != 200 && seen != token);
            }
            let mut part = [0; 7];
            source.load(Source::MaskedTokens(200), sample, 500..507, 3, &mut part).unwrap();
            assert_eq!(part, seen[500..507], "a part is a part of the whole");
        }
        assert!((2800..3200).contains(&asked), "{asked} of 20000 are asked for");
        assert!((2250..2550).contains(&behind) && (200..400).contains(&others), "{behind} and {others} of {asked}");
    }

    #[test]
    fn drawn_tokens_have_few_likely_successors() {
        let source = open(None, 50, 1000, 3).unwrap();
        let mut counts = vec![0u32; 50 * 50];
        for sample in 0..40 {
            window(&source, sample, 1001).windows(2).for_each(|pair| counts[(pair[0] * 50 + pair[1]) as usize] += 1);
        }
        let (mut top, mut all) = (0, 0);
        for row in counts.chunks_mut(50) {
            row.sort_unstable_by(|a, b| b.cmp(a));
            top += row[..4].iter().sum::<u32>();
            all += row.iter().sum::<u32>();
        }
        assert!(top > all * 88 / 100 && top < all * 96 / 100, "{top} of {all}");
    }

    #[test]
    fn every_epoch_visits_every_window_once() {
        for count in [1u64, 2, 3, 4, 5, 63, 64, 65, 1000] {
            let order = |epoch| -> Vec<u64> { (0..count).map(|index| shuffled(index, count, 9, epoch)).collect() };
            let mut sorted = order(0);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            assert!(count < 10 || order(0) != order(1), "epochs differ");
        }
    }

    #[test]
    fn bytes_are_tokens_and_windows_tile_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let text: Vec<u8> = (0..101).collect();
        let source = open(Some(&write(folder, "text.txt", &text)), 256, 10, 1).unwrap();
        assert_eq!(source.samples_per_epoch(), Some(10));
        let mut starts: Vec<i32> = (0..10).map(|sample| window(&source, sample, 11)[0]).collect();
        assert_ne!(starts, (0..10).map(|n| n * 10).collect::<Vec<_>>(), "the order is shuffled");
        starts.sort_unstable();
        assert_eq!(starts, (0..10).map(|n| n * 10).collect::<Vec<_>>());
        let whole = window(&source, 17, 11);
        assert!(whole.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    #[test]
    fn bin_files_hold_16_or_32_bits() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let short: Vec<u8> = (0..21u16).flat_map(|n| (n * 3).to_le_bytes()).collect();
        let source = open(Some(&write(folder, "short.bin", &short)), 65_536, 20, 0).unwrap();
        assert_eq!(window(&source, 0, 21), (0..21).map(|n| n * 3).collect::<Vec<_>>());
        let long: Vec<u8> = (0..21u32).flat_map(|n| (n * 4000).to_le_bytes()).collect();
        let source = open(Some(&write(folder, "long.bin", &long)), 100_000, 20, 0).unwrap();
        assert_eq!(window(&source, 5, 21), (0..21).map(|n| n * 4000).collect::<Vec<_>>());
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut tokens = [1u32; 40];
        tokens[25] = 3_000_000_000;
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let source = open(Some(&write(folder, "bad.bin", &bytes)), 70_000, 39, 0).unwrap();
        let mut out = vec![0; 20];
        source.fill(0, 0..20, &mut out).unwrap();
        let error = source.fill(0, 20..40, &mut out).unwrap_err().to_string();
        assert!(error.contains("token 3000000000 at position 25") && error.contains("70000"), "{error}");
    }

    #[test]
    fn bad_files_are_errors_with_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let said = |path: &Path, vocab, seq| open(Some(path), vocab, seq, 0).unwrap_err().to_string();
        let ten = write(folder, "ten.txt", &[1; 10]);
        assert!(said(&ten, 256, 10).contains("10 tokens, and one sample needs 11"));
        assert!(said(&ten, 255, 5).contains("at least 256, and the model has 255"));
        assert!(said(&write(folder, "odd.bin", &[1; 11]), 100, 2).contains("11 bytes, which is no multiple of 2"));
        assert!(said(&write(folder, "odd4.bin", &[1; 10]), 100_000, 2).contains("no multiple of 4"));
        assert!(said(&write(folder, "empty.txt", &[]), 256, 1).contains("0 tokens"));
        assert!(said(folder, 256, 1).contains("it is a directory"));
        assert!(said(&folder.join("none"), 256, 1).contains("cannot read the tokens of"));
        assert!(open(None, 0, 1, 0).is_err() && open(None, 1, 0, 0).is_err());
    }
}
