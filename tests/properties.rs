//! What every plan must satisfy, on random models, meshes and layouts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "support is shared with the tests of another crate, which use all of it")]

mod properties {
    mod case;
    mod coverage;
    mod layouts;
    mod outcome;
    mod regressions;
    #[path = "../../ir/tests/ir/sharded.rs"]
    mod sharded;
    mod soundness;
}
