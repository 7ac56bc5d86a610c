//! Programs that may not run. The verifier is tested by breaking, one at a time, a program that is legal; then files are
//! damaged as disks and hands damage them, and the program must refuse or run, and never panic.

use std::path::Path;

use partita_ir::boxing::StepKind;
use partita_ir::dtype::DType;
use partita_ir::layout::{Partition, Share};
use partita_ir::program::verify::{Code, verify};
use partita_ir::program::{Instruction, Program, Region, Turn};

use crate::support::{Dice, Setting, Work, partita, refused};

/// A program of two stages of two ranks and four micro-batches: every kind of instruction is in it.
fn staged(work: &Work) -> Program {
    let setting = Setting::gpt(4).with(&["layers=2"]);
    read(&work.compile("staged", &setting, "pp=2,dp=2,mbs=1,zero=3"))
}

fn read(directory: &str) -> Program {
    serde_json::from_slice(&std::fs::read(Path::new(directory).join("program.json")).unwrap()).unwrap()
}

/// The instructions of a role, with the section that they are in.
fn find(program: &Program, role: usize, wanted: impl Fn(&Instruction) -> bool) -> (usize, usize) {
    let sections = program.roles[role].sections.iter().enumerate();
    let mut places = sections.flat_map(|(s, section)| section.instructions.iter().enumerate().map(move |(n, one)| (s, n, one)));
    places.find(|(_, _, one)| wanted(one)).map(|(s, n, _)| (s, n)).expect("the program has such an instruction")
}

