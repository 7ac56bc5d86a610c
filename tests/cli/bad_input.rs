//! Files and settings that are wrong: exit code 1, a stable code, the place, the numbers and a way out.

use std::path::Path;

use crate::support::{Setting, Work, done, names, refused};

#[test]
fn files_that_are_not_there() {
    let work = Work::new();
    let binary = work.file("binary.partita", [0xff, 0xfe, 0x00, 0x80]);
    for subcommand in ["check", "plan", "compile"] {
        let out = work.arg("out");
        let more: &[&str] = match subcommand {
            "check" => &[],
            "plan" => &["--cluster", "clusters/local.toml"],
            _ => &["--cluster", "clusters/local.toml", "-o", &out],
        };
        let with = |model| [&[subcommand, model], more].concat();
        refused(&with("nowhere.partita"), "partita::file", &["cannot read nowhere.partita", "no such file"]);
        refused(&with("models"), "partita::file", &["cannot read models", "is a directory"]);
        refused(&with("no/such/folder.partita"), "partita::file", &["there is no directory no/such"]);
        refused(&with(&binary), "partita::file", &["is no text"]);
        assert!(!Path::new(&out).exists(), "nothing is written for what is refused");
    }
    let gpt = "models/gpt.partita";
    refused(&["plan", gpt, "--cluster", "nowhere.toml"], "partita::file", &["cannot read nowhere.toml"]);
    refused(&["plan", gpt, "--cluster", "clusters"], "partita::file", &["is a directory"]);
    refused(&["run", "nowhere"], "partita::program::missing", &["nowhere", "help: give a directory that `partita compile"]);
    refused(&["run", "models"], "partita::program::missing", &["models"]);
    refused(&["run", gpt], "partita::program::missing", &["gpt.partita"]);
    refused(&["inspect", "models"], "partita::program::missing", &["models"]);
    refused(&["inspect", "nowhere.json"], "partita::file", &["cannot read nowhere.json"]);
    refused(&["inspect", gpt], "partita::plan::unreadable", &["is no plan", "partita plan -o"]);
}

/// The front end's own tests go through every diagnostic; here it is that all of them are shown, with their places.
#[test]
fn models_that_are_wrong_tell_all_of_it() {
    let work = Work::new();
    let model = work.file("bad.partita", "model bad\naxis hiden = 3\nweight w[hidden] = normal(0.02)\nx = relu(y)\nloss mean[z](x)\n");
    refused(&["check", &model], "partita::", &["bad.partita:3:", "`hidden`", "did you mean", "`y`", "bad.partita:4:"]);
    refused(&["check", &work.file("empty.partita", "")], "partita::", &["model"]);
}

#[test]
fn settings_that_cannot_be() {
    let check = |set: &str, code: &str, words: &[&str]| refused(&["check", "models/gpt.partita", "--set", set], code, words);
    check("hidden=100,5", "partita::set", &["100,5"]);
    check("hidden=abc", "partita::set", &["abc"]);
    check("hiden=64", "partita::set", &["hiden", "did you mean `hidden`"]);
    check("heads=3", "partita::shape::does_not_divide", &["128 = 3 × 42.67", "--set heads=3"]);
    check("heads=0", "partita::", &["heads"]);
    check("layers=-1", "partita::", &["layers"]);
    check("dropout=1.5", "partita::", &["dropout"]);
    check("precision=f31", "partita::", &["f31", "f32"]);
    check("activation=glu", "partita::set::unknown_word", &["glu", "did you mean `gelu`?", "`gelu`, `relu2` and `relu`"]);
    check("bias=off", "partita::set::unknown_word", &["off", "`true` and `false`"]);
    check("batch=0", "partita::", &["batch"]);
    check("hidden=99999999999999999999", "partita::", &["hidden"]);
    check("vocab=9223372036854775807", "partita::", &[]);
}

