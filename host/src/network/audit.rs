// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What an environment asked of the network, and what became of it: the newest decisions, and each of
//! them in the log.
//!
//! Invariants: bounded, whatever a guest does; every text is printable (targets are normalised first). The
//! same refusal again counts up, so that a flood of one does not push out the rest, and is logged at its
//! 1st, 10th, 100th time and so on. Refusals have places of their own: nothing that is let through pushes
//! them out.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::policy::Denial;
use crate::lock::lock;

/// Records that are kept of one environment: a `pip install` with many dependencies has some dozens.
const RECORDS_MAX: usize = 256;

/// Refusals that are kept beside them, each once.
const REFUSALS_MAX: usize = 256;

/// By which way something was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// HTTP CONNECT.
    Connect,
    /// A plain HTTP request to a proxy.
    Http,
    /// SOCKS 5.
    Socks,
    /// The package mirror.
    Mirror,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Http => "http",
            Self::Socks => "socks",
            Self::Mirror => "mirror",
        })
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub enum Decision {
    /// It was let through.
    Allowed,
    /// A rule refused it.
    Refused {
        /// Which, and how it is allowed.
        denial: Denial,
    },
    /// It was permitted, but could not be reached.
    Failed {
        /// Why.
        error: String,
    },
}

/// One thing that was asked.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Record {
    /// Counts up over all records of the environment.
    pub sequence: u64,
    /// When it was asked (the newest time, if it was several times).
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// What for: host:port, or what the mirror was asked for.
    pub asked: String,
    /// By which way.
    pub via: Via,
    #[allow(missing_docs)] // It is flattened: its own description stands.
    #[serde(flatten)]
    pub decision: Decision,
    /// The checked address that the connection went to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<SocketAddr>,
    /// Bytes that came in, so far.
    pub bytes_in: u64,
    /// Bytes that went out, so far.
    pub bytes_out: u64,
    /// The package mirror had it.
    pub from_cache: bool,
    /// How many times; above 1 only for the same refusal.
    pub times: u64,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// Bytes both ways, counted while they move.
#[derive(Debug, Default)]
pub struct Counters {
    /// To the environment.
    pub bytes_in: AtomicU64,
    /// From the environment.
    pub bytes_out: AtomicU64,
}

/// The newest records of one environment.
#[derive(Debug)]
pub struct Audit {
    /// For the log.
    environment: String,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    next: u64,
    /// What was let through or failed, the oldest first.
    records: VecDeque<(Record, Arc<Counters>)>,
    /// What was refused, the oldest first by its newest time.
    refusals: VecDeque<Record>,
}

impl Audit {
    /// An empty one of the environment that the log calls so.
    #[must_use]
    pub fn new(environment: String) -> Self {
        Self {
            environment,
            ring: Mutex::default(),
        }
    }

    /// Something was let through. What moves is counted in the returned counters.
    pub fn allowed(
        &self,
        via: Via,
        asked: &str,
        address: Option<SocketAddr>,
        from_cache: bool,
    ) -> Arc<Counters> {
        let environment = self.environment.as_str();
        tracing::info!(environment, %via, asked, ?address, from_cache, "network: allowed");
        lock(&self.ring).push(via, asked, Decision::Allowed, address, from_cache)
    }

    /// Something was refused.
    pub fn refused(&self, via: Via, denial: &Denial) {
        let times = lock(&self.ring).refuse(via, denial);
        if is_power_of_ten(times) {
            let Denial { asked, rule, .. } = denial;
            tracing::info!(environment = self.environment, %via, asked, rule, times, "network: refused");
        }
    }

    /// Something was permitted and could not be had.
    pub fn failed(&self, via: Via, asked: &str, error: &str) {
        let environment = self.environment.as_str();
        tracing::info!(environment, %via, asked, error, "network: failed");
        let decision = Decision::Failed {
            error: error.to_owned(),
        };
        lock(&self.ring).push(via, asked, decision, None, false);
    }

