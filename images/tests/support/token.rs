// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A token service for Debian's registry, which has none of its own: it signs what is asked for, and the registry
//! verifies it. Everybody may pull, who logs in may push as well.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::{fs, thread};

use super::registry::{PASSWORD, USER};
use super::run;

/// Signs a token for repository $1 and actions $2 (JSON strings).
const MINT: &str = r#"set -e
b64() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
now=$(date +%s)
cert=$(openssl x509 -in token.crt -outform DER | openssl base64 -A)
head=$(printf '{"typ":"JWT","alg":"RS256","x5c":["%s"]}' "$cert" | b64)
access=$(printf '[{"type":"repository","name":"%s","actions":[%s]}]' "$1" "$2")
times=$(printf '"exp":%d,"nbf":%d,"iat":%d' $((now + 300)) $((now - 60)) "$now")
body=$(printf '{"iss":"test","sub":"bee","aud":"registry","jti":"1",%s,"access":%s}' "$times" "$access" | b64)
signature=$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign token.key -binary | b64)
printf '{"token":"%s.%s.%s","expires_in":300}' "$head" "$body" "$signature"
"#;

/// Starts one, with its key and `token.crt` in `dir`, and returns its URL. It serves until the process ends.
pub(crate) fn start(dir: &Path) -> String {
    let arguments = [
        "req",
        "-x509",
        "-days",
        "30",
        "-subj",
        "/CN=token service",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "token.key",
        "-out",
        "token.crt",
    ];
    run(dir, "openssl", &arguments);
    fs::write(dir.join("mint.sh"), MINT).expect("a script");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let dir = dir.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, &dir);
        }
    });
    format!("http://{address}/token")
}

fn serve(mut stream: TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut login = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            login = Some(value.to_owned());
        }
    }
    let (status, body) = answer(dir, &first, login.as_deref());
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(&body)
}

fn answer(dir: &Path, line: &str, login: Option<&str>) -> (u16, Vec<u8>) {
    let path = line.split(' ').nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("http://service{path}")).expect("a path");
    let scope = url.query_pairs().find(|(name, _)| name == "scope");
    let scope = scope
        .map(|(_, scope)| scope.into_owned())
        .unwrap_or_default();
    let mut parts = scope.split(':').skip(1);
    let (name, wanted) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let actions = match login {
        None => "\"pull\"",
        Some(login) if login == basic(dir) && wanted.contains("push") => "\"pull\",\"push\"",
        Some(login) if login == basic(dir) => "\"pull\"",
        Some(_) => return (401, Vec::new()),
    };
    (200, run(dir, "sh", &["mint.sh", name, actions]).stdout)
}

fn basic(dir: &Path) -> String {
    let command = format!("printf %s '{USER}:{PASSWORD}' | openssl base64 -A");
    let output = run(dir, "sh", &["-c", &command]).stdout;
    format!("Basic {}", String::from_utf8_lossy(&output))
}
