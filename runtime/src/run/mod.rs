//! Running a compiled program: ranks as threads of this process.

pub mod arena;
mod error;
pub mod execute;
pub mod leaf;
mod numbers;
pub mod prepare;
mod reuse;
pub mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use partita_ir::layout::Share;
use partita_ir::program::Program;
use serde::Serialize;

use crate::comm::{Communicator, World};
use crate::data::{self, DataSource};
use crate::pool::Pool;
use crate::store::{CheckpointMeta, CheckpointWriter, Declared, ParameterFile, StoreError, Writer, can_write, latest};
use arena::Arena;
pub use error::RunError;
use execute::Rank;
use prepare::{View, prepare};

/// What a run is asked to do.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Steps in all, those of a resumed checkpoint included.
    pub steps: u64,
    /// Tokens; drawn if absent.
    pub data: Option<PathBuf>,
    /// Seed of parameters, data and dropout.
    pub seed: u64,
    /// Threads of each rank; by default the cores divided by the ranks, at least 1.
    pub threads: Option<usize>,
    /// Parameters to begin with.
    pub init: Option<PathBuf>,
    /// Whether that file may lack some of them, which then begin as the model says.
    pub init_partial: bool,
    /// Where to write parameters at the end.
    pub save: Option<PathBuf>,
    /// Where to write the gradients of the first step.
    pub gradients: Option<PathBuf>,
    /// Directory of checkpoints.
    pub checkpoint: Option<PathBuf>,
    /// Steps between checkpoints; 0: only at the end.
    pub every: u64,
    /// Go on from the newest checkpoint.
    pub resume: bool,
    /// Measure where the time goes.
    pub profile: bool,
}

/// What is known of a step when it is done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Mean loss over the batch's valid targets.
    pub loss: f64,
    /// The means of the loss's named terms, without their weights.
    pub terms: BTreeMap<String, f64>,
    /// Seconds that it took, of the slowest rank.
    pub seconds: f64,
    /// Tokens of the batch per second.
    pub tokens_per_second: f64,
    /// Seconds that the plan expected.
    pub predicted_seconds: f64,
    /// Norm of the gradient of all parameters, before clipping; no finite number where the step was skipped.
    pub grad_norm: f64,
    /// Whether some gradient overflowed, so that the step changed nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// What the loss was multiplied by, where that changes from step to step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Bytes that each rank received.
    pub comm_bytes: Vec<u64>,
    /// The same, over all ranks, by kind of step.
    pub comm_bytes_by_kind: BTreeMap<String, u64>,
}

/// What is known of a run when it is done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunSummary {
    /// First step that was run, from 1.
    pub first_step: u64,
    /// Steps that changed nothing, since some gradient overflowed.
    pub skipped_steps: u64,
    /// Bytes of each rank's arena.
    pub arena_bytes: Vec<u64>,
    /// Temporary memory of each rank's kernels.
    pub scratch_bytes: Vec<u64>,
    /// Bytes of message buffers.
    pub message_bytes: u64,
    /// FLOPs of each rank's matrix products in a step.
    pub gemm_flops: Vec<u64>,
    /// Anonymous memory of the process before the arenas were allocated, and its peak after, in bytes.
    pub anonymous_bytes: (u64, u64),
    /// Damaged checkpoints that were passed over.
    pub damaged: Vec<String>,
    /// Where the time of rank 0 went: seconds and calls by kind of act.
    pub profile: Vec<(String, f64, u64)>,
}

