//! `partita compile`.

use crate::arguments::{CompileArguments, Format, Shown};
use crate::failure::{Failure, print, write};
use crate::plan::{json, planned};
use crate::report::{describe, text};

pub fn compile(arguments: &CompileArguments, shown: &Shown) -> Result<(), Failure> {
    let planned = planned(&arguments.planning)?;
    let described = describe(&planned.plan, &planned.program, &planned.others);
    let folder = &arguments.output;
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make the directory", folder, &error))?;
    write(&folder.join("plan.json"), json(&described).as_bytes())?;
    let program = serde_json::to_vec(&planned.program).expect("a program is plain data");
    write(&folder.join("program.json"), &program)?;
    match arguments.planning.format {
        Format::Json => print(&json(&described)),
        Format::Text if shown.quiet => Ok(()),
        Format::Text => print(&(text(&described, shown) + &format!("written to {}\n", folder.display()))),
    }
}
