//! A plan as people read it.

use std::io::IsTerminal;

use partita_planner::units::{Bytes, Seconds};

use crate::arguments::Shown;
use crate::described::{Communication, Described, LayoutLine, Replicated, Uneven};
use crate::table::{count, grouped, heading, ranges, table};

/// Rows of a table that are shown without `-v`.
const MOST: usize = 10;

/// The whole plan.
pub fn plan(plan: &Described, shown: &Shown) -> String {
    let color = shown.colored(std::io::stdout().is_terminal());
    let mut sections = vec![summary(plan, color)];
    if !shown.quiet {
        sections.push(heading("ranks", color) + &ranks(plan));
        if !plan.communication.is_empty() {
            sections.push(heading("communication, bytes received by all ranks in a step", color) + &communication(plan, shown));
        }
        if plan.mesh.iter().any(|(name, _)| name != "micro") {
            sections.push(heading("parameters at rest", color) + &layouts("parameter", &plan.parameters));
            if shown.verbose {
                sections.push(heading("operators", color) + &layouts("operator", &plan.operators));
            }
        }
        if !plan.considered.is_empty() {
            sections.push(heading("also considered", color) + &considered(plan, shown));
        }
    }
    sections.join("\n")
}

/// What was decided and what it is expected to take.
fn summary(plan: &Described, color: bool) -> String {
    let n = plan.ranks.len() as u64;
    let mut out = heading(&format!("{} on {}: {}", plan.model, plan.cluster, short(&plan.strategy)), color);
    let mut line = |name: &str, text: String| out += &format!("  {name:<10}{text}\n");
    let mesh: Vec<String> = plan.mesh.iter().filter(|(name, _)| name != "micro").map(|(name, size)| format!("{name} {size}")).collect();
    let mesh = if mesh.is_empty() { "one rank".to_owned() } else { mesh.join(" × ") };
    line("ranks", if plan.stages.len() > 1 { format!("{n}: {} stages, each {mesh}", plan.stages.len()) } else { format!("{n}: {mesh}") });
    if plan.stages.len() > 1 {
        line("stages", stages(plan) + &format!(" ({})", plan.schedule));
    }
    if plan.micro_batches > 1 {
        line("batch", format!("{} micro-batches of {} a data rank", plan.micro_batches, count(plan.degrees["mbs"], "sequence")));
    }
    for (n, Replicated { operator, factor, reason }) in plan.replicated.iter().enumerate() {
        line(if n == 0 { "whole" } else { "" }, format!("`{operator}` is not split along `{factor}`: {reason}"));
    }
    for (n, uneven) in plan.uneven.iter().enumerate() {
        line(if n == 0 { "uneven" } else { "" }, pieces(uneven));
    }
    let parts = [
        ("compute", plan.compute_seconds),
        ("communication", plan.boxing_seconds),
        (if plan.searched_seconds.is_some() { "waiting" } else { "pipeline fill" }, plan.bubble_seconds),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(_, seconds)| *seconds > 0.0).map(|(what, seconds)| format!("{} {what}", Seconds(*seconds))).collect();
    let rate = grouped(plan.tokens_per_second as u64);
    line("step", format!("{} predicted: {}; {rate} tokens/s", Seconds(plan.step_seconds), parts.join(" + ")));
    line("memory", format!("{} on the fullest rank", Bytes(plan.memory_bytes)));
    line("why", why(plan));
    out
}

/// `ffn 512 over tensor: 2 × 171, 170`
fn pieces(uneven: &Uneven) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for piece in &uneven.pieces {
        match runs.last_mut() {
            Some((times, size)) if size == piece => *times += 1,
            _ => runs.push((1, *piece)),
        }
    }
    let shown = |(times, size): &(u64, u64)| if *times > 1 { format!("{times} × {size}") } else { size.to_string() };
    let runs: Vec<String> = runs.iter().map(shown).collect();
    format!("{} {} over {}: {}", uneven.axis, uneven.size, uneven.over.join("+"), runs.join(", "))
}

/// `2 layer | 2 layer`, in one number where all stages hold the same.
fn stages(plan: &Described) -> String {
    let held = |stage: &std::collections::BTreeMap<String, u64>| {
        stage.iter().map(|(name, count)| format!("{count} × {name}")).collect::<Vec<_>>().join(" + ")
    };
    plan.stages.iter().map(held).collect::<Vec<_>>().join(" | ")
}

