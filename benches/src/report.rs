//! Figures and how they are printed: a table, or one line each.

use crate::veth;

/// The figures of one experiment, in the order they were found.
#[derive(Debug)]
pub struct Report {
    title: String,
    notes: Vec<String>,
    figures: Vec<Figure>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    remark: String,
}

impl Report {
    pub fn new(title: impl Into<String>) -> Report {
        Report { title: veth::title() + &title.into(), notes: Vec::new(), figures: Vec::new() }
    }

    /// Adds a figure. `remark` says how many runs it comes from, or what it stands beside.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        remark: impl Into<String>,
    ) {
        self.figures.push(Figure { name: name.into(), value, unit, remark: remark.into() });
    }

    /// A line below the table; left out of the plain form.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Prints the report: `plain` gives `name value unit` lines and nothing else.
    pub fn print(&self, plain: bool) {
        if plain {
            for figure in &self.figures {
                println!("{} {} {}", figure.name, number(figure.value), figure.unit);
            }
            return;
        }
        println!("{}", self.title);
        let widths = self.figures.iter().fold((0, 0), |(name, value), figure| {
            (name.max(figure.name.len()), value.max(number(figure.value).len()))
        });
        for figure in &self.figures {
            println!(
                "  {:name$}  {:>value$} {:<6}  {}",
                figure.name,
                number(figure.value),
                figure.unit,
                figure.remark,
                name = widths.0,
                value = widths.1,
            );
        }
        for note in &self.notes {
            println!("  {note}");
        }
    }
}

/// Three or more significant digits, no exponent.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == v.trunc() => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(3.0), "3");
    }
}
