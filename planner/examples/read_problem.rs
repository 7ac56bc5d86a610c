//! `read_problem FILE` reads a layout problem, compressed or not, and says what it has and how long that took.

use std::error::Error;
use std::time::Instant;

use partita_planner::layout_problem::Problem;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: read_problem FILE")?;
    let start = Instant::now();
    let problem = Problem::read(&file).map_err(|error| error.to_string())?;
    let seconds = start.elapsed().as_secs_f64();
    let strategies = (0..problem.nodes()).map(|node| problem.strategies(node)).max().unwrap_or(0);
    println!(
        "{}: {} nodes of at most {strategies} strategies, {} edges, {} different tables, limits {:?}; read in {seconds:.3} s",
        problem.name,
        problem.nodes(),
        problem.edges().len(),
        problem.tables(),
        problem.limits,
    );
    Ok(())
}
