//! Did-you-mean: the known name closest to an unknown one.
//!
//! Comes in: a name and the names that would have worked. Goes out: the nearest by edit distance (Damerau's
//! restricted form, case ignored at the same cost as nothing), if it is near enough to be a slip of the hand.

/// The nearest of `names`, if it is at most a third of the name's length away (three edits at most) and shares some of its letters.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = name.chars().count();
    let limit = ((length + 1) / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|n| (distance(&name.to_lowercase(), &n.to_lowercase()), n))
        .filter(|(d, n)| *d <= limit && *d < n.chars().count().min(length))
        .min_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(b.1)))
        .map(|(_, n)| n.to_string())
}

/// Edits between two names: insert, delete, replace, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (n, ca) in a.iter().enumerate() {
        let mut row = vec![n + 1];
        for (m, cb) in b.iter().enumerate() {
            let mut best = (rows[n][m] + usize::from(ca != cb)).min(rows[n][m + 1] + 1).min(row[m] + 1);
            if n > 0 && m > 0 && a[n - 1] == *cb && *ca == b[m - 1] {
                best = best.min(rows[n - 1][m - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_near_and_other_words_are_not() {
        let names = ["window", "softmax", "q", "Hkv"];
        assert_eq!(nearest("windwo", names), Some("window".into()));
        assert_eq!(nearest("sofmax", names), Some("softmax".into()));
        assert_eq!(nearest("hkv", names), Some("Hkv".into()));
        assert_eq!(nearest("x", names), None, "one letter is not near another");
        assert_eq!(nearest("cumsum", names), None);
    }
}
