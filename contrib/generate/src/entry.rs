//! One option as both sources have it: names, kind and help from the monitor's table, the rest from `conmon.8.in`.

use clap::{Arg, Command};

/// What a shell may offer as an option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// The option is a flag.
    Flag,
    /// Nobody can know the value.
    Unknown,
    File,
    Dir,
    Command,
    /// A log: its drivers, and files.
    Log,
    These(Vec<String>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) long: String,
    pub(crate) short: Option<char>,
    /// Old names, which are accepted and offered nowhere.
    pub(crate) aliases: Vec<String>,
    /// Can be given several times, each of which counts.
    pub(crate) list: bool,
    /// A complete sentence.
    pub(crate) help: String,
    /// The name of the value.
    pub(crate) value: String,
    pub(crate) words: Words,
}

impl Entry {
    /// Reads `@option NAME VALUE WORDS`; `line` is without the first word.
    pub(crate) fn parse(line: &str, table: &Command) -> Result<Self, String> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, value, words] = fields.as_slice() else {
            return Err(format!("not NAME VALUE WORDS: {line}"));
        };
        let option = table
            .get_arguments()
            .find(|option| option.get_id() == name)
            .ok_or_else(|| format!("the table has no option {name}"))?;
        let flag = !option.get_action().takes_values();
        if flag != (*value == "-") {
            return Err(format!("{name} takes a value, or it does not: {value}"));
        }
        Ok(Self {
            long: (*name).to_owned(),
            short: option.get_short(),
            aliases: option.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect(),
            list: matches!(option.get_action(), clap::ArgAction::Append),
            help: sentence(option),
            value: (*value).to_owned(),
            words: if flag { Words::Flag } else { offered(words) },
        })
    }

    /// Every spelling, with its dashes.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = String> {
        let short = self.short.map(|letter| format!("-{letter}"));
        let long = std::iter::once(&self.long).chain(&self.aliases).map(|name| format!("--{name}"));
        short.into_iter().chain(long)
    }
}

fn offered(words: &str) -> Words {
    match words {
        "none" => Words::Unknown,
        "file" => Words::File,
        "dir" => Words::Dir,
        "command" => Words::Command,
        "log" => Words::Log,
        list => Words::These(list.split(',').map(str::to_owned).collect()),
    }
}

fn sentence(option: &Arg) -> String {
    let help = option.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    if help.ends_with('.') { help } else { format!("{help}.") }
}
