// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The hostile corpus, by the way that images take: each member of it is imported as a file and pulled from a registry
//! that lies, by another process which Landlock lets write to nothing but the store. It is refused with a typed error,
//! or it is legal, and contained: then all of it is in the root, where it is as it says.
//!
//! Where the kernel has no Landlock, what is around the store is looked at instead, before and after. That is done anyway.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "this whole program is tests, which is where these are allowed"
)]

mod archive;
#[path = "../child/mod.rs"]
mod child;
mod floods;
mod image;
mod lies;
mod memory;
mod paths;
#[path = "../erofs/reader.rs"]
mod reader;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use child::{Ceilings, Task, Walls};
use image::Image;
use reader::Snapshot;
use support::registry::options;
use waggle_images::images::{Error, Images, Options, Pull};
use watch::Place;

/// What no member of the corpus takes more memory than, beside what its names may take: the process with its runtime
/// has about 30 MiB, a conversion up to 10 MiB, and nothing else grows with what is read.
const PEAK: u64 = 64 << 20;

/// A member of the corpus.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Makes it; the folder is one that it should not be able to reach.
    pub(crate) image: fn(&Path) -> Image,
    pub(crate) ceilings: Ceilings,
    /// What becomes of it as a file.
    pub(crate) import: Outcome,
    /// What becomes of it from a registry.
    pub(crate) pull: Outcome,
}

/// What is to become of a member.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// Such an error, whose text, with those of its causes, has these words.
    Refused(fn(&Error) -> bool, &'static [&'static str]),
    /// A root that is as it should be.
    Contained(fn(&Root)),
}

impl Case {
    /// One of which the same becomes either way, with the ceilings that there are.
    pub(crate) fn new(name: &'static str, image: fn(&Path) -> Image, outcome: Outcome) -> Self {
        Self {
            name,
            image,
            ceilings: Ceilings::default(),
            import: outcome,
            pull: outcome,
        }
    }
}

/// The root that came of a member.
pub(crate) struct Root {
    /// The whole disk.
    pub(crate) disk: Vec<u8>,
    victim: PathBuf,
}

impl Root {
    /// All that is in it, by erofs-rs.
    pub(crate) fn all(&self) -> Snapshot {
        reader::by_erofs_rs(&self.disk)
    }

    /// Where in a root something is that an archive names by its path on this host.
    pub(crate) fn victim(&self, name: &str) -> String {
        let path = self.victim.join(name).display().to_string();
        path.trim_start_matches('/').to_owned()
    }
}

/// Those members that are to be tried: all, or those with this variable's text in their names.
fn chosen(cases: Vec<Case>) -> impl Iterator<Item = Case> {
    let part = std::env::var("WAGGLE_TEST_MEMBER").unwrap_or_default();
    cases
        .into_iter()
        .filter(move |case| case.name.contains(&part))
}

