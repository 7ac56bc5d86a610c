//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A compiler for distributed deep learning: a model and a cluster in, the fastest plan that fits and its programs out.
#[derive(Debug, Parser)]
#[command(name = "partita", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub shown: Shown,
}

/// What is shown, and how.
#[derive(Debug, Args)]
pub struct Shown {
    /// Show more.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Show results alone.
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
    /// Find the fastest plan that fits. Needs no GPU.
    Plan(PlanArguments),
    /// Plan, and write the programs of all ranks into a directory.
    Compile(CompileArguments),
    /// Train with compiled programs, on threads of this machine.
    Run(RunArguments),
    /// Look at a plan or at compiled programs.
    Inspect(InspectArguments),
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
}

/// What to plan, where, and what is already decided.
#[derive(Debug, Args)]
pub struct PlanningArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// Cluster file (TOML).
    #[arg(long, value_name = "FILE")]
    pub cluster: PathBuf,
    /// Decide something beforehand: dp tp cp pp mbs sp zero recompute schedule …; comma separated, several times. `*` leaves open.
    #[arg(long = "pin", value_name = "NAME=VALUE,…")]
    pub pin: Vec<String>,
    /// Only even splits.
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
    /// Write the plan (JSON) to a file.
    #[arg(short, long, value_name = "PLAN.json")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CompileArguments {
    #[command(flatten)]
    pub planning: PlanningArguments,
    /// Directory to write.
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
    /// Tokens: a `.bin` file of them, or any file as bytes; drawn from a Markov chain if left out.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Seed of parameters, data and dropout.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Threads of each rank; by default cores / ranks, at least 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Parameters to begin with (safetensors).
    #[arg(long, value_name = "W.safetensors")]
    pub init: Option<PathBuf>,
    /// Write the parameters at the end (safetensors).
    #[arg(long, value_name = "W.safetensors")]
    pub save: Option<PathBuf>,
    /// Write the gradients of the first step (safetensors), before clipping.
    #[arg(long, value_name = "G.safetensors")]
    pub gradients: Option<PathBuf>,
    /// Directory of checkpoints.
    #[arg(long, value_name = "D")]
    pub checkpoint: Option<PathBuf>,
    /// Steps between checkpoints; without it, one at the end.
    #[arg(long, value_name = "N", requires = "checkpoint", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: Option<u64>,
    /// Go on from the newest checkpoint.
    #[arg(long, requires = "checkpoint")]
    pub resume: bool,
    /// Write a line of JSON for each step.
    #[arg(long, value_name = "RUN.jsonl")]
    pub log: Option<PathBuf>,
    /// Measure where the time of rank 0 goes.
    #[arg(long)]
    pub profile: bool,
    /// How to print the summary at the end.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct InspectArguments {
    /// A directory of `partita compile`, or a plan of `partita plan -o`.
    pub target: PathBuf,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