#[test]
fn clusters_that_are_wrong_tell_all_of_it() {
    let work = Work::new();
    let plan = |text: &str, code: &str, words: &[&str]| {
        let cluster = work.file("c.toml", text);
        refused(&["plan", "models/mlp.partita", "--cluster", &cluster], code, words);
    };
    plan("name = ", "partita::cluster::syntax", &["c.toml:1:"]);
    plan("", "partita::cluster::missing_key", &["`name` is missing", "`device` is missing"]);
    let device = "name = 'x'\n[device]\nkind = 'cpu-core'\n";
    plan(device, "partita::cluster::missing_key", &["level"]);
    plan(&format!("{device}[[level]]\nname = 'a'\ncount = 0\n"), "partita::cluster::out_of_range", &["c.toml:6:", "at least 1"]);
    plan(&format!("{device}[[level]]\nname = 'a'\nconut = 4\n"), "partita::cluster::unknown_key", &["did you mean `count`?"]);
    plan(&format!("{device}[[level]]\nname = 'a'\ncount = 2000000\n"), "partita::cluster::too_many_ranks", &[]);
    plan("name = 'x'\n[device]\nkind = 'gpu'\n", "partita::cluster::unknown_kind", &["'gpu'", "cpu-core"]);
    let group = "[[group]]\ndevice = { kind = 'cpu-core' }\n[[group.level]]\nname = 'a'\ncount = 2\n";
    plan(&format!("name = 'x'\n{group}{group}"), "partita::cluster::missing_key", &["`level` is missing", "joins the groups"]);
    plan(&format!("{device}{group}[[level]]\nname = 'b'\n"), "partita::cluster::two_forms", &["c.toml:2:", "`device` and `group`"]);
    let three = format!("name = 'x'\n{group}{group}[[level]]\nname = 'b'\ncount = 3\n");
    plan(&three, "partita::cluster::wrong_count", &["c.toml:14:", "= 3, and there are 2 groups"]);
    plan("name = 'x'\n[[group]]\n[[level]]\nname = 'b'\n", "partita::cluster::missing_key", &["`group[0].device` is missing"]);
    // both problems of one file at once
    let two = "name = 3\n[device]\nkind = 'cpu-core'\nmemory_gb_per_s = -1\n[[level]]\nname = 'a'\ncount = 1\n";
    plan(two, "partita::cluster::wrong_type", &["c.toml:1:", "c.toml:4:", "above 0"]);
}

#[test]
fn models_that_do_not_fit_say_by_how_much() {
    let work = Work::new();
    let small = "name = 'small'\n[device]\nkind = 'cpu-core'\nmemory_bytes = 1e6\n[[level]]\nname = 'threads'\ncount = 2\n";
    let cluster = work.file("small.toml", small);
    let arguments = ["plan", "models/gpt.partita", "--cluster", &cluster];
    refused(&arguments, "partita::plan::does_not_fit", &["needs", "MiB", "a device has", "help:", "more than 2 ranks"]);
}

#[test]
fn precisions_that_are_planned_and_not_run() {
    let work = Work::new();
    for (precision, product) in [("fp8", "fp8"), ("fp8_block", "fp8"), ("fp4", "fp4")] {
        let set = format!("precision={precision}");
        let mlp = Setting::new("mlp", 2, &[&set]);
        assert!(done(&mlp.arguments("plan", &[])).contains("memory"));
        let directory = work.compile("plan", &mlp, "dp=2");
        let words = [precision, product, "f64, f32, bf16 and fp16 are run", "--set precision=bf16"];
        refused(&["run", &directory], "partita::run::precision", &words);
    }
}

