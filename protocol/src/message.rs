// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The operations: what the host may ask of the agent, and what the agent answers.
//!
//! What is version 1's is frozen. What came later stands at the end of its enum, says so, and is sent
//! only where the handshake agreed on that version: the replies and failure codes of a version
//! answer no request of an earlier one.
//!
//! Guest paths, program arguments and environment variables are bytes, as they are in Linux.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// One operation, host to guest. What follows it on the connection is said at each variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Answered by [`Reply::Pong`].
    Ping,
    /// Look at the image again, agents of this release also at the file in which it states its `PATH`; answered by
    /// [`Reply::Capabilities`].
    Probe,
    /// Run a program: [`Reply::Started`], stdout and stderr frames, [`Reply::Ended`]. If
    /// [`Exec::stdin`] is set, the host sends stdin frames, the last one empty.
    Exec(Exec),
    /// Replace a file as a whole: the host sends file frames, the last one empty, the agent answers
    /// [`Reply::Written`]. The old content stays until the new is complete.
    WriteFile(WriteFile),
    /// Read a file: [`Reply::File`], file frames, [`Reply::FileEnd`].
    ReadFile(ReadFile),
    /// List a folder: any number of [`Reply::Entries`], then [`Reply::ListEnd`].
    ListFiles(ListFiles),
    /// Sync and end the machine; answered by [`Reply::ShuttingDown`].
    Shutdown,
    /// Version 2. As [`Request::Exec`], and long output is also written to files in the guest:
    /// [`Reply::Started`], stdout and stderr frames, [`Reply::Logs`], [`Reply::Ended`].
    ExecLogged(ExecLogged),
    /// Version 2. Send a signal to a program that another connection runs; answered by
    /// [`Reply::Signalled`].
    Signal(Signal),
    /// Version 2. As [`Request::WriteFile`], but what the host sends goes to the end of the file, as it
    /// comes; [`Reply::Written`] tells the bytes appended. A file that does not exist is made.
    AppendFile(WriteFile),
    /// Version 2. Replace text in a file, atomically; answered by [`Reply::Edited`].
    EditFile(EditFile),
    /// Version 2. Read whole lines: [`Reply::File`], file frames, [`Reply::LinesEnd`].
    ReadLines(ReadLines),
    /// Version 2. As [`Request::ListFiles`], of the entries that fit a pattern.
    FindFiles(FindFiles),
    /// Version 3. Connect to a TCP port on the guest's loopback: [`Reply::Connected`], then a
    /// [stream](crate#streams) each way. The connection carries no further request after that.
    Connect(Connect),
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// What to run.
    pub program: Program,
    /// Variables on top of the agent's clean base (`PATH`, `HOME`, `USER`, `LANG`, ...).
    pub env: Vec<EnvVar>,
    /// Working directory; the user's home if absent.
    pub directory: Option<ByteBuf>,
    /// Whom to run it as.
    pub user: User,
    /// Milliseconds from the start until the agent kills the program and all that it has started.
    pub deadline_ms: Option<u64>,
    /// Most bytes of stdout and stderr together; beyond it the program is killed.
    pub output_limit: Option<u64>,
    /// Whether stdin frames follow; if not, the program reads from `/dev/null`.
    pub stdin: bool,
}

/// What an [`Exec`] runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// An argument vector; its first word is looked up in `PATH` unless it holds a slash.
    Command(Vec<ByteBuf>),
    /// Source text, run as `interpreter... FILE` from `/tmp/waggle_<id>.<extension>`, which is
    /// removed on every way out.
    Code {
        /// Interpreter and its options.
        interpreter: Vec<ByteBuf>,
        /// File name extension without the dot, `[a-z0-9]{1,8}`.
        extension: String,
        /// The text, at most [`CODE_MAX`](crate::limits::CODE_MAX) bytes.
        code: ByteBuf,
    },
    /// Version 2. A program of Waggle's own that lies beside the agent.
    Tool(Tool),
}

/// Version 2. What Waggle's own program in the guest can do. It runs like any other program: with the
/// user's rights, under a deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// Search files for a regular expression. Standard output is a sequence of frames, each a
    /// [`SearchRecord`], the last one [`SearchRecord::End`].
    Search(Search),
    /// Write a file or folder to standard output as a tar archive.
    Pack(Pack),
    /// Unpack the tar archive on standard input.
    Unpack(Unpack),
}

