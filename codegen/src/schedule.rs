//! The order in which a stage takes the forward and backward passes of micro-batches.

use partita_ir::program::Turn;
use partita_planner::pins::ScheduleKind;

/// The turns of a stage. 1F1B (Narayanan et al., 2019): stage s of p first runs p − s − 1 forward passes ahead, then
/// alternates. GPipe: all forward, then all backward. One stage: each micro-batch forward and backward at once.
pub fn turns(kind: ScheduleKind, stage: u64, stages: u64, micro_batches: u64) -> Vec<Turn> {
    let ahead = match kind {
        _ if stages == 1 => 0,
        ScheduleKind::GPipe => micro_batches,
        _ => (stages - stage - 1).min(micro_batches),
    };
    let mut turns: Vec<Turn> = (0..ahead).map(Turn::Forward).collect();
    for backward in 0..micro_batches {
        if backward + ahead < micro_batches {
            turns.push(Turn::Forward(backward + ahead));
        }
        turns.push(Turn::Backward(backward));
    }
    turns
}

/// The most micro-batches that are between their forward and backward pass at once.
pub fn in_flight(turns: &[Turn]) -> u64 {
    let (mut now, mut most) = (0u64, 1);
    for turn in turns {
        match turn {
            Turn::Forward(_) => now += 1,
            Turn::Backward(_) => now -= 1,
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_f_one_b_holds_p_minus_s_micro_batches() {
        for (stages, micro) in [(1, 4), (2, 4), (4, 8), (4, 2)] {
            for stage in 0..stages {
                let turns = turns(ScheduleKind::OneFOneB, stage, stages, micro);
                assert_eq!(turns.len() as u64, 2 * micro);
                assert_eq!(in_flight(&turns), if stages == 1 { 1 } else { (stages - stage).min(micro) });
            }
        }
    }
}
