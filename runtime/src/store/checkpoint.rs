//! Checkpoints: the state of a run in a directory, one subdirectory a step.
//!
//! `step-00000020/` holds `state.safetensors` (parameters and moments) and `meta.json`. It is written under the name
//! `step-00000020.partial` and renamed when all of it is on disk, so a directory without a suffix is complete. A step
//! that is saved again moves the old directory to `step-00000020.replaced` for the moment between two renames; it
//! counts as complete while the step has no other. One run at a time writes to a directory.

use std::path::{Path, PathBuf};

use partita_ir::random::salt_of;
use serde::{Deserialize, Serialize};

use super::write::sync_folder_of;
use super::{Declared, ParameterFile, StoreError, Writer};

/// Complete checkpoints that are kept, the newest among them.
const KEPT: usize = 2;

const STATE: &str = "state.safetensors";
const META: &str = "meta.json";
const PARTIAL: &str = ".partial";
const REPLACED: &str = ".replaced";

/// Differences that an error lists before it says how many more there are.
const LISTED: usize = 6;

/// What a checkpoint is a checkpoint of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// Steps done.
    pub step: u64,
    /// Samples done: where the data go on.
    pub samples_done: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Name of the model.
    pub model: String,
    /// A hash of the names, element types and shapes of the state, as [`CheckpointMeta::signature_of`] gives it.
    pub signature: String,
    /// Version of the program that wrote it.
    pub version: String,
}

