//! Predictions beside published runs: `make validate`.

mod fit;
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
    if let Some(id) = std::env::args().nth(1) {
        let case = cases.iter().find(|case| case.row.id == id).expect("a row");
        for section in &case.prepared.sections {
            println!("{:?} {:?} saved {:.1} MB alive {:.1} MB", section.phase, section.place, section.saved / 1e6, section.alive / 1e6);
            for kernel in &section.kernels {
                println!("   {:?} {:.1} MB weights {} scores {}", kernel.work, kernel.bytes / 1e6, kernel.for_weights, kernel.scores);
            }
            for step in &section.moves {
                println!("   {step:?}");
            }
        }
        println!("{:?}", case.prepared.weights);
        println!("{:?}", fit::estimate(case, None));
        println!("{:?}", case.prepared.cut);
        return;
    }
    let all: Vec<&rows::Case> = cases.iter().collect();
    let started = std::time::Instant::now();
    let start = fit::values(&all);
    let fitted = fit::fit(&all, &start);
    eprintln!("fit in {:.1} s", started.elapsed().as_secs_f64());
    for ((knob, before), value) in fit::KNOBS.iter().zip(&start).zip(&fitted) {
        println!("{:22} {before:8.4} {value:8.4}", knob.name);
    }
    let over = all.iter().filter(|case| fit::estimate(case, None).memory_reserved_bytes > case.cluster.device.memory_bytes as f64);
    println!("over {:?}", over.map(|case| case.row.id.as_str()).collect::<Vec<_>>());
    let mut groups = std::collections::BTreeMap::<String, Vec<(f64, &str)>>::new();
    for case in &all {
        let estimate = fit::estimate(case, Some(&fitted));
        let off = estimate.step_seconds / case.row.step_time_s.unwrap_or(1.0) - 1.0;
        if std::env::var_os("ROWS").is_some() {
            println!("ROW {} {} {} {} mbs {} off {:+.1} full {:.2} measured {:?} live {:.1} reserved {:.1}", case.row.id, case.row.model.replace(' ', "_"), case.cluster.device.kind, case.row.n_gpus.unwrap_or(0), case.row.mbs.unwrap_or(0), off * 100.0, estimate.memory_reserved_bytes / case.cluster.device.memory_bytes as f64, case.row.mem_gb_per_gpu, estimate.memory_bytes / 1.0737e9, estimate.memory_reserved_bytes / 1.0737e9);
        }
        let row = &case.row;
        let key = format!("{:.14} {} {} {}", row.source, case.cluster.device.kind, row.precision_class.as_deref().unwrap_or(""), row.recompute_class.as_deref().unwrap_or(""));
        for key in [key, "all".into()] {
            groups.entry(key).or_default().push((off, &row.id));
        }
    }
    for (key, mut offs) in groups {
        let n = offs.len() as f64;
        offs.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
        let mean = offs.iter().map(|off| off.0.abs()).sum::<f64>() / n;
        let signed = offs.iter().map(|off| off.0).sum::<f64>() / n;
        let worst: Vec<String> = offs.iter().take(5).map(|(off, id)| format!("{id} {:+.0}", off * 100.0)).collect();
        println!("{key:50} {n:4} mean {:.1} signed {:+.1} p90 {:.1} {}", mean * 100.0, signed * 100.0, offs[(n * 0.1) as usize].0.abs() * 100.0, worst.join(", "));
    }
}