/// All members.
fn corpus() -> Vec<Case> {
    [paths::cases(), floods::cases(), lies::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// How a member comes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As a file in OCI's layout.
    Import,
    /// As a file of `docker save`.
    Saved,
    /// From a registry.
    Pull,
}

impl Case {
    fn outcome(&self, way: Way) -> Outcome {
        match way {
            Way::Import | Way::Saved => self.import,
            Way::Pull => self.pull,
        }
    }
}

#[test]
fn a_process_of_its_own() {
    child::run_judged(options(), &judge);
}

/// In the other process, which has the error itself and not only its text.
fn judge(task: &Task, outcome: Result<&Path, &Error>) {
    let case = corpus().into_iter().find(|case| case.name == task.case);
    let case = case.expect("a member of the corpus");
    let way = match task.from {
        child::From::File(_) => Way::Import,
        child::From::Registry(_) => Way::Pull,
    };
    match (case.outcome(way), outcome) {
        (Outcome::Contained(_), Ok(_)) => {}
        (Outcome::Refused(is, words), Err(error)) => {
            let text = child::chain(error);
            assert!(is(error), "{}: another error: {error:?}", case.name);
            for word in words {
                assert!(text.contains(word), "{}: no {word:?} in {text}", case.name);
            }
        }
        (_, outcome) => panic!("{}: {outcome:?}", case.name),
    }
}

/// Has another process do it, and waits for its end. What it says.
async fn done(task: Task) -> String {
    let name = task.case.clone();
    let ended = tokio::task::spawn_blocking(move || task.start().finish());
    let (ended, said) = ended.await.unwrap();
    assert!(ended, "{name}: {said}");
    said
}

/// Whether nothing but the store could be written to. If the kernel does not see to that, the probe that was written
/// shows that the listings do, and is taken away.
fn check_around(place: &Place, name: &str, before: &watch::Listing, said: &str) {
    let mut after = place.listing();
    let probe = place.around().join(child::PROBE);
    if !said.contains(child::WALLED) {
        let walls = said.lines().find(|line| line.contains("walls"));
        eprintln!("{name}: watched instead of walled in: {walls:?}");
        // A part of the walls may stop the probe: then that is not what shows it.
        if said.contains("probe Ok") {
            assert!(
                after.remove(&probe).is_some(),
                "{name}: the probe is not seen"
            );
            fs::remove_file(&probe).unwrap();
        }
    }
    assert!(
        after == *before,
        "{name}: it is not as it was: {:?}",
        after.keys().collect::<Vec<_>>()
    );
}

async fn check(case: &Case, way: Way, walls: Walls) {
    let place = Place::new();
    let image = (case.image)(&place.victim());
    let file = place.around().join("image.tar");
    // The registry lives as long as this.
    let (_liar, task) = match way {
        Way::Import => {
            image.archive(&file);
            (None, Task::import(&place.cache(), &file))
        }
        Way::Saved => {
            image.saved(&file);
            (None, Task::import(&place.cache(), &file))
        }
        Way::Pull => {
            let (liar, reference) = image.serve().await;
            (Some(liar), Task::pull(&place.cache(), &reference))
        }
    };
    let before = place.listing();
    let said = done(Task {
        case: case.name.to_owned(),
        ceilings: case.ceilings,
        walls,
        around: Some(place.around().to_owned()),
        ..task
    })
    .await;
    check_around(&place, case.name, &before, &said);
    place.check_store();
    let peak = child::peak(&said);
    let line = said.lines().find(|line| line.contains("refused:"));
    let what = line.unwrap_or("contained");
    eprintln!("{}: {what}, peak {} MiB", case.name, peak >> 20);
    let most = PEAK + case.ceilings.memory_bytes.unwrap_or(0);
    assert!(peak < most, "{}: {peak} bytes of memory", case.name);
    check_store(case, way, &place).await;
}

/// What is in the store, as one sees it who comes later.
async fn check_store(case: &Case, way: Way, place: &Place) {
    let images = Images::open(Options {
        registry: options(),
        ..Options::new(place.cache())
    });
    let images = images.unwrap();
    let known = images.list().unwrap();
    match case.outcome(way) {
        Outcome::Refused(..) => assert_eq!(known, [], "{}", case.name),
        Outcome::Contained(look) => {
            let known = images.ensure(&known[0].reference, Pull::Never, &|_| ());
            let image = known.await.unwrap();
            look(&Root {
                disk: reader::disk(&image.disk),
                victim: place.victim(),
            });
        }
    }
    assert_eq!(images.verify(false).unwrap().damage, [], "{}", case.name);
    images.prune(true).unwrap();
    for folder in ["blobs/sha256", "layers", "roots", "refs", "partial", "temp"] {
        let left = fs::read_dir(place.cache().join(folder)).unwrap().count();
        assert_eq!(left, 0, "{}: {folder}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_as_a_file() {
    for case in chosen(corpus()) {
        check(&case, Way::Import, Walls::Landlock).await;
    }
}

/// Docker's archives say nothing of layers that could be a lie: only what is in these is hostile.
#[tokio::test(flavor = "multi_thread")]
async fn layers_as_docker_saves_them() {
    for case in chosen(paths::cases()) {
        check(&case, Way::Saved, Walls::Landlock).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_from_a_registry() {
    for case in chosen(corpus()) {
        check(&case, Way::Pull, Walls::Landlock).await;
    }
}

/// What is done where the kernel has no Landlock sees what is written: the probe, and each of these.
#[tokio::test(flavor = "multi_thread")]
async fn the_watch_sees_what_walls_would_deny() {
    let cases = corpus();
    for way in [Way::Import, Way::Pull] {
        check(&cases[0], way, Walls::Missing).await;
    }
    for path in ["victim/file", "near", "home/new", "tmp/new", "work/new"] {
        let place = Place::new();
        let before = place.listing();
        fs::write(place.around().join(path), "as it wos").unwrap();
        assert!(place.listing() != before, "{path}");
    }
    let place = Place::new();
    let before = place.listing();
    fs::create_dir(place.cache()).unwrap();
    fs::write(place.cache().join("new"), "as it may").unwrap();
    assert!(place.listing() == before);
}
