// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Measurements as rows: percentiles of durations, a table for people, JSON for programs.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Digits of a duration that are kept: 0.1 %, well below any noise here.
const DIGITS: u8 = 3;

/// The durations of one thing that was done many times.
#[derive(Debug, Clone)]
pub struct Row {
    name: &'static str,
    microseconds: Histogram<u64>,
}

impl Row {
    /// A row without measurements.
    ///
    /// # Panics
    /// Never: the number of digits is acceptable.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            microseconds: Histogram::new(DIGITS).expect("1 to 5 digits"),
        }
    }

    /// Adds a measurement.
    ///
    /// # Panics
    /// If there is no memory for it.
    pub fn add(&mut self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds
            .record(microseconds)
            .expect("the histogram grows as needed");
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The median, in microseconds.
    #[must_use]
    pub fn p50(&self) -> u64 {
        self.microseconds.value_at_quantile(0.50)
    }

    /// The 99th percentile, in microseconds: the longest of fewer than 100.
    #[must_use]
    pub fn p99(&self) -> u64 {
        self.microseconds.value_at_quantile(0.99)
    }

    /// How many measurements there are.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.microseconds.len()
    }
}

/// All rows of one run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds rows, in the order of the table.
    pub fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// The row of this name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// `{"rows": {NAME: {"p50_us": ..., "p99_us": ..., "n": ...}}}`
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let value = json!({"p50_us": row.p50(), "p99_us": row.p99(), "n": row.n()});
            (row.name.to_owned(), value)
        });
        json!({"rows": rows.collect::<serde_json::Map<_, _>>()})
    }
}

impl fmt::Display for Report {
    /// A Markdown table, so that it can be pasted into a document as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| {:<20} | {:>10} | {:>10} | {:>6} |",
            "row", "p50 ms", "p99 ms", "n"
        )?;
        writeln!(f, "|{:-<22}|{:->11}:|{:->11}:|{:->7}:|", "", "", "", "")?;
        for row in &self.rows {
            let (p50, p99) = (Milliseconds(row.p50()), Milliseconds(row.p99()));
            writeln!(
                f,
                "| {:<20} | {p50:>10} | {p99:>10} | {:>6} |",
                row.name,
                row.n()
            )?;
        }
        Ok(())
    }
}

/// Microseconds, shown as milliseconds.
struct Milliseconds(u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:03}", self.0 / 1000, self.0 % 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_series() {
        let mut row = Row::new("series");
        for microseconds in 1..=1000 {
            row.add(Duration::from_micros(microseconds));
        }
        assert_eq!((row.p50(), row.p99(), row.n()), (500, 990, 1000));

        let mut report = Report::default();
        report.extend([row]);
        let expected = json!({"rows": {"series": {"p50_us": 500, "p99_us": 990, "n": 1000}}});
        assert_eq!(report.to_json(), expected);
        let table = report.to_string();
        assert!(
            table.ends_with("|      0.500 |      0.990 |   1000 |\n"),
            "{table}"
        );
        let widths: Vec<_> = table.lines().map(str::len).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
