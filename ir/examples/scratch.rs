//! x
use partita_ir::sample::{self, Options};
use partita_ir::step::training_step;
use partita_ir::train::Train;
fn main() {
    let (mut raw, mut all) = (0, 0);
    for seed in 0..300 {
        let model = sample::graph(seed, Options { windows: false, ..Options::default() });
        let step = training_step(&model, &Train::default(), Default::default()).unwrap();
        let text = partita_ir::text::print(&step);
        raw += text.matches("nodes {").count(); all += step.ops.len();
        if seed == 5 { println!("{}\n{}", partita_ir::text::print(&model), text.lines().filter(|l| l.contains("nodes {")).take(12).collect::<Vec<_>>().join("\n")); }
    }
    println!("{raw} of {all}");
}
