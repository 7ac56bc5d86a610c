//! `partita plan`.

use partita_ir::program::Program;
use partita_planner::cluster::Cluster;
use partita_planner::pins::Pins;
use partita_planner::plan::Plan;
use partita_planner::search::{self, Considered};

use crate::arguments::{Format, PlanArguments, PlanningArguments, Shown};
use crate::check::model;
use crate::failure::{Failure, print, read, write};
use crate::report::{Described, describe, text};

/// A plan with its programs and the plans that lost.
pub struct Planned {
    pub plan: Plan,
    pub program: Program,
    pub others: Vec<Considered>,
}

/// Plans as the arguments say.
pub fn planned(arguments: &PlanningArguments) -> Result<Planned, Failure> {
    let model = model(&arguments.model)?;
    let cluster = Cluster::parse(&read(&arguments.cluster)?, &arguments.cluster.display().to_string()).map_err(Failure::new)?;
    let mut pins = Pins::default();
    for text in &arguments.pin {
        pins.merge(&Pins::parse(text).map_err(pin_failure)?).map_err(pin_failure)?;
    }
    pins.even |= arguments.even;
    let given = search::Model { name: &model.name, graph: &model.graph, train: model.train, settings: &model.settings };
    let memory = |plan: &Plan| {
        let program = partita_codegen::compile(plan, &cluster);
        program.roles.iter().map(|role| role.arena_bytes).max().unwrap_or(0)
    };
    let (plan, others) = search::search(&given, &cluster, &pins, &memory).map_err(|error| match error {
        search::SearchError::Pin(pin) => pin_failure(pin),
        other => Failure::new(other),
    })?;
    let violations = partita_planner::verify::verify(&plan, &pins);
    if let Some(first) = violations.first() {
        return Err(Failure::Words(format!("the plan that was found breaks a pin: {first}")));
    }
    let program = partita_codegen::compile(&plan, &cluster);
    Ok(Planned { plan, program, others })
}

fn pin_failure(error: partita_planner::pins::PinError) -> Failure {
    Failure::Words(format!("{error}\n  help: {}", error.help()))
}

/// The plan as JSON.
pub fn json(described: &Described) -> String {
    serde_json::to_string_pretty(described).expect("a description is plain data") + "\n"
}

pub fn plan(arguments: &PlanArguments, shown: &Shown) -> Result<(), Failure> {
    let planned = planned(&arguments.planning)?;
    let described = describe(&planned.plan, &planned.program, &planned.others);
    if let Some(path) = &arguments.output {
        write(path, json(&described).as_bytes())?;
    }
    match arguments.planning.format {
        Format::Json => print(&json(&described)),
        Format::Text => print(&text(&described, shown)),
    }
}