/// Version 2. What to search for, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// Absolute path of a file or folder.
    pub path: ByteBuf,
    /// Regular expression in the syntax of the crate `regex`, matched line by line; at most
    /// [`PATTERN_MAX`](crate::limits::PATTERN_MAX) bytes.
    pub pattern: String,
    /// Take `pattern` as plain text.
    pub literal: bool,
    /// Ignore case.
    pub ignore_case: bool,
    /// Search only files that fit this pattern, of the kind and length of [`FindFiles::glob`].
    pub glob: Option<String>,
    /// Search hidden files as well, and those that `.gitignore` and the like name.
    pub all_files: bool,
    /// Lines of context to tell before and after each match.
    pub context: u32,
    /// Most matching lines to tell.
    pub limit: u32,
    /// Most bytes of a line to tell; the rest is cut. Above
    /// [`SEARCH_LINE_MAX`](crate::limits::SEARCH_LINE_MAX) it stands for that.
    pub line_max: u32,
}

/// Version 2. One frame of a search's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SearchRecord {
    /// The lines that follow are in this file: its path relative to [`Search::path`], empty if that
    /// names the file itself.
    File(ByteBuf),
    /// A line of that file.
    Line(SearchLine),
    /// The last frame.
    End(SearchEnd),
}

/// Version 2. A line that a search tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchLine {
    /// Its number, from 1.
    pub number: u64,
    /// Whether it matches; else it is context.
    pub is_match: bool,
    /// Its bytes without the newline, at most [`Search::line_max`].
    pub text: ByteBuf,
    /// Whether that is not the whole line.
    pub cut: bool,
}

/// Version 2. What a search came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchEnd {
    /// Files that were searched.
    pub files_searched: u64,
    /// Files with a match that was told.
    pub files_matched: u64,
    /// Matching lines told.
    pub matches: u64,
    /// Whether the limit ended the search.
    pub truncated: bool,
    /// Files and folders that could not be read.
    pub unreadable: u64,
}

/// Version 2. What to pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Absolute path of a file or folder. The archive's paths begin with its last part.
    pub path: ByteBuf,
}

/// Version 2. Where to unpack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpack {
    /// Absolute path. If it is a folder, the archive's entries go into it under their own names; if it
    /// does not exist, it is made of what is below the archive's first path part (`cp -r` does the same).
    /// Nothing outside of it is written.
    pub path: ByteBuf,
}

/// Version 2. A program to run whose long output is also kept in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecLogged {
    /// The program.
    pub exec: Exec,
    /// A stream that gets longer than this many bytes is written to a file, from its first byte on.
    pub log_from: u64,
    /// Most bytes of one stream that are written to its file.
    pub log_max: u64,
}

/// Version 2. A signal to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Which program, as [`Reply::Started`] named it.
    pub pid: u32,
    /// The signal's number, `signal(7)`. SIGKILL reaches every process that the program has started,
    /// any other its process group.
    pub signal: i32,
}

/// Version 2. An edit of a text file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditFile {
    /// Absolute path.
    pub path: ByteBuf,
    /// The text to replace: at least one byte, at most
    /// [`EDIT_TEXT_MAX`](crate::limits::EDIT_TEXT_MAX).
    pub old: ByteBuf,
    /// What to put in its place, within the same limit.
    pub new: ByteBuf,
    /// How often the text has to occur; `None` takes any number but zero. Each is replaced.
    pub expected: Option<u32>,
    /// SHA-256 that the file has to have before.
    pub sha256: Option<[u8; 32]>,
    /// Whose permissions apply.
    pub user: User,
}

/// Version 2. Lines to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLines {
    /// Absolute path.
    pub path: ByteBuf,
    /// The first line, from 1.
    pub first: u64,
    /// Most lines.
    pub count: u64,
    /// Most bytes: no line is begun that does not fit, except the first, which is cut.
    pub bytes_max: u64,
    /// Whose permissions apply.
    pub user: User,
}

/// Version 2. Files to find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindFiles {
    /// Where, how deep, how many.
    pub list: ListFiles,
    /// `*`, `?`, `[a-z]`, `{a,b}`, and `**` for any number of folders. Without a slash it is matched
    /// against the last part of a path, else against the path relative to the folder. At most
    /// [`GLOB_MAX`](crate::limits::GLOB_MAX) bytes, and no more than 1000 patterns once its braces are
    /// multiplied out.
    pub glob: String,
}

/// Version 3. Where to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The TCP port, on 127.0.0.1 or, if nobody listens there, on ::1.
    pub port: u16,
}

/// Version 3. What the sides of a [stream](crate#streams) tell each other beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamMessage {
    /// So many bytes more were handed on: as many more may come.
    Taken {
        /// How many.
        bytes: u32,
    },
    /// This side gives the stream up, or after the end of its direction: wants no more.
    GivenUp,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name, without `=` and NUL.
    pub name: ByteBuf,
    /// Value, without NUL.
    pub value: ByteBuf,
}

