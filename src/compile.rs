//! `partita compile`: plans, and writes the plan and the programs of all ranks into a directory.

use partita_planner::search::SearchError;

use crate::arguments::{CompileArguments, Format, Shown};
use crate::described::{describe, json};
use crate::failure::{Failure, note, print, write};
use crate::plan::{no_plan, planned};
use crate::text;

/// The plan in a directory, as `partita plan` writes it.
pub const PLAN: &str = "plan.json";
/// The programs in a directory.
pub const PROGRAM: &str = "program.json";

pub fn compile(arguments: &CompileArguments, shown: &Shown) -> Result<(), Failure> {
    let planned = planned(&arguments.planning, shown)?;
    let described = describe(&planned);
    if !planned.fits {
        let (strategy, needed, memory) = (planned.plan.strategy(), described.memory_bytes, planned.cluster.device.memory_bytes);
        return Err(no_plan(SearchError::DoesNotFit { strategy, needed, memory }, &planned.cluster));
    }
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
