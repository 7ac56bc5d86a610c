//! `partita compile`: plans, and writes the plan and the programs of all ranks into a directory.

use crate::arguments::{CompileArguments, Format, Shown};
use crate::described::{describe, json};
use crate::failure::{Failure, note, print, write};
use crate::plan::planned;
use crate::text;

/// The plan in a directory, as `partita plan` writes it.
pub const PLAN: &str = "plan.json";
/// The programs in a directory.
pub const PROGRAM: &str = "program.json";

pub fn compile(arguments: &CompileArguments, shown: &Shown) -> Result<(), Failure> {
    let planned = planned(&arguments.planning, shown)?;
    let described = describe(&planned);
    let folder = &arguments.output;
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make the directory", folder, &error))?;
    let program = serde_json::to_vec(&planned.program).expect("a program is plain data");
    write(&folder.join(PROGRAM), &program)?;
    write(&folder.join(PLAN), json(&described).as_bytes())?;
    match arguments.planning.format {
        Format::Json => print(&json(&described))?,
        Format::Text if shown.quiet => {}
        Format::Text => print(&text::plan(&described, shown))?,
    }
    note(shown, &format!("written to {}", folder.display()));
    Ok(())
}
