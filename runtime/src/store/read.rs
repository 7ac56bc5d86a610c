//! Reading safetensors files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use partita_ir::dtype::DType;
use safetensors::tensor::{Dtype, Metadata};

use super::StoreError;
use super::boxes::{Part, elements, runs};
use crate::mapped::MappedFile;

/// A safetensors file, mapped into memory and its header checked: reads touch only the bytes that they need.
#[derive(Debug)]
pub struct ParameterFile {
    path: PathBuf,
    bytes: MappedFile,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    /// Where its bytes begin and end in the file.
    start: usize,
    end: usize,
}

impl ParameterFile {
    /// Opens a file. A file that is cut short, too long or damaged in its header is an error here, never later.
    pub fn open(path: &Path) -> Result<ParameterFile, StoreError> {
        let bytes = MappedFile::open(path).map_err(StoreError::io("read", path))?;
        let tensors = parse(&bytes).map_err(|why| StoreError::Corrupt { path: path.to_owned(), why })?;
        Ok(ParameterFile { path: path.to_owned(), bytes, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.tensors.get(name).map(|entry| &*entry.shape)
    }

    /// The element type of a tensor; `None` if the file lacks it or it is of a type that models here do not have.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name).and_then(|entry| dtype_of(entry.dtype))
    }

    /// Reads a part of a tensor whose shape is `shape` into `out`, as `dtype`: floats from any of f16, bf16, f32
    /// and f64; any type from itself. `out` takes exactly the part.
    pub fn read_box(
        &self,
        name: &str,
        shape: &[u64],
        intervals: &[Vec<(u64, u64)>],
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), StoreError> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            let (found, wanted) = (entry.shape.clone(), shape.to_vec());
            return Err(StoreError::Shape { path: self.path.clone(), name: name.to_owned(), found, wanted });
        }
        let Some((convert, from, to)) = conversion(entry.dtype, dtype) else {
            let (found, wanted) = (format!("{:?}", entry.dtype).to_lowercase(), dtype.word().to_owned());
            return Err(StoreError::Type { path: self.path.clone(), name: name.to_owned(), found, wanted });
        };
        check_part(name, shape, intervals, to, out.len())?;
        let bytes = &self.bytes[entry.start..entry.end];
        runs(shape, intervals, &mut |first, at, count| {
            let (first, at, count) = (first as usize, at as usize, count as usize);
            convert(&bytes[first * from..(first + count) * from], &mut out[at * to..(at + count) * to]);
            Ok(())
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry, StoreError> {
        self.tensors.get(name).ok_or_else(|| {
            let likeness = |other: &String| strsim::jaro_winkler(name, other);
            let mut near: Vec<(f64, &String)> = self.tensors.keys().map(|other| (likeness(other), other)).collect();
            // the sort is stable, so equally alike names stay in alphabetical order
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            let near = near.into_iter().filter(|(alike, _)| *alike > 0.75).take(3).map(|(_, other)| other.clone()).collect();
            StoreError::Missing { path: self.path.clone(), name: name.to_owned(), near, tensors: self.tensors.len() }
        })
    }
}

/// Checks that a part fits its tensor and a buffer of `bytes` at `width` bytes an element; gives its elements.
pub(super) fn check_part(name: &str, shape: &[u64], intervals: &Part, width: usize, bytes: usize) -> Result<u64, StoreError> {
    let wrong = |why| StoreError::Part { name: name.to_owned(), shape: shape.to_vec(), intervals: intervals.to_vec(), why };
    let count = elements(shape, intervals).map_err(wrong)?;
    let wanted = count.checked_mul(width as u64);
    if wanted == Some(bytes as u64) {
        Ok(count)
    } else {
        Err(wrong(format!("has {count} elements of {width} bytes, and the buffer {bytes} bytes")))
    }
}

/// The tensors of a file, every offset within it.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("it has {} bytes, and the length of the header alone takes 8", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let header = header.ok_or_else(|| format!("its header says it has {length} bytes, and the file has {} more", rest.len()))?;
    // the library checks that tensors follow each other without gaps and have the bytes that their shapes need
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| format!("its header is damaged: {error}"))?;
    let data = rest.len() - header.len();
    if metadata.data_len() != data {
        return Err(format!("its tensors take {} bytes, and the file has {data}", metadata.data_len()));
    }
    let start = bytes.len() - data;
    let entries = metadata.offset_keys().into_iter().map(|name| {
        let info = metadata.info(&name).expect("a key of the same table");
        let shape = info.shape.iter().map(|size| *size as u64).collect();
        let (from, to) = info.data_offsets;
        (name, Entry { dtype: info.dtype, shape, start: start + from, end: start + to })
    });
    Ok(entries.collect())
}