    /// The records that are kept, the oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let ring = lock(&self.ring);
        let others = ring.records.iter().map(snapshot);
        let mut records: Vec<_> = others.chain(ring.refusals.iter().cloned()).collect();
        records.sort_unstable_by_key(|record| record.sequence);
        records
    }

    /// A mark for [`Audit::refused_since`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        lock(&self.ring).next
    }

    /// The refusals since `mark`, each once, at most `max`, the oldest first.
    #[must_use]
    pub fn refused_since(&self, mark: u64, max: usize) -> Vec<Denial> {
        let ring = lock(&self.ring);
        let mut seen = HashSet::new();
        let refused = ring
            .refusals
            .iter()
            .filter(|record| record.sequence >= mark);
        let denials = refused.filter_map(|record| match &record.decision {
            Decision::Refused { denial } => seen.insert(denial).then(|| denial.clone()),
            Decision::Allowed | Decision::Failed { .. } => None,
        });
        denials.take(max).collect()
    }

    /// The newest failure since `mark`: what was asked for, and why it failed.
    #[must_use]
    pub fn failed_since(&self, mark: u64) -> Option<(String, String)> {
        let ring = lock(&self.ring);
        let mut newest = ring.records.iter().rev().map(|(record, _)| record);
        newest.find_map(|record| match &record.decision {
            Decision::Failed { error } if record.sequence >= mark => {
                Some((record.asked.clone(), error.clone()))
            }
            _ => None,
        })
    }
}

fn is_power_of_ten(mut number: u64) -> bool {
    while number >= 10 && number.is_multiple_of(10) {
        number /= 10;
    }
    number == 1
}

fn snapshot((record, counters): &(Record, Arc<Counters>)) -> Record {
    Record {
        bytes_in: counters.bytes_in.load(Ordering::Relaxed),
        bytes_out: counters.bytes_out.load(Ordering::Relaxed),
        ..record.clone()
    }
}

impl Ring {
    fn sequence(&mut self) -> u64 {
        let sequence = self.next;
        self.next += 1;
        sequence
    }

    fn record(&mut self, via: Via, asked: &str, decision: Decision) -> Record {
        Record {
            sequence: self.sequence(),
            at: Timestamp::now(),
            asked: asked.to_owned(),
            via,
            decision,
            address: None,
            bytes_in: 0,
            bytes_out: 0,
            from_cache: false,
            times: 1,
        }
    }

