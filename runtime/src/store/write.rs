//! Writing safetensors files from many ranks at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use partita_ir::dtype::DType;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::StoreError;
use super::boxes::runs;
use super::read::check_part;

// Memory is written to files as it is.
#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian");

/// The element types that files and models share.
pub(super) const TYPES: [(DType, Dtype); 5] =
    [(DType::F64, Dtype::F64), (DType::F32, Dtype::F32), (DType::Bf16, Dtype::BF16), (DType::Fp16, Dtype::F16), (DType::I32, Dtype::I32)];

/// A tensor that a file will hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Elements of each dimension.
    pub shape: Vec<u64>,
}

/// A safetensors file in the making. Threads write parts of its tensors in any order through a shared reference; the
/// file appears under its name when [`Writer::finish`] returns, complete and on disk, in place of any older one. Until
/// then it has a name of its own, which a writer that is dropped removes and one that is killed leaves behind.
///
/// The bytes depend on the tensors alone: wider element types first (so that every tensor is aligned), then by name.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    tensors: BTreeMap<String, Slot>,
    finished: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    shape: Vec<u64>,
    width: usize,
    elements: u64,
    /// Where its bytes begin in the file.
    start: u64,
    written: AtomicU64,
}

impl Writer {
    /// Begins a file with these tensors.
    pub fn create(path: &Path, tensors: &[Declared]) -> Result<Writer, StoreError> {
        let FilePlan { header, slots, length } = plan(tensors)?;
        let file_name = path.file_name().ok_or_else(|| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path names no file");
            StoreError::Io { action: "write", path: path.to_owned(), source }
        })?;
        let temporary = path.with_file_name(format!(".{}.{}.partial", file_name.to_string_lossy(), std::process::id()));
        let write = || StoreError::io("write", &temporary);
        let file = File::create(&temporary).map_err(write())?;
        let writer = Writer { path: path.to_owned(), temporary: temporary.clone(), file, tensors: slots, finished: AtomicBool::new(false) };
        writer.file.set_len(length).map_err(write())?;
        writer.file.write_all_at(&header, 0).map_err(write())?;
        Ok(writer)
    }

    /// Writes a part of a tensor: its elements, dense and row-major, of the declared type. Every element must be
    /// written once before the file is finished.
    pub fn write_box(&self, name: &str, intervals: &[Vec<(u64, u64)>], bytes: &[u8]) -> Result<(), StoreError> {
        let Some(slot) = self.tensors.get(name) else {
            let (path, tensors) = (self.path.clone(), self.tensors.len());
            return Err(StoreError::Missing { path, name: name.to_owned(), near: Vec::new(), tensors });
        };
        let count = check_part(name, &slot.shape, intervals, slot.width, bytes.len())?;
        let width = slot.width as u64;
        runs(&slot.shape, intervals, &mut |first, at, count| {
            let bytes = &bytes[(at * width) as usize..((at + count) * width) as usize];
            self.file.write_all_at(bytes, slot.start + first * width)
        })
        .map_err(StoreError::io("write", &self.temporary))?;
        slot.written.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Puts the file in place. All writes of all threads must have returned.
    pub fn finish(&self) -> Result<(), StoreError> {
        for (name, slot) in &self.tensors {
            let written = slot.written.load(Ordering::Relaxed);
            if written != slot.elements {
                let (path, name, elements) = (self.path.clone(), name.clone(), slot.elements);
                return Err(StoreError::Unwritten { path, name, written, elements });
            }
        }
        self.file.sync_all().map_err(StoreError::io("write", &self.temporary))?;
        std::fs::rename(&self.temporary, &self.path).map_err(StoreError::io("replace", &self.path))?;
        self.finished.store(true, Ordering::Relaxed);
        sync_folder_of(&self.path)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            // nothing more can be done if this fails; readers ignore such files
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Whether a file can be put in place of `path` later: an error now costs less than one after hours of training.
pub fn can_write(path: &Path) -> Result<(), StoreError> {
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is there, and no regular file");
        return Err(StoreError::io("write", path)(source));
    }
    let Some(name) = path.file_name() else {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path names no file");
        return Err(StoreError::io("write", path)(source));
    };
    let probe = path.with_file_name(format!(".{}.{}.probe", name.to_string_lossy(), std::process::id()));
    File::create(&probe).and_then(|_| std::fs::remove_file(&probe)).map_err(StoreError::io("write", path))
}

/// Makes a rename, creation or removal of `path` last: directories are written to disk on their own.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("write", folder))
}

/// The bytes before the first tensor, where each tensor goes, and the length of the file.
struct FilePlan {
    header: Vec<u8>,
    slots: BTreeMap<String, Slot>,
    length: u64,
}

