//! Tables on standard output, and numbers in them.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Inner};

/// A table with a header; numbers stand to the right.
pub struct Table {
    inner: Inner,
    numbers_right: bool,
}

impl Table {
    /// With these column titles.
    pub fn new(titles: &[&str]) -> Table {
        let mut table = Inner::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(titles.iter().map(Cell::new));
        Table { inner: table, numbers_right: true }
    }

    /// Names and values, everything to the left; the first pair is the header.
    pub fn of_facts(name: &str, value: &str) -> Table {
        Table { numbers_right: false, ..Table::new(&[name, value]) }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let numbers_right = self.numbers_right;
        self.inner.add_row(cells.into_iter().map(|text| {
            let number = numbers_right && text.parse::<f64>().is_ok();
            Cell::new(&text).set_alignment(if number { CellAlignment::Right } else { CellAlignment::Left })
        }));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.inner.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Three significant digits.
pub fn short(x: f64) -> String {
    let magnitude = if x == 0.0 || !x.is_finite() { 0 } else { x.abs().log10().floor() as i32 };
    match magnitude {
        -3..=2 => format!("{x:.*}", (2 - magnitude).max(0) as usize),
        3..=6 => format!("{x:.0}"),
        _ => format!("{x:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let cases =
            [(0.0, "0.00"), (1.2345, "1.23"), (123.4, "123"), (0.01234, "0.0123"), (1.5e-7, "1.50e-7")];
        for (x, text) in cases {
            assert_eq!(short(x), text);
        }
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let mut table = Table::new(&["a", "long title"]);
        table.row(["x".into(), "1".into()]);
        assert!(table.to_string().lines().all(|line| !line.ends_with(' ')));
    }
}
