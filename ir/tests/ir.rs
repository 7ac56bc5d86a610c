//! Tests of the representation: the interpreter on small cases done by hand, the verifier rule by rule, the text form.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ir {
    mod boxing;
    mod completeness;
    mod interpret;
    mod library;
    mod operators;
    mod optimizers;
    mod precision;
    mod sample;
    mod sharded;
    mod states;
    mod support;
    mod text;
    mod training;
    mod verify;
    mod windows;
}