fn plan(tensors: &[Declared]) -> Result<FilePlan, StoreError> {
    let refuse = |tensor: &Declared, why| Err(StoreError::Declaration { name: tensor.name.clone(), why });
    let mut sorted: Vec<&Declared> = tensors.iter().collect();
    sorted.sort_by(|a, b| b.dtype.bytes(1).cmp(&a.dtype.bytes(1)).then(a.name.cmp(&b.name)));
    let mut slots = BTreeMap::new();
    let mut infos = Vec::with_capacity(sorted.len());
    let mut end = 0u64;
    for tensor in sorted {
        let Some((_, dtype)) = TYPES.iter().find(|row| row.0 == tensor.dtype) else {
            return refuse(tensor, "safetensors files do not hold its element type");
        };
        if tensor.name == "__metadata__" {
            return refuse(tensor, "safetensors files use that name for something else");
        }
        let width = tensor.dtype.bytes(1);
        let elements = tensor.shape.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
        let next = elements.and_then(|elements| elements.checked_mul(width)?.checked_add(end)).filter(|end| *end < 1 << 62);
        let (Some(elements), Some(next)) = (elements, next) else {
            return refuse(tensor, "it is too large for a file");
        };
        let data_offsets = (end as usize, next as usize);
        let shape = tensor.shape.iter().map(|size| *size as usize).collect();
        infos.push((tensor.name.clone(), TensorInfo { dtype: *dtype, shape, data_offsets }));
        let slot = Slot { shape: tensor.shape.clone(), width: width as usize, elements, start: end, written: AtomicU64::new(0) };
        if slots.insert(tensor.name.clone(), slot).is_some() {
            return refuse(tensor, "another tensor has the same name");
        }
        end = next;
    }
    // other readers ask which framework wrote the file, and know this word for plain row-major tensors; more than this
    // one entry would be written in any order
    let about = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let metadata = Metadata::new(Some(about), infos).expect("tensors follow each other");
    let mut text = serde_json::to_vec(&metadata).expect("strings and numbers");
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    slots.values_mut().for_each(|slot| slot.start += header.len() as u64);
    let length = header.len() as u64 + end;
    Ok(FilePlan { header, slots, length })
}

#[cfg(test)]
mod tests {
    use super::super::ParameterFile;
    use super::*;

    fn declared(name: &str, dtype: DType, shape: &[u64]) -> Declared {
        Declared { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    fn whole(shape: &[u64]) -> Vec<Vec<(u64, u64)>> {
        shape.iter().map(|size| vec![(0, *size)]).collect()
    }

    #[test]
    fn ranks_write_their_parts_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let tensors = [declared("w", DType::F32, &[40, 30]), declared("a", DType::F64, &[7]), declared("none", DType::F32, &[0, 3])];
        let writer = Writer::create(&path, &tensors).unwrap();
        let element = |row: u64, column: u64| (row * 30 + column) as f32;
        std::thread::scope(|scope| {
            // a 2 × 3 mesh: rows interleaved in two, columns in three
            for rank in 0..6u64 {
                let writer = &writer;
                scope.spawn(move || {
                    let (i, j) = (rank / 3, rank % 3);
                    let rows = vec![(10 * i, 10 * i + 10), (30 - 10 * i, 40 - 10 * i)];
                    let columns = vec![(10 * j, 10 * j + 10)];
                    let numbers = rows.iter().flat_map(|(a, b)| *a..*b).flat_map(|r| (10 * j..10 * j + 10).map(move |c| element(r, c)));
                    let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
                    writer.write_box("w", &[rows, columns], &bytes).unwrap();
                });
            }
        });
        writer.write_box("none", &whole(&[0, 3]), &[]).unwrap();
        assert!(matches!(writer.finish(), Err(StoreError::Unwritten { name, .. }) if name == "a"));
        writer.write_box("a", &whole(&[7]), &[1; 56]).unwrap();
        assert!(!path.exists(), "nothing is there before the end");
        writer.finish().unwrap();

        let file = ParameterFile::open(&path).unwrap();
        let mut out = vec![0u8; 1200 * 4];
        file.read_box("w", &[40, 30], &whole(&[40, 30]), DType::F32, &mut out).unwrap();
        let numbers: Vec<f32> = out.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        assert_eq!(numbers, (0..1200).map(|n| n as f32).collect::<Vec<_>>());
        // the library reads it too
        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("w").unwrap().data(), &out[..]);
        assert_eq!(theirs.tensor("a").unwrap().dtype(), Dtype::F64);
        assert_eq!(theirs.tensor("none").unwrap().shape(), [0, 3]);
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = vec![declared("b", DType::F32, &[3]), declared("a", DType::Bf16, &[4]), declared("c", DType::F64, &[])];
        let mut files = Vec::new();
        for n in 0..2 {
            let path = folder.path().join(n.to_string());
            let writer = Writer::create(&path, &tensors).unwrap();
            for tensor in &tensors {
                let bytes = vec![tensor.name.as_bytes()[0]; tensor.dtype.bytes(tensor.shape.iter().product()) as usize];
                writer.write_box(&tensor.name, &whole(&tensor.shape), &bytes).unwrap();
            }
            writer.finish().unwrap();
            files.push(std::fs::read(path).unwrap());
            tensors.reverse();
        }
        assert_eq!(files[0], files[1]);
        assert!(files[0].ends_with(b"aaaaaaaa"), "narrow types stand last");
    }

    #[test]
    fn an_abandoned_file_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, b"old").unwrap();
        drop(Writer::create(&path, &[declared("a", DType::F32, &[1000])]).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_declared_is_told() {
        let refused = |tensors: &[Declared]| match plan(tensors) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted"),
        };
        let a = declared("a", DType::F32, &[1]);
        assert!(refused(&[a.clone(), a]).contains("same name"));
        assert!(refused(&[declared("__metadata__", DType::F32, &[1])]).contains("something else"));
        assert!(refused(&[declared("a", DType::Fp4, &[2])]).contains("element type"));
        assert!(refused(&[declared("a", DType::F32, &[u64::MAX, 2])]).contains("too large"));
    }
}
