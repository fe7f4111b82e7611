// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the unit tests share: an agent for a temporary folder, and a host's end of a connection.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use nix::unistd::{Uid, User as Passwd};
use serde_bytes::ByteBuf;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use waggle_protocol::codec;
use waggle_protocol::frame::{Kind, encode};
use waggle_protocol::handshake::Hello;
use waggle_protocol::message::{Exec, ExecEnd, Failure, Program, Reply, Request, User};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::exec::{self, Cgroups};
use crate::files::OPEN_FOLDERS_MAX;
use crate::identity::Identity;
use crate::probe::ImagePath;
use crate::serve::serve;
use crate::stream::INBOUND_MAX;

/// Whoever runs the tests, at home in `home`.
pub(crate) fn current_user(home: &Path) -> Identity {
    let uid = Uid::effective();
    let user = Passwd::from_uid(uid).ok().flatten();
    Identity {
        name: user.map_or_else(|| uid.to_string(), |user| user.name),
        uid: uid.as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        groups: Vec::new(),
        home: home.to_owned(),
        shell: "/bin/sh".into(),
    }
}

/// A served connection, with a folder of its own for home and temporary files.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) connection: Connection<UnixStream>,
    pub(crate) served: JoinHandle<Result<(), ConnectionError>>,
}

/// An agent whose home and temporary folder are `folder`, acting as whoever runs the tests.
pub(crate) fn agent(folder: &Path) -> Agent {
    Agent {
        sandbox: current_user(folder),
        root: current_user(folder),
        path: ImagePath::of_file(&folder.join("path")),
        temp_dir: folder.to_owned(),
        exec: exec::Shared::new(Cgroups::none(), &folder.join("waggle-tool")),
        machine_ends: Notify::new(),
        open_folders: Semaphore::new(OPEN_FOLDERS_MAX),
        inbound: Semaphore::new(INBOUND_MAX),
    }
}

impl Host {
    /// Connects to an agent of its own, and shakes hands.
    pub(crate) async fn connect() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let agent = agent(folder.path());
        Self::connect_to(agent, folder).await
    }

    pub(crate) async fn connect_to(agent: Agent, folder: TempDir) -> Self {
        Self::connect_with(agent, folder, Hello::HOST).await
    }

    /// Connects as a host that opens with `hello`.
    pub(crate) async fn connect_as(hello: Hello) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let agent = agent(folder.path());
        Self::connect_with(agent, folder, hello).await
    }

    pub(crate) async fn connect_with(agent: Agent, folder: TempDir, hello: Hello) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = tokio::spawn(async move { serve(theirs, &agent).await });
        let mut connection = Connection::new(ours).unwrap();
        connection.open_handshake_with(hello).await.unwrap();
        Self {
            folder,
            connection,
            served,
        }
    }

    pub(crate) async fn request(&mut self, request: &Request) {
        let mut bytes = BytesMut::new();
        codec::put(request, &mut bytes);
        self.raw(&bytes).await;
    }

    pub(crate) async fn data(&mut self, kind: Kind, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        encode(kind, payload, &mut bytes);
        self.raw(&bytes).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.connection.writer.write_all(bytes).await.unwrap();
    }

    /// Everything up to the terminal reply.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = Answer::default();
        while let Some(frame) = self.connection.reader.next().await {
            let frame = frame.unwrap();
            match frame.kind {
                Kind::Control => {
                    let reply: Reply = codec::message(&frame).unwrap();
                    let terminal = reply.is_terminal();
                    answer.replies.push(reply);
                    if terminal {
                        return answer;
                    }
                }
                Kind::Stdout => answer.stdout.extend_from_slice(&frame.payload),
                Kind::Stderr => answer.stderr.extend_from_slice(&frame.payload),
                Kind::File => answer.file.extend_from_slice(&frame.payload),
                Kind::Stdin => panic!("stdin from the agent"),
            }
        }
        panic!("closed before a terminal reply: {answer:?}");
    }

    pub(crate) async fn ask(&mut self, request: Request) -> Answer {
        self.request(&request).await;
        self.answer().await
    }

    /// Closes the host's end, and waits until the agent has noticed.
    pub(crate) async fn hang_up(self) -> (TempDir, Result<(), ConnectionError>) {
        drop(self.connection);
        (self.folder, self.served.await.unwrap())
    }

    /// The terminal reply's absence: the agent closed the connection.
    pub(crate) async fn is_closed(&mut self) -> bool {
        !matches!(self.connection.reader.next().await, Some(Ok(_)))
    }
}

/// A cgroup2 folder to make groups in, killed and removed when dropped.
pub(crate) struct Hierarchy(PathBuf);

impl Hierarchy {
    /// `None` where this user can make no groups.
    pub(crate) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let found = mounts.find_map(|words| (words[2] == "cgroup2").then(|| words[1].to_owned()));
        let name = format!("waggle-test-{:016x}", rand::random::<u64>());
        let folder = found.map(|mount| Path::new(&mount).join(name));
        let made = folder.as_ref().map(fs::create_dir);
        let found = folder.filter(|_| matches!(made, Some(Ok(())))).map(Self);
        let found = found.filter(|hierarchy| hierarchy.0.join("cgroup.kill").exists());
        if found.is_none() {
            eprintln!("skipped: no control groups that can be made and killed: {made:?}");
        }
        found
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The groups that an agent has made and not removed.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.join("waggle")).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..100 {
            for group in self.groups() {
                let _ = fs::remove_dir(group);
            }
            let _ = fs::remove_dir(self.0.join("waggle"));
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) replies: Vec<Reply>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) file: Vec<u8>,
}

impl Answer {
    pub(crate) fn terminal(&self) -> &Reply {
        self.replies.last().unwrap()
    }

    pub(crate) fn ended(&self) -> &ExecEnd {
        match self.terminal() {
            Reply::Ended(end) => end,
            other => panic!("not ended: {other:?}"),
        }
    }

    pub(crate) fn failure(&self) -> &Failure {
        match self.terminal() {
            Reply::Failed(failure) => failure,
            other => panic!("not failed: {other:?}"),
        }
    }
}

/// `words` as a request, as the tests' own user.
pub(crate) fn command(words: &[&str]) -> Exec {
    Exec {
        program: Program::Command(words.iter().map(bytes_of).collect()),
        env: Vec::new(),
        directory: None,
        user: User::Sandbox,
        deadline_ms: None,
        output_limit: None,
        stdin: false,
    }
}

/// A shell program of some lines, as a request.
pub(crate) fn script(code: &str) -> Exec {
    Exec {
        program: Program::Code {
            interpreter: vec![bytes_of("sh")],
            extension: "sh".into(),
            code: bytes_of(code),
        },
        ..command(&[])
    }
}

pub(crate) fn bytes_of(text: impl AsRef<[u8]>) -> ByteBuf {
    ByteBuf::from(text.as_ref().to_vec())
}