fn why(plan: &Described) -> String {
    let own = plan.searched_seconds.unwrap_or(plan.step_seconds);
    let Some(next) = plan.considered.iter().find(|other| other.step_seconds >= own) else {
        return match plan.considered.len() {
            0 => "the only plan that the pins allow".to_owned(),
            _ => "the fastest plan that fits".to_owned(),
        };
    };
    let ahead = 100.0 * (next.step_seconds / own - 1.0);
    format!(
        "the fastest of {} plans; the next, {}, {} {ahead:.1} % longer",
        plan.considered_in_all + 1,
        short(&next.strategy),
        if plan.searched_seconds.is_some() { "was taken for" } else { "takes" }
    )
}

fn ranks(plan: &Described) -> String {
    let mut alike: Vec<(Vec<usize>, [String; 4])> = Vec::new();
    for (rank, figures) in plan.ranks.iter().enumerate() {
        let row = [
            Bytes(figures.parameter_bytes).to_string(),
            format!("{:.3}", figures.gemm_flops as f64 / 1e9),
            Bytes(figures.memory_bytes).to_string(),
            Bytes(figures.comm_bytes).to_string(),
        ];
        match alike.iter_mut().find(|(_, known)| *known == row) {
            Some((members, _)) => members.push(rank),
            None => alike.push((vec![rank], row)),
        }
    }
    let rows = alike.into_iter().map(|(members, row)| [vec![ranges(&members)], row.to_vec()].concat());
    table(&["rank", ">parameters", ">GEMM GFLOP", ">memory", ">received"], rows)
}

/// Collectives by phase and axes; with `-v` each value by itself.
fn communication(plan: &Described, shown: &Shown) -> String {
    let mut lines: Vec<(Vec<&Communication>, u64)> = Vec::new();
    for line in &plan.communication {
        let same = |known: &&mut (Vec<&Communication>, u64)| {
            let first = known.0[0];
            !shown.verbose && (&first.phase, &first.kind, &first.axes) == (&line.phase, &line.kind, &line.axes)
        };
        match lines.iter_mut().find(same) {
            Some((members, bytes)) => {
                members.push(line);
                *bytes += line.bytes;
            }
            None => lines.push((vec![line], line.bytes)),
        }
    }
    lines.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let rows = lines.into_iter().map(|(mut members, bytes)| {
        members.sort_by_key(|line| std::cmp::Reverse(line.bytes));
        let first = members[0];
        let values = match members.len() {
            1 => first.value.clone(),
            n => format!("{} and {} more", first.value, n - 1),
        };
        let times: u64 = members.iter().map(|line| line.count).sum();
        vec![first.phase.clone(), first.kind.clone(), first.axes.clone(), times.to_string(), Bytes(bytes).to_string(), values]
    });
    table(&["phase", "collective", "over", ">times", ">bytes", "values"], rows)
}

fn layouts(what: &str, lines: &[LayoutLine]) -> String {
    table(&[what, "shape", "layout"], lines.iter().map(|line| vec![line.name.clone(), line.shape.clone(), line.layout.clone()]))
}

fn considered(plan: &Described, shown: &Shown) -> String {
    let most = if shown.verbose { usize::MAX } else { MOST };
    let rows = plan.considered.iter().take(most);
    let mut out = table(
        &["plan", ">step", "why not"],
        rows.map(|line| vec![short(&line.strategy), Seconds(line.step_seconds).to_string(), line.lost.clone()]),
    );
    let left = plan.considered_in_all.saturating_sub(most.min(plan.considered.len()) as u64);
    if left > 0 {
        let hint = if shown.verbose { "" } else { " (-v shows more)" };
        out += &format!("  … and {left} others{hint}\n");
    }
    out
}

/// A strategy without what is neutral: `dp=2 tp=2 zero=1`.
pub fn short(strategy: &str) -> String {
    let neutral = ["dp=1", "tp=1", "cp=1", "pp=1", "zero=0", "recompute=none"];
    let staged = !strategy.split(' ').any(|word| word == "pp=1");
    let told = |word: &&str| !neutral.contains(word) && (staged || !word.starts_with("mbs="));
    let words: Vec<&str> = strategy.split(' ').filter(told).collect();
    if words.is_empty() { "one rank".to_owned() } else { words.join(" ") }
}
