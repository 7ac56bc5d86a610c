//! Cases that were wrong once.
