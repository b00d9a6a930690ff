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
/// About so many on each axis.
const TICKS: f64 = 8.0;
/// Room that a label takes.
const LABEL_WIDTH: f64 = 130.0;

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
    let mut phases = Vec::new();
    if let Some((frozen, resumed)) = hop.pause(progress) {
        let frozen = frozen.max(hop.ordered);
        // Without rounds what lies before the freeze is a moment that nobody wants to see.
        if record.rounds > 0 {
            phases.push(("rounds", "#cfe3f7", (hop.ordered, frozen)));
        }
        phases.push(("pause", "#f3a6a6", (frozen, resumed)));
        if record.faults > 0 || hop.over > resumed + MARGIN_NS / 20 {
            phases.push(("push", "#d5efcf", (resumed, hop.over)));
        }
    }
    phases.iter().for_each(|&(_, colour, time)| area(&mut svg, &scale, colour, time));
    axes(&mut svg, &scale, hop.ordered);
    let mut points = String::new();
    let _ = write!(points, "{:.1},{:.1} ", scale.x(from), scale.y(scale.low));
    for entry in progress.entries().iter().filter(|entry| (from..=to).contains(&entry.at)) {
        let _ = write!(points, "{:.1},{:.1} ", scale.x(entry.at), scale.y(entry.done as f64));
    }
    let _ = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"#1a1a1a\" stroke-width=\"1.5\" points=\"{}\"/>",
        points.trim_end()
    );
    // Above the line, in the corner that a rising one leaves free.
    for (row, &(name, _, time)) in phases.iter().rev().enumerate() {
        label(&mut svg, &scale, name, time, HEIGHT - BOTTOM - 8.0 - 14.0 * row as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

fn area(svg: &mut String, scale: &Scale, colour: &str, (from, to): (u64, u64)) {
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
}

/// What an area is, and how long. The white rim keeps it readable over whatever it crosses.
fn label(svg: &mut String, scale: &Scale, name: &str, (from, to): (u64, u64), y: f64) {
    let x = scale.x(from);
    let (x, anchor) =
        if x + LABEL_WIDTH > WIDTH - RIGHT { (x - 3.0, "end") } else { (x + 3.0, "start") };
    let _ = write!(svg, "<g stroke=\"white\" stroke-width=\"3\" paint-order=\"stroke\">");
    let time_ms = to.saturating_sub(from) as f64 / 1e6;
    text(svg, (x, y), anchor, &format!("{name} {time_ms:.2} ms"));
    let _ = writeln!(svg, "</g>");
}

/// Milliseconds since the order, pages since the picture's begin.
fn axes(svg: &mut String, scale: &Scale, zero: u64) {
    let bottom = HEIGHT - BOTTOM;
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT},{TOP} V{bottom} H{}\" fill=\"none\" stroke=\"#888\"/>",
        WIDTH - RIGHT
    );
    let ms = |at: u64| (at as f64 - zero as f64) / 1e6;
    for tick in ticks(ms(scale.from), ms(scale.to)) {
        let at = (zero as f64 + tick * 1e6) as u64;
        text(svg, (scale.x(at), bottom + 16.0), "middle", &format!("{tick}"));
    }
    for tick in ticks(0.0, scale.high - scale.low) {
        text(svg, (LEFT - 6.0, scale.y(scale.low + tick) + 4.0), "end", &format!("{tick}"));
    }
    text(svg, (WIDTH / 2.0, HEIGHT - 12.0), "middle", "milliseconds since the order");
    let (x, y) = (14.0, (TOP + bottom) / 2.0);
    let _ = write!(svg, "<g transform=\"rotate(-90 {x} {y})\">");
    text(svg, (x, y), "middle", "pages done");
    let _ = writeln!(svg, "</g>");
}

/// Round numbers from `from` to `to`, apart by 1, 2 or 5 of some power of ten.
fn ticks(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let rough = ((to - from) / TICKS).max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * power).into_iter().find(|&s| s >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(move |number| number as f64 * step)
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let all = |from, to| ticks(from, to).collect::<Vec<_>>();
        assert_eq!(all(-200.0, 819.0), [-200.0, 0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(all(0.0, 7.5), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(all(0.0, 100_436.0), [0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]);
    }
}