    fn push(
        &mut self,
        via: Via,
        asked: &str,
        decision: Decision,
        address: Option<SocketAddr>,
        from_cache: bool,
    ) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        let record = Record {
            address,
            from_cache,
            ..self.record(via, asked, decision)
        };
        if self.records.len() >= RECORDS_MAX {
            self.records.pop_front();
        }
        self.records.push_back((record, Arc::clone(&counters)));
        counters
    }

    /// Returns how many times it was refused.
    fn refuse(&mut self, via: Via, denial: &Denial) -> u64 {
        let is_same = |record: &Record| {
            record.via == via
                && matches!(&record.decision, Decision::Refused { denial: known } if known == denial)
        };
        let known = self.refusals.iter().rposition(is_same);
        let decision = Decision::Refused {
            denial: denial.clone(),
        };
        let mut record = self.record(via, &denial.asked, decision);
        if let Some(known) = known.and_then(|place| self.refusals.remove(place)) {
            record.times += known.times;
        }
        let times = record.times;
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.pop_front();
        }
        self.refusals.push_back(record);
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::policy::DenialKind;

    fn denial(asked: &str) -> Denial {
        Denial {
            kind: DenialKind::NotPermitted,
            asked: asked.to_owned(),
            rule: "a rule".to_owned(),
            remedy: "a remedy".to_owned(),
        }
    }

    #[test]
    fn it_is_bounded_and_the_newest_stay() {
        let audit = Audit::new("env".into());
        for number in 0..RECORDS_MAX + 10 {
            audit.allowed(Via::Http, &format!("host-{number}:80"), None, false);
        }
        let records = audit.records();
        assert_eq!(records.len(), RECORDS_MAX);
        assert_eq!(records[0].asked, "host-10:80");
        assert_eq!(records[0].sequence, 10);
    }

    #[test]
    fn a_flood_of_one_refusal_is_one_record() {
        let audit = Audit::new("env".into());
        audit.allowed(Via::Connect, "good:443", None, false);
        for _ in 0..1000 {
            audit.refused(Via::Connect, &denial("evil:443"));
        }
        audit.refused(Via::Socks, &denial("evil:443"));
        let records = audit.records();
        let times: Vec<_> = records.iter().map(|record| record.times).collect();
        assert_eq!(times, [1, 1000, 1]);
        assert_eq!(audit.refused_since(0, 8).len(), 1, "the same by two ways");
    }

    #[test]
    fn what_is_let_through_does_not_push_out_refusals() {
        let audit = Audit::new("env".into());
        audit.refused(Via::Socks, &denial("evil:443"));
        for _ in 0..RECORDS_MAX + 10 {
            audit.allowed(Via::Mirror, "a package", None, false);
        }
        assert_eq!(audit.refused_since(0, 8), [denial("evil:443")]);
        let records = audit.records();
        assert_eq!(records.len(), RECORDS_MAX + 1);
        assert_eq!(records[0].asked, "evil:443", "in the order of time");
        // Nor do refusals push out anything but older refusals.
        for number in 0..REFUSALS_MAX {
            audit.refused(Via::Http, &denial(&format!("host-{number}:1")));
        }
        let records = audit.records();
        assert_eq!(records.len(), RECORDS_MAX + REFUSALS_MAX);
        assert!(records.iter().all(|record| record.asked != "evil:443"));
    }

    #[test]
    fn refusals_since_a_mark() {
        let audit = Audit::new("env".into());
        audit.refused(Via::Connect, &denial("before:1"));
        audit.refused(Via::Connect, &denial("again:1"));
        let mark = audit.mark();
        assert!(audit.refused_since(mark, 8).is_empty());
        audit.failed(Via::Connect, "down:1", "nobody there");
        audit.refused(Via::Connect, &denial("again:1"));
        for number in 0..20 {
            audit.refused(Via::Http, &denial(&format!("host-{number}:1")));
        }
        let refused = audit.refused_since(mark, 8);
        assert_eq!(refused.len(), 8);
        assert_eq!(
            (refused[0].asked.as_str(), refused[1].asked.as_str()),
            ("again:1", "host-0:1")
        );
    }

    #[test]
    fn bytes_are_seen_while_they_move() {
        let audit = Audit::new("env".into());
        let counters = audit.allowed(Via::Connect, "good:443", None, false);
        counters.bytes_in.fetch_add(5, Ordering::Relaxed);
        assert_eq!(audit.records()[0].bytes_in, 5);
        let json = serde_json::to_value(&audit.records()[0]).expect("JSON");
        assert_eq!(
            (&json["decision"], &json["via"]),
            (&"allowed".into(), &"connect".into())
        );
    }

    #[test]
    fn each_decision_is_a_line_of_the_log() {
        let decide = |audit: &Audit| {
            audit.allowed(Via::Connect, "good:443", None, false);
            audit.failed(Via::Http, "down:80", "nobody there");
            for _ in 0..10 {
                audit.refused(Via::Socks, &denial("evil:443"));
            }
        };
        // A line that tracing has met is asked about at each new subscriber; one that a test on another thread, without
        // one, met first while this is the only one would be off for this one, too.
        decide(&Audit::new("before".into()));
        let log = tempfile::NamedTempFile::new().expect("a file");
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(Arc::new(log.reopen().expect("the file")))
            .finish();
        tracing::subscriber::with_default(subscriber, || decide(&Audit::new("env-1".into())));
        let log = std::fs::read_to_string(log.path()).expect("text");
        let lines: Vec<_> = log.lines().collect();
        let expected = [
            [
                "network: allowed",
                "via=connect",
                "good:443",
                "from_cache=false",
            ],
            ["network: failed", "via=http", "down:80", "nobody there"],
            ["network: refused", "via=socks", "evil:443", "times=1"],
            ["network: refused", "a rule", "evil:443", "times=10"],
        ];
        assert_eq!(lines.len(), expected.len(), "{log}");
        for (line, words) in lines.iter().zip(expected) {
            for word in words.iter().chain(&["INFO", "environment=\"env-1\""]) {
                assert!(line.contains(word), "{word}: {line}");
            }
        }
    }

    #[test]
    fn a_flood_is_logged_at_powers_of_ten() {
        let logged: Vec<_> = (0..=1000)
            .filter(|number| is_power_of_ten(*number))
            .collect();
        assert_eq!(logged, [1, 10, 100, 1000]);
    }
}
