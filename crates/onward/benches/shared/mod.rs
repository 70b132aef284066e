//! What the benchmarks have in common: turns, medians, verdicts, the disk's fsync, and a drawing.

#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs all blocks forwards, then backwards, and so on: a drift of the machine meets all of them. The first round, 0, warms up.
pub(crate) fn in_turns<const N: usize, T>(rounds: usize, mut block: impl FnMut(usize, usize) -> T) -> [Vec<T>; N] {
    let mut figures: [Vec<T>; N] = std::array::from_fn(|_| Vec::new());
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..N).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for each in order {
            let figure = block(each, round);
            if round > 0 {
                figures[each].push(figure);
            }
        }
    }
    figures
}

/// Returns the middle of the figures.
pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    quantile(&mut all, 0.5)
}

/// Returns the figure below which this part of all of them lies; 0 if there are none.
pub(crate) fn quantile(all: &mut [f64], part: f64) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    let at = (all.len() as f64 * part) as usize;
    all.get(at.min(all.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Returns the middle of the times.
pub(crate) fn median_time(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Returns the median of the ratios of two blocks, round by round.
pub(crate) fn ratio(of: &[f64], to: &[f64]) -> f64 {
    median(of.iter().zip(to).map(|(of, to)| of / to).collect())
}

/// Returns how often a second the disk takes 4 KiB and says that it has them.
pub(crate) fn fsyncs_a_second(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("probe")).unwrap();
    let (mut n, started) = (0_u32, Instant::now());
    while started.elapsed() < Duration::from_millis(500) {
        file.write_all(&[0; 4096]).unwrap();
        file.sync_data().unwrap();
        n += 1;
    }
    f64::from(n) / started.elapsed().as_secs_f64()
}

/// Returns what the machine does beside, for every report: figures of a busy one say less.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("load {} on {cores} cores", load.split(' ').next().unwrap_or("unknown"))
}

/// Prints figures beside their bars and counts which are met.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    met: u32,
    missed: u32,
}

impl Verdicts {
    pub(crate) fn at_most(&mut self, what: &str, figure: f64, bar: f64) {
        self.judge(what, figure, &format!("at most {bar}"), figure <= bar);
    }

    pub(crate) fn at_least(&mut self, what: &str, figure: f64, bar: f64) {
        self.judge(what, figure, &format!("at least {bar}"), figure >= bar);
    }

    fn judge(&mut self, what: &str, figure: f64, bar: &str, met: bool) {
        let verdict = if met { "met" } else { "MISSED" };
        println!("{what:<64} {figure:>9.2}   bar: {bar}: {verdict}");
        if met {
            self.met += 1;
        } else {
            self.missed += 1;
        }
    }

    /// Prints the last line.
    pub(crate) fn end(&self) {
        println!("verdict: {} of {} bars met; {}", self.met, self.met + self.missed, load());
    }
}

/// A line of a drawing: its name, and its points from left to right.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

const COLOURS: [&str; 4] = ["#1b7837", "#762a83", "#b35806", "#2166ac"];
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 64.0;

/// Draws lines over common points below, both ways from zero, in the form of the other drawings in `docs/plots`.
pub(crate) fn draw(path: &Path, title: &str, facts: &str, below: &str, unit: &str, lines: &[Line<'_>]) {
    draw_phases(path, title, facts, below, unit, lines, &[]);
}

/// Returns the round step that divides a length into at most six.
fn step_of(length: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * 10_f64.powf((length / 5.0).log10().floor()));
    steps.into_iter().find(|step| step * 6.0 >= length).unwrap_or(length)
}

/// Draws as [`draw`] does, over a time that is divided into phases: where each begins, and its name.
pub(crate) fn draw_phases(path: &Path, title: &str, facts: &str, below: &str, unit: &str, lines: &[Line<'_>], phases: &[(f64, &str)]) {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (most, highest) = all().fold((1.0_f64, 1.0_f64), |(x, y), point| (x.max(point.0), y.max(point.1)));
    let step = step_of(highest);
    let top = (highest / step).ceil() * step;
    let across = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * x / most;
    let up = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top;
    let mut out = vec![
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#),
        format!(r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#),
        format!(r#"<text x="{LEFT}" y="20" font-size="15">{title}</text>"#),
        format!(r##"<text x="{LEFT}" y="36" fill="#555">{facts}</text>"##),
    ];
    let mut at = 0.0;
    while at <= top {
        let y = up(at);
        out.push(format!(r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT));
        out.push(format!(r#"<text x="{}" y="{:.1}" text-anchor="end">{at}{unit}</text>"#, LEFT - 8.0, y + 4.0));
        at += step;
    }
    let times = (0..).map(|n| f64::from(n) * step_of(most)).take_while(|x| *x <= most).collect();
    let points = || lines.first().map(|line| line.points.iter().map(|(x, _)| *x).collect()).unwrap_or_default();
    let ticks: Vec<f64> = if phases.is_empty() { points() } else { times };
    for x in ticks {
        out.push(format!(r#"<text x="{:.1}" y="{}" text-anchor="middle">{x}</text>"#, across(x), HEIGHT - BOTTOM + 18.0));
    }
    out.push(format!(r#"<text x="{}" y="{}" text-anchor="middle">{below}</text>"#, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 22.0));
    for (number, (x, name)) in phases.iter().enumerate() {
        // Short phases stand close together: their names take turns in two rows.
        let (x, y) = (across(*x), TOP + 10.0 + f64::from(u32::from(number % 2 == 1)) * 14.0);
        out.push(format!(r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{}" stroke="#999" stroke-dasharray="3 3"/>"##, HEIGHT - BOTTOM));
        out.push(format!(r##"<text x="{:.1}" y="{y:.1}" fill="#555">{name}</text>"##, x + 3.0));
    }
    for (line, colour) in lines.iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| (across(*x), up(*y))).collect();
        let drawn: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (wide, dots) = if phases.is_empty() { (2, points.as_slice()) } else { (1, [].as_slice()) };
        out.push(format!(r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{wide}"/>"#, drawn.join(" ")));
        out.extend(dots.iter().map(|(x, y)| format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#)));
        if let Some((x, y)) = points.last() {
            out.push(format!(r#"<text x="{:.1}" y="{:.1}" fill="{colour}">{}</text>"#, x + 8.0, y + 4.0, line.name));
        }
    }
    out.push("</svg>\n".to_owned());
    std::fs::write(path, out.join("\n")).unwrap();
    println!("drawn: {}", path.display());
}

/// Returns where the drawings of the documents lie.
pub(crate) fn plots() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plots"))
}
