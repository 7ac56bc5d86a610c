//! The layouts that the planner chooses, on random models and meshes of few axes.

use std::sync::atomic::AtomicBool;

use partita_planner::layout_solver::{Options, Stop, solve};
use partita_planner::layouts::LayoutError;

use super::case::Case;
use super::soundness::cluster;

/// They cost what the solver says, and all iterations alike are a choice of the unrolled problem, which has the same
/// optimum where no loop has a second iteration.
#[test]
fn chosen_layouts_cost_what_is_said_and_unrolled_no_more() {
    let cluster = cluster();
    let (mut proven, mut longer) = (0, 0);
    for case in (0..150).map(Case::new).filter(|case| case.mesh.mesh.axes.len() <= 2) {
        let graph = case.step();
        let task = case.task(&graph, &cluster);
        let solved = match task.solve() {
            Ok(solved) => solved,
            Err(error) => {
                assert_eq!(error, LayoutError::NoneTogether, "{case}");
                continue;
            }
        };
        assert_eq!(task.cost(&solved.layouts), Some(solved.cost), "{case}");
        assert!(solved.lower_bound.is_some_and(|bound| bound <= solved.cost), "{case}");
        let unrolled = task.problem(true).unwrap();
        let options = Options { work: Some(2_000_000), ..Options::default() };
        let answer = solve(&unrolled, options, &AtomicBool::new(false), &mut |_, _, _| ());
        if (solved.stop, answer.stop) == (Stop::Optimal, Stop::Optimal) {
            let cost = answer.cost.unwrap();
            let once = graph.loops.iter().all(|repeated| repeated.count == 1);
            assert!(if once { cost == solved.cost } else { cost <= solved.cost }, "{case}: {cost} unrolled, {} rolled", solved.cost);
            proven += 1;
            longer += usize::from(!once);
        }
    }
    assert!(proven > 50 && longer > 20, "{proven} proven, {longer} with more than one iteration");
}
