// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How far a command is: a bar where standard error is a terminal, else a line now and then.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use waggle_images::images::{Progress as At, Stage};

/// Time between two lines where there is no terminal: logs are read later.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far a piece of work is. What takes next to no time shows nothing.
pub(super) struct Progress {
    shown: Arc<Shown>,
}

enum Shown {
    Bar(ProgressBar),
    Lines {
        what: String,
        told: Mutex<(Instant, Option<Stage>)>,
    },
}

impl Progress {
    /// Of this image or file.
    pub(super) fn new(what: &str) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // Unlike `set_prefix`, this draws nothing yet.
            Shown::Bar(bar.with_prefix(what.to_owned()))
        } else {
            Shown::Lines {
                what: what.to_owned(),
                told: Mutex::new((Instant::now(), None)),
            }
        };
        Self {
            shown: Arc::new(shown),
        }
    }

    /// What the work tells.
    pub(super) fn report(&self) -> impl Fn(At) + Send + Sync + use<> {
        let shown = Arc::clone(&self.shown);
        move |at| shown.show(at)
    }

    /// The work is over, however it ended.
    pub(super) fn end(&self) {
        if let Shown::Bar(bar) = &*self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shown {
    fn show(&self, at: At) {
        match self {
            Self::Bar(bar) => {
                bar.set_style(style(at));
                // All at once: each setter draws what the others did not set yet.
                bar.update(|state| {
                    state.set_len(at.total);
                    state.set_pos(at.done);
                });
            }
            Self::Lines { what, told } => {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                if told.1 == Some(at.stage) && now.duration_since(told.0) < LINE_INTERVAL {
                    return;
                }
                *told = (now, Some(at.stage));
                // Nobody may read it.
                let _ = writeln!(std::io::stderr(), "{}", line(what, at));
            }
        }
    }
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Resolve => "asking",
        Stage::Download => "receiving",
        Stage::Convert => "converting layers",
        Stage::Root => "making the root",
        Stage::Push => "sending",
    }
}

fn line(what: &str, at: At) -> String {
    let stage = words(at.stage);
    match (at.stage, at.total) {
        (_, 0) => format!("{what}: {stage}"),
        (Stage::Download | Stage::Push, total) => {
            let (done, total) = (super::show::size(at.done), super::show::size(total));
            format!("{what}: {stage}, {done} of {total}")
        }
        (_, total) => format!("{what}: {stage}, {} of {total}", at.done),
    }
}

fn style(at: At) -> ProgressStyle {
    // A template of ours is well-formed; a plain bar if it were not.
    ProgressStyle::with_template(&template(at)).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn template(at: At) -> String {
    let stage = words(at.stage);
    match (at.stage, at.total) {
        (_, 0) => format!("{{prefix}} {{spinner}} {stage}"),
        (Stage::Download | Stage::Push, _) => {
            format!(
                "{{prefix}} {stage} {{wide_bar}} {{binary_bytes}}/{{binary_total_bytes}} {{eta}}"
            )
        }
        _ => format!("{{prefix}} {stage} {{wide_bar}} {{pos}}/{{len}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_where_that_is_counted() {
        let at = |stage, done, total| At { stage, done, total };
        let told = line("python", at(Stage::Download, 1 << 20, 10 << 20));
        assert_eq!(told, "python: receiving, 1.0 MiB of 10.0 MiB");
        let told = line("python", at(Stage::Convert, 2, 5));
        assert_eq!(told, "python: converting layers, 2 of 5");
        assert_eq!(
            line("python", at(Stage::Root, 0, 0)),
            "python: making the root"
        );
    }

    #[test]
    fn every_template_is_well_formed() {
        for (stage, total) in [(Stage::Root, 0), (Stage::Push, 1), (Stage::Convert, 1)] {
            let at = At {
                stage,
                done: 0,
                total,
            };
            let style = ProgressStyle::with_template(&template(at));
            assert!(style.is_ok(), "{}", template(at));
        }
    }
}
