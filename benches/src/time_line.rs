//! The time-line of one move as SVG: how far the task came, and what the runtime did meanwhile.
//!
//! ```text
//!  pages │            rounds      ▏▕   push
//!        │                    ____▏▕____/
//!        │        ____/‾‾‾‾‾‾      pause
//!        │ ___/‾‾‾
//!        └────────────────────────────────── ms
//! ```

use std::fmt::Write;

use crate::log::Progress;
use crate::mover::Hop;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
/// Shown before the order and after the end.
const MARGIN_NS: u64 = 200_000_000;
const TICKS: u32 = 8;

/// From data to the picture.
struct Scale {
    from: u64,
    to: u64,
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, at: u64) -> f64 {
        let share = (at as f64 - self.from as f64) / (self.to - self.from) as f64;
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, done: f64) -> f64 {
        let share = (done - self.low) / (self.high - self.low).max(1.0);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// The picture.
pub fn draw(title: &str, hop: &Hop, progress: &Progress) -> String {
    let from = hop.ordered.saturating_sub(MARGIN_NS);
    let to = hop.over + MARGIN_NS;
    let scale = Scale { from, to, low: progress.at(from).0, high: progress.at(to).0 };
    let mut svg = String::new();
    let record = &hop.record;
    let subtitle = format!(
        "{:?}: {}; {} rounds, {} of {} pages sent, {} faults",
        record.method,
        record.why,
        record.rounds,
        record.sent_pages,
        record.live_pages,
        record.faults
    );
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
    );
    text(&mut svg, (LEFT, 18.0), "start", title);
    text(&mut svg, (LEFT, 34.0), "start", &subtitle);
    if let Some((frozen, resumed)) = hop.pause(progress) {
        let frozen = frozen.max(hop.ordered);
        phase(&mut svg, &scale, "rounds", "#cfe3f7", (hop.ordered, frozen));
        phase(&mut svg, &scale, "pause", "#f3a6a6", (frozen, resumed));
        if record.faults > 0 || hop.over > resumed + MARGIN_NS / 20 {
            phase(&mut svg, &scale, "push", "#d5efcf", (resumed, hop.over));
        }
    }
    axes(&mut svg, &scale, hop.ordered);
    let mut points = String::new();
    let _ = write!(points, "{:.1},{:.1} ", scale.x(from), scale.y(scale.low));
    for entry in progress.entries().iter().filter(|entry| (from..=to).contains(&entry.at)) {
        let _ = write!(points, "{:.1},{:.1} ", scale.x(entry.at), scale.y(entry.done as f64));
    }
    let _ = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"#1a1a1a\" stroke-width=\"1.5\" points=\"{}\"/>\n</svg>",
        points.trim_end()
    );
    svg
}

fn phase(svg: &mut String, scale: &Scale, name: &str, colour: &str, (from, to): (u64, u64)) {
    if to <= from {
        return;
    }
    // A short pause is to be seen too.
    let (x, width) = (scale.x(from), (scale.x(to) - scale.x(from)).max(1.0));
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        HEIGHT - TOP - BOTTOM
    );
    let label = format!("{name} {:.2} ms", (to - from) as f64 / 1e6);
    let lift = match name {
        "rounds" => 12.0,
        "pause" => 26.0,
        _ => 40.0,
    };
    text(svg, (x + 3.0, TOP + lift), "start", &label);
}

/// Milliseconds since the order, pages since the picture's begin.
fn axes(svg: &mut String, scale: &Scale, zero: u64) {
    let bottom = HEIGHT - BOTTOM;
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT},{TOP} V{bottom} H{}\" fill=\"none\" stroke=\"#888\"/>",
        WIDTH - RIGHT
    );
    for tick in 0..=TICKS {
        let at = scale.from + (scale.to - scale.from) / u64::from(TICKS) * u64::from(tick);
        let ms = (at as f64 - zero as f64) / 1e6;
        text(svg, (scale.x(at), bottom + 16.0), "middle", &format!("{ms:.0}"));
        let done = scale.low + (scale.high - scale.low) * f64::from(tick) / f64::from(TICKS);
        let label = format!("{:.0}", done - scale.low);
        text(svg, (LEFT - 6.0, scale.y(done) + 4.0), "end", &label);
    }
    text(svg, (WIDTH / 2.0, HEIGHT - 12.0), "middle", "milliseconds since the order");
    text(svg, (LEFT, TOP - 4.0), "end", "pages done");
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