/// Whom a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// The unprivileged user `sandbox`.
    Sandbox,
    /// The guest's root.
    Root,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Absolute path.
    pub path: ByteBuf,
    /// Permission bits; `None` keeps those of the file that is replaced, or 0644.
    pub mode: Option<u32>,
    /// Create missing folders above it.
    pub create_parents: bool,
    /// Owner of the new file and folders.
    pub user: User,
}

/// A file, or a part of it, to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    /// Absolute path.
    pub path: ByteBuf,
    /// First byte to read.
    pub offset: u64,
    /// Most bytes to read; `None` reads to the end.
    pub length: Option<u64>,
    /// Whose permissions apply.
    pub user: User,
}

/// A folder to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFiles {
    /// Absolute path.
    pub path: ByteBuf,
    /// Levels to descend: 1 lists the folder itself. The agent descends 64 at most.
    pub depth: u32,
    /// Most entries to return.
    pub limit: u32,
    /// Whose permissions apply.
    pub user: User,
}

/// One frame of the agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Ends [`Request::Ping`].
    Pong,
    /// Ends [`Request::Probe`].
    Capabilities(Capabilities),
    /// The program runs; output follows.
    Started {
        /// Its process id in the guest, which is also its session and process group.
        pid: u32,
    },
    /// Ends [`Request::Exec`]: the program is gone, and its session with it.
    Ended(ExecEnd),
    /// Ends [`Request::WriteFile`].
    Written {
        /// Bytes in the new file.
        bytes: u64,
    },
    /// The file is open; its bytes follow.
    File(FileInfo),
    /// Ends [`Request::ReadFile`].
    FileEnd {
        /// Bytes sent.
        bytes: u64,
    },
    /// Some of a folder's entries.
    Entries(Vec<Entry>),
    /// Ends [`Request::ListFiles`].
    ListEnd {
        /// Whether the limit cut the list.
        truncated: bool,
        /// Entries that could not be read (vanished, or no permission) and are missing.
        unreadable: u64,
    },
    /// Ends [`Request::Shutdown`]: the machine goes down after this.
    ShuttingDown,
    /// Ends any request that could not be done.
    Failed(Failure),
    /// Version 2. Comes right before [`Reply::Ended`] of a [`Request::ExecLogged`].
    Logs(Logs),
    /// Version 2. Ends [`Request::Signal`].
    Signalled,
    /// Version 2. Ends [`Request::EditFile`].
    Edited(Edited),
    /// Version 2. Ends [`Request::ReadLines`].
    LinesEnd(LinesEnd),
    /// Version 3. Ends the messages of a [`Request::Connect`]: the streams begin.
    Connected,
}

impl Reply {
    /// Whether this frame ends its operation. Every operation has exactly one such frame.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        // No wildcard: a new reply has to decide.
        match self {
            Self::Pong
            | Self::Capabilities(_)
            | Self::Ended(_)
            | Self::Written { .. }
            | Self::FileEnd { .. }
            | Self::ListEnd { .. }
            | Self::ShuttingDown
            | Self::Failed(_)
            | Self::Signalled
            | Self::Edited(_)
            | Self::LinesEnd(_)
            | Self::Connected => true,
            Self::Started { .. } | Self::File(_) | Self::Entries(_) | Self::Logs(_) => false,
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEnd {
    /// What the kernel says of it.
    pub status: ExitStatus,
    /// Why it ended.
    pub reason: EndReason,
    /// Microseconds from before it was spawned until it was reaped.
    pub wall_us: u64,
    /// Microseconds of CPU time that it and its reaped children spent in user mode, `getrusage(2)`.
    pub user_us: u64,
    /// The same, in the kernel.
    pub system_us: u64,
    /// What became of its standard output.
    pub stdout: StreamTotals,
    /// What became of its standard error.
    pub stderr: StreamTotals,
}

/// A process's exit status, `wait(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// By itself, or by a signal that the agent did not send.
    Exited,
    /// The agent killed it at its deadline.
    Deadline,
    /// The agent killed it because its output passed the limit.
    OutputLimit,
    /// The kernel killed it, or a child whose death it reports as status 137, because the machine's
    /// memory ran out.
    OutOfMemory,
}

/// What became of one output stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTotals {
    /// Bytes sent to the host.
    pub sent: u64,
    /// Whether the program wrote more than was sent, or still held the stream open when it ended.
    pub cut: bool,
}

/// Version 2. Where a program's long output is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Standard output's file, if it got one.
    pub stdout: Option<Log>,
    /// Standard error's file, if it got one.
    pub stderr: Option<Log>,
}

