//! Running the program and reading what it leaves.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a call of the program gave.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The diagnostics in one line: those of a message are broken where the terminal ends.
    pub fn told(&self) -> String {
        self.stderr.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ")
    }
}

/// The program with these arguments, in the root of the repository.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_partita"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env_remove("COLUMNS");
    command
}

/// Runs the program.
pub fn partita(arguments: &[&str]) -> Outcome {
    let output = command(arguments).output().expect("the program starts");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("the program prints text"),
        stderr: String::from_utf8(output.stderr).expect("the program prints text"),
    }
}

/// Runs the program, which is expected to do what it is asked. Gives what it prints.
pub fn done(arguments: &[&str]) -> String {
    let outcome = partita(arguments);
    assert_eq!(outcome.code, 0, "partita {}\n{}", arguments.join(" "), outcome.stderr);
    outcome.stdout
}

/// Runs the program, which is expected to refuse with a diagnostic of this code that says all of `words`.
pub fn refused(arguments: &[&str], code: &str, words: &[&str]) {
    let outcome = partita(arguments);
    let call = format!("partita {}", arguments.join(" "));
    assert_eq!(outcome.code, 1, "{call}\n{}{}", outcome.stdout, outcome.stderr);
    let told = outcome.told();
    for word in [&[code], words].concat() {
        assert!(told.contains(word), "{call} does not say `{word}`:\n{}", outcome.stderr);
    }
    assert!(outcome.stdout.is_empty(), "{call} prints {}", outcome.stdout);
}

/// A directory of its own for a test.
pub struct Work {
    folder: TempDir,
}

impl Work {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for arguments.
    pub fn arg(&self, name: &str) -> String {
        text(&self.path(name))
    }

    /// A file in it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.arg(name)
    }

    /// Names of what is in it, sorted.
    pub fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }

    /// Compiles a setting under pins; gives the directory.
    pub fn compile(&self, name: &str, setting: &Setting, pins: &str) -> String {
        let out = self.arg(name);
        done(&setting.arguments("compile", &["--pin", pins, "-o", &out, "-q"]));
        out
    }

    /// Runs a compiled program and gives its log, a value a step.
    pub fn run(&self, directory: &str, steps: u64, more: &[&str]) -> Vec<Value> {
        let log = self.arg("run.jsonl");
        let steps = steps.to_string();
        done(&[&["run", directory, "--steps", &steps, "--log", &log, "-q"], more].concat());
        jsonl(Path::new(&log))
    }
}

/// Names of what is in a directory, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("test paths are text").to_owned()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn jsonl(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The losses of a log.
pub fn losses(log: &[Value]) -> Vec<f64> {
    log.iter().map(|step| step["loss"].as_f64().expect("a loss is a number")).collect()
}

/// A model with settings, on a cluster of threads.
#[derive(Clone)]
pub struct Setting {
    pub model: String,
    pub ranks: u64,
    pub set: Vec<String>,
}

impl Setting {
    /// A model of the repository with `name=value` settings.
    pub fn new(model: &str, ranks: u64, set: &[&str]) -> Self {
        let model = if model.contains('/') { model.to_owned() } else { format!("models/{model}.partita") };
        Self { model, ranks, set: set.iter().map(|one| (*one).to_owned()).collect() }
    }

    /// The small gpt that most tests train: dropout on, so that random numbers are part of every comparison.
    pub fn gpt(ranks: u64) -> Self {
        Self::new("gpt", ranks, &["hidden=64", "seq=64", "dropout=0.1"])
    }

    pub fn with(mut self, set: &[&str]) -> Self {
        self.set.extend(set.iter().map(|one| (*one).to_owned()));
        self
    }

    pub fn cluster(&self) -> &'static str {
        match self.ranks {
            1 => "clusters/local-1.toml",
            2 => "clusters/local-2.toml",
            3 => "clusters/local-3.toml",
            4 => "clusters/local.toml",
            8 => "clusters/local-8.toml",
            ranks => panic!("there is no cluster file of {ranks} ranks"),
        }
    }

    /// The arguments of a subcommand that plans.
    pub fn arguments<'a>(&'a self, subcommand: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec![subcommand, &self.model, "--cluster", self.cluster()];
        self.set.iter().for_each(|set| all.extend(["--set", set]));
        all.extend(more);
        all
    }
}

/// Numbers that look random and are the same in every run (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}
