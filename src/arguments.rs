//! What the command line takes. The words of this file are those of `--help`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A compiler for distributed deep learning: a model and a cluster in, the fastest plan that fits and its programs out.
#[derive(Debug, Parser)]
#[command(name = "partita", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub shown: Shown,
}

/// What is shown, and how.
#[derive(Debug, Args)]
pub struct Shown {
    /// Show everything there is to show.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Show less: no tables, no notes.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Shown {
    /// Whether to colour what goes to a stream that `terminal` says is one.
    pub fn colored(&self, terminal: bool) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a model and say what is wrong with it, or what it is.
    Check(CheckArguments),
    /// Format model files: spaces, columns and line breaks, never what they mean.
    Fmt(FmtArguments),
    /// Find the fastest plan that fits. Needs no GPU.
    Plan(PlanArguments),
    /// Plan, and write the programs of all ranks into a directory.
    Compile(CompileArguments),
    /// Train with compiled programs, on threads of this machine.
    Run(RunArguments),
    /// Look at a plan or at compiled programs.
    Inspect(InspectArguments),
    /// Measure this machine and write a cluster file with its curves, by which plans are priced.
    Profile(ProfileArguments),
    /// Solve a layout problem: one strategy a node, the cheapest that fits into memory, and a bound.
    Solve(SolveArguments),
}

/// A model and its settings.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// Model file (`.partita`).
    pub model: PathBuf,
    /// Set a parameter of the model or an entry of its `train` section; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

fn stack(name: &str) -> Result<String, String> {
    let mut names = partita_planner::estimate::stack::Stack::names();
    if names.any(|known| known == name) {
        return Ok(name.to_owned());
    }
    let all: Vec<&str> = partita_planner::estimate::stack::Stack::names().collect();
    Err(format!("no stack has this name; there are {}", all.join(", ")))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// How to print what the model is; as JSON, what is wrong with it is printed too, as a list.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct FmtArguments {
    /// Model files (`.partita`), which are written in place; `-` reads the standard input and prints.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write nothing; name the files that would change, and end with exit code 1 if there are any.
    #[arg(long)]
    pub check: bool,
}

/// What to plan, where, and what is already decided.
#[derive(Debug, Args)]
pub struct PlanningArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// Cluster file (TOML).
    #[arg(long, value_name = "FILE")]
    pub cluster: PathBuf,
    /// Fix a part of the plan, such as `dp=2,tp=2`; may be given several times, and `tp=*` leaves a pin open. Pins: `dp`
    /// `tp` `cp` `pp` (degrees; their product is the number of ranks), `mbs` (sequences per data rank and micro-batch), `sp`
    /// (true, false), `zero` (0 to 3), `recompute` (none, selective, full), `schedule` (gpipe, 1f1b, interleaved, zb-h1,
    /// zb-h2, zb-v, dualpipev), `ep` `etp` `vpp` `zero-group`.
    #[arg(long = "pin", value_name = "NAME=VALUE,…")]
    pub pin: Vec<String>,
    /// Forbid splits of unequal parts.
    #[arg(long)]
    pub even: bool,
    /// How to print the plan.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    pub planning: PlanningArguments,
    /// Estimate for this software stack instead of this compiler's own programs: layouts inside the pins are the stack's, and
    /// nothing is compiled. Clusters of GPUs are always estimated.
    #[arg(long, value_name = "NAME", default_value = "partita", value_parser = stack)]
    pub stack: String,
    /// Write the plan to a file, the bytes of `--format json`.
    #[arg(short, long, value_name = "PLAN.json")]
    pub output: Option<PathBuf>,
    /// Write the layout problem of the plan to a file that `partita solve` reads, gzipped if its name ends in `.gz`: the
    /// layouts of one mesh, which all stages share, everything else being as in the plan; costs are nanoseconds a step.
    #[arg(long, value_name = "FILE")]
    pub emit_layout_problem: Option<PathBuf>,
    /// Write it with nodes of their own for every iteration of a repeat, for measurements of the solver: the planner itself
    /// chooses the layouts of a repeated block once.
    #[arg(long, requires = "emit_layout_problem")]
    pub unroll_layout_problem: bool,
}

#[derive(Debug, Args)]
pub struct CompileArguments {
    #[command(flatten)]
    pub planning: PlanningArguments,
    /// Directory to write; programs that are there already are replaced.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Directory that `partita compile` wrote.
    pub directory: PathBuf,
    /// Steps in all, those of a resumed checkpoint included.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub steps: u64,
    /// Tokens: a `.bin` file of little-endian 16-bit tokens (32-bit if the vocabulary is above 65536), or any file as bytes.
    /// Left out, they are drawn from a Markov chain that can be learnt.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Seed of parameters, data and dropout.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Threads of each rank; by default cores / ranks, at least 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Parameters to begin with (safetensors); a run that resumes begins with its checkpoint.
    #[arg(long, value_name = "W.safetensors")]
    pub init: Option<PathBuf>,
    /// What the file of `--init` lacks begins as the model says, such as adapters on top of trained weights.
    #[arg(long, requires = "init")]
    pub init_partial: bool,
    /// Write the parameters at the end (safetensors).
    #[arg(long, value_name = "W.safetensors")]
    pub save: Option<PathBuf>,
    /// Write the gradients of the first step (safetensors), before clipping.
    #[arg(long, value_name = "G.safetensors")]
    pub gradients: Option<PathBuf>,
    /// Directory of checkpoints. One that holds checkpoints already is refused without `--resume`.
    #[arg(long, value_name = "D")]
    pub checkpoint: Option<PathBuf>,
    /// Steps between checkpoints; without it, one at the end.
    #[arg(long, value_name = "N", requires = "checkpoint", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: Option<u64>,
    /// Go on from the newest checkpoint; its plan and number of ranks may have been others.
    #[arg(long, requires = "checkpoint")]
    pub resume: bool,
    /// Write a line of JSON for each step, in place of what is there; `--resume` keeps the steps before its own.
    #[arg(long, value_name = "RUN.jsonl")]
    pub log: Option<PathBuf>,
    /// Show where the time of rank 0 went.
    #[arg(long)]
    pub profile: bool,
    /// How to print the summary at the end.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct ProfileArguments {
    /// Cluster file to write; without it, it is printed.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Ranks of the cluster file; by default one a core. The curves do not depend on it: change `count` and `memory_bytes` as you like.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub ranks: Option<u64>,
    /// Measure for a second or two only: figures that are roughly right.
    #[arg(long)]
    pub quick: bool,
    /// Measure the CPU although there is a GPU.
    #[arg(long)]
    pub cpu: bool,
}

#[derive(Debug, Args)]
pub struct SolveArguments {
    /// Layout problem, JSON or gzipped JSON, in the format of the ASPLOS 2025 contest on intra-operator parallelism.
    pub file: PathBuf,
    /// Stop after so many seconds, reading included, with the best answer so far. Ctrl-C does the same at any time.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub time_limit: Option<f64>,
    /// Stop after so many units of work, about a microsecond each: the same answer on every machine.
    #[arg(long, value_name = "N")]
    pub work: Option<u64>,
    /// Threads to use, by default one a core. With `--work` one thread does all, and the answer does not depend on them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Seed of what chance decides.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e9 => Ok(seconds),
        _ => Err(format!("`{text}` is no number of seconds above 0")),
    }
}

#[derive(Debug, Args)]
pub struct InspectArguments {
    /// A directory of `partita compile`, or a plan of `partita plan -o`.
    pub target: PathBuf,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
