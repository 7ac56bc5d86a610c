//! "did you mean": the known word that a mistyped one is nearest to.

/// The candidate at most one edit in three letters away from `word`.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    let by_edits = candidates.iter().map(|candidate| (strsim::osa_distance(word, candidate), *candidate));
    // a word of which every letter is replaced is another word
    let near = by_edits.filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.chars().count());
    near.min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or else the words that there are.
pub(crate) fn did_you_mean(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("known here: {}", candidates.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        assert_eq!(nearest("conut", &["count", "name"]), Some("count"));
        assert_eq!(nearest("bandwidth_gbs", &["bandwidth_gb_per_s", "latency_us"]), None);
        assert_eq!(nearest("q", &["k", "v"]), None);
    }
}