impl CheckpointMeta {
    /// What is written for a run: signature and version are filled in.
    pub fn new(step: u64, samples_done: u64, seed: u64, model: &str, tensors: &[Declared]) -> CheckpointMeta {
        let signature = Self::signature_of(tensors);
        CheckpointMeta { step, samples_done, seed, model: model.to_owned(), signature, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// A hash of names, element types and shapes that does not depend on their order.
    pub fn signature_of(tensors: &[Declared]) -> String {
        let mut lines: Vec<String> =
            tensors.iter().map(|tensor| format!("{} {} {:?}\n", tensor.name, tensor.dtype, tensor.shape)).collect();
        lines.sort();
        format!("{:016x}", salt_of(&lines.concat()))
    }
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct CheckpointWriter {
    folder: PathBuf,
    meta: CheckpointMeta,
    state: Writer,
}

impl CheckpointWriter {
    /// Begins a checkpoint in `folder`, which is made if needed. What killed runs left unfinished there is removed.
    pub fn create(folder: &Path, meta: CheckpointMeta, tensors: &[Declared]) -> Result<CheckpointWriter, StoreError> {
        std::fs::create_dir_all(folder).map_err(StoreError::io("make the directory", folder))?;
        let steps = list(folder)?;
        for step in &steps {
            let superseded =
                step.kind == Kind::Replaced && steps.iter().any(|other| other.step == step.step && other.kind == Kind::Complete);
            if step.kind == Kind::Partial || superseded {
                remove(&step.path)?;
            }
        }
        let partial = folder.join(folder_name(meta.step, PARTIAL));
        std::fs::create_dir(&partial).map_err(StoreError::io("make the directory", &partial))?;
        let state = Writer::create(&partial.join(STATE), tensors)?;
        Ok(CheckpointWriter { folder: folder.to_owned(), meta, state })
    }

    /// Where ranks write the state.
    pub fn state(&self) -> &Writer {
        &self.state
    }

    /// Completes the checkpoint, then removes older ones but the newest of them. Gives its directory. All writes of
    /// all ranks must have returned.
    pub fn finish(&self) -> Result<PathBuf, StoreError> {
        let step = self.meta.step;
        let [partial, complete, replaced] = [PARTIAL, "", REPLACED].map(|suffix| self.folder.join(folder_name(step, suffix)));
        self.state.finish()?;
        let meta = partial.join(META);
        let text = serde_json::to_string_pretty(&self.meta).expect("strings and numbers") + "\n";
        let write = || {
            use std::io::Write;
            let mut file = std::fs::File::create(&meta)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(StoreError::io("write", &meta))?;
        sync_folder_of(&meta)?;
        if complete.exists() {
            if replaced.exists() {
                remove(&replaced)?;
            }
            std::fs::rename(&complete, &replaced).map_err(StoreError::io("rename", &complete))?;
        }
        std::fs::rename(&partial, &complete).map_err(StoreError::io("rename", &partial))?;
        sync_folder_of(&complete)?;
        // only now may anything older go
        let mut older = list(&self.folder)?;
        older.retain(|other| other.step < step && other.kind != Kind::Partial || other.step == step && other.kind == Kind::Replaced);
        let mut earlier = older.iter().map(|other| other.step).filter(|other| *other < step).collect::<Vec<_>>();
        earlier.dedup();
        let keep = &earlier[..earlier.len().min(KEPT - 1)];
        for other in older.iter().filter(|other| !keep.contains(&other.step)) {
            remove(&other.path)?;
        }
        Ok(complete)
    }
}

/// A complete checkpoint, opened.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// What it is a checkpoint of.
    pub meta: CheckpointMeta,
    /// Parameters and moments.
    pub state: ParameterFile,
}

impl Checkpoint {
    /// Opens the checkpoint in the directory `path`, such as `run/step-00000020`.
    pub fn open(path: &Path) -> Result<Checkpoint, StoreError> {
        let meta_path = path.join(META);
        let text = std::fs::read(&meta_path).map_err(StoreError::io("read", &meta_path))?;
        let corrupt = |why: String| StoreError::Corrupt { path: meta_path.clone(), why };
        let meta: CheckpointMeta = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        let state = ParameterFile::open(&path.join(STATE))?;
        let found = CheckpointMeta::signature_of(&tensors_of(&state));
        if found != meta.signature {
            return Err(corrupt(format!("it is for a state with signature {}, and the state beside it has {found}", meta.signature)));
        }
        Ok(Checkpoint { path: path.to_owned(), meta, state })
    }

    /// Whether a run with this seed, model and state can go on from here; the error lists what differs.
    pub fn check(&self, seed: u64, model: &str, tensors: &[Declared]) -> Result<(), StoreError> {
        let mut differences = Vec::new();
        if self.meta.model != model {
            differences.push(format!("it is of the model `{}`, this is `{model}`", self.meta.model));
        }
        if self.meta.seed != seed {
            differences.push(format!("it has seed {}, this run has {seed}", self.meta.seed));
        }
        let mut wanted: Vec<&Declared> = tensors.iter().collect();
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        let found = tensors_of(&self.state);
        for tensor in &wanted {
            match found.binary_search_by(|other| other.name.cmp(&tensor.name)).map(|n| &found[n]) {
                Err(_) => differences.push(format!("it lacks `{}`", tensor.name)),
                Ok(other) if other.shape != tensor.shape => {
                    differences.push(format!("`{}` has shape {:?} there and {:?} here", tensor.name, other.shape, tensor.shape));
                }
                Ok(other) if other.dtype != tensor.dtype => {
                    differences.push(format!("`{}` is {} there and {} here", tensor.name, other.dtype, tensor.dtype));
                }
                Ok(_) => {}
            }
        }
        for other in &found {
            if wanted.binary_search_by(|tensor| tensor.name.cmp(&other.name)).is_err() {
                differences.push(format!("it has `{}`, which this run has not", other.name));
            }
        }
        if differences.len() > LISTED {
            let more = differences.len() - LISTED;
            differences.truncate(LISTED);
            differences.push(format!("and {more} more"));
        }
        if differences.is_empty() { Ok(()) } else { Err(StoreError::Incompatible { path: self.path.clone(), differences }) }
    }
}

/// The tensors of a file, by name.
fn tensors_of(file: &ParameterFile) -> Vec<Declared> {
    let declared = |name: &str| Some(Declared { name: name.to_owned(), dtype: file.dtype(name)?, shape: file.shape(name)?.to_vec() });
    file.names().filter_map(declared).collect()
}

/// What [`latest`] found.
#[derive(Debug)]
pub struct Found {
    /// The newest complete checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that look complete and cannot be opened: a damaged disk, or files changed by hand. Say so to the
    /// user.
    pub damaged: Vec<(u64, StoreError)>,
}

impl Found {
    /// The newest step of which anything was found.
    pub fn newest(&self) -> Option<u64> {
        let damaged = self.damaged.iter().map(|(step, _)| *step);
        self.checkpoint.iter().map(|checkpoint| checkpoint.meta.step).chain(damaged).max()
    }
}

/// The newest complete checkpoint in `folder`. What killed runs left unfinished is passed over, and a directory that is
/// not there holds none.
pub fn latest(folder: &Path) -> Result<Found, StoreError> {
    let mut found = Found { checkpoint: None, damaged: Vec::new() };
    if !folder.exists() {
        return Ok(found);
    }
    for step in list(folder)?.iter().filter(|step| step.kind != Kind::Partial) {
        match Checkpoint::open(&step.path) {
            Ok(checkpoint) => {
                found.checkpoint = Some(checkpoint);
                break;
            }
            Err(error) => found.damaged.push((step.step, error)),
        }
    }
    Ok(found)
}

/// What a directory of a step is, the one to be preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Complete,
    Replaced,
    Partial,
}

struct Step {
    step: u64,
    kind: Kind,
    path: PathBuf,
}

fn folder_name(step: u64, suffix: &str) -> String {
    format!("step-{step:08}{suffix}")
}

/// The directories of steps in `folder`, newest first. Anything else there is none of our business.
fn list(folder: &Path) -> Result<Vec<Step>, StoreError> {
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let path = entry.map_err(StoreError::io("read", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits: String = name.strip_prefix("step-").unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        let Ok(step) = digits.parse::<u64>() else { continue };
        let kinds = [("", Kind::Complete), (REPLACED, Kind::Replaced), (PARTIAL, Kind::Partial)];
        if let Some((_, kind)) = kinds.into_iter().find(|(suffix, _)| name == folder_name(step, suffix)) {
            steps.push(Step { step, kind, path });
        }
    }
    steps.sort_by(|a, b| b.step.cmp(&a.step).then(a.kind.cmp(&b.kind)));
    Ok(steps)
}

fn remove(folder: &Path) -> Result<(), StoreError> {
    std::fs::remove_dir_all(folder).map_err(StoreError::io("remove", folder))
}

#[cfg(test)]
mod tests {
    use partita_ir::dtype::DType;

    use super::*;

    fn tensors() -> Vec<Declared> {
        let declared = |name: &str, shape: &[u64]| Declared { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec() };
        vec![declared("w", &[16, 8]), declared("w.m", &[16, 8]), declared("b", &[8])]
    }

    /// Begins a checkpoint whose every number is its step.
    fn begin(folder: &Path, step: u64) -> CheckpointWriter {
        let tensors = tensors();
        let writer = CheckpointWriter::create(folder, CheckpointMeta::new(step, step * 4, 7, "tiny", &tensors), &tensors).unwrap();
        for tensor in &tensors {
            let part: Vec<_> = tensor.shape.iter().map(|size| vec![(0, *size)]).collect();
            let bytes: Vec<u8> = (0..tensor.shape.iter().product()).flat_map(|_: u64| (step as f32).to_le_bytes()).collect();
            writer.state().write_box(&tensor.name, &part, &bytes).unwrap();
        }
        writer
    }

    fn save(folder: &Path, step: u64) {
        begin(folder, step).finish().unwrap();
    }

    /// The step of the newest checkpoint, after checking that all its numbers are of that step.
    fn newest(folder: &Path) -> Option<u64> {
        let found = latest(folder).unwrap();
        assert!(found.damaged.is_empty(), "{:?}", found.damaged);
        let checkpoint = found.checkpoint?;
        checkpoint.check(7, "tiny", &tensors()).unwrap();
        for tensor in tensors() {
            let part: Vec<_> = tensor.shape.iter().map(|size| vec![(0, *size)]).collect();
            let mut out = vec![0; tensor.shape.iter().product::<u64>() as usize * 4];
            checkpoint.state.read_box(&tensor.name, &tensor.shape, &part, DType::F32, &mut out).unwrap();
            assert!(out.as_chunks().0.iter().all(|x| f32::from_le_bytes(*x) == checkpoint.meta.step as f32));
        }
        assert_eq!(checkpoint.meta.samples_done, checkpoint.meta.step * 4);
        Some(checkpoint.meta.step)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_two_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("runs/a");
        assert_eq!(newest(&folder), None);
        for step in [5, 10, 20, 100_000_000] {
            save(&folder, step);
            assert_eq!(newest(&folder), Some(step));
        }
        assert_eq!(names(&folder), ["step-00000020", "step-100000000"]);
    }

    #[test]
    fn a_run_killed_at_any_point_leaves_a_complete_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        // killed while the state is written
        let folder = root.path().join("state");
        save(&folder, 10);
        std::mem::forget(begin(&folder, 20));
        assert_eq!(newest(&folder), Some(10));
        save(&folder, 20);
        assert_eq!(names(&folder), ["step-00000010", "step-00000020"]);

        // killed after the meta data, before the rename: complete in all but its name
        let folder = root.path().join("meta");
        save(&folder, 10);
        save(&folder, 20);
        std::fs::rename(folder.join("step-00000020"), folder.join("step-00000020.partial")).unwrap();
        assert_eq!(newest(&folder), Some(10));

        // killed between the two renames of a step that is saved again
        let folder = root.path().join("again");
        save(&folder, 20);
        std::fs::rename(folder.join("step-00000020"), folder.join("step-00000020.replaced")).unwrap();
        std::mem::forget(begin(&folder, 20));
        assert_eq!(newest(&folder), Some(20));
        save(&folder, 20);
        assert_eq!(names(&folder), ["step-00000020"]);

        // killed before the old ones were removed
        let folder = root.path().join("prune");
        for step in [10, 20, 30] {
            save(&root.path().join("other"), step);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::rename(root.path().join(format!("other/step-{step:08}")), folder.join(format!("step-{step:08}"))).unwrap();
        }
        assert_eq!(newest(&folder), Some(30));
        save(&folder, 40);
        assert_eq!(names(&folder), ["step-00000030", "step-00000040"]);
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in ["step-1", "step-00000001.old", "step-", "log.txt", "step-99999999999999999999"] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        (1..=3).for_each(|step| save(folder, 10 * step));
        assert_eq!(names(folder).len(), 7);
        assert_eq!(newest(folder), Some(30));
    }

    #[test]
    fn a_step_behind_removes_nothing_newer() {
        let folder = tempfile::tempdir().unwrap();
        [30, 40, 10].into_iter().for_each(|step| save(folder.path(), step));
        assert_eq!(names(folder.path()), ["step-00000010", "step-00000030", "step-00000040"]);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_and_told() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 10);
        save(folder.path(), 20);
        let state = folder.path().join("step-00000020/state.safetensors");
        let bytes = std::fs::read(&state).unwrap();
        std::fs::write(&state, &bytes[..bytes.len() - 1]).unwrap();
        let found = latest(folder.path()).unwrap();
        assert_eq!(found.checkpoint.unwrap().meta.step, 10);
        assert!(found.damaged[0].1.to_string().contains("step-00000020"));
        std::fs::write(folder.path().join("step-00000010/meta.json"), "{}").unwrap();
        let found = latest(folder.path()).unwrap();
        assert!(found.checkpoint.is_none() && found.damaged.len() == 2);
    }

    #[test]
    fn another_run_is_told_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 10);
        let checkpoint = latest(folder.path()).unwrap().checkpoint.unwrap();
        let mut other = tensors();
        other[0].shape = vec![8, 16];
        other[1].dtype = DType::F64;
        other[2].name = "c".to_owned();
        let said = checkpoint.check(8, "small", &other).unwrap_err().to_string();
        for part in [
            "the model `tiny`, this is `small`",
            "seed 7, this run has 8",
            "`w` has shape [16, 8] there and [8, 16] here",
            "`w.m` is f32 there and f64 here",
            "it lacks `c`",
            "it has `b`, which this run has not",
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }

    /// Saves for ever when another test runs this executable with a folder.
    #[test]
    fn saves_until_killed() {
        let Some(folder) = std::env::var_os("PARTITA_TEST_SAVE_UNTIL_KILLED") else { return };
        for step in 1.. {
            // every step twice: the second time it replaces itself
            save(Path::new(&folder), step);
            save(Path::new(&folder), step);
        }
    }

    #[test]
    fn a_killed_process_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = None;
        for round in 0..12 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "store::checkpoint::tests::saves_until_killed"])
                .env("PARTITA_TEST_SAVE_UNTIL_KILLED", folder.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(40 + round * 7));
            child.kill().unwrap();
            child.wait().unwrap();
            let now = newest(folder.path());
            assert!(now >= before, "step {before:?} was complete, then {now:?} was the newest");
            before = now;
        }
        assert!(before.is_some(), "some step was saved");
    }
}
