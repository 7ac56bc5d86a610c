//! What every plan must satisfy, on random models, meshes and layouts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod properties {
    mod case;
    mod coverage;
    mod outcome;
    mod regressions;
    #[path = "../../ir/tests/ir/sharded.rs"]
    mod sharded;
    mod soundness;
}