/// Each way to break a program, with the code that it must be found under.
fn breakages() -> Vec<(Code, &'static str, Box<dyn Fn(&mut Program)>)> {
    fn with(code: Code, what: &'static str, change: impl Fn(&mut Program) + 'static) -> (Code, &'static str, Box<dyn Fn(&mut Program)>) {
        (code, what, Box::new(change))
    }
    let kernel = |one: &Instruction| matches!(one, Instruction::Kernel { accumulate: false, .. });
    let boxed = |one: &Instruction| matches!(one, Instruction::Box { from, to, .. } if from != to);
    let receive = |one: &Instruction| matches!(one, Instruction::Receive { .. });
    vec![
        with(Code::Mesh, "no ranks", |p| p.mesh.axes[0].size = 0),
        with(Code::Mesh, "too many ranks", |p| p.mesh.axes[0].size = u64::MAX),
        with(Code::Mesh, "other micro-batches than the mesh has", |p| p.micro_batches = 3),
        with(Code::Mesh, "no roles", |p| p.roles.clear()),
        with(Code::Stages, "roles in another order", |p| p.roles.reverse()),
        with(Code::Stages, "no copy of saved buffers", |p| p.roles[0].in_flight = 0),
        with(Code::IdRange, "a buffer that does not exist", move |p| {
            let (s, n) = find(p, 0, kernel);
            let Instruction::Kernel { result, .. } = &mut p.roles[0].sections[s].instructions[n] else { unreachable!() };
            *result = 1 << 40;
        }),
        with(Code::IdRange, "a kernel that does not exist", move |p| {
            let (s, n) = find(p, 1, kernel);
            let Instruction::Kernel { kernel, .. } = &mut p.roles[1].sections[s].instructions[n] else { unreachable!() };
            *kernel = 999_999;
        }),
        with(Code::IdRange, "a boxing that does not exist", |p| p.boxings.truncate(1)),
        with(Code::IdRange, "a leaf without a buffer", |p| p.roles[0].leaves[0].buffer = usize::MAX),
        with(Code::IdRange, "a turn of a micro-batch that is not there", |p| p.roles[0].turns[0] = Turn::Forward(77)),
        with(Code::IdRange, "a mesh axis that does not exist", |p| p.boxings[0].step.axes = vec![5]),
        with(Code::Layout, "a share too few", |p| p.roles[0].buffers[0].layout.0.truncate(0)),
        with(Code::Layout, "a split of a dimension that is not there", |p| {
            let buffers = p.roles[0].buffers.iter_mut();
            let split = buffers
                .flat_map(|buffer| &mut buffer.layout.0)
                .find_map(|share| if let Share::Split(split) = share { Some(split) } else { None });
            split.unwrap().dim = 9;
        }),
        with(Code::Layout, "chunks of nothing", |p| {
            let buffers = p.roles[0].buffers.iter_mut();
            let split = buffers
                .flat_map(|buffer| &mut buffer.layout.0)
                .find_map(|share| if let Share::Split(split) = share { Some(split) } else { None });
            split.unwrap().partition = Partition::Chunk(0);
        }),
        with(Code::TooLarge, "a tensor larger than memory", |p| p.roles[0].buffers[3].shape = vec![u64::MAX, 3]),
        with(Code::TooLarge, "a loop that never ends", |p| p.kernels[0].factors.fill(1 << 40)),
        with(Code::Sections, "backward before forward", |p| p.roles[0].sections.reverse()),
        with(Code::Kernel, "an operand too few", |p| p.kernels[0].operands.truncate(0)),
        with(Code::Kernel, "a rule that reads a factor it has not", |p| p.kernels[0].rule.operands[0][0].terms[0].factor = 50),
        with(Code::Kernel, "an expression without a root", |p| p.kernels[0].rule.expr.root = 1000),
        with(Code::KernelType, "a computation in bf16", |p| p.kernels[0].result = DType::Bf16),
        with(Code::KernelSplit, "a split that does not nest", |p| {
            let split = p.kernels.iter_mut().find(|spec| spec.splits.iter().any(Option::is_some)).unwrap();
            split.order.clear();
        }),
        with(Code::Boxing, "a gather along no axis", |p| {
            let gather = p.boxings.iter_mut().find(|spec| spec.step.kind == StepKind::AllGather).unwrap();
            gather.step.axes.clear();
        }),
        with(Code::Boxing, "a gather called a slice", |p| {
            let gather = p.boxings.iter_mut().find(|spec| spec.step.kind == StepKind::AllGather).unwrap();
            gather.step.kind = StepKind::Slice;
        }),
        with(Code::Boxing, "a gather called an all-reduce", |p| {
            let gather = p.boxings.iter_mut().find(|spec| spec.step.kind == StepKind::AllGather).unwrap();
            gather.step.kind = StepKind::AllReduce;
        }),
        with(Code::Operands, "an operand too many", move |p| {
            let (s, n) = find(p, 0, kernel);
            let Instruction::Kernel { operands, .. } = &mut p.roles[0].sections[s].instructions[n] else { unreachable!() };
            operands.push(0);
        }),
        with(Code::Operands, "operands of another shape", |p| {
            let (s, n) = find(p, 0, |one| matches!(one, Instruction::Kernel { operands, .. } if operands.len() == 2));
            let Instruction::Kernel { operands, result, .. } = &mut p.roles[0].sections[s].instructions[n] else { unreachable!() };
            *operands = vec![*result; 2];
        }),
        with(Code::InPlace, "a largest that adds", |p| {
            let adds = p.kernels.iter().position(|spec| spec.rule.reduce == Some(partita_ir::rule::Reduce::LogSumExp)).unwrap();
            let (s, n) = find(p, 1, |one| matches!(one, Instruction::Kernel { kernel, .. } if *kernel == adds));
            let Instruction::Kernel { accumulate, .. } = &mut p.roles[1].sections[s].instructions[n] else { unreachable!() };
            *accumulate = true;
        }),
        with(Code::Boxed, "a boxing onto itself", move |p| {
            let (s, n) = find(p, 0, boxed);
            let Instruction::Box { from, to, .. } = &mut p.roles[0].sections[s].instructions[n] else { unreachable!() };
            *to = *from;
        }),
        with(Code::Copied, "a copy onto itself", |p| {
            let (s, n) = find(p, 0, |one| matches!(one, Instruction::Load { .. }));
            let id = p.roles[0].sections[s].instructions[n].writes().unwrap();
            p.roles[0].sections[s].instructions.insert(n + 1, Instruction::Copy { from: id, to: id, accumulate: false });
        }),
        with(Code::Loaded, "a batch of another size", |p| p.batch += 1),
        with(Code::Leaf, "a parameter that is P", |p| {
            let buffer = p.roles[0].leaves[0].buffer;
            p.roles[0].buffers[buffer].layout.0[0] = Share::Partial(partita_ir::rule::Reduce::Sum);
        }),
        with(Code::Owner, "a parameter that nobody saves", |p| {
            p.roles.iter_mut().flat_map(|role| &mut role.leaves).find(|leaf| leaf.owner).unwrap().owner = false;
        }),
        with(Code::Report, "a report that is no scalar", |p| {
            let leaf = p.roles[1].leaves[0].buffer;
            p.roles[1].reports[0].1 = leaf;
        }),
        with(Code::Size, "a buffer smaller than its shard", |p| {
            let buffer = p.roles[0].leaves[0].buffer;
            p.roles[0].buffers[buffer].bytes -= 4;
        }),
        with(Code::Arena, "an arena that is too small", |p| p.roles[0].arena_bytes /= 2),
        with(Code::Arena, "an offset past the end", |p| {
            let buffer = p.roles[0].leaves[0].buffer;
            p.roles[0].buffers[buffer].offset = u64::MAX - 63;
        }),
        with(Code::Arena, "an offset off the lines", |p| {
            let buffer = p.roles[0].leaves[0].buffer;
            p.roles[0].buffers[buffer].offset += 4;
        }),
        with(Code::Overlap, "two parameters in one place", |p| {
            let (a, b) = (p.roles[0].leaves[0].buffer, p.roles[0].leaves[1].buffer);
            p.roles[0].buffers[b].offset = p.roles[0].buffers[a].offset;
        }),
        with(Code::Overlap, "copies that lie upon one another", |p| p.roles[0].saved_stride = 64),
        with(Code::Region, "what is saved said to pass", |p| {
            let saved = p.roles[0].buffers.iter_mut().filter(|buffer| buffer.region == Region::Saved);
            saved.for_each(|buffer| buffer.region = Region::Passing);
        }),
        with(Code::Unwritten, "an instruction left out", move |p| {
            let (s, n) = find(p, 0, kernel);
            p.roles[0].sections[s].instructions.remove(n);
        }),
        with(Code::Turns, "a micro-batch twice", |p| {
            let first = p.roles[0].turns[0];
            p.roles[0].turns.push(first);
        }),
        with(Code::Turns, "a micro-batch left out", |p| p.roles[1].turns.truncate(2)),
        with(Code::Turns, "backward first", |p| p.roles[1].turns.swap(0, 1)),
        with(Code::Turns, "more in flight than there are copies", |p| {
            p.roles[0].turns = (0..4).map(Turn::Forward).chain((0..4).map(Turn::Backward)).collect();
        }),
        with(Code::Peer, "a message to itself", move |p| {
            let (s, n) = find(p, 0, receive);
            let Instruction::Receive { stage, .. } = &mut p.roles[0].sections[s].instructions[n] else { unreachable!() };
            *stage = 0;
        }),
        with(Code::Message, "a message that nobody receives", |p| {
            let (s, n) = find(p, 0, |one| matches!(one, Instruction::Send { .. }));
            let Instruction::Send { buffer, stage, .. } = p.roles[0].sections[s].instructions[n] else { unreachable!() };
            // in the update, where one message does not fill a channel
            p.roles[0].sections.last_mut().unwrap().instructions.push(Instruction::Send { buffer, stage, channel: 9999 });
        }),
        with(Code::Deadlock, "a message that nobody sends", move |p| {
            let (s, n) = find(p, 1, receive);
            let Instruction::Receive { channel, .. } = &mut p.roles[1].sections[s].instructions[n] else { unreachable!() };
            *channel = 9999;
        }),
        with(Code::Deadlock, "a send left out", |p| {
            let (s, n) = find(p, 1, |one| matches!(one, Instruction::Send { .. }));
            p.roles[1].sections[s].instructions.remove(n);
        }),
    ]
}

