//! `partita fmt`: model files as all of them are written.

use std::io::Read;
use std::path::Path;

use partita_frontend::{Source, format};

use crate::arguments::{FmtArguments, Shown};
use crate::failure::{Failure, note, print, read, text, write};

/// What the standard input is called, on the command line and in what is said of it.
const STDIN: (&str, &str) = ("-", "standard input");

pub fn fmt(arguments: &FmtArguments, shown: &Shown) -> Result<(), Failure> {
    let mut changed = 0;
    let mut refused = false;
    for file in &arguments.files {
        match one(file, arguments.check, shown) {
            Ok(changes) => changed += usize::from(changes),
            Err(Failure::Closed) => return Err(Failure::Closed),
            // the other files are no worse for it
            Err(failure) => {
                failure.show(shown);
                refused = true;
            }
        }
    }
    if refused {
        return Err(Failure::Shown);
    }
    if arguments.check && changed > 0 {
        let message = format!("{changed} of {} would change", crate::table::count(arguments.files.len() as u64, "file"));
        let help = "run `partita fmt` without `--check`".to_owned();
        return Err(Failure::told("partita::fmt::would_change", message, Some(help)));
    }
    Ok(())
}

/// Formats a file, or says its name if it would change; gives whether it is another then.
fn one(file: &Path, check: bool, shown: &Shown) -> Result<bool, Failure> {
    let piped = file.as_os_str() == STDIN.0;
    let name = if piped { STDIN.1.to_owned() } else { file.display().to_string() };
    let before = if piped { read_stdin()? } else { read(file)? };
    let after = match format(Source { name: &name, text: &before }) {
        Ok(after) => after,
        Err(diagnostics) => return Err(Failure::Told { files: vec![(name, before)], diagnostics }),
    };
    let changes = after != before;
    if check {
        if changes {
            print(&format!("{name}\n"))?;
        }
    } else if piped {
        print(&after)?;
    } else if changes {
        write(file, after.as_bytes())?;
        note(shown, &format!("formatted {name}"));
    }
    Ok(changes)
}

fn read_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::file("read", Path::new(STDIN.1), &error))?;
    text(Path::new(STDIN.1), bytes)
}
