//! Pins: taken, refused by name, and impossible.

use serde_json::Value;

use crate::support::{Setting, done, refused};

fn planned(setting: &Setting, pins: &str) -> Value {
    serde_json::from_str(&done(&setting.arguments("plan", &["--pin", pins, "--format", "json"]))).unwrap()
}

#[test]
fn pins_that_no_plan_can_satisfy_say_why() {
    let four = Setting::gpt(4);
    for (pins, code, words) in [
        ("dp=3", "partita::pin::degrees", &["dp=3 = 3 does not divide the 4 ranks", "help: 1, 2 and 4 divide 4"][..]),
        ("dp=2,tp=4", "partita::pin::degrees", &["dp=2 * tp=4 = 8 does not divide the 4 ranks"]),
        ("dp=1,tp=1,cp=1,pp=2", "partita::pin::degrees", &["= 2 is not the 4 ranks", "leave one of them open"]),
        ("dp=0", "partita::pin::value", &["`dp=0`", "whole number from 1 on"]),
        ("mbs=0", "partita::pin::value", &["`mbs=0`", "whole number from 1 on"]),
        ("mbs=-1", "partita::pin::value", &["`mbs=-1`"]),
        ("tp=two", "partita::pin::value", &["`tp=two`", "leave it open with `tp=*`"]),
        ("sp=maybe", "partita::pin::value", &["`sp` takes true or false"]),
        ("zero=4", "partita::pin::value", &["`zero` takes 0, 1, 2 or 3"]),
        ("recompute=some", "partita::pin::value", &["none, selective, full"]),
        ("schedule=2f2b", "partita::pin::value", &["gpipe, 1f1b, interleaved"]),
        ("dq=2", "partita::pin::unknown", &["unknown pin `dq`", "did you mean"]),
        ("dp", "partita::pin::form", &["write pins as `dp=2,tp=2`"]),
        ("dp=2,dp=4", "partita::pin::twice", &["given as 2 and as 4"]),
        ("pp=8", "partita::pin::degrees", &["pp=8 = 8 does not divide the 4 ranks"]),
        ("dp=99999999999999999999", "partita::pin::value", &["whole number"]),
    ] {
        refused(&four.arguments("plan", &["--pin", pins]), code, words);
    }
    let twice = four.arguments("plan", &["--pin", "tp=2", "--pin", "tp=4"]);
    refused(&twice, "partita::pin::twice", &["given as 2 and as 4", "give `tp` once"]);
    let shallow = four.clone().with(&["layers=2"]);
    refused(
        &shallow.arguments("plan", &["--pin", "pp=4"]),
        "partita::plan::too_many_stages",
        &["4 stages", "the model has 2", "at most 2"],
    );
}

#[test]
fn pins_of_later_versions_are_refused_by_name() {
    let four = Setting::gpt(4);
    for (pins, name) in [
        ("etp=2", "etp=2"),
        ("pp=2,vpp=2", "vpp=2"),
        ("dp=4,zero=1,zero-group=2", "zero-group=2"),
        ("pp=2,schedule=interleaved", "schedule=interleaved"),
        ("pp=2,schedule=zb-h1", "schedule=zb-h1"),
        ("pp=2,schedule=zb-h2", "schedule=zb-h2"),
        ("pp=4,schedule=zb-v", "schedule=zb-v"),
        ("pp=4,schedule=dualpipev", "schedule=dualpipev"),
    ] {
        let message = format!("pin `{name}` is not supported by this version");
        refused(&four.arguments("plan", &["--pin", pins]), "partita::pin::unsupported", &[&message, "help:"]);
    }
}

#[test]
fn neutral_pins_are_always_taken() {
    let two = Setting::gpt(2);
    for schedule in ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipev"] {
        let pins = format!("dp=2,tp=1,cp=1,pp=1,ep=1,etp=1,vpp=1,zero-group=1,zero=0,recompute=none,sp=false,schedule={schedule}");
        assert_eq!(planned(&two, &pins)["degrees"]["dp"], 2, "{schedule}");
    }
    // where pp is open, the search stays with one stage
    assert_eq!(planned(&two, "schedule=zb-v")["degrees"]["pp"], 1);
    assert_eq!(planned(&two, "dp=*,tp=2")["degrees"]["tp"], 2);
    assert_eq!(planned(&two, "dp=2,zero=1,zero-group=2")["zero"], 1);
}

#[test]
fn a_plan_is_what_its_pins_say() {
    let four = Setting::gpt(4);
    let plan = planned(&four, "pp=2,dp=2,mbs=1,zero=2,recompute=selective,schedule=gpipe");
    assert_eq!((&plan["zero"], &plan["recompute"], &plan["schedule"]), (&2.into(), &"selective".into(), &"gpipe".into()));
    assert_eq!((&plan["degrees"]["pp"], &plan["micro_batches"]), (&2.into(), &4.into()));
    // a micro-batch holds no more than there is
    let plan = planned(&four, "dp=4,mbs=100");
    assert_eq!((&plan["degrees"]["mbs"], &plan["micro_batches"]), (&2.into(), &1.into()));
}

#[test]
fn layers_need_not_divide_by_stages() {
    let five = Setting::gpt(3).with(&["layers=5"]);
    let held =
        |plan: &Value| -> Vec<u64> { plan["stages"].as_array().unwrap().iter().map(|stage| stage["layer"].as_u64().unwrap()).collect() };
    let plan = planned(&five, "pp=3,mbs=2");
    assert_eq!((held(&plan).len(), held(&plan).iter().sum::<u64>()), (3, 5));
    assert!(held(&plan).iter().all(|n| (1..=2).contains(n)), "{:?}", held(&plan));
}

#[test]
fn even_forbids_unequal_parts() {
    // 10 rows of the batch over 4 ranks
    let uneven = Setting::gpt(4).with(&["batch=10"]);
    assert_eq!(planned(&uneven, "dp=4")["degrees"]["dp"], 4);
    refused(&uneven.arguments("plan", &["--pin", "dp=4", "--even"]), "partita::plan::no_layout", &["`--even`"]);
    let even = Setting::gpt(4);
    done(&even.arguments("plan", &["--pin", "dp=4", "--even"]));
}
