//! Columns, numbers and emphasis for terminals.

use comfy_table::{CellAlignment, Table, TableStyle};

/// Rows under a header, two spaces in. Columns whose header begins with `>` are right-aligned.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header.iter().map(|word| word.trim_start_matches('>')).collect::<Vec<_>>());
    table.add_rows(rows);
    for (column, word) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        if word.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("  {}\n", line.trim_end())).collect()
}

/// A heading, bold in colour.
pub fn heading(text: &str, color: bool) -> String {
    if color { format!("\x1b[1m{text}\x1b[0m\n") } else { format!("{text}\n") }
}

/// A number with a comma between thousands.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 rank`, `4 ranks`.
pub fn count(n: u64, word: &str) -> String {
    format!("{} {word}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `0-2, 5`: numbers in order as ranges.
pub fn ranges(numbers: &[usize]) -> String {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match out.last_mut() {
            Some(last) if last.1 + 1 == n => last.1 = n,
            _ => out.push((n, n)),
        }
    }
    out.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!((count(1, "rank"), count(4, "rank")), ("1 rank".into(), "4 ranks".into()));
    }
}
