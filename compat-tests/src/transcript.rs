//! What a scenario saw, as text that can be compared: named sections, with everything masked that differs from run
//! to run (ids, pids, times, the fixture's own directories).

use std::fmt::Write as _;

use crate::session::Outcome;

/// Characters of a differing section that a failure shows.
const SHOWN: usize = 600;

/// The sections in the order in which they were recorded.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    sections: Vec<Section>,
    masks: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub text: String,
}

impl Transcript {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `text` is recorded as `<label>`.
    pub fn mask(&mut self, text: impl Into<String>, label: &str) {
        let text = text.into();
        assert!(!text.is_empty(), "nothing to mask as {label}");
        self.masks.push((text, format!("<{label}>")));
        // The longest first: a path may contain another one.
        self.masks.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    pub fn add(&mut self, name: &str, text: impl AsRef<str>) {
        assert!(self.sections.iter().all(|section| section.name != name), "two sections are named {name}");
        let text = self.masked(text.as_ref());
        self.sections.push(Section { name: name.to_owned(), text });
    }

    /// Three sections: the exit code, stdout and stderr of a program.
    pub fn outcome(&mut self, name: &str, outcome: &Outcome) {
        self.add(&format!("{name}.code"), outcome.code.to_string());
        self.add(&format!("{name}.stdout"), outcome.stdout_text());
        self.add(&format!("{name}.stderr"), outcome.stderr_text());
    }

    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.masks {
            text = text.replace(from, to);
        }
        mask_times(&mask_ids(&text))
    }
}

/// The sections that differ, by name, each with both texts; in the order of `original`.
pub fn differences(original: &Transcript, ours: &Transcript) -> Vec<(String, String)> {
    let find = |transcript: &Transcript, name: &str| {
        transcript.sections.iter().find(|section| section.name == name).map(|section| section.text.clone())
    };
    let mut names: Vec<&String> = original.sections.iter().map(|section| &section.name).collect();
    names.extend(
        ours.sections.iter().map(|section| &section.name).filter(|name| find(original, name).is_none()),
    );
    let differing = names.into_iter().filter(|name| find(original, name) != find(ours, name));
    differing
        .map(|name| {
            let [theirs, own] = [original, ours]
                .map(|transcript| find(transcript, name).unwrap_or_else(|| "(no such section)".into()));
            let start = start_of_difference(&theirs, &own);
            let mut text = String::new();
            for (who, section) in [("original", theirs), ("ours", own)] {
                let shown: String = section.chars().skip(start).take(SHOWN).collect();
                let _ = writeln!(
                    text,
                    "  {who} from character {start} of {}: {shown:?}",
                    section.chars().count()
                );
            }
            (name.clone(), text)
        })
        .collect()
}

/// Where to begin to show two long texts, so that their first difference is seen in its surroundings.
fn start_of_difference(left: &str, right: &str) -> usize {
    let same = left.chars().zip(right.chars()).take_while(|(left, right)| left == right).count();
    if left.len().max(right.len()) <= SHOWN { 0 } else { same.saturating_sub(60) }
}

/// Hexadecimal words of the lengths that container tools use for ids: 64, and 12 when they are not all digits.
fn mask_ids(text: &str) -> String {
    let is_id = |word: &str| {
        let length = word.len() == 64 || word.len() == 12 && !word.bytes().all(|byte| byte.is_ascii_digit());
        length && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    map_words(text, |byte| byte.is_ascii_alphanumeric(), |word| if is_id(word) { Some("<id>") } else { None })
}

/// Times of day as RFC 3339 has them, with any zone.
fn mask_times(text: &str) -> String {
    let is_time = |word: &str| {
        let shape = word.bytes().take(19).map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
        shape.eq(*b"0000-00-00T00:00:00")
    };
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b'+');
    map_words(text, belongs, |word| if is_time(word) { Some("<time>") } else { None })
}

/// Replaces words, which are runs of bytes that `belongs` accepts, where `replacement` has something for them.
fn map_words(
    text: &str,
    belongs: fn(u8) -> bool,
    replacement: impl Fn(&str) -> Option<&'static str>,
) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.bytes().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        result.push_str(replacement(&rest[..word]).unwrap_or(&rest[..word]));
        rest = &rest[word..];
        let gap = rest.bytes().position(belongs).unwrap_or(rest.len());
        result.push_str(&rest[..gap]);
        rest = &rest[gap..];
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_times_are_masked_and_nothing_else() {
        let id = "0123456789abcdef".repeat(4);
        for (text, expected) in [
            (format!("{id}\n"), "<id>\n"),
            (format!("a {}/b", &id[..13]), "a 0123456789abc/b"),
            (format!("x{}: {}", &id[..12], &id[..12].replace('0', "f")), "x0123456789ab: <id>"),
            ("123456789012".into(), "123456789012"),
            ("2026-01-02T03:04:05.123456789+00:00 stdout F é".into(), "<time> stdout F é"),
            ("at 2026-01-02T03:04:05.12Z, 2026-01-02".into(), "at <time>, 2026-01-02"),
            ("time=\"2026-01-02T03:04:05Z\"".into(), "time=\"<time>\""),
        ] {
            let mut transcript = Transcript::new();
            transcript.add("x", &text);
            assert_eq!(transcript.sections()[0].text, expected);
        }
    }

    #[test]
    fn masks_take_the_longest_text_first() {
        let mut transcript = Transcript::new();
        transcript.mask("/tmp/a", "dir");
        transcript.mask("/tmp/a/conmon", "conmon");
        transcript.add("x", "/tmp/a/conmon in /tmp/a");
        assert_eq!(transcript.sections()[0].text, "<conmon> in <dir>");
    }

    #[test]
    fn differing_and_missing_sections_are_named() {
        let transcript = |sections: &[(&str, &str)]| {
            let mut transcript = Transcript::new();
            sections.iter().for_each(|(name, text)| transcript.add(name, text));
            transcript
        };
        let original = transcript(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let ours = transcript(&[("a", "1"), ("b", "x"), ("d", "4")]);
        let names: Vec<String> = differences(&original, &ours).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "c", "d"]);
    }
}
