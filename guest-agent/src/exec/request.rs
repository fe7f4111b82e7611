// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a request to a running program.
//!
//! Owns: the checks of an [`Exec`], the environment that a program gets, the texts that say why it
//! did not start. Does not own: what happens once it runs.
//!
//! Invariant: a program sees nothing of the agent's environment and none of its descriptors (std and
//! tokio open everything close-on-exec).

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use serde_bytes::ByteBuf;
use waggle_protocol::limits::{CODE_MAX, TOOL_BYTES_MAX};
use waggle_protocol::message::{EnvVar, Exec, Failure, FailureCode, Program, Tool};

use super::child::Child;
use super::code_file::{CodeFile, is_extension};
use crate::agent::Agent;
use crate::failure::{code, errno, failure, reason, refused, shown};
use crate::guest_path::{GuestPath, shown_path};
use crate::identity::Identity;
use crate::probe::find_program;
use crate::sys::{self, ChildSetup};
use crate::tool::to_argument;

/// A program that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Its text, removed when dropped.
    pub(super) code_file: Option<CodeFile>,
}

/// Starts what `request` asks for. `id` is new and nobody can guess it.
///
/// # Errors
///
/// A [`Failure`] that names the program or the value at fault. Nothing is left behind.
pub(super) fn start(agent: &Agent, id: u64, request: Exec) -> Result<Started, Failure> {
    let identity = agent.identity(request.user);
    let env = checked_env(&request.env)?;
    let directory = working_directory(request.directory, identity)?;
    let (mut words, code_file) = arguments(agent, id, request.program, identity)?;
    let word = words.remove(0);
    let image_path = agent.path.get();
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| *name == "PATH")
        .map_or(&*image_path, |(_, value)| value);
    let program = locate(&word, path, &directory, identity)?;

    let mut command = Command::new(&program);
    command.arg0(&word).args(&words).env_clear();
    command.envs(base_env(&image_path, identity)).envs(env);
    command.stdin(if request.stdin {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let directory = CString::new(directory.into_os_string().into_vec()).map_err(|_| {
        failure(
            FailureCode::InvalidPath,
            "working directory holds a NUL byte",
        )
    })?;
    let (group, entrance) = agent.exec.cgroups.create(id).unzip();
    let setup = ChildSetup {
        directory,
        identity: (!identity.is_current()).then(|| identity.clone()),
        cgroup: entrance,
        descriptors: agent.exec.descriptors,
    };
    sys::set_up_child(&mut command, setup);

    let may_leave = identity.uid == 0;
    let (child, pipes) = Child::spawn(&mut command, &agent.exec.programs, group, may_leave)
        .map_err(|error| not_spawned(&program, identity, &error))?;
    Ok(Started {
        child,
        stdin: pipes.stdin,
        stdout: pipes.stdout,
        stderr: pipes.stderr,
        code_file,
    })
}

/// The argument vector, never empty, and the program's text if it came with the request.
fn arguments(
    agent: &Agent,
    id: u64,
    program: Program,
    identity: &Identity,
) -> Result<(Vec<OsString>, Option<CodeFile>), Failure> {
    match program {
        Program::Command(words) => Ok((checked_words(words)?, None)),
        Program::Code {
            interpreter,
            extension,
            code,
        } => {
            let mut words = checked_words(interpreter)?;
            if !is_extension(&extension) {
                let extension = shown(extension.as_bytes());
                return invalid(&format!("extension '{extension}' is not [a-z0-9]{{1,8}}"));
            }
            if code.len() > CODE_MAX {
                let length = code.len();
                return invalid(&format!("code length {length} exceeds limit {CODE_MAX}"));
            }
            let file = CodeFile::create(&agent.temp_dir, id, &extension, &code, identity)
                .map_err(|error| refused(&agent.temp_dir, &error))?;
            words.push(file.path().into());
            Ok((words, Some(file)))
        }
        Program::Tool(tool) => Ok((tool_words(&agent.exec.tool, &tool)?, None)),
    }
}

/// The argument vector of Waggle's own program, which takes what to do in hexadecimal digits.
fn tool_words(program: &Path, tool: &Tool) -> Result<Vec<OsString>, Failure> {
    if !program.is_file() {
        let text = format!(
            "this environment has no {}: its image is older than this waggle; build the image again",
            shown_path(program)
        );
        return Err(failure(FailureCode::Unsupported, &text));
    }
    let digits = to_argument(tool);
    let length = digits.len() / 2;
    if length > TOOL_BYTES_MAX {
        return invalid(&format!(
            "length {length} of what to do exceeds limit {TOOL_BYTES_MAX}"
        ));
    }
    Ok(vec![program.into(), digits.into()])
}

fn checked_words(words: Vec<ByteBuf>) -> Result<Vec<OsString>, Failure> {
    if words.first().is_none_or(|word| word.is_empty()) {
        return invalid("the program's name is missing");
    }
    if let Some(word) = words.iter().find(|word| word.contains(&0)) {
        return invalid(&format!("argument '{}' holds a NUL byte", shown(word)));
    }
    let words = words.into_iter();
    Ok(words
        .map(|word| OsString::from_vec(word.into_vec()))
        .collect())
}

fn checked_env(env: &[EnvVar]) -> Result<Vec<(&OsStr, &OsStr)>, Failure> {
    for EnvVar { name, value } in env {
        let name_is_bad = name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'='));
        if name_is_bad {
            return invalid(&format!("'{}' is no variable's name", shown(name)));
        }
        if value.contains(&0) {
            return invalid(&format!("variable {} holds a NUL byte", shown(name)));
        }
    }
    Ok(env
        .iter()
        .map(|var| (OsStr::from_bytes(&var.name), OsStr::from_bytes(&var.value)))
        .collect())
}

