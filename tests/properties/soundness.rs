//! Sharded == the interpreter: forward, backward and update, on random models, meshes, layouts and stages.
//!
//! `PARTITA_CASES` says how many, `PARTITA_SEED` where to begin; `PARTITA_SHOW=1` prints graph, kernels and instructions
//! of each case, which is how a seed that fails is read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use partita_ir::program::Program;
use partita_ir::text::{print, print_expr};
use partita_planner::cluster::Cluster;
use partita_planner::plan::Plan;

use super::case::Case;
use super::coverage::Coverage;
use super::outcome::{difference, difference_rounded, expected, finite, jumps, measured, samples, spread};

/// The tolerance of everything, relative to the largest magnitude of its kind.
const TOLERANCE: f64 = 1e-9;

pub fn cluster() -> Cluster {
    Cluster::parse("name = \"test\"\n[device]\nkind = \"cpu-core\"\n[[level]]\nname = \"threads\"\ncount = 16\n", "test.toml").unwrap()
}

/// What a case came to.
pub enum Verdict {
    /// As it should be.
    Same,
    /// There is no plan, or the interpreter's own numbers are not finite.
    Nothing(&'static str),
    /// What is wrong.
    Wrong(String),
}

/// Runs a case both ways.
pub fn judge(case: &Case, cluster: &Cluster, coverage: &Mutex<Coverage>) -> Verdict {
    let Some((plan, program)) = case.plan(cluster) else { return Verdict::Nothing("no layouts go together") };
    if std::env::var_os("PARTITA_SHOW").is_some() {
        show(case, &plan, &program);
    }
    let samples = samples(case);
    let want = expected(case, &samples);
    if !finite(&want) {
        return Verdict::Nothing("not finite");
    }
    coverage.lock().unwrap().add(&plan, &program);
    match measured(case, &program, samples.clone()) {
        Err(error) => Verdict::Wrong(error),
        Ok(got) => match difference(&want, &got, TOLERANCE) {
            None => Verdict::Same,
            Some(_) if jumps(case, &samples, TOLERANCE) => Verdict::Nothing("the model's own numbers jump"),
            Some(why) => Verdict::Wrong(why),
        },
    }
}

/// Prints what a case is made of.
fn show(case: &Case, plan: &Plan, program: &Program) {
    println!("{case}\n{}\nstages of iterations {:?}", print(&plan.graph), plan.cut.of_iteration);
    for (n, kernel) in program.kernels.iter().enumerate() {
        println!("kernel {n} {} {:?} {:?} {}", kernel.name, kernel.factors, kernel.splits, print_expr(&kernel.rule.expr));
    }
    for role in &program.roles {
        for section in &role.sections {
            for (n, one) in section.instructions.iter().enumerate() {
                let names: Vec<&str> = one.reads().into_iter().chain(one.writes()).map(|id| role.buffers[id].name.as_str()).collect();
                println!("stage {} {} {n}: {one:?} {names:?}", role.stage, section.phase.word());
            }
        }
    }
}

/// The verdict, with a panic of the compiler as something wrong.
pub fn verdict(case: &Case, cluster: &Cluster, coverage: &Mutex<Coverage>) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| judge(case, cluster, coverage))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Verdict::Wrong(format!("panicked: {}", words.unwrap_or_default()))
    })
}

/// How many random cases: `PARTITA_CASES`, or as many as take a minute or two.
fn cases() -> u64 {
    std::env::var("PARTITA_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

/// Where to begin: `PARTITA_SEED`.
fn first() -> u64 {
    std::env::var("PARTITA_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[test]
fn sharded_is_whole() {
    let cluster = cluster();
    let coverage = Mutex::<Coverage>::default();
    let next = AtomicU64::new(first());
    let (wrong, nothing) = (Mutex::<Vec<(u64, String)>>::default(), Mutex::<Vec<(u64, &'static str)>>::default());
    let end = first() + cases();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let case = Case::new(seed);
                    match verdict(&case, &cluster, &coverage) {
                        Verdict::Same => {}
                        Verdict::Nothing(why) => nothing.lock().unwrap().push((seed, why)),
                        Verdict::Wrong(why) => wrong.lock().unwrap().push((seed, format!("{case}: {why}"))),
                    }
                }
            });
        }
    });
    let coverage = coverage.into_inner().unwrap();
    coverage.print();
    let nothing = nothing.into_inner().unwrap();
    println!("{} cases, {} of which tell nothing: {nothing:?}", cases(), nothing.len());
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    let lines: Vec<&str> = wrong.iter().map(|(_, line)| line.as_str()).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), lines.join("\n"));
    assert!(nothing.len() as u64 * 50 <= cases().max(50), "{} of {} cases tell nothing: {nothing:?}", nothing.len(), cases());
    let missing = coverage.missing();
    assert!(missing.is_empty(), "never met: {missing:#?}");
}

/// In 16 bits two ways to compute a model round differently, and how far apart that may lead them depends on the model.
/// So a run is held against the interpreter by what the interpreter's own numbers do when each is rounded once more.
#[test]
fn sharded_is_whole_in_16_bits() {
    /// A run sums up and is fused in ways of its own, and is some four such roundings away at most.
    const ROUNDINGS: f64 = 4.0;
    let cluster = cluster();
    let (mut told, mut wrong) = (0, Vec::new());
    let count = cases() / 8;
    for seed in first()..first() + count {
        let case = Case::narrow(seed);
        let Some((_, program)) = case.plan(&cluster) else { continue };
        let samples = samples(&case);
        let want = expected(&case, &samples);
        let unit = if seed.is_multiple_of(2) { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        let Some(tolerance) = Some(&want).filter(|want| finite(want)).and_then(|want| spread(&case, &samples, want, unit)) else {
            continue;
        };
        told += 1;
        match measured(&case, &program, samples).map(|got| difference_rounded(&want, &got, ROUNDINGS * tolerance)) {
            Ok(None) => {}
            Ok(Some(why)) | Err(why) => wrong.push(format!("{case} {} within {tolerance}: {why}", case.train.precision)),
        }
    }
    println!("{count} cases in 16 bits, {told} of which tell something");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(2 * told >= count, "{told} of {count} cases tell something");
}
