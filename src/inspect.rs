//! `partita inspect`: shows a plan again, or what is in a directory of compiled programs.

use std::path::Path;

use partita_ir::program::{Instruction, Program, Region, Role};
use partita_planner::units::Bytes;

use crate::arguments::{Format, InspectArguments, Shown};
use crate::compile::PLAN;
use crate::described::{Described, FORMAT, json};
use crate::failure::{Failure, print, read};
use crate::table::table;
use crate::text;

pub fn inspect(arguments: &InspectArguments, shown: &Shown) -> Result<(), Failure> {
    let folder = arguments.target.is_dir();
    let path = if folder { arguments.target.join(PLAN) } else { arguments.target.clone() };
    if folder && !path.exists() {
        return Err(not_compiled(&arguments.target));
    }
    let described = described(&path)?;
    match arguments.format {
        Format::Json => print(&json(&described)),
        Format::Text => {
            let mut out = text::plan(&described, shown);
            if folder && shown.verbose {
                let program = crate::run::program(&arguments.target)?;
                out += &program.roles.iter().map(|role| role_text(&program, role)).collect::<String>();
            }
            print(&out)
        }
    }
}

/// A directory that `partita compile` did not write.
pub fn not_compiled(folder: &Path) -> Failure {
    let message = format!("there is no compiled program in {}", folder.display());
    Failure::told("partita::program::missing", message, Some("give a directory that `partita compile … -o DIR` wrote".to_owned()))
}

fn described(path: &Path) -> Result<Described, Failure> {
    let help = Some("give a directory of `partita compile`, or a file of `partita plan -o`".to_owned());
    let refuse = |why: String| Failure::told("partita::plan::unreadable", format!("{} is no plan: {why}", path.display()), help.clone());
    let content = read(path)?;
    let described: Described = serde_json::from_str(&content).map_err(|error| match version(&content) {
        Some(found) if found != FORMAT => refuse(format!("it has format {found}, and this version reads {FORMAT}")),
        _ => refuse(error.to_string()),
    })?;
    if described.format != FORMAT {
        return Err(refuse(format!("it has format {}, and this version reads {FORMAT}", described.format)));
    }
    let whole = described.degrees.contains_key("mbs") && !described.ranks.is_empty() && !described.stages.is_empty();
    if whole { Ok(described) } else { Err(refuse("it has no `ranks`, no `stages` or no `mbs`".to_owned())) }
}

/// The version that a file of this or another one says it is.
pub fn version(content: &str) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_str(content).ok()?;
    value.get("format")?.as_u64()?.try_into().ok()
}

/// The instructions and buffers of a stage.
fn role_text(program: &Program, role: &Role) -> String {
    let mut out = format!("\nprogram of stage {}: {} in {} buffers\n", role.stage, Bytes(role.arena_bytes), role.buffers.len());
    let rows = role.sections.iter().map(|section| {
        let of = |wanted: &dyn Fn(&Instruction) -> bool| section.instructions.iter().filter(|one| wanted(one)).count().to_string();
        vec![
            section.phase.word().to_owned(),
            of(&|one| matches!(one, Instruction::Kernel { kernel, .. } if program.kernels[*kernel].gemm)),
            of(&|one| matches!(one, Instruction::Kernel { kernel, .. } if !program.kernels[*kernel].gemm)),
            of(&|one| matches!(one, Instruction::Box { boxing, .. } if !program.boxings[*boxing].step.kind.is_local())),
            of(&|one| matches!(one, Instruction::Box { boxing, .. } if program.boxings[*boxing].step.kind.is_local())),
            of(&|one| matches!(one, Instruction::Send { .. } | Instruction::Receive { .. })),
            of(&|one| {
                matches!(one, Instruction::Copy { .. } | Instruction::Take { .. } | Instruction::Put { .. } | Instruction::Load { .. })
            }),
        ]
    });
    out += &table(&["phase", ">matrix products", ">other kernels", ">collectives", ">local boxings", ">messages", ">copies, loads"], rows);
    let rows = [(Region::Lasting, "lasting"), (Region::Saved, "saved, forward to backward"), (Region::Passing, "passing")].map(
        |(region, word)| {
            let buffers = role.buffers.iter().filter(|buffer| buffer.region == region);
            let bytes: u64 = buffers.clone().map(|buffer| buffer.bytes).sum();
            vec![word.to_owned(), buffers.count().to_string(), Bytes(bytes).to_string()]
        },
    );
    out + &table(&["buffers", ">number", ">bytes, not shared"], rows)
}