/// What every program gets, before the request's own variables.
fn base_env<'a>(path: &'a OsStr, identity: &'a Identity) -> [(&'static str, &'a OsStr); 8] {
    [
        ("PATH", path),
        ("HOME", identity.home.as_os_str()),
        ("USER", OsStr::new(&identity.name)),
        ("LOGNAME", OsStr::new(&identity.name)),
        ("SHELL", identity.shell.as_os_str()),
        ("LANG", OsStr::new("C.UTF-8")),
        // Machines have no place; an image's own opinion is not asked.
        ("TZ", OsStr::new("UTC")),
        // A program that is killed at its deadline should have shown what it printed till then.
        ("PYTHONUNBUFFERED", OsStr::new("1")),
    ]
}

/// The requested working directory, if the user may enter it; else home, or `/` if the user may not
/// enter that.
fn working_directory(requested: Option<ByteBuf>, identity: &Identity) -> Result<PathBuf, Failure> {
    // `.` within it is looked up as `chdir` would: that takes the right to search the folder itself.
    let enter = |path: &Path| identity.act(|| fs::metadata(path.join(".")));
    let Some(path) = requested else {
        let home = &identity.home;
        return Ok(enter(home).map_or_else(|_| "/".into(), |_| home.clone()));
    };
    let path = GuestPath::parse(path.into_vec())?.as_path().to_owned();
    let Err(error) = enter(&path) else {
        return Ok(path);
    };
    let errno = errno(&error);
    let text = format!("working directory {}: {}", shown_path(&path), reason(errno));
    Err(failure(code(errno), &text))
}

/// The file to execute: `word` itself if it holds a slash, else what `PATH` has under that name.
fn locate(
    word: &OsStr,
    path: &OsStr,
    directory: &Path,
    identity: &Identity,
) -> Result<PathBuf, Failure> {
    if word.as_bytes().contains(&b'/') {
        let program = directory.join(word);
        return match identity.act(|| fs::metadata(&program)) {
            Ok(found) if found.is_dir() => {
                let text = format!("program {} is a directory", shown_path(&program));
                Err(failure(FailureCode::IsDirectory, &text))
            }
            Ok(_) => Ok(program),
            Err(error) => {
                let errno = errno(&error);
                let text = format!("program {}: {}", shown_path(&program), reason(errno));
                Err(failure(code(errno), &text))
            }
        };
    }
    identity.act(|| find_program(word, path)).ok_or_else(|| {
        let (word, path) = (shown(word.as_bytes()), shown(path.as_bytes()));
        let text = format!("program '{word}' not found in PATH ({path})");
        failure(FailureCode::NotFound, &text)
    })
}

/// Why a program that exists did not start.
fn not_spawned(program: &Path, identity: &Identity, error: &io::Error) -> Failure {
    let errno = errno(error);
    let shown = shown_path(program);
    let user = &identity.name;
    match errno {
        Errno::ENOENT => {
            let text = format!("program {shown}: its interpreter or loader does not exist");
            failure(FailureCode::SpawnFailed, &text)
        }
        Errno::EACCES => {
            let text = format!("program {shown}: user {user} may not execute it");
            failure(FailureCode::PermissionDenied, &text)
        }
        Errno::ENOEXEC => {
            let text = format!("program {shown}: not an executable, and no #! line");
            failure(FailureCode::SpawnFailed, &text)
        }
        _ => {
            let text = format!("program {shown}: {}", reason(errno));
            failure(FailureCode::SpawnFailed, &text)
        }
    }
}

fn invalid<R>(text: &str) -> Result<R, Failure> {
    Err(failure(FailureCode::InvalidRequest, text))
}
