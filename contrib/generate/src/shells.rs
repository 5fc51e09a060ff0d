//! The completions: each shell has a template with its logic in `templates/`, and this fills in the options.

use crate::entry::{Entry, Words};

/// What `--log-path` can begin with; the first is followed by a path.
pub(crate) const DRIVERS: [&str; 6] = ["k8s-file:", "journald", "passthrough", "none", "off", "null"];

pub(crate) fn bash(entries: &[Entry]) -> String {
    let mut text = include_str!("../templates/conmon.bash").to_owned();
    let names: Vec<String> = entries.iter().flat_map(shown).collect();
    text = text.replace("@NAMES@", &wrapped(&names));
    text = text.replace("@DRIVERS@", &DRIVERS.join(" "));
    let mut cases = String::new();
    let mut unknown = Vec::new();
    for entry in entries.iter().filter(|entry| entry.words != Words::Flag) {
        if entry.words == Words::Unknown {
            unknown.extend(entry.spellings());
            continue;
        }
        let pattern = entry.spellings().collect::<Vec<_>>().join(" | ");
        let action = match &entry.words {
            Words::Flag | Words::Unknown => ":".to_owned(),
            Words::File | Words::Command => "_conmon_paths -f".to_owned(),
            Words::Dir => "_conmon_paths -d".to_owned(),
            Words::Log => "_conmon_log".to_owned(),
            Words::These(words) => format!("_conmon_words {}", words.join(" ")),
        };
        cases.push_str(&format!("        {pattern}) {action} ;;\n"));
    }
    text.replace("@UNKNOWN@", &unknown.join(" | ")).replace("@CASES@\n", &cases)
}

pub(crate) fn zsh(entries: &[Entry]) -> String {
    let specs: String = entries.iter().flat_map(zsh_specs).map(|spec| format!("    {spec} \\\n")).collect();
    let template = include_str!("../templates/_conmon");
    template.replace("@DRIVERS@", &DRIVERS[1..].join(" ")).replace("@SPECS@\n", &specs)
}

fn zsh_specs(entry: &Entry) -> Vec<String> {
    let help =
        entry.help.trim_end_matches('.').replace('[', "\\[").replace(']', "\\]").replace('\'', "'\\''");
    let action = match &entry.words {
        Words::Flag => String::new(),
        Words::Unknown => format!(":{}: ", entry.value),
        Words::File | Words::Command => format!(":{}:_files", entry.value),
        Words::Dir => format!(":{}:_files -/", entry.value),
        Words::Log => format!(":{}:_conmon_log", entry.value),
        Words::These(words) => format!(":{}:({})", entry.value, words.join(" ")),
    };
    // "*": may come again. "=": the value may be in the same word; after a letter it never is.
    let again = if entry.list { "*" } else { "" };
    let equals = if entry.words == Words::Flag { "" } else { "=" };
    let short = entry.short.map(|letter| format!("'{again}-{letter}[{help}]{action}'"));
    short.into_iter().chain([format!("'{again}--{}{equals}[{help}]{action}'", entry.long)]).collect()
}

pub(crate) fn fish(entries: &[Entry]) -> String {
    let mut text = include_str!("../templates/conmon.fish").replace("@DRIVERS@", &DRIVERS.join(" "));
    for entry in entries {
        let short = entry.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
        let value = match &entry.words {
            Words::Flag => String::new(),
            Words::Unknown => " -x".to_owned(),
            Words::File | Words::Command => " -r -F".to_owned(),
            Words::Dir => " -x -a '(__fish_complete_directories)'".to_owned(),
            Words::Log => " -x -a '(__conmon_log)'".to_owned(),
            Words::These(words) => format!(" -x -a '{}'", words.join(" ")),
        };
        let help = entry.help.trim_end_matches('.').replace('\'', "\\'");
        text.push_str(&format!("complete -c conmon{short} -l {}{value} -d '{help}'\n", entry.long));
    }
    text
}

fn shown(entry: &Entry) -> Vec<String> {
    let short = entry.short.map(|letter| format!("-{letter}"));
    short.into_iter().chain([format!("--{}", entry.long)]).collect()
}

fn wrapped(words: &[String]) -> String {
    let mut lines = vec![String::new()];
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 100 => {
                let space = if line.is_empty() { "" } else { " " };
                line.push_str(&format!("{space}{word}"));
            }
            _ => lines.push(word.clone()),
        }
    }
    lines.join(" \\\n                ")
}
