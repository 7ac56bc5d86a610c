//! The codes of verifiers: an enum whose variants each have the word that messages and documents name them by.

macro_rules! codes {
    ($($variant:ident $word:literal)*) => {
        /// Which check failed; the module's text says what each asks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the module's text documents each under its word")]
        pub enum Code { $($variant),* }
        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];
            /// The word that names it in messages.
            pub fn word(self) -> &'static str {
                match self { $(Code::$variant => $word),* }
            }
        }
    };
}
