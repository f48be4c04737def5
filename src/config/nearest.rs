//! What was probably meant.

/// Returns the candidate that looks most like `text`, if one is near enough.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = plain(text);
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Returns the help for a name that is none of the candidates: the nearest one, or all.
pub fn suggest(text: &str, candidates: &[&str]) -> String {
    match nearest(text, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => one_of(candidates),
    }
}

/// Returns `use one of …`.
pub fn one_of(candidates: &[&str]) -> String {
    let names: Vec<String> = candidates.iter().map(|candidate| format!("`{candidate}`")).collect();
    match names.as_slice() {
        [] => "none is allowed here".into(),
        [one] => format!("only {one} is allowed here"),
        _ => format!("use one of {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_finds_the_list() {
        let keys = ["min_free", "reserve_minimum", "check_interval"];
        assert_eq!(suggest("min_fre", &keys), "did you mean `min_free`?");
        assert_eq!(suggest("min-free", &keys), "did you mean `min_free`?");
        assert_eq!(suggest("zzz", &["a", "b"]), "use one of `a`, `b`");
    }
}
