//! Predictions beside published runs: `make validate`.

mod rows;

use std::path::Path;

use partita_planner::estimate::constants::reach;

fn main() {
    let data = std::env::var_os("PARTITA_DATA").map_or_else(|| Path::new("../shared/data").to_path_buf(), Into::into);
    let rows = rows::read(&data.join("measured_runs.jsonl")).unwrap_or_else(|error| panic!("{error}"));
    let usable: Vec<_> = rows.iter().filter(|row| row.is_usable()).collect();
    let started = std::time::Instant::now();
    let mut cases = Vec::new();
    for row in &usable {
        match rows::case(row, Path::new("models")) {
            Ok(case) => cases.push(case),
            Err(error) => println!("{}: {error}", row.id),
        }
    }
    eprintln!("{} cases in {:.1} s", cases.len(), started.elapsed().as_secs_f64());
    let started = std::time::Instant::now();
    for case in &cases {
        let estimate = case.prepared.estimate(&case.cluster, &case.stack, &reach(&case.cluster.device));
        let measured = case.row.step_time_s.unwrap_or(0.0);
        println!(
            "{} {} {} {:.3} {:.3} {:+.1} % mem {:.1} {:.1} {:?} {:?}",
            case.row.id, case.row.model.replace(' ', "_"), case.row.gpu, measured, estimate.step_seconds, 100.0 * (estimate.step_seconds / measured - 1.0),
            estimate.memory_bytes / 1_073_741_824.0, estimate.memory_reserved_bytes / 1_073_741_824.0, case.row.mem_gb_per_gpu, estimate.breakdown
        );
    }
    eprintln!("estimates in {:.3} s", started.elapsed().as_secs_f64());
}
