//! `partita plan`: finds the fastest plan that fits.

use std::path::Path;

use partita_frontend::Diagnostic;
use partita_ir::graph::Span;
use partita_ir::program::Program;
use partita_planner::cluster::{Cluster, ClusterError};
use partita_planner::estimate::choose::choose;
use partita_planner::estimate::stack::Stack;
use partita_planner::pins::{PinError, Pins};
use partita_planner::plan::{Plan, Predicted};
use partita_planner::price;
use partita_planner::search::{self, Considered, SearchError};
use partita_planner::stages::CutError;
use partita_planner::units::Bytes;
use partita_runtime::run::work::works;

use crate::arguments::{Format, ModelArguments, PlanArguments, PlanningArguments, Shown};
use crate::check::{loaded, model};
use crate::described::{describe, json};
use crate::estimated::Estimated;
use crate::failure::{Failure, note, print, read, write};
use crate::text;

/// A plan with its programs and the plans that lost.
pub struct Planned {
    pub cluster: Cluster,
    pub pins: Pins,
    pub plan: Plan,
    pub program: Program,
    pub others: Vec<Considered>,
    /// Whether a device has the memory that the fullest rank needs.
    pub fits: bool,
    /// What the search took a step for, if the plan was priced by curves since.
    pub searched_seconds: Option<f64>,
}

/// Plans as the arguments say.
pub fn planned(arguments: &PlanningArguments, shown: &Shown) -> Result<Planned, Failure> {
    let model = model(&arguments.model)?;
    let cluster = cluster(arguments)?;
    let pins = pins(arguments)?;
    let given = search::Model { name: &model.name, graph: &model.graph, train: model.train, settings: &model.settings };
    let memory = |plan: &Plan| {
        let program = partita_codegen::compile(plan, &cluster);
        program.roles.iter().map(|role| role.arena_bytes).max().unwrap_or(0)
    };
    let started = std::time::Instant::now();
    let (mut plan, others) =
        search::search(&given, &cluster, &pins, &memory).map_err(|error| no_plan_of(&arguments.model, error, &cluster))?;
    let violations = partita_planner::verify::verify(&plan, &pins);
    assert!(violations.is_empty(), "the search gives plans that satisfy their pins: {violations:?}");
    let mut program = partita_codegen::compile(&plan, &cluster);
    let violations = partita_ir::program::verify::verify(&program);
    assert!(violations.is_empty(), "a compiled program is legal: {violations:?}");
    let needed = program.roles.iter().map(|role| role.arena_bytes).max().unwrap_or(0);
    let fits = needed <= cluster.device.memory_bytes;
    let searched_seconds = priced(&mut plan, &mut program, &cluster);
    if shown.verbose {
        note(shown, &format!("{} plans in {:.1} s", others.len() + 1, started.elapsed().as_secs_f64()));
    }
    Ok(Planned { cluster, pins, plan, program, others, fits, searched_seconds })
}

/// Puts in what the curves of the cluster say of the compiled program, if it has any, and gives what the search took the step for.
fn priced(plan: &mut Plan, program: &mut Program, cluster: &Cluster) -> Option<f64> {
    if cluster.device.curves.is_empty() || !program.precision.is_held() {
        return None;
    }
    let acts = works(program).expect("a legal program can be prepared");
    let price = price::step(&acts, cluster)?;
    let searched = plan.predicted.step_seconds;
    plan.predicted = Predicted {
        step_seconds: price.step,
        compute_seconds: price.compute,
        boxing_seconds: price.communication,
        bubble_seconds: price.waiting,
        usd_per_step: price.step / 3600.0 * cluster.usd_per_hour(&(0..plan.ranks())),
        tokens: plan.predicted.tokens,
    };
    program.predicted_seconds = price.step;
    Some(searched)
}

fn cluster(arguments: &PlanningArguments) -> Result<Cluster, Failure> {
    let text = read(&arguments.cluster)?;
    let name = arguments.cluster.display().to_string();
    Cluster::parse(&text, &name).map_err(|ClusterError { problems, .. }| {
        let position = |byte: usize| u32::try_from(byte.min(text.len())).unwrap_or(u32::MAX);
        let diagnostics = problems
            .into_iter()
            .map(|problem| Diagnostic {
                code: problem.code,
                message: problem.message,
                labels: vec![(Span { start: position(problem.span.start), end: position(problem.span.end) }, String::new())],
                help: Some(problem.help),
            })
            .collect();
        Failure::Told { files: vec![(name, text)], diagnostics }
    })
}

fn pins(arguments: &PlanningArguments) -> Result<Pins, Failure> {
    let mut pins = Pins::default();
    for text in &arguments.pin {
        pins.merge(&Pins::parse(text).map_err(bad_pin)?).map_err(bad_pin)?;
    }
    pins.even |= arguments.even;
    Ok(pins)
}

fn bad_pin(error: PinError) -> Failure {
    Failure::told(error.code(), &error, Some(error.help()))
}