#[test]
fn every_check_of_the_verifier_finds_what_it_is_for() {
    let work = Work::new();
    let legal = staged(&work);
    assert_eq!(verify(&legal), []);
    let mut seen = Vec::new();
    for (code, what, change) in breakages() {
        let mut broken = legal.clone();
        change(&mut broken);
        let found = verify(&broken);
        assert!(found.iter().any(|violation| violation.code == code), "{what}: {} is not among {found:#?}", code.word());
        seen.push(code);
    }
    for code in Code::ALL {
        assert!(seen.contains(code), "no test breaks `{}`", code.word());
    }
}

#[test]
fn a_program_that_may_not_run_is_refused() {
    let work = Work::new();
    let legal = staged(&work);
    for (n, (code, _, change)) in breakages().into_iter().enumerate().filter(|(n, _)| n % 6 == 0) {
        let mut broken = legal.clone();
        change(&mut broken);
        let folder = work.arg(&format!("broken-{n}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(Path::new(&folder).join("program.json"), serde_json::to_vec(&broken).unwrap()).unwrap();
        refused(
            &["run", &folder, "--steps", "1"],
            "partita::program::damaged",
            &["may not run", code.word(), "help: compile the model again"],
        );
    }
}

#[test]
fn files_of_other_versions_and_cut_files_are_refused() {
    let work = Work::new();
    let directory = work.compile("plan", &Setting::new("mlp", 2, &[]), "dp=2");
    let (program, plan) = (Path::new(&directory).join("program.json"), Path::new(&directory).join("plan.json"));
    let (program_text, plan_text) = (std::fs::read_to_string(&program).unwrap(), std::fs::read_to_string(&plan).unwrap());
    let run = |text: &[u8], words: &[&str]| {
        std::fs::write(&program, text).unwrap();
        refused(&["run", &directory], "partita::", words);
    };
    let other = |text: &str| text.replacen("\"format\":1", "\"format\":99", 1).replacen("\"format\": 1", "\"format\": 99", 1);
    run(other(&program_text).as_bytes(), &["format 99", "compile the model again"]);
    run(b"{\"format\": 99}", &["format 99"]);
    run(b"{}", &["missing field"]);
    run(b"", &["program.json"]);
    run(b"[1, 2]", &["program.json"]);
    run(&[0xff; 10], &["is no text"]);
    for part in [1, 10, 2000, program_text.len() / 2, program_text.len() - 1] {
        run(&program_text.as_bytes()[..part], &["program.json", "help: compile the model again"]);
    }
    let inspect = |text: &[u8], words: &[&str]| {
        std::fs::write(&plan, text).unwrap();
        refused(&["inspect", &directory], "partita::", words);
        refused(&["inspect", plan.to_str().unwrap()], "partita::", words);
    };
    inspect(other(&plan_text).as_bytes(), &["format 99"]);
    inspect(b"{\"format\": 2}", &["format 2"]);
    inspect(&plan_text.as_bytes()[..plan_text.len() / 3], &["plan.json"]);
    inspect(b"", &["is no plan"]);
}

/// A number in the file becomes another one.
fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let starts: Vec<usize> = (1..bytes.len()).filter(|n| bytes[*n].is_ascii_digit() && !bytes[n - 1].is_ascii_digit()).collect();
    let mut out = bytes.to_vec();
    for _ in 0..1 + dice.below(2) {
        let start = starts[dice.below(starts.len())];
        if !out[start].is_ascii_digit() {
            continue;
        }
        let length = out[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = ["0", "1", "2", "3", "7", "64", "4096", "4294967296", "9223372036854775807", "18446744073709551615"][dice.below(10)];
        // of the same length where there is room, so that the other places stay what they are
        let padded = format!("{number:>length$}");
        out.splice(start..start + length, padded.bytes());
        if padded.len() != length {
            break;
        }
    }
    out
}

#[test]
fn no_damage_to_a_program_makes_it_panic() {
    let work = Work::new();
    let settings = [("pp=2,mbs=4", 2), ("tp=2", 2), ("cp=2", 2)];
    let mut dice = Dice(11);
    let (mut unread, mut illegal, mut legal) = (0, 0, Vec::new());
    for (pins, ranks) in settings {
        let directory = work.compile("plan", &Setting::new("mlp", ranks, &["layers=2", "hidden=8", "seq=8", "batch=8"]), pins);
        let bytes = std::fs::read(Path::new(&directory).join("program.json")).unwrap();
        for _ in 0..400 {
            let mutated = mutate(&bytes, &mut dice);
            match serde_json::from_slice::<Program>(&mutated) {
                Err(_) => unread += 1,
                Ok(program) if verify(&program).is_empty() => legal.push(mutated),
                Ok(_) => illegal += 1,
            }
        }
    }
    assert!(illegal > 300 && !legal.is_empty(), "{unread} unread, {illegal} illegal, {} legal", legal.len());
    // what the verifier finds nothing wrong with runs: other constants, names, salts and the like
    let folder = work.arg("mutated");
    std::fs::create_dir(&folder).unwrap();
    for n in 0..24.min(legal.len()) {
        let mutated = &legal[n * legal.len() / 24.min(legal.len())];
        std::fs::write(Path::new(&folder).join("program.json"), mutated).unwrap();
        let outcome = partita(&["run", &folder, "--steps", "1"]);
        assert!([0, 1].contains(&outcome.code) && !outcome.stderr.contains("panicked"), "{}: {}", outcome.code, outcome.stderr);
    }
}