/// Our name of an element type.
fn dtype_of(dtype: Dtype) -> Option<DType> {
    super::write::TYPES.iter().find(|row| row.1 == dtype).map(|row| row.0)
}

type Convert = fn(&[u8], &mut [u8]);

fn each<const N: usize, const M: usize>(from: &[u8], to: &mut [u8], f: impl Fn([u8; N]) -> [u8; M]) {
    from.as_chunks().0.iter().zip(to.as_chunks_mut().0).for_each(|(from, to)| *to = f(*from));
}

/// How elements are converted, and the bytes of an element before and after.
fn conversion(from: Dtype, to: DType) -> Option<(Convert, usize, usize)> {
    if let Some(same) = dtype_of(from).filter(|dtype| *dtype == to) {
        let width = same.bytes(1) as usize;
        // the file is little-endian and memory is in the machine's order: equal where this runs, see `Writer`
        return Some((|from, to| to.copy_from_slice(from), width, width));
    }
    Some(match (from, to) {
        (Dtype::F32, DType::Bf16) => (|from, to| each(from, to, |x| bf16::from_f32(f32::from_le_bytes(x)).to_ne_bytes()), 4, 2),
        (Dtype::F64, DType::Bf16) => (|from, to| each(from, to, |x| bf16::from_f64(f64::from_le_bytes(x)).to_ne_bytes()), 8, 2),
        (Dtype::F16, DType::Bf16) => (|from, to| each(from, to, |x| bf16::from_f32(f16::from_le_bytes(x).to_f32()).to_ne_bytes()), 2, 2),
        (Dtype::F32, DType::Fp16) => (|from, to| each(from, to, |x| f16::from_f32(f32::from_le_bytes(x)).to_ne_bytes()), 4, 2),
        (Dtype::F64, DType::Fp16) => (|from, to| each(from, to, |x| f16::from_f64(f64::from_le_bytes(x)).to_ne_bytes()), 8, 2),
        (Dtype::BF16, DType::Fp16) => (|from, to| each(from, to, |x| f16::from_f32(bf16::from_le_bytes(x).to_f32()).to_ne_bytes()), 2, 2),
        (Dtype::F64, DType::F32) => (|from, to| each(from, to, |x| (f64::from_le_bytes(x) as f32).to_ne_bytes()), 8, 4),
        (Dtype::F16, DType::F32) => (|from, to| each(from, to, |x| f16::from_le_bytes(x).to_f32().to_ne_bytes()), 2, 4),
        (Dtype::BF16, DType::F32) => (|from, to| each(from, to, |x| bf16::from_le_bytes(x).to_f32().to_ne_bytes()), 2, 4),
        (Dtype::F32, DType::F64) => (|from, to| each(from, to, |x| f64::from(f32::from_le_bytes(x)).to_ne_bytes()), 4, 8),
        (Dtype::F16, DType::F64) => (|from, to| each(from, to, |x| f16::from_le_bytes(x).to_f64().to_ne_bytes()), 2, 8),
        (Dtype::BF16, DType::F64) => (|from, to| each(from, to, |x| bf16::from_le_bytes(x).to_f64().to_ne_bytes()), 2, 8),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// A file as bytes: a header and data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn small() -> Vec<u8> {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2],"data_offsets":[24,28]},"layer.0.wq":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
        let mut data: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
        data.extend([1.5f32, -2.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
        file(header, &data)
    }

    fn open(bytes: &[u8]) -> Result<ParameterFile, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, bytes).unwrap();
        ParameterFile::open(&path)
    }

    #[test]
    fn parts_are_read_and_converted() {
        let file = open(&small()).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["b", "layer.0.wq"]);
        assert_eq!((file.shape("b"), file.dtype("b")), (Some(&[2][..]), Some(DType::Fp16)));
        let mut out = [0u8; 4 * 8];
        file.read_box("layer.0.wq", &[2, 3], &[vec![(0, 2)], vec![(2, 3), (0, 1)]], DType::F64, &mut out).unwrap();
        assert_eq!(out.as_chunks().0.iter().map(|x| f64::from_ne_bytes(*x)).collect::<Vec<_>>(), [2.0, 0.0, 5.0, 3.0]);
        let mut out = [0u8; 8];
        file.read_box("b", &[2], &[vec![(0, 2)]], DType::F32, &mut out).unwrap();
        assert_eq!(out.as_chunks().0.iter().map(|x| f32::from_ne_bytes(*x)).collect::<Vec<_>>(), [1.5, -2.0]);
    }

    #[test]
    fn every_float_converts() {
        for (from, bytes) in [
            (Dtype::F64, 1.5f64.to_le_bytes().to_vec()),
            (Dtype::F32, 1.5f32.to_le_bytes().to_vec()),
            (Dtype::F16, f16::from_f32(1.5).to_le_bytes().to_vec()),
            (Dtype::BF16, bf16::from_f32(1.5).to_le_bytes().to_vec()),
        ] {
            let (mut single, mut double) = ([0; 4], [0; 8]);
            conversion(from, DType::F32).unwrap().0(&bytes, &mut single);
            conversion(from, DType::F64).unwrap().0(&bytes, &mut double);
            assert_eq!((f32::from_ne_bytes(single), f64::from_ne_bytes(double)), (1.5, 1.5), "{from:?}");
        }
        assert!(conversion(Dtype::I32, DType::F32).is_none());
        assert!(conversion(Dtype::I64, DType::I32).is_none());
    }

    #[test]
    fn what_the_file_lacks_is_told() {
        let file = open(&small()).unwrap();
        let said = |name: &str, shape: &[u64], part: &Part, dtype, bytes| {
            file.read_box(name, shape, part, dtype, &mut vec![0; bytes]).unwrap_err().to_string()
        };
        assert!(said("layer.0.wk", &[2, 3], &[], DType::F32, 0).contains("(it has 2); did you mean `layer.0.wq`?"));
        assert!(said("layer.0.wq", &[3, 2], &[], DType::F32, 0).contains("shape [2, 3] in"));
        assert!(said("b", &[2], &[vec![(0, 2)]], DType::I32, 8).contains("`b` holds f16"));
        assert!(said("b", &[2], &[vec![(0, 3)]], DType::F32, 12).contains("0..3 of dimension 0, which has 2"));
        assert!(said("b", &[2], &[vec![(0, 2)]], DType::F32, 4).contains("2 elements of 4 bytes, and the buffer 4"));
    }

    #[test]
    fn cut_and_padded_files_are_errors() {
        let whole = small();
        for len in 0..whole.len() {
            assert!(matches!(open(&whole[..len]), Err(StoreError::Corrupt { .. })), "{len} bytes");
        }
        assert!(open(&[&whole[..], &[0]].concat()).is_err());
    }

    #[test]
    fn hostile_headers_are_errors() {
        // offsets whose sum wraps around
        let huge = u64::MAX / 8;
        let tensors: Vec<String> = (0..8u64)
            .map(|n| format!(r#""t{n}":{{"dtype":"U8","shape":[{huge}],"data_offsets":[{},{}]}}"#, n * huge, (n + 1) * huge))
            .collect();
        assert!(open(&file(&format!("{{{}}}", tensors.join(",")), &[])).is_err());
        assert!(open(&file(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#, &[0; 4])).is_err());
        assert!(open(&file(&"[".repeat(10_000), &[])).is_err());
        assert!(open(&[0xFF; 100]).is_err());
        assert!(open(&file("{}", &[])).is_ok(), "a file may have no tensor");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = small();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(file) = open(&bytes) {
                for name in file.names() {
                    let shape = file.shape(name).unwrap().to_vec();
                    let count: u64 = shape.iter().product();
                    let part: Vec<_> = shape.iter().map(|size| vec![(0, *size)]).collect();
                    let _ = file.read_box(name, &shape, &part, DType::F32, &mut vec![0; count as usize * 4]);
                }
            }
        }
    }
}
