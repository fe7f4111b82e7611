// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Text that came out of a guest or a child process, made safe to show to people.

/// Turns untrusted bytes into text: lossy UTF-8 with every control character but newline and tab
/// made visible (`^[` for ESC), so that it cannot drive a terminal. Bidirectional overrides, which
/// can make a line read as another, become U+FFFD.
pub(crate) fn neutralise(bytes: &[u8]) -> String {
    let lossy = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(lossy.len());
    let mut chars = lossy.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\0'..='\x1f' => {
                out.push('^');
                out.push(char::from(c as u8 + b'@'));
            }
            '\x7f' => out.push_str("^?"),
            '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            other => out.push(other),
        }
    }
    out
}

/// `: ` and the text's last lines, or nothing when it is blank: for the end of a message.
pub(crate) fn appendix(text: &str) -> String {
    match text.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::neutralise;

    #[test]
    fn control_characters_become_visible_and_text_survives() {
        assert_eq!(neutralise(b"a\r\nb\tc"), "a\nb\tc");
        assert_eq!(neutralise(b"\x1b[2J\x07\x7f\r"), "^[[2J^G^?^M");
        assert_eq!(neutralise("naïve \u{9b}1m".as_bytes()), "naïve \u{fffd}1m");
        assert_eq!(neutralise("a\u{202e}b".as_bytes()), "a\u{fffd}b");
        assert_eq!(neutralise(&[0xff, b'x']), "\u{fffd}x");
    }

    #[test]
    fn nothing_that_drives_a_terminal_gets_through() {
        let all: Vec<u8> = (0..=255).collect();
        assert!(
            neutralise(&all)
                .chars()
                .all(|c| !c.is_control() || c == '\n' || c == '\t')
        );
    }
}