enum Message {
    Step { rank: usize, step: u64, seconds: f64, received: BTreeMap<&'static str, u64>, reports: Vec<(String, f64)> },
    Done { rank: usize, scratch: u64, flops: u64, profile: Vec<(String, f64, u64)>, messages: u64 },
}

/// What sees every rank after every step (counted from 0), in the rank's own thread.
pub type Watch<'a> = &'a (dyn Fn(&Rank<'_>, u64) + Sync);

/// Runs a program. `on_step` sees every step when it is done.
pub fn run(program: &Program, options: &RunOptions, on_step: &mut dyn FnMut(&StepReport)) -> Result<RunSummary, RunError> {
    check(program)?;
    let data = data::of_program(options.data.as_deref(), program, options.seed)?;
    run_checked(program, options, &data, &|_, _| (), on_step)
}

/// Runs a program on these tokens (`options.data` is not read), its ranks watched.
pub fn run_watched(
    program: &Program,
    options: &RunOptions,
    data: &DataSource,
    watch: Watch<'_>,
    on_step: &mut dyn FnMut(&StepReport),
) -> Result<RunSummary, RunError> {
    check(program)?;
    run_checked(program, options, data, watch, on_step)
}

/// Whether this version can run the program, and whether it may run at all.
fn check(program: &Program) -> Result<(), RunError> {
    if !program.precision.is_held() {
        return Err(RunError::Precision(program.precision));
    }
    let violations = partita_ir::program::verify::verify(program);
    if violations.is_empty() { Ok(()) } else { Err(RunError::Program(violations)) }
}

fn run_checked(
    program: &Program,
    options: &RunOptions,
    data: &DataSource,
    watch: Watch<'_>,
    on_step: &mut dyn FnMut(&StepReport),
) -> Result<RunSummary, RunError> {
    let ranks = (program.mesh.ranks() * program.roles.len() as u64) as usize;
    let needed = program.roles.iter().map(|role| role.arena_bytes.saturating_mul(program.mesh.ranks())).fold(0, u64::saturating_add);
    if let Some(available) = available_bytes().filter(|available| needed > *available) {
        return Err(RunError::Memory { ranks, needed, available });
    }
    // what is written at the end must not turn out to be impossible there
    [&options.save, &options.gradients].into_iter().flatten().try_for_each(|path| can_write(path))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores / ranks).max(1);
    let everything = leaf::declared(program, true);
    let mut summary = RunSummary { anonymous_bytes: (anonymous_bytes(), 0), ..RunSummary::default() };
    let mut first = 0;
    let mut state = None;
    if let Some(folder) = &options.checkpoint {
        std::fs::create_dir_all(folder).map_err(|source| StoreError::Io { action: "make the directory", path: folder.clone(), source })?;
        can_write(&folder.join("step"))?;
    }
    if let (Some(folder), false) = (&options.checkpoint, options.resume)
        && let Some(step) = latest(folder)?.newest()
    {
        return Err(RunError::Occupied { folder: folder.clone(), step });
    }
    if let (Some(folder), true) = (&options.checkpoint, options.resume) {
        let found = latest(folder)?;
        summary.damaged = found.damaged.iter().map(|(_, error)| error.to_string()).collect();
        let checkpoint =
            found.checkpoint.ok_or_else(|| RunError::NothingToResume { folder: folder.clone(), damaged: summary.damaged.clone() })?;
        checkpoint.check(options.seed, &program.model, &everything)?;
        first = checkpoint.meta.step;
        state = Some(checkpoint.state);
    }
    let init = match (&options.init, &state) {
        (Some(path), None) => Some(ParameterFile::open(path)?),
        _ => None,
    };
    summary.first_step = first + 1;
    let communicators = World::connect_with(ranks, program.channel_capacity());
    let world = communicators[0].world().clone();
    let (sender, receiver) = mpsc::channel();
    let errors: Mutex<Vec<(usize, RunError)>> = Mutex::default();
    let shared = Shared {
        program,
        options,
        data,
        watch,
        everything: &everything,
        first,
        init: init.as_ref(),
        state: state.as_ref(),
        ranks,
        threads,
        writer: Mutex::new(None),
        gathered: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for communicator in communicators {
            let (sender, shared, errors, world) = (sender.clone(), &shared, &errors, world.clone());
            scope.spawn(move || {
                let rank = communicator.rank();
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.rank(&communicator, &sender)));
                let error = match outcome {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(panic) => {
                        let words = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                        RunError::Rank { rank, reason: words.unwrap_or_else(|| "it panicked".into()) }
                    }
                };
                world.poison(&error.to_string());
                errors.lock().expect("no rank panics while it holds this").push((rank, error));
            });
        }
        drop(sender);
        collect(program, options, ranks, &receiver, &mut summary, on_step);
    });
    let mut errors = errors.into_inner().expect("no rank panicked while it held this");
    // the first cause, not the ranks that were woken by it
    errors.sort_by_key(|(rank, error)| (matches!(error, RunError::Comm(_)), *rank));
    match errors.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(summary),
    }
}

