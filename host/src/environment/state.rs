// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An environment's life, as a pure function of state and event.
//!
//! ```text
//!   Creating ──Booted──► Running ──Destroy──► Destroying ──Destroyed──► Destroyed
//!      │                    │                     ▲
//!    Failed                Failed                  │
//!      └──────► Error ◄──────┘                     │
//!                 └────────────Destroy─────────────┘
//! ```

/// Where an environment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its machine is booting.
    Creating,
    /// It takes work.
    Running,
    /// It is being destroyed.
    Destroying,
    /// It is gone.
    Destroyed,
    /// Its machine failed to boot, or died.
    Error,
}

/// What happens to an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its agent reported ready.
    Booted,
    /// Its machine failed.
    Failed,
    /// Somebody wants it gone.
    Destroy,
    /// Nothing of it is left.
    Destroyed,
}

/// An event came at the wrong moment; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event {event:?} does not apply to an environment that is {status:?}")]
pub struct WrongTransition {
    /// Where the environment is.
    pub status: Status,
    /// What came.
    pub event: Event,
}

impl Status {
    /// The state after `event`.
    ///
    /// # Errors
    ///
    /// [`WrongTransition`] if the diagram has no such arrow.
    pub fn after(self, event: Event) -> Result<Self, WrongTransition> {
        match (self, event) {
            (Self::Creating, Event::Booted) => Ok(Self::Running),
            (Self::Creating | Self::Running, Event::Failed) => Ok(Self::Error),
            (Self::Running | Self::Error, Event::Destroy) => Ok(Self::Destroying),
            (Self::Destroying, Event::Destroyed) => Ok(Self::Destroyed),
            (status, event) => Err(WrongTransition { status, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Creating, Destroyed, Destroying, Error, Running};

    #[test]
    fn the_diagram_is_the_whole_truth() {
        let arrows = [
            (Creating, Event::Booted, Running),
            (Creating, Event::Failed, Error),
            (Running, Event::Failed, Error),
            (Running, Event::Destroy, Destroying),
            (Error, Event::Destroy, Destroying),
            (Destroying, Event::Destroyed, Destroyed),
        ];
        for status in [Creating, Running, Destroying, Destroyed, Error] {
            for event in [
                Event::Booted,
                Event::Failed,
                Event::Destroy,
                Event::Destroyed,
            ] {
                let arrow = arrows
                    .iter()
                    .find(|(from, on, _)| (*from, *on) == (status, event));
                match (arrow, status.after(event)) {
                    (Some((_, _, to)), Ok(after)) => assert_eq!(*to, after),
                    (None, Err(error)) => assert_eq!(error, WrongTransition { status, event }),
                    (arrow, outcome) => panic!("{status:?}, {event:?}: {arrow:?} but {outcome:?}"),
                }
            }
        }
    }
}
