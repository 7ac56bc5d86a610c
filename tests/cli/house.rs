//! Who may depend on whom.

use std::path::Path;

/// The packages of this workspace that a manifest names, for building and for its tests.
fn dependencies(package: &str) -> (Vec<String>, Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(package).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let of = |tables: &[&str]| {
        let names = tables.iter().filter_map(|name| manifest.get(*name)?.as_table()).flat_map(|table| table.keys().cloned());
        let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_prefix("partita-")?.to_owned())).collect();
        names.sort();
        names
    };
    (of(&["dependencies", "build-dependencies"]), of(&["dev-dependencies"]))
}

#[test]
fn dependencies_point_one_way() {
    for (package, allowed) in [
        ("ir", &[][..]),
        ("frontend", &["ir"]),
        ("planner", &["ir"]),
        ("codegen", &["ir", "planner"]),
        ("runtime", &["ir"]),
        (".", &["codegen", "frontend", "ir", "planner", "runtime"]),
    ] {
        assert_eq!(dependencies(package).0, allowed, "{package}/Cargo.toml");
    }
    // tests may look upstream, never at what is built on them
    for (package, allowed) in [("ir", &[][..]), ("frontend", &["ir"]), ("planner", &["frontend", "ir"]), ("runtime", &["ir"])] {
        let found = dependencies(package).1;
        assert!(found.iter().all(|name| allowed.contains(&name.as_str())), "tests of {package} depend on {found:?}");
    }
}

/// Every file stays small enough to be read in one sitting.
#[test]
fn sources_are_short_and_modules_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = ["src", "tests", "ir", "frontend", "planner", "codegen", "runtime"].map(|name| root.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//!"), "{} does not begin with what it is", path.display());
                assert!(text.lines().count() <= 800, "{} has more than 800 lines", path.display());
            }
        }
    }
}