/// Puts the ranks' messages together, step by step.
fn collect(
    program: &Program,
    options: &RunOptions,
    ranks: usize,
    receiver: &mpsc::Receiver<Message>,
    summary: &mut RunSummary,
    on_step: &mut dyn FnMut(&StepReport),
) {
    let tokens = (program.batch * program.seq) as f64;
    summary.arena_bytes = (0..ranks).map(|rank| View::new(program, rank).role.arena_bytes).collect();
    summary.scratch_bytes = vec![0; ranks];
    summary.gemm_flops = vec![0; ranks];
    let mut open: BTreeMap<u64, (usize, StepReport)> = BTreeMap::new();
    for message in receiver {
        match message {
            Message::Step { rank, step, seconds, received, reports } => {
                let (seen, report) = open.entry(step).or_insert_with(|| {
                    let report = StepReport {
                        step,
                        loss: f64::NAN,
                        terms: BTreeMap::new(),
                        seconds: 0.0,
                        tokens_per_second: 0.0,
                        predicted_seconds: program.predicted_seconds,
                        grad_norm: f64::NAN,
                        skipped: false,
                        loss_scale: None,
                        lr: f64::NAN,
                        comm_bytes: vec![0; ranks],
                        comm_bytes_by_kind: BTreeMap::new(),
                    };
                    (0, report)
                });
                *seen += 1;
                report.seconds = report.seconds.max(seconds);
                report.comm_bytes[rank] = received.values().sum();
                for (kind, bytes) in received {
                    *report.comm_bytes_by_kind.entry(kind.to_owned()).or_default() += bytes;
                }
                for (name, value) in reports {
                    match name.as_str() {
                        "loss" => report.loss = value,
                        "grad_norm" => report.grad_norm = value,
                        "lr" => report.lr = value,
                        "skipped" => report.skipped = value != 0.0,
                        "loss_scale" => report.loss_scale = Some(value),
                        _ => {
                            report.terms.insert(name, value);
                        }
                    }
                }
                if *seen == ranks {
                    summary.skipped_steps += u64::from(report.skipped);
                    report.tokens_per_second = tokens / report.seconds;
                    summary.anonymous_bytes.1 = summary.anonymous_bytes.1.max(anonymous_bytes());
                    on_step(report);
                    open.remove(&step);
                }
            }
            Message::Done { rank, scratch, flops, profile, messages } => {
                summary.scratch_bytes[rank] = scratch;
                summary.gemm_flops[rank] = flops;
                summary.message_bytes = messages;
                if rank == 0 && options.profile {
                    summary.profile = profile;
                }
            }
        }
    }
}

/// What the ranks of a run share.
struct Shared<'a> {
    program: &'a Program,
    options: &'a RunOptions,
    data: &'a DataSource,
    watch: Watch<'a>,
    everything: &'a [Declared],
    first: u64,
    init: Option<&'a ParameterFile>,
    state: Option<&'a ParameterFile>,
    ranks: usize,
    threads: usize,
    writer: Mutex<Option<std::sync::Arc<Output>>>,
    gathered: Mutex<BTreeMap<String, (Vec<u64>, Vec<f64>)>>,
}

enum Output {
    Checkpoint(CheckpointWriter),
    File(Writer),
}

impl Output {
    fn writer(&self) -> &Writer {
        match self {
            Output::Checkpoint(checkpoint) => checkpoint.state(),
            Output::File(writer) => writer,
        }
    }
    fn finish(&self) -> Result<(), StoreError> {
        match self {
            Output::Checkpoint(checkpoint) => checkpoint.finish().map(|_| ()),
            Output::File(writer) => writer.finish(),
        }
    }
}

