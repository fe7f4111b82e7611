// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

use super::*;

#[test]
fn a_burst_passes_and_then_the_rate_holds() {
    let start = Instant::now();
    let mut rate = Rate {
        left: BURST,
        at: start,
    };
    let mut passed = |millis, tries| {
        let now = start + Duration::from_millis(millis);
        (0..tries).filter(|_| rate.take(now).is_none()).count()
    };
    assert_eq!(passed(0, 2 * BURST), 1000);
    assert_eq!(passed(1000, BURST), 200);
    assert_eq!(passed(3_600_000, 2 * BURST), 1000);
}