/// Why there is no plan of a model, at the line of it that is the reason where there is one.
fn no_plan_of(model: &ModelArguments, error: SearchError, cluster: &Cluster) -> Failure {
    let span = if let SearchError::Coupled { span, .. } = &error { *span } else { None };
    let mut failure = no_plan(error, cluster);
    if let (Failure::Told { files, diagnostics }, Some(span)) = (&mut failure, span)
        && let Ok(loaded) = loaded(model)
    {
        *files = loaded.files;
        diagnostics.iter_mut().for_each(|diagnostic| diagnostic.labels.push((span, "over the samples of a micro-batch".to_owned())));
    }
    failure
}

/// Why there is no plan, and what would give one.
pub fn no_plan(error: SearchError, cluster: &Cluster) -> Failure {
    match error {
        SearchError::Pin(pin) => bad_pin(pin),
        SearchError::DoesNotFit { strategy, needed, memory } => Failure::told(
            "partita::plan::does_not_fit",
            format!(
                "no plan fits: the smallest, {strategy}, needs {} on its fullest rank, and a device has {}",
                Bytes(needed),
                Bytes(memory)
            ),
            Some(format!(
                "leave `zero`, `recompute` and `mbs` open if they are pinned, take more than {} ranks, a smaller `--set batch` or model, \
                 or correct `memory_bytes` of the cluster",
                cluster.ranks()
            )),
        ),
        SearchError::NoDegrees { ranks } => Failure::told(
            "partita::plan::no_degrees",
            format!("no combination of dp, tp, cp and pp makes {ranks} ranks under these pins"),
            Some("leave one of the pins open with `*`".to_owned()),
        ),
        SearchError::Cut(cut) => {
            let help = match &cut {
                CutError::TooFew { blocks, .. } => format!("use `pp` of at most {blocks}, or more `--set layers`"),
                CutError::Returns { .. } => "use `pp=1`".to_owned(),
            };
            Failure::told("partita::plan::too_many_stages", cut, Some(help))
        }
        SearchError::Order(order) => Failure::told("partita::plan::no_order", order, Some("leave `schedule` or `vpp` open".to_owned())),
        SearchError::Layout(layout) => {
            let help = "leave `tp`, `cp` or `sp` open, or allow uneven splits by leaving out `--even`".to_owned();
            Failure::told("partita::plan::no_layout", layout, Some(help))
        }
        SearchError::Coupled { .. } => Failure::told(
            "partita::plan::coupled",
            error,
            Some("leave `mbs` open, or pin it to the samples of a data-parallel rank".to_owned()),
        ),
        SearchError::Step(step) => Failure::told("partita::plan::not_trainable", step, None),
    }
}

/// Plans by estimates alone.
fn estimated(arguments: &PlanArguments, cluster: &Cluster, shown: &Shown) -> Result<(), Failure> {
    let model = model(&arguments.planning.model)?;
    let pins = pins(&arguments.planning)?;
    let stack = Stack::named(&arguments.stack).expect("the command line takes known stacks only");
    let given = search::Model { name: &model.name, graph: &model.graph, train: model.train, settings: &model.settings };
    let picked = choose(&given, cluster, &stack, &pins).map_err(|error| no_plan_of(&arguments.planning.model, error, cluster))?;
    let plan = Estimated::new(&given, cluster, &stack, &picked);
    if let Some(path) = &arguments.output {
        write(path, plan.json().as_bytes())?;
    }
    match arguments.planning.format {
        Format::Json => print(&plan.json()),
        Format::Text => print(&plan.text(shown)),
    }
}

/// Writes the layout problem of a plan. Stages share one mesh and its layouts, so there is one problem however many there are.
fn emit_layout_problem(path: &Path, planned: &Planned, unroll: bool, shown: &Shown) -> Result<(), Failure> {
    let task = search::task(&planned.plan, &planned.cluster, &planned.pins);
    let problem = task.problem(unroll).expect("a plan's operators have layouts");
    let cost = task.cost(&planned.plan.layouts).expect("the layouts of a plan are a choice of its problem");
    let mut bytes = Vec::new();
    problem.write_as(path, &mut bytes).expect("memory takes all that is written");
    write(path, &bytes)?;
    let (nodes, edges) = (problem.nodes(), problem.edges().len());
    note(shown, &format!("layout problem of {nodes} nodes and {edges} edges, where the plan costs {cost}, written to {}", path.display()));
    Ok(())
}

pub fn plan(arguments: &PlanArguments, shown: &Shown) -> Result<(), Failure> {
    let cluster = cluster(&arguments.planning)?;
    let compiled = arguments.stack == "partita" && cluster.device.kind == "cpu-core" || arguments.emit_layout_problem.is_some();
    if !compiled {
        return estimated(arguments, &cluster, shown);
    }
    let planned = planned(&arguments.planning, shown)?;
    let described = describe(&planned);
    if let Some(path) = &arguments.output {
        write(path, json(&described).as_bytes())?;
    }
    if let Some(path) = &arguments.emit_layout_problem {
        emit_layout_problem(path, &planned, arguments.unroll_layout_problem, shown)?;
    }
    match arguments.planning.format {
        Format::Json => print(&json(&described)),
        Format::Text => print(&text::plan(&described, shown)),
    }
}
