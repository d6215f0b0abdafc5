// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the user sees: numbered steps, something that moves while they wait, and the kernel's own
//! words when it crashed.

use std::cell::Cell;
use std::env;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a sign of life is given where nothing can move.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The steps before ours are done by scripts.
static STEP: AtomicU32 = AtomicU32::new(6);

/// Tells that the next step begins.
pub fn step(text: &str) {
    let number = STEP.fetch_add(1, Ordering::Relaxed);
    let steps = env::var("STEPS").unwrap_or_else(|_| number.to_string());
    println!("[{number}/{steps}] {text}");
    note_time(text);
}

/// For the times at the end, as the scripts do it: when each step began.
fn note_time(text: &str) {
    let Some(out) = env::var_os("OUT") else {
        return;
    };
    let path = Path::new(&out).join("steps.times");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let name = text.split(" with ").next().unwrap_or(text);
    let file = OpenOptions::new().append(true).create(true).open(path);
    // Times that cannot be kept are not worth an error.
    let _ = file.and_then(|mut file| writeln!(file, "{seconds}\t{name}"));
}

/// Tells more about a step.
pub fn note(text: &str) {
    println!("      {text}");
}

/// Shows that something is being waited for: a spinner on a terminal, else a line now and then.
pub struct Waiting {
    spinner: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    finished: Cell<bool>,
}

impl Waiting {
    pub fn new(text: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spinner = io::stdout().is_terminal().then(|| spinner(text));
        if spinner.is_none() {
            tell_now_and_then(text.into(), stop.clone());
        }
        Self {
            spinner,
            stop,
            finished: Cell::new(false),
        }
    }

    /// Takes it away again. May be called more than once.
    pub fn done(&self) {
        if !self.finished.replace(true) {
            self.stop.store(true, Ordering::Relaxed);
            if let Some(spinner) = &self.spinner {
                spinner.finish_and_clear();
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.done();
    }
}

fn spinner(text: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("      {spinner} {msg}, {elapsed}");
    let spinner = ProgressBar::new_spinner()
        .with_style(style.expect("a valid template"))
        .with_message(text.to_string());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

fn tell_now_and_then(text: String, stop: Arc<AtomicBool>) {
    let start = Instant::now();
    thread::spawn(move || loop {
        thread::sleep(SIGN_OF_LIFE);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        note(&format!("… {text}, {} s", start.elapsed().as_secs()));
        let _ = io::stdout().flush();
    });
}

/// Shows how far a long step has come: a bar on a terminal, else a line now and then.
#[cfg(feature = "bench")]
pub struct Progress {
    bar: Option<ProgressBar>,
    told: Cell<Instant>,
}

#[cfg(feature = "bench")]
impl Progress {
    pub fn new() -> Self {
        Self {
            bar: io::stdout().is_terminal().then(bar),
            told: Cell::new(Instant::now()),
        }
    }

    /// So many of so many are done; `what` was the last.
    pub fn show(&self, done: u64, all: u64, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
            bar.set_message(what.to_string());
        } else if self.told.get().elapsed() >= SIGN_OF_LIFE || done == all {
            self.told.set(Instant::now());
            note(&format!("{done} of {all}: {what}"));
        }
    }

    /// Takes it away again.
    pub fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(feature = "bench")]
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("      {bar:30} {pos}/{len} {msg}, {elapsed}");
    ProgressBar::new(0).with_style(style.expect("a valid template"))
}
