//! `--help` in GOption's layout: CRI-O looks for option names in it, people compare it with conmon's.
//! clap's own layout is another, and would bring its whole help machinery into the program.

use std::fmt::Write;

use clap::{Arg, Command};

use super::table::HELP;

/// GOption puts the texts this far behind the longest name.
const GAP: usize = 9;

/// The whole text, final blank line included. Old names of options are not shown.
pub(super) fn text(table: &Command) -> String {
    let column = GAP + table.get_arguments().map(width).max().unwrap_or(0);
    let mut text = format!("Usage:\n  {} [OPTION…]", table.get_name());
    if let Some(about) = table.get_about() {
        let _ = write!(text, " - {about}");
    }
    text.push_str("\n\nHelp Options:\n");
    table.get_arguments().filter(|option| option.get_id() == HELP).for_each(|o| line(&mut text, o, column));
    text.push_str("\nApplication Options:\n");
    table.get_arguments().filter(|option| option.get_id() != HELP).for_each(|o| line(&mut text, o, column));
    text.push('\n');
    text
}

fn width(option: &Arg) -> usize {
    let short = if option.get_short().is_some() { "-x, ".len() } else { 0 };
    option.get_long().map_or(0, str::len) + short
}

fn line(text: &mut String, option: &Arg, column: usize) {
    let names = match option.get_short() {
        Some(letter) => format!("  -{letter}, --{}", option.get_id()),
        None => format!("  --{}", option.get_id()),
    };
    let help = option.get_help().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{names:column$}{help}");
}
