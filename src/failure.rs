//! How the command line fails: a diagnostic on stderr, exit code 1.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use partita_frontend::{Diagnostic, Source};

use crate::arguments::Shown;

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// A model is wrong.
    Model {
        /// Its file.
        name: String,
        /// Its text.
        text: String,
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
    },
    /// Anything else, in words.
    Words(String),
    /// Nobody reads what is printed any more.
    Closed,
}

impl Failure {
    /// From anything that says what is wrong.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Failure::Words(error.to_string())
    }

    /// A file that cannot be read or written.
    pub fn file(action: &str, path: &Path, error: &std::io::Error) -> Self {
        Failure::Words(format!("cannot {action} `{}`: {error}", path.display()))
    }

    /// Prints it.
    pub fn show(&self, shown: &Shown) -> ExitCode {
        let color = shown.colored(std::io::stderr().is_terminal());
        match self {
            Failure::Model { name, text, diagnostics } => {
                eprint!("{}", partita_frontend::render(Source { name, text }, diagnostics, color));
            }
            Failure::Words(words) => {
                let (on, off) = if color { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
                eprintln!("{on}error:{off} {words}");
            }
            Failure::Closed => return ExitCode::SUCCESS,
        }
        ExitCode::from(1)
    }
}

/// The text of a file.
pub fn read(path: &PathBuf) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
    String::from_utf8(bytes).map_err(|error| Failure::Words(format!("`{}` is not text: {}", path.display(), error.utf8_error())))
}

/// Writes a file as a whole: under another name first, so that a failure leaves what was there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let done = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    done.map_err(|error| {
        // nothing may remain of a file that could not be written
        let _ = std::fs::remove_file(&partial);
        Failure::file("write", path, &error)
    })
}

/// Prints to stdout; a reader that has gone away is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => Err(Failure::Words(format!("cannot print: {error}"))),
    }
}
