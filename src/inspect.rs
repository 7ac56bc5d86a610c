//! `partita inspect`.

use crate::arguments::{Format, InspectArguments, Shown};
use crate::failure::{Failure, print, read};
use crate::report::{Described, text};

pub fn inspect(arguments: &InspectArguments, shown: &Shown) -> Result<(), Failure> {
    let path = if arguments.target.is_dir() { arguments.target.join("plan.json") } else { arguments.target.clone() };
    let content = read(&path)?;
    let described: Described = serde_json::from_str(&content).map_err(|error| {
        Failure::Words(format!("`{}` is not a plan: {error}\n  help: give a directory of `partita compile` or a file of `partita plan -o`", path.display()))
    })?;
    match arguments.format {
        Format::Json => print(&crate::plan::json(&described)),
        Format::Text => print(&text(&described, shown)),
    }
}
