//! How far the work is: bytes of finished tasks, on a bar if a terminal watches.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bytes done of the bytes to do; each byte of the file counts once for each step over it.
#[derive(Debug)]
pub struct Progress {
    total: u64,
    done: u64,
    bar: ProgressBar,
}

impl Progress {
    /// For `steps` passes over `len` bytes. `shown` on standard error if that is a terminal.
    pub fn new(len: u64, steps: u64, shown: bool) -> Progress {
        let target = if shown {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let total = len.saturating_mul(steps);
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("{msg:8} {bar:40} {percent:>3} %  {elapsed}")
            .expect("the template is a constant");
        bar.set_style(style);
        Progress { total, done: 0, bar }
    }

    /// Names the step that begins.
    pub fn begin(&mut self, step: &'static str) {
        self.bar.set_message(step);
    }

    /// Counts bytes that a task has finished.
    pub fn add(&mut self, bytes: u64) {
        self.done = (self.done + bytes).min(self.total);
        self.bar.set_position(self.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_at_the_total_even_if_tasks_report_too_much() {
        let mut progress = Progress::new(100, 2, false);
        progress.add(50);
        assert_eq!((progress.done, progress.total), (50, 200));
        progress.add(1000);
        assert_eq!(progress.done, progress.total);
    }
}
