//! Reads `conmon.8.in` and writes the page: text passes as it is, each `@option` becomes an entry of a list.

use clap::Command;

use crate::entry::{Entry, Words};

const NOTE: &str = ".\\\" Made by contrib/generate from the option table and conmon.8.in; edit those.\n";

const WIDTH: usize = 80;

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) text: String,
    /// In the page's order.
    pub(crate) entries: Vec<Entry>,
}

/// # Errors
/// An `@option` that does not fit the table, or an option of the table that has no `@option` or two.
pub(crate) fn read(template: &str, table: &Command, version: &str) -> Result<Page, String> {
    let mut page = Page { text: NOTE.to_owned(), entries: Vec::new() };
    for line in template.lines().filter(|line| !line.starts_with(".\\\"")) {
        if let Some(fields) = line.strip_prefix("@option ") {
            let entry = Entry::parse(fields, table)?;
            item(&entry).lines().for_each(|line| wrap(&mut page.text, line));
            page.entries.push(entry);
        } else {
            wrap(&mut page.text, &line.replace("@VERSION@", version));
        }
    }
    for option in table.get_arguments() {
        let count = page.entries.iter().filter(|entry| option.get_id() == &entry.long).count();
        if count != 1 {
            return Err(format!("{count} lines for the option {}", option.get_id()));
        }
    }
    Ok(page)
}

fn item(entry: &Entry) -> String {
    let mut names = entry.short.map(|short| format!("\\fB\\-{short}\\fR, ")).unwrap_or_default();
    names.push_str(&format!("\\fB\\-\\-{}\\fR", escape(&entry.long)));
    if entry.words != Words::Flag {
        names.push_str(&format!("=\\fI{}\\fR", escape(&entry.value)));
    }
    // A sentence to a line, as roff wants it.
    format!(".TP\n{names}\n{}\n", escape(&entry.help).replace(". ", ".\n"))
}

/// Adds a line, or several when it is a long line of text: roff fills them again, and readers of the file prefer it.
fn wrap(page: &mut String, line: &str) {
    let mut width = 0;
    for word in line.split(' ') {
        if width > 0 && width + word.len() >= WIDTH && !line.starts_with('.') {
            // A request or not is decided by the first character.
            page.push_str(if word.starts_with(['.', '\'']) { "\n\\&" } else { "\n" });
            width = 0;
        } else if width > 0 {
            page.push(' ');
        }
        page.push_str(word);
        width += word.len() + 1;
    }
    page.push('\n');
}

fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}
