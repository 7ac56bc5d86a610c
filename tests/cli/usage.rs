//! Help, wrong usage, colours, and readers that go away.

use std::io::Read;
use std::process::Stdio;

use crate::support::{Setting, Work, command, done, partita};

/// The help of every subcommand and what people see of a plan are files beside this one; `INSTA_UPDATE=always` takes what
/// is printed.
#[test]
fn help_and_plans_are_as_written_down() {
    for name in ["partita", "check", "fmt", "plan", "compile", "run", "inspect", "profile", "solve"] {
        let arguments = if name == "partita" { vec!["--help"] } else { vec![name, "--help"] };
        insta::assert_snapshot!(format!("help_{name}"), done(&arguments));
    }
    for (name, setting, pins) in [
        ("gpt_on_two_stages", Setting::gpt(8), "pp=2,dp=2,tp=2,mbs=1,zero=1"),
        ("llama_on_more_ranks_than_key_heads", Setting::new("llama", 4, &["heads=8", "kv_heads=2"]), "tp=4"),
        ("mlp_over_three", Setting::new("mlp", 3, &[]), "tp=3"),
    ] {
        insta::assert_snapshot!(format!("plan_{name}"), done(&setting.arguments("plan", &["--pin", pins])));
    }
    insta::assert_snapshot!("check_gpt", done(&["check", "models/gpt.partita"]));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let gpt = "models/gpt.partita";
    for arguments in [
        &["train"][..],
        &["check"],
        &["check", gpt, "--set", "hidden"],
        &["check", gpt, "--set", "=3"],
        &["plan", gpt],
        &["plan", gpt, "--cluster", "clusters/local.toml", "--format", "yaml"],
        &["compile", gpt, "--cluster", "clusters/local.toml"],
        &["run"],
        &["run", "x", "--steps", "many"],
        &["run", "x", "--threads", "0"],
        &["run", "x", "--every", "2"],
        &["run", "x", "--resume"],
        &["run", "x", "--checkpoint", "y", "--every", "0"],
        &["inspect", "-q", "-v", "x"],
    ] {
        let outcome = partita(arguments);
        assert_eq!(outcome.code, 2, "partita {}\n{}", arguments.join(" "), outcome.stderr);
        assert!(outcome.stdout.is_empty() && outcome.stderr.contains("--help"), "{}", outcome.stderr);
    }
}

#[test]
fn colours_only_where_they_are_wanted() {
    let arguments = ["plan", "models/mlp.partita", "--cluster", "clusters/local-2.toml"];
    let colored = |more: &[&str]| done(&[&arguments, more].concat()).contains('\x1b');
    assert!(!colored(&[]) && !colored(&["--color", "never"]) && colored(&["--color", "always"]));
    let wrong = |color| partita(&["check", "models/mlp.partita", "--set", "hiden=1", "--color", color]).stderr.contains('\x1b');
    assert!(wrong("always") && !wrong("auto"));
}

#[test]
fn verbose_shows_more_and_quiet_less() {
    let arguments = ["plan", "models/mlp.partita", "--cluster", "clusters/local-2.toml", "--pin", "tp=2"];
    let lines = |more: &[&str]| done(&[&arguments, more].concat()).lines().count();
    assert!(lines(&["-q"]) < lines(&[]) && lines(&[]) < lines(&["-v"]));
    let work = Work::new();
    let directory = work.compile("mlp", &Setting::new("mlp", 1, &[]), "");
    assert_eq!(done(&["run", &directory, "--steps", "1", "-q"]), "");
    assert!(done(&["inspect", &directory, "-v"]).contains("program of stage 0"));
}

/// `partita … | head -1` is no error.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let work = Work::new();
    let directory = work.compile("mlp", &Setting::new("mlp", 1, &[]), "");
    for arguments in [
        &["plan", "models/gpt.partita", "--cluster", "clusters/local.toml", "--pin", "dp=4", "-v"][..],
        &["run", &directory, "--steps", "50"],
        &["inspect", &directory, "--format", "json"],
        &["check", "models/gpt.partita", "-v"],
    ] {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "partita {}\n{stderr}", arguments.join(" "));
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
