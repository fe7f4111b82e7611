// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A way to a registry that lets so many bytes of its answers through, and the rest when a test opens it: what is
//! downloaded by then is under way for as long as the test likes.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// The way. Its threads end with the test's process.
pub(crate) struct Gate {
    /// `127.0.0.1:PORT`, as references name it.
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    /// Bytes that may pass; none: it is open.
    left: Mutex<Option<usize>>,
    opened: Condvar,
}

impl Gate {
    /// One before that address, which lets `bytes` through.
    pub(crate) fn before(target: &str, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(State {
            left: Mutex::new(Some(bytes)),
            opened: Condvar::new(),
        });
        let (target, passing) = (target.to_owned(), Arc::clone(&state));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&target).expect("the registry");
                let (questions, answers) = (clone(&client), clone(&server));
                let passing = Arc::clone(&passing);
                thread::spawn(move || copy(questions, server, |_| ()));
                thread::spawn(move || copy(answers, client, |bytes| passing.wait(bytes)));
            }
        });
        Self { address, state }
    }

    /// Lets all through.
    pub(crate) fn open(&self) {
        *self.state.left.lock().expect("no panic") = None;
        self.state.opened.notify_all();
    }
}

impl State {
    /// Until so many bytes may pass.
    fn wait(&self, bytes: usize) {
        let left = self.left.lock().expect("no panic");
        let shut = |left: &mut Option<usize>| left.is_some_and(|left| left < bytes);
        let mut left = self.opened.wait_while(left, shut).expect("no panic");
        *left = left.map(|left| left - bytes);
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

/// Until either side is closed.
fn copy(mut from: TcpStream, mut to: TcpStream, before: impl Fn(usize)) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        before(length);
        if to
            .write_all(buffer.get(..length).unwrap_or_default())
            .is_err()
        {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
