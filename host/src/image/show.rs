// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What `waggle image` prints: tables for people, JSON for programs. Pure.
//!
//! What an image says of itself is shown without control characters: its maker does not drive this terminal.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use waggle_images::{
    Reference,
    images::{Inspection, Removed, Summary},
    store::{Damage, Provenance, Pruned, Verified},
};

use super::check::Checked;
use crate::client::printable;

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, without floating point.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// How long ago, roughly.
fn ago(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let (count, unit) = match seconds {
        0..60 => return "now".to_owned(),
        60..3600 => (seconds / 60, "min"),
        3600..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{count} {unit} ago")
}

/// RFC 3339, to the second.
fn time(at: SystemTime) -> String {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |at| at.to_string())
}

fn source(provenance: Provenance) -> &'static str {
    match provenance {
        Provenance::Pulled => "pulled",
        Provenance::Imported => "imported",
    }
}

/// Columns as wide as they need to be.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One line an image.
pub(super) fn table(images: &[Summary]) -> String {
    if images.is_empty() {
        return "no images; `waggle image pull` fetches one, `waggle image import` takes one in"
            .to_owned();
    }
    let now = SystemTime::now();
    let head = ["IMAGE", "DIGEST", "OWN", "SHARED", "FROM", "USED"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(images.iter().map(|image| {
        [
            image.reference.to_string(),
            image.manifest.to_string().chars().take(19).collect(),
            size(image.own_bytes),
            size(image.shared_bytes),
            source(image.provenance).to_owned(),
            ago(image.used, now),
        ]
    }));
    columns(&rows)
}

/// `NAME DIGEST`, one line an image.
pub(super) fn named(images: &[Summary]) -> String {
    let line = |image: &Summary| format!("{} {}", image.reference, image.manifest);
    images.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[derive(Debug, Serialize)]
pub(super) struct Listed {
    reference: String,
    digest: String,
    /// Bytes that go if it goes.
    own_bytes: u64,
    shared_bytes: u64,
    source: &'static str,
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    resolved: String,
    used: String,
}

/// As JSON.
pub(super) fn listed(images: &[Summary]) -> Vec<Listed> {
    images.iter().map(one).collect()
}

fn one(image: &Summary) -> Listed {
    Listed {
        reference: image.reference.to_string(),
        digest: image.manifest.to_string(),
        own_bytes: image.own_bytes,
        shared_bytes: image.shared_bytes,
        source: source(image.provenance),
        whole: image.root.is_some(),
        created: image.created.clone(),
        resolved: time(image.resolved),
        used: time(image.used),
    }
}

pub(super) fn removed(reference: &Reference, removed: &Removed) -> String {
    if removed.deferred {
        return format!(
            "{reference} removed; what only it needed goes when the pulls under way have ended"
        );
    }
    format!("{reference} removed, {} freed", size(removed.bytes))
}

#[derive(Debug, Serialize)]
pub(super) struct PrunedJson<'a> {
    images: &'a [String],
    files: u64,
    bytes: u64,
}

/// As JSON.
pub(super) fn pruned_json(pruned: &Pruned) -> PrunedJson<'_> {
    PrunedJson {
        images: &pruned.images,
        files: pruned.files,
        bytes: pruned.bytes,
    }
}

pub(super) fn pruned(pruned: &Pruned) -> String {
    let mut lines: Vec<_> = pruned
        .images
        .iter()
        .map(|image| format!("{image} removed"))
        .collect();
    lines.push(format!("{} freed", size(pruned.bytes)));
    lines.join("\n")
}

pub(super) fn verified(verified: &Verified, mend: bool) -> String {
    let Verified {
        blobs,
        layers,
        unproven,
        roots,
        damage,
    } = verified;
    let mut text =
        format!("{blobs} blobs, {layers} layers and {roots} roots are as they should be");
    if !damage.is_empty() {
        text = format!("looked at {blobs} blobs, {layers} layers and {roots} roots");
    }
    if *unproven > 0 {
        let _ = write!(text, "; {unproven} could not be made once more to compare");
    }
    for each in damage {
        let (what, digest) = match each {
            Damage::Blob(digest) => ("blob", digest),
            Damage::Layer(digest) => ("layer", digest),
            Damage::Root(digest) => ("root", digest),
        };
        let _ = write!(text, "\ndamaged: {what} {digest}");
    }
    if !damage.is_empty() {
        text.push_str(match mend {
            true => "\ntaken away: the next use of the images makes or fetches it again, or says which to import again",
            false => "\n`waggle image verify --mend` takes it away, so that the next use makes or fetches it again",
        });
    }
    text
}

#[derive(Debug, Serialize)]
pub(super) struct Inspected<'a> {
    #[serde(flatten)]
    image: Listed,
    named: String,
    config_digest: String,
    in_use: bool,
    protocol: Option<&'a str>,
    architecture: &'a str,
    user: Option<&'a str>,
    working_directory: Option<&'a str>,
    env: BTreeMap<&'a str, &'a str>,
    entrypoint: &'a [String],
    cmd: &'a [String],
    labels: &'a BTreeMap<String, String>,
    layers: Vec<LayerJson<'a>>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct LayerJson<'a> {
    digest: String,
    diff_id: String,
    media_type: &'a str,
    /// As transferred.
    size: u64,
    /// Converted, if it is there.
    bytes: Option<u64>,
    entries: Option<u64>,
    blob_kept: bool,
}

