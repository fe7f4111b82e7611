// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What was used last, by name, and no more than so much of it: callers choose the names.

/// Values by name, the one that was used last at the end.
#[derive(Debug)]
pub(super) struct Recent<V> {
    most: usize,
    entries: Vec<(String, V)>,
}

impl<V: Clone> Recent<V> {
    /// Of `most` values, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            entries: Vec::new(),
        }
    }

    /// The value of that name, which is used by this.
    pub(super) fn get(&mut self, name: &str) -> Option<V> {
        let at = self.entries.iter().position(|(other, _)| other == name)?;
        let entry = self.entries.remove(at);
        let value = entry.1.clone();
        self.entries.push(entry);
        Some(value)
    }

    /// Keeps a value, unless somebody else was faster: then that one is returned. The one that was not used for the
    /// longest goes.
    pub(super) fn keep(&mut self, name: &str, value: V) -> V {
        if let Some(there) = self.get(name) {
            return there;
        }
        if self.entries.len() >= self.most {
            self.entries.remove(0);
        }
        self.entries.push((name.to_owned(), value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_not_used_for_the_longest_goes() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.keep("a", 1), 1);
        assert_eq!(recent.keep("b", 2), 2);
        assert_eq!(recent.get("a"), Some(1));
        assert_eq!(recent.keep("c", 3), 3);
        assert_eq!((recent.get("a"), recent.get("b")), (Some(1), None));
        assert_eq!(recent.get("c"), Some(3));
    }

    #[test]
    fn the_first_of_a_name_stays() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.keep("a", 1), 1);
        assert_eq!(recent.keep("a", 2), 1);
    }
}
