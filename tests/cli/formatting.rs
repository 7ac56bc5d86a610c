//! `partita fmt`, and `partita check` for other programs.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Work, command, done, partita, refused};

const MANGLED: &str = "model  m   # a model\nset a=1\nset long=2\n\n\nx=f( a,b )\n";
const FORMATTED: &str = "model m     # a model\nset a    = 1\nset long = 2\n\nx = f(a, b)\n";

fn content(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_models_of_the_repository_are_formatted() {
    assert_eq!(done(&["fmt", "--check", "models/gpt.partita", "models/llama.partita", "models/mlp.partita"]), "");
}

#[test]
fn files_are_formatted_in_place() {
    let work = Work::new();
    let (one, two) = (work.file("one.partita", MANGLED), work.file("two.partita", FORMATTED));
    let outcome = partita(&["fmt", "--check", &one, &two]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, format!("{one}\n").as_str()));
    assert!(outcome.told().contains("partita::fmt::would_change") && outcome.told().contains("1 of 2 files"), "{}", outcome.stderr);
    assert_eq!(content(&one), MANGLED, "a check writes nothing");
    let outcome = partita(&["fmt", &one, &two]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
    assert_eq!(outcome.stderr, format!("formatted {one}\n"));
    assert_eq!((content(&one).as_str(), content(&two).as_str()), (FORMATTED, FORMATTED));
    assert_eq!(done(&["fmt", "--check", &one]), "");
    assert_eq!(work.names(), ["one.partita", "two.partita"]);
}

#[cfg(unix)]
#[test]
fn who_may_read_a_file_stays_as_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let work = Work::new();
    let file = work.file("one.partita", MANGLED);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    done(&["fmt", "-q", &file]);
    assert_eq!((content(&file).as_str(), std::fs::metadata(&file).unwrap().permissions().mode() & 0o777), (FORMATTED, 0o640));
}

#[test]
fn wrong_files_stay_and_the_others_are_formatted() {
    let work = Work::new();
    let (wrong, good) = (work.file("wrong.partita", "model  m\nx = (1\n"), work.file("good.partita", MANGLED));
    for more in [&["--check"][..], &[]] {
        let outcome = partita(&[&["fmt", &wrong, "nowhere.partita", &good], more].concat());
        assert_eq!(outcome.code, 1);
        for word in ["partita::syntax::expected", "wrong.partita:3:1", "cannot read nowhere.partita"] {
            assert!(outcome.told().contains(word), "{word}: {}", outcome.stderr);
        }
    }
    assert_eq!((content(&wrong).as_str(), content(&good).as_str()), ("model  m\nx = (1\n", FORMATTED));
    refused(&["fmt", "models"], "partita::file", &["is a directory"]);
    refused(&["fmt", &work.file("binary.partita", [0xff, 0xfe])], "partita::file", &["is no text"]);
    assert_eq!(partita(&["fmt"]).code, 2);
}

/// What the program makes of a standard input: exit code, stdout, stderr.
fn piped(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = command(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_standard_input_is_printed() {
    assert_eq!(piped(&["fmt", "-"], MANGLED), (0, FORMATTED.to_owned(), String::new()));
    let (code, printed, told) = piped(&["fmt", "--check", "-"], MANGLED);
    assert_eq!((code, printed.as_str()), (1, "standard input\n"));
    assert!(told.contains("1 of 1 file would change"), "{told}");
    let (code, printed, told) = piped(&["fmt", "-"], "x = (\n");
    assert!(code == 1 && printed.is_empty() && told.contains("standard input:"), "{printed}{told}");
}

fn checked(arguments: &[&str], code: i32) -> Value {
    let outcome = partita(&[&["check", "--format", "json"], arguments].concat());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (code, ""));
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn a_checked_model_as_json() {
    let gpt = checked(&["models/gpt.partita", "--set", "layers=3"], 0);
    assert_eq!((&gpt["model"], &gpt["parameters"]), (&"gpt".into(), &644_224.into()));
    assert_eq!(gpt["repeats"], serde_json::json!([{"name": "layer", "count": 3}]));
    let classes: u64 = gpt["classes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((&gpt["operators"], classes), (&46.into(), 46));
    assert_eq!((&gpt["classes"]["contraction"], &gpt["settings"]["ffn"], &gpt["graph"]), (&8.into(), &"512".into(), &Value::Null));
    assert!(checked(&["models/gpt.partita", "-v"], 0)["graph"].as_str().unwrap().starts_with("graph \"gpt\""));
}

#[test]
fn errors_as_json() {
    let work = Work::new();
    let file = work.file("bad.partita", "model bad # über alles\naxis a = 3\nweight w[a] = ones # é\n  x = relu(y) + relu(w, 1)\n");
    let errors = checked(&[&file], 1);
    let first = &errors[0];
    assert_eq!((&errors[1]["line"], &errors[1]["column"]), (&4.into(), &17.into()), "{errors:#}");
    assert_eq!((&first["code"], &first["file"]), (&"partita::name::unknown".into(), &file.clone().into()));
    assert_eq!((&first["line"], &first["column"], &first["end"]), (&4.into(), &12.into(), &serde_json::json!({"line": 4, "column": 13})));
    assert!(first["message"].as_str().unwrap().contains("`y`") && first["help"].is_string(), "{first:#}");
    assert_eq!((&first["labels"][0]["line"], &first["labels"][0]["column"]), (&first["line"], &first["column"]));
    // columns are characters, not bytes
    let wide = checked(&[&work.file("wide.partita", "model é\n")], 1);
    assert_eq!((&wide[0]["column"], &wide[0]["end"]["column"]), (&7.into(), &8.into()));
    let odd = checked(&[&work.file("odd.partita", "model \"é\" é\n")], 1);
    assert_eq!(odd[1]["column"], 11, "{odd:#}");
    // what has no place has no file
    let misspelt = checked(&["models/gpt.partita", "--set", "hiden=3"], 1);
    assert_eq!((&misspelt[0]["file"], &misspelt[0]["line"], &misspelt[0]["end"]), (&Value::Null, &Value::Null, &Value::Null));
    assert!(misspelt[0]["message"].as_str().unwrap().contains("hiden"));
    assert_eq!(checked(&["nowhere.partita"], 1)[0]["code"], "partita::file");
}
