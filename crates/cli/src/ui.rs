//! What people see: progress on stderr, answers on stdout. In a terminal phases are bars; elsewhere they are lines.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Progress and answers.
#[derive(Clone)]
pub(crate) struct Ui {
    is_json: bool,
    is_terminal: bool,
    bar: Arc<Mutex<Option<(String, ProgressBar)>>>,
}

impl Ui {
    pub(crate) fn new(is_json: bool) -> Self {
        Self { is_json, is_terminal: std::io::stderr().is_terminal(), bar: Arc::default() }
    }

    /// Whether answers are printed as JSON.
    pub(crate) const fn is_json(&self) -> bool {
        self.is_json
    }

    /// A heading of the demonstration.
    pub(crate) fn step(&self, text: &str) {
        self.end_bar();
        eprintln!("\n── {text}");
    }

    /// A line that tells something.
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        self.end_bar();
        eprintln!("{text}");
    }

    /// Shows how far a phase is; a total of 0 is unknown.
    pub(crate) fn progress(&self, phase: &str, done: u64, total: u64) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = bar.as_ref().is_some_and(|(shown, _)| shown == phase);
        if !is_same {
            if let Some((_, old)) = bar.take() {
                old.finish_and_clear();
            }
            if self.is_terminal {
                let new = ProgressBar::new(total);
                let style = ProgressStyle::with_template("   {msg:<10} {wide_bar} {percent:>3} %")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                new.set_style(style);
                new.set_message(phase.to_owned());
                *bar = Some((phase.to_owned(), new));
            } else {
                eprintln!("   {phase} …");
                *bar = Some((phase.to_owned(), ProgressBar::hidden()));
            }
        }
        if let Some((_, bar)) = &*bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }

    /// Ends the bar that is shown.
    pub(crate) fn end_bar(&self) {
        if let Some((_, bar)) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    /// Prints an answer: as JSON if that was asked for, else as `text` writes it.
    pub(crate) fn answer<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        self.end_bar();
        if self.is_json {
            let json = serde_json::to_string_pretty(value)
                .map_err(|e| Failure::of(anabranch_stores::ErrorKind::Bug, format!("an answer is no JSON: {e}")))?;
            print_line(&json)
        } else {
            print_line(text(value).trim_end())
        }
    }
}

/// Prints a line to stdout. A reader that closed its end (`| head`) has what it wanted: that is no failure.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write to", std::path::Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// Columns padded to their widest cell; numbers (cells that start with a digit or sign) to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::from("  ");
        for (width, cell) in widths.iter().zip(row) {
            let padding = " ".repeat(width - cell.chars().count());
            let is_number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
            if is_number {
                line.push_str(&padding);
            }
            line.push_str(cell);
            if !is_number {
                line.push_str(&padding);
            }
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A line of a ranked list: rank from 1, item, title, category, score.
pub(crate) fn ranked(place: usize, item: &str, title: &str, category: &str, score: f32) -> Vec<String> {
    vec![(place + 1).to_string(), item.to_owned(), cut(title, 44), cut(category, 20), format!("{score:.4}")]
}

/// `1469307` as `1,469,307`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A text cut to `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
