// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The whole mirror, between registries that are servers of this test's own, and clients over HTTP.

mod real;
