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
    /// What each of them moved, if that is what matters.
    bytes: Option<u64>,
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
            bytes: None,
        }
    }

    /// A row of streams of `bytes` each.
    #[must_use]
    pub fn stream(name: &'static str, bytes: u64) -> Self {
        Self {
            bytes: Some(bytes),
            ..Self::new(name)
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

    /// The 95th percentile, in microseconds.
    #[must_use]
    pub fn p95(&self) -> u64 {
        self.microseconds.value_at_quantile(0.95)
    }

    /// The 99th percentile, in microseconds: the longest of fewer than 100.
    #[must_use]
    pub fn p99(&self) -> u64 {
        self.microseconds.value_at_quantile(0.99)
    }

    /// Throughput in MiB a second, by the median; of a row of streams.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "both fit a double")]
    pub fn mib_per_s(&self) -> Option<f64> {
        let mib = self.bytes? as f64 / f64::from(1 << 20);
        Some(mib / (self.p50().max(1) as f64 / 1e6))
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
    /// Names and KiB.
    sizes: Vec<(&'static str, u64)>,
}

impl Report {
    /// Adds rows, in the order of the table.
    pub fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// Adds a size in KiB.
    pub fn add_size(&mut self, name: &'static str, kib: u64) {
        self.sizes.push((name, kib));
    }

    /// The row of this name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// `{"rows": {NAME: {"p50_us": ..., "p95_us": ..., "p99_us": ..., "n": ...}}}`; streams have
    /// `mib_per_s` as well, sizes have `kib` alone.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let mut value = json!({
                "p50_us": row.p50(), "p95_us": row.p95(), "p99_us": row.p99(), "n": row.n(),
            });
            if let (Some(fields), Some(rate)) = (value.as_object_mut(), row.mib_per_s()) {
                // A tenth is far below any noise.
                let rate = (rate * 10.0).round() / 10.0;
                fields.insert("mib_per_s".to_owned(), json!(rate));
            }
            (row.name.to_owned(), value)
        });
        let sizes = self.sizes.iter();
        let sizes = sizes.map(|(name, kib)| ((*name).to_owned(), json!({"kib": kib})));
        json!({"rows": rows.chain(sizes).collect::<serde_json::Map<_, _>>()})
    }
}

impl fmt::Display for Report {
    /// A Markdown table, so that it can be pasted into a document as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| {:<20} | {:>10} | {:>10} | {:>10} | {:>6} | {:>8} |",
            "row", "p50 ms", "p95 ms", "p99 ms", "n", "MiB/s"
        )?;
        writeln!(
            f,
            "|{:-<22}|{:->11}:|{:->11}:|{:->11}:|{:->7}:|{:->9}:|",
            "", "", "", "", "", ""
        )?;
        for row in &self.rows {
            let [p50, p95, p99] = [row.p50(), row.p95(), row.p99()].map(Milliseconds);
            let rate = row.mib_per_s().map(|rate| format!("{rate:.0}"));
            writeln!(
                f,
                "| {:<20} | {p50:>10} | {p95:>10} | {p99:>10} | {:>6} | {:>8} |",
                row.name,
                row.n(),
                rate.unwrap_or_default()
            )?;
        }
        for (name, kib) in &self.sizes {
            writeln!(f, "\n{name}: {kib} KiB")?;
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
        let mut stream = Row::stream("stream", 3 << 20);
        stream.add(Duration::from_secs(2));
        report.extend([stream, row]);
        assert_eq!(
            report.to_json(),
            json!({"rows": {
                "series": {"p50_us": 500, "p95_us": 950, "p99_us": 990, "n": 1000},
                "stream": {
                    "p50_us": 2_000_895, "p95_us": 2_000_895, "p99_us": 2_000_895, "n": 1,
                    "mib_per_s": 1.5,
                },
            }})
        );
        let table = report.to_string();
        assert!(
            table.ends_with("|      0.500 |      0.950 |      0.990 |   1000 |          |\n"),
            "{table}"
        );
        let widths: Vec<_> = table.lines().map(str::len).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");

        report.add_size("memory", 12);
        assert_eq!(report.to_json()["rows"]["memory"], json!({"kib": 12}));
        assert!(report.to_string().ends_with("\n\nmemory: 12 KiB\n"));
    }
}