/// As JSON.
pub(super) fn inspected_json(inspection: &Inspection) -> Inspected<'_> {
    let Inspection {
        summary,
        named,
        config_digest,
        config,
        layers,
        protocol,
        in_use,
    } = inspection;
    let variables = config
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let layers = layers.iter().map(|layer| LayerJson {
        digest: layer.digest.to_string(),
        diff_id: layer.diff_id.to_string(),
        media_type: &layer.media_type,
        size: layer.size,
        bytes: layer.bytes,
        entries: layer.entries,
        blob_kept: layer.kept,
    });
    Inspected {
        image: one(summary),
        named: named.to_string(),
        config_digest: config_digest.to_string(),
        in_use: *in_use,
        protocol: protocol.as_deref(),
        architecture: &config.architecture,
        user: config.user.as_deref(),
        working_directory: config.workdir.as_deref(),
        env: variables.collect(),
        entrypoint: &config.entrypoint,
        cmd: &config.cmd,
        labels: &config.labels,
        layers: layers.collect(),
        notes: &config.notes,
    }
}

pub(super) fn inspected(inspection: &Inspection) -> String {
    let Inspection {
        summary, config, ..
    } = inspection;
    let none = || "none".to_owned();
    let mut rows = vec![
        ["image".to_owned(), summary.reference.to_string()],
        ["digest".to_owned(), summary.manifest.to_string()],
        [
            "created".to_owned(),
            summary.created.clone().unwrap_or_else(none),
        ],
        ["source".to_owned(), source(summary.provenance).to_owned()],
        [
            "size".to_owned(),
            format!(
                "{} of its own, {} shared",
                size(summary.own_bytes),
                size(summary.shared_bytes)
            ),
        ],
        [
            "platform".to_owned(),
            format!("{}/{}", config.os, config.architecture),
        ],
        [
            "agent".to_owned(),
            match &inspection.protocol {
                Some(versions) => format!("protocol {versions}, by its label"),
                None => "no label: the server brings its own where there is none".to_owned(),
            },
        ],
        [
            "user".to_owned(),
            config
                .user
                .clone()
                .unwrap_or_else(|| "root, or none".to_owned()),
        ],
        [
            "working folder".to_owned(),
            config.workdir.clone().unwrap_or_else(none),
        ],
        [
            "entrypoint".to_owned(),
            match [config.entrypoint.as_slice(), &config.cmd].concat() {
                words if words.is_empty() => none(),
                words => format!("{} (never run)", words.join(" ")),
            },
        ],
        [
            "in use".to_owned(),
            if inspection.in_use { "yes" } else { "no" }.to_owned(),
        ],
    ];
    let pairs = config.env.iter();
    rows.extend(pairs.map(|(name, value)| ["variable".to_owned(), format!("{name}={value}")]));
    let pairs = config.labels.iter();
    rows.extend(pairs.map(|(name, value)| ["label".to_owned(), format!("{name}={value}")]));
    rows.extend(
        config
            .notes
            .iter()
            .map(|note| ["left out".to_owned(), note.clone()]),
    );
    rows.extend(inspection.layers.iter().map(|layer| {
        let converted = layer.bytes.map_or_else(|| "not there".to_owned(), size);
        let entries = layer.entries.unwrap_or_default();
        let size = size(layer.size);
        [
            "layer".to_owned(),
            format!(
                "{} {size} transferred, {converted} kept, {entries} entries",
                layer.digest
            ),
        ]
    }));
    for cell in rows.iter_mut().flatten() {
        *cell = printable(cell);
    }
    columns(&rows)
}

pub(super) fn checked(reference: &Reference, checked: &Checked) -> String {
    let mut rows = Vec::new();
    for item in &checked.items {
        let state = match (item.passed, item.needed) {
            (true, _) => "pass",
            (false, true) => "missing",
            (false, false) => "missing, not needed",
        };
        rows.push([
            state.to_owned(),
            item.part.to_owned(),
            printable(&item.found),
        ]);
        if let Some(remedy) = &item.remedy {
            rows.push([String::new(), String::new(), format!("-> {remedy}")]);
        }
    }
    let serves: Vec<_> = checked
        .runtimes
        .iter()
        .map(|served| served.to_string())
        .collect();
    let serves = match serves.is_empty() {
        true => "no runtime".to_owned(),
        false => serves.join(", "),
    };
    format!("{reference}\n{}\nserves {serves}", columns(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_unit_and_a_tenth() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_rough_for_people_and_exact_for_programs() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 10);
        let later = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(ago(at, at), "now");
        assert_eq!(ago(at, later(120)), "2 min ago");
        assert_eq!(ago(at, later(7300)), "2 h ago");
        assert_eq!(ago(at, later(86_400 * 3)), "3 d ago");
        // A clock that was set back.
        assert_eq!(ago(later(5), at), "now");
        assert_eq!(time(at), "1970-01-11T00:00:00Z");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "bb".to_owned()],
            ["ccc".to_owned(), String::new()],
        ];
        assert_eq!(columns(&rows), "a    bb\nccc");
    }

    #[test]
    fn damage_is_told_with_what_mends_it() {
        let mut found = Verified::default();
        assert!(verified(&found, false).contains("as they should be"));
        found
            .damage
            .push(Damage::Layer(waggle_images::Digest::of(b"x")));
        assert!(verified(&found, false).contains("--mend"));
        assert!(verified(&found, true).contains("taken away"));
    }
}