/// Version 2. One stream's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Absolute path of at most [`LOG_PATH_MAX`](crate::limits::LOG_PATH_MAX) bytes.
    pub path: ByteBuf,
    /// Bytes in it: the stream's first ones.
    pub bytes: u64,
}

/// Version 2. What an edit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edited {
    /// How often the text was replaced.
    pub replaced: u32,
    /// Bytes in the file now.
    pub bytes: u64,
    /// SHA-256 of the file now.
    pub sha256: [u8; 32],
}

/// Version 2. What a reading of lines came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesEnd {
    /// Lines sent, a cut one included.
    pub lines: u64,
    /// Bytes sent, newlines included.
    pub bytes: u64,
    /// Offset in the file of the byte behind them.
    pub next_offset: u64,
    /// Whether the file ends there.
    pub at_end: bool,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Size in bytes when it was opened.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path relative to the listed folder: any bytes but NUL, newlines included.
    pub name: ByteBuf,
    /// What it is; a symbolic link is not followed.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
}

/// What a folder's entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Special,
}

/// What the agent found in its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `python3`, else `python`: absolute path.
    pub python: Option<ByteBuf>,
    /// `pip3`, else `pip`: absolute path.
    pub pip: Option<ByteBuf>,
    /// Whether that Python can make virtual environments (`venv` and `ensurepip` are there).
    pub python_venv: bool,
    /// `node`: absolute path.
    pub node: Option<ByteBuf>,
    /// `npm`: absolute path.
    pub npm: Option<ByteBuf>,
    /// Which system package managers exist.
    pub package_managers: Vec<PackageManager>,
    /// Whether `sandbox` programs in fact run as root (the image maps them so).
    pub user_is_root: bool,
    /// `PATH` that programs get.
    pub path: ByteBuf,
}

/// A system package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackageManager {
    /// Alpine's `apk`.
    Apk,
    /// Debian's `apt-get`.
    AptGet,
    /// Fedora's `dnf`.
    Dnf,
    /// `yum`.
    Yum,
    /// SUSE's `zypper`.
    Zypper,
}

/// Why an operation could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub code: FailureCode,
    /// For people: lower case, carries the values; at most
    /// [`FAILURE_TEXT_MAX`](crate::limits::FAILURE_TEXT_MAX) bytes.
    pub message: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCode {
    /// The file, folder or program does not exist.
    NotFound,
    /// A folder stands where a file was asked for.
    IsDirectory,
    /// A file stands where a folder was asked for, or within the path.
    NotDirectory,
    /// A device, FIFO or socket stands where a regular file was asked for.
    NotRegular,
    /// The user may not.
    PermissionDenied,
    /// The path is relative, too long or holds a NUL.
    InvalidPath,
    /// The disk is full.
    NoSpace,
    /// The program could not be started.
    SpawnFailed,
    /// The request is well-formed but its values are not acceptable.
    InvalidRequest,
    /// This agent does not know the operation, or cannot read the request.
    Unsupported,
    /// Anything else that the kernel refused; the message carries its text.
    Io,
    /// Version 2. The text to replace occurs less or more often than expected.
    NoMatch,
    /// Version 2. The file's SHA-256 is not the expected one.
    Changed,
    /// Version 2. No such program runs.
    NoProcess,
    /// Version 2. The file is larger than the operation takes.
    TooLarge,
    /// Version 3. Nobody listens on the port.
    Refused,
}

impl FailureCode {
    /// Every code.
    const ALL: [Self; 16] = [
        Self::NotFound,
        Self::IsDirectory,
        Self::NotDirectory,
        Self::NotRegular,
        Self::PermissionDenied,
        Self::InvalidPath,
        Self::NoSpace,
        Self::SpawnFailed,
        Self::InvalidRequest,
        Self::Unsupported,
        Self::Io,
        Self::NoMatch,
        Self::Changed,
        Self::NoProcess,
        Self::TooLarge,
        Self::Refused,
    ];

    /// The name under which a [`Tool`] tells it, on a line `NAME: message` of its standard error.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::IsDirectory => "is_directory",
            Self::NotDirectory => "not_directory",
            Self::NotRegular => "not_regular",
            Self::PermissionDenied => "permission_denied",
            Self::InvalidPath => "invalid_path",
            Self::NoSpace => "no_space",
            Self::SpawnFailed => "spawn_failed",
            Self::InvalidRequest => "invalid_request",
            Self::Unsupported => "unsupported",
            Self::Io => "io",
            Self::NoMatch => "no_match",
            Self::Changed => "changed",
            Self::NoProcess => "no_process",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
        }
    }

    /// The code of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }
}