/// A safetensors file of tensors (name, type, shape, bytes).
fn tensors(list: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in list {
        let start = data.len();
        data.extend(bytes);
        entries.push(format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{}]}}", data.len()));
    }
    let header = format!("{{{}}}", entries.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

#[test]
fn images_that_do_not_do() {
    let work = Work::new();
    let set = ["image=8", "patch=4", "layers=1", "hidden=8", "heads=1", "batch=2", "classes=3"];
    let vit = work.compile("vit", &Setting::new("vit", 1, &set), "");
    let pixels = |samples: usize| vec![9u8; samples * 8 * 8 * 3];
    let run = |list: &[(&str, &str, &[u64], Vec<u8>)], code: &str, words: &[&str]| {
        refused(&["run", &vit, "--data", &work.file("images.safetensors", tensors(list))], code, words);
    };
    let images: (&str, &str, &[u64], _) = ("images", "U8", &[4, 8, 8, 3], pixels(4));
    let wrong = "partita::data::images";
    run(std::slice::from_ref(&images), wrong, &["no tensor `labels`, only: `images`"]);
    run(&[("images", "U8", &[4, 8, 24], pixels(4)), ("labels", "U8", &[4], vec![0; 4])], wrong, &["[4, 8, 24]", "[8, 8, 3]"]);
    run(&[("images", "I8", &[4, 8, 8, 3], pixels(4)), ("labels", "U8", &[4], vec![0; 4])], wrong, &["I8", "U8"]);
    run(&[images.clone(), ("labels", "U8", &[5], vec![0; 5])], wrong, &["[5]", "4 images"]);
    run(&[images.clone(), ("labels", "F32", &[4], vec![0; 16])], wrong, &["F32", "U8, I32 or I64"]);
    run(&[("images", "U8", &[0, 8, 8, 3], Vec::new()), ("labels", "U8", &[0], Vec::new())], wrong, &["no image"]);
    let high = work.file("high.safetensors", tensors(&[images.clone(), ("labels", "U8", &[4], vec![0, 1, 2, 3])]));
    let refusal = crate::support::partita(&["run", &vit, "--data", &high]);
    assert_eq!(refusal.code, 1, "{}", refusal.stderr);
    for word in ["partita::data::outside_classes", "image 3", "label 3", "3 classes"] {
        assert!(refusal.told().contains(word), "{}", refusal.stderr);
    }
    refused(&["run", &vit, "--data", "README.md"], wrong, &["no whole safetensors file"]);
    // and what does
    for (dtype, labels) in [("U8", vec![0, 1, 2, 0]), ("I32", [0i32, 1, 2, 0].iter().flat_map(|label| label.to_le_bytes()).collect())] {
        let good = work.file("good.safetensors", tensors(&[images.clone(), ("labels", dtype, &[4], labels)]));
        assert_eq!(work.run(&vit, 3, &["--data", &good]).iter().filter(|line| line.get("loss").is_some()).count(), 3);
    }
}

#[test]
fn samples_that_are_brought_together_are_one_micro_batch() {
    let resnet = Setting::new("resnet50", 2, &["image=16", "width=4"]);
    let words = ["models/resnet50.partita:", "mean[batch, rows, cols]", "mbs=2", "batch of 8", "leave `mbs` open"];
    refused(&resnet.arguments("plan", &["--pin", "dp=2,mbs=2"]), "partita::plan::coupled", &words);
    assert!(done(&resnet.arguments("plan", &["--pin", "dp=2"])).contains("memory"));
}

#[test]
fn data_that_does_not_do() {
    let work = Work::new();
    let mlp = work.compile("mlp", &Setting::new("mlp", 1, &[]), "");
    let small = work.compile("small", &Setting::new("mlp", 1, &["vocab=100"]), "");
    let run = |directory: &str, data: &str, code: &str, words: &[&str]| refused(&["run", directory, "--data", data], code, words);
    run(&mlp, "nowhere.txt", "partita::data::unreadable", &["nowhere.txt"]);
    run(&mlp, "models", "partita::data::unreadable", &["models", "directory"]);
    run(&mlp, &work.file("short.txt", "too short"), "partita::data::too_short", &["9 tokens", "33", "seq 8"]);
    run(&mlp, &work.file("empty.txt", ""), "partita::data::too_short", &["0 tokens"]);
    run(&mlp, &work.file("odd.bin", [0; 333]), "partita::data::part_of_token", &["333 bytes", "multiple of 2"]);
    run(&small, "README.md", "partita::data::bytes_need_vocabulary", &["at least 256", "100"]);
    let mut tokens = [7u16; 1000];
    tokens[40] = 100;
    let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let refusal = crate::support::partita(&["run", &small, "--data", &work.file("high.bin", tokens)]);
    assert_eq!(refusal.code, 1, "{}", refusal.stderr);
    for word in ["partita::data::outside_vocabulary", "token 100", "position 40", "100 entries"] {
        assert!(refusal.told().contains(word), "{}", refusal.stderr);
    }
}

#[test]
fn parameters_that_do_not_do() {
    let work = Work::new();
    let mlp = work.compile("mlp", &Setting::new("mlp", 2, &[]), "tp=2");
    let wide = work.compile("wide", &Setting::new("mlp", 1, &["hidden=96"]), "");
    let deep = work.compile("deep", &Setting::new("mlp", 1, &["layers=3"]), "");
    let good = work.arg("good.safetensors");
    done(&["run", &mlp, "--steps", "0", "--save", &good, "-q"]);
    done(&["run", &mlp, "--steps", "1", "--init", &good, "-q"]);
    refused(&["run", &wide, "--init", &good], "partita::store::shape", &["embedding", "[256, 64]", "[256, 96]", "help:"]);
    refused(&["run", &deep, "--init", &good], "partita::store::missing", &["layer.2.", "did you mean"]);
    refused(&["run", &mlp, "--init", "nowhere.safetensors"], "partita::store::io", &["nowhere.safetensors"]);
    refused(&["run", &mlp, "--init", "models"], "partita::store::", &["models"]);
    let bytes = std::fs::read(&good).unwrap();
    let mut header = bytes.clone();
    header[0] ^= 0x55;
    let mut letter = bytes.clone();
    letter[20] = b'}';
    for (n, damaged) in
        [&bytes[..bytes.len() - 1], &bytes[..100], &bytes[..4], &[], &header, &letter, b"not safetensors at all"].into_iter().enumerate()
    {
        let file = work.file(&format!("damaged-{n}.safetensors"), damaged);
        refused(&["run", &mlp, "--init", &file], "partita::store::", &[&format!("damaged-{n}.safetensors")]);
    }
}

/// What cannot be written is said before any work is done, and leaves nothing behind.
#[test]
fn outputs_that_cannot_be_written() {
    let work = Work::new();
    let two = Setting::new("mlp", 2, &[]);
    let directory = work.compile("mlp", &two, "dp=2");
    let file = work.file("file", "kept");
    let inside = format!("{file}/inside");
    let before = work.names();
    refused(&two.arguments("plan", &["-o", &inside]), "partita::file", &["cannot write", "file/inside"]);
    refused(&two.arguments("plan", &["-o", "no/such/plan.json"]), "partita::file", &["there is no directory no/such"]);
    refused(&two.arguments("plan", &["-o", "models"]), "partita::file", &["cannot write models"]);
    refused(&two.arguments("compile", &["-o", &inside]), "partita::file", &["cannot make the directory"]);
    refused(&two.arguments("compile", &["-o", &file]), "partita::file", &["cannot make the directory"]);
    let run = |option: &str, path: &str, code: &str| refused(&["run", &directory, "--steps", "2", option, path], code, &["cannot", path]);
    run("--save", &inside, "partita::store::io");
    run("--save", "models", "partita::store::io");
    run("--save", "no/such/w.safetensors", "partita::store::io");
    run("--gradients", &inside, "partita::store::io");
    run("--checkpoint", &inside, "partita::store::io");
    run("--checkpoint", &file, "partita::store::io");
    run("--log", &inside, "partita::file");
    run("--log", "models", "partita::file");
    assert_eq!((work.names(), std::fs::read_to_string(&file).unwrap()), (before, "kept".to_owned()));
    assert_eq!(names(Path::new(&directory)), ["plan.json", "program.json"]);
    // a run that cannot begin leaves the log of the one before
    let log = work.file("run.jsonl", "old\n");
    refused(&["run", &directory, "--log", &log, "--data", "nowhere"], "partita::data::unreadable", &[]);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "old\n");
    // what is no regular file is written to as it is
    done(&two.arguments("plan", &["-o", "/dev/null", "-q"]));
    done(&["run", &directory, "--steps", "1", "--log", "/dev/null", "-q"]);
    assert!(!Path::new("/dev/null").is_file());
}