impl Shared<'_> {
    fn rank(&self, communicator: &dyn Communicator, sender: &mpsc::Sender<Message>) -> Result<(), RunError> {
        let rank = communicator.rank();
        let view = View::new(self.program, rank);
        let prepared = prepare(&view, communicator)?;
        let everyone = communicator.group(&(0..self.ranks).collect::<Vec<_>>())?;
        let (scratch, flops) = (prepared.scratch_bytes, prepared.gemm_flops);
        let mut worker = Rank {
            arena: Arena::new(view.role.arena_bytes as usize),
            scratch: Arena::new(scratch),
            pool: Pool::beside(self.threads, self.ranks),
            view,
            prepared,
            communicator,
            data: self.data,
            seed: self.options.seed,
            received: BTreeMap::new(),
            profile: self.options.profile.then(BTreeMap::new),
        };
        worker.initialise();
        if let Some(file) = self.init {
            worker.load(file, false, self.options.init_partial)?;
        }
        if let Some(file) = self.state {
            worker.load(file, true, false)?;
        }
        communicator.barrier(&everyone)?;
        for step in self.first..self.options.steps {
            worker.supply(step + 1);
            let started = Instant::now();
            worker.step(step)?;
            let seconds = started.elapsed().as_secs_f64();
            let reports = if worker.view.rank == 0 {
                worker.view.role.reports.iter().map(|(name, buffer)| (name.clone(), worker.scalar(*buffer))).collect()
            } else {
                Vec::new()
            };
            let received = worker.received.clone();
            // the main thread outlives the ranks; if it does not listen there is nobody to tell
            let _ = sender.send(Message::Step { rank, step: step + 1, seconds, received, reports });
            (self.watch)(&worker, step);
            if step == self.first && self.options.gradients.is_some() {
                self.gradients(&worker, &everyone)?;
            }
            let due = self.options.every > 0 && (step + 1) % self.options.every == 0;
            if let Some(folder) = &self.options.checkpoint
                && (due || step + 1 == self.options.steps)
            {
                let begin = || {
                    let samples = (step + 1) * self.program.batch;
                    let meta = CheckpointMeta::new(step + 1, samples, self.options.seed, &self.program.model, self.everything);
                    CheckpointWriter::create(folder, meta, self.everything).map(Output::Checkpoint)
                };
                self.write(&worker, &everyone, true, &begin)?;
            }
        }
        if let Some(path) = &self.options.save {
            let begin = || Writer::create(path, &leaf::declared(self.program, false)).map(Output::File);
            self.write(&worker, &everyone, false, &begin)?;
        }
        let profile =
            worker.profile.take().unwrap_or_default().into_iter().map(|(name, (seconds, calls))| (name, seconds, calls)).collect();
        let done = Message::Done { rank, scratch: scratch as u64, flops, profile, messages: communicator.message_bytes() };
        let _ = sender.send(done);
        Ok(())
    }

    /// Writes a file together: rank 0 begins and finishes it, all write their parts.
    fn write(
        &self,
        worker: &Rank<'_>,
        everyone: &crate::comm::Group,
        states: bool,
        begin: &dyn Fn() -> Result<Output, StoreError>,
    ) -> Result<(), RunError> {
        let slot = || self.writer.lock().expect("no rank panics while it holds this");
        if worker.communicator.rank() == 0 {
            *slot() = Some(std::sync::Arc::new(begin()?));
        }
        worker.communicator.barrier(everyone)?;
        let output = slot().clone().expect("rank 0 has begun the file");
        worker.save(output.writer(), states)?;
        worker.communicator.barrier(everyone)?;
        if worker.communicator.rank() == 0 {
            output.finish()?;
            *slot() = None;
        }
        Ok(worker.communicator.barrier(everyone)?)
    }

    /// Gathers the gradients of the step, in f64, and writes them as a file of f32 or f64 tensors.
    fn gradients(&self, worker: &Rank<'_>, everyone: &crate::comm::Group) -> Result<(), RunError> {
        let view = &worker.view;
        for (name, id) in &view.role.gradients {
            let buffer = &view.role.buffers[*id];
            let first = view.is_first_holder(*id);
            let pending = buffer.layout.0.iter().any(|share| matches!(share, Share::Partial(_)));
            if !first && !pending {
                continue;
            }
            if !first {
                continue;
            }
            let shard = view.shard(*id, 0);
            let values = worker.numbers(*id);
            let mut gathered = self.gathered.lock().expect("no rank panics while it holds this");
            let base = name.split(".grad").next().unwrap_or(name).to_owned();
            let entry =
                gathered.entry(base).or_insert_with(|| (buffer.shape.clone(), vec![0.0; buffer.shape.iter().product::<u64>() as usize]));
            let mut at = 0;
            leaf::each_index(&buffer.shape, &shard, &mut |element| {
                entry.1[element as usize] += values[at];
                at += 1;
            });
        }
        worker.communicator.barrier(everyone)?;
        if worker.communicator.rank() == 0 {
            let gathered = self.gathered.lock().expect("no rank panics while it holds this");
            let dtype = self.program.precision.accumulate;
            let tensors: Vec<Declared> =
                gathered.iter().map(|(name, (shape, _))| Declared { name: name.clone(), dtype, shape: shape.clone() }).collect();
            if let Some(path) = &self.options.gradients {
                let writer = Writer::create(path, &tensors)?;
                for (name, (shape, values)) in gathered.iter() {
                    let whole: Vec<Vec<(u64, u64)>> = shape.iter().map(|size| vec![(0, *size)]).collect();
                    let width = dtype.bytes(1) as usize;
                    let mut bytes = vec![0; width * values.len()];
                    bytes.chunks_exact_mut(width).zip(values).for_each(|(slot, value)| numbers::put(dtype, slot, *value));
                    writer.write_box(name, &whole, &bytes)?;
                }
                writer.finish()?;
            }
        }
        Ok(worker.communicator.barrier(everyone)?)
    }
}

/// Anonymous memory of this process in bytes, as the kernel counts it; 0 where it does not say.
pub fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Memory of this machine that a new allocation can have, in bytes; `None` where the kernel does not say.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
