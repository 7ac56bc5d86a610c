//! How the command line fails: diagnostics on stderr and exit code 1. Files are read and written here too, as that is
//! where most failures come from.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use partita_frontend::{Diagnostic, Source};

use crate::arguments::Shown;

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// Bad input of any kind.
    Told {
        /// The files that the places are in, as they are numbered: names and texts.
        files: Vec<(String, String)>,
        /// What is wrong, all of it.
        diagnostics: Vec<Diagnostic>,
    },
    /// Bad input that was told already.
    Shown,
    /// Nobody reads what is printed any more.
    Closed,
}

impl Failure {
    /// One thing that is wrong, at no place of a file.
    pub fn told(code: &'static str, message: impl std::fmt::Display, help: Option<String>) -> Self {
        let diagnostic = Diagnostic { code, message: message.to_string(), labels: Vec::new(), help };
        Failure::Told { files: Vec::new(), diagnostics: vec![diagnostic] }
    }

    /// A file that cannot be read or written.
    pub fn file(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let help = match (error.kind(), path.parent()) {
            (ErrorKind::NotFound, Some(folder)) if !folder.as_os_str().is_empty() && !folder.exists() => {
                Some(format!("there is no directory {}", folder.display()))
            }
            _ => None,
        };
        Failure::told("partita::file", format!("cannot {action} {}: {}", path.display(), words(error)), help)
    }

    /// Prints it.
    pub fn show(&self, shown: &Shown) -> ExitCode {
        match self {
            Failure::Told { files, diagnostics } => {
                let color = shown.colored(std::io::stderr().is_terminal());
                let told = partita_frontend::render(&sources(files), diagnostics, color);
                // where nobody listens to stderr there is nobody to tell
                let _ = std::io::stderr().lock().write_all(told.as_bytes());
                ExitCode::from(1)
            }
            Failure::Shown => ExitCode::from(1),
            Failure::Closed => ExitCode::SUCCESS,
        }
    }
}

/// Files as the front end takes them.
pub fn sources(files: &[(String, String)]) -> Vec<Source<'_>> {
    files.iter().map(|(name, text)| Source { name, text }).collect()
}

/// What the system says, without its number.
pub fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let mut words = text[..end].to_owned();
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    words
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, Failure> {
    text(path, std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?)
}

/// The content of a file as text.
pub fn text(path: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes)
        .map_err(|error| Failure::told("partita::file", format!("{} is no text: {}", path.display(), error.utf8_error()), None))
}

/// Writes a file as a whole: under another name first, so that a failure leaves what was there. Who may read and write it
/// stays as it was. What is no regular file, such as `/dev/stdout`, is written to as it is.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::file("write", path, &error);
    // through links, so that a link stays one
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if target.exists() && !target.is_file() {
        return std::fs::write(&target, bytes).map_err(fail);
    }
    let Some(name) = target.file_name() else { return Err(fail(ErrorKind::InvalidInput.into())) };
    let partial = target.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
    let written = std::fs::write(&partial, bytes).and_then(|()| match std::fs::metadata(&target) {
        Ok(before) => std::fs::set_permissions(&partial, before.permissions()),
        Err(_) => Ok(()),
    });
    written.and_then(|()| std::fs::rename(&partial, &target)).map_err(|error| {
        // nothing may remain of a file that could not be written
        let _ = std::fs::remove_file(&partial);
        fail(error)
    })
}

/// Prints to stdout; a reader that has gone away is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => Err(Failure::told("partita::file", format!("cannot print: {}", words(&error)), None)),
    }
}

/// Says something on stderr, unless asked to be quiet.
pub fn note(shown: &Shown, text: &str) {
    if !shown.quiet {
        // as above: nobody to tell
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}
