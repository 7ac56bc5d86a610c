//! `generate_problem NODES SEED FILE` writes a layout problem of the character of the public ones, compressed if FILE
//! ends in `.gz`.

use std::error::Error;

use partita_planner::layout_problem::{GenerateOptions, generate};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, seed, file] = arguments.as_slice() else { return Err("usage: generate_problem NODES SEED FILE".into()) };
    let problem = generate(&GenerateOptions { nodes: nodes.parse()?, seed: seed.parse()?, ..GenerateOptions::default() });
    problem.write(file)?;
    println!("{file}: {} nodes, {} edges, {} different tables", problem.nodes(), problem.edges().len(), problem.tables());
    Ok(())
}
