//! The scatter plot: predicted beside measured step time, both logarithmic.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::Met;

const SIDE: f64 = 560.0;
const MARGIN: f64 = 64.0;
/// Okabe and Ito's colours, which people who do not see all colours tell apart.
const COLOURS: [&str; 6] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

pub fn scatter(rows: &[Met<'_>]) -> String {
    let values = || rows.iter().flat_map(|met| [met.measured(), met.estimate.step_seconds]);
    let low = values().fold(f64::INFINITY, f64::min).log10() - 0.08;
    let high = values().fold(0.0, f64::max).log10() + 0.08;
    let at = |seconds: f64| (seconds.log10() - low) / (high - low) * SIDE;
    let (x, y) = (|seconds: f64| MARGIN + at(seconds), |seconds: f64| 24.0 + SIDE - at(seconds));
    let (width, height) = (SIDE + MARGIN + 24.0, SIDE + 24.0 + MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for tick in
        [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0].into_iter().filter(|tick| (low..high).contains(&f64::log10(*tick)))
    {
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} 24V{:.1}M{:.1} {:.1}H{:.1}\" stroke=\"#e4e4e4\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            x(tick),
            24.0 + SIDE,
            MARGIN,
            y(tick),
            MARGIN + SIDE,
            x(tick),
            SIDE + 42.0,
            MARGIN - 8.0,
            y(tick) + 4.0
        );
    }
    let (first, last) = (10f64.powf(low), 10f64.powf(high));
    for (factor, dash) in [(1.0, ""), (1.1, " stroke-dasharray=\"4 4\""), (1.0 / 1.1, " stroke-dasharray=\"4 4\"")] {
        let clip = |seconds: f64| seconds.clamp(first, last);
        let (start, end) = ((clip(first / factor), clip(first)), (clip(last / factor), clip(last)));
        let (from, to) = ((start.0, clip(start.0 * factor)), (end.0, clip(end.0 * factor)));
        let _ = writeln!(out, "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#888\"{dash}/>", x(from.0), y(from.1), x(to.0), y(to.1));
    }
    let sources: BTreeMap<&str, usize> = rows
        .iter()
        .map(|met| (met.case.row.source.as_str(), 0))
        .collect::<BTreeMap<_, _>>()
        .into_keys()
        .enumerate()
        .map(|(n, source)| (source, n))
        .collect();
    for met in rows {
        let colour = COLOURS[sources[met.case.row.source.as_str()] % COLOURS.len()];
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\" fill-opacity=\"0.6\"><title>{} {:+.1} %</title></circle>",
            x(met.measured()),
            y(met.estimate.step_seconds),
            met.case.row.id,
            100.0 * met.off()
        );
    }
    for (source, n) in &sources {
        let top = 40.0 + 20.0 * *n as f64;
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{source}</text>",
            MARGIN + 16.0,
            top,
            COLOURS[n % COLOURS.len()],
            MARGIN + 28.0,
            top + 4.5
        );
    }
    let _ = writeln!(
        out,
        "<rect x=\"{MARGIN}\" y=\"24\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#444\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">measured seconds of a step; broken lines are 10 % off</text>\n\
         <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">predicted seconds of a step</text>\n</svg>",
        MARGIN + SIDE / 2.0,
        SIDE + 68.0,
        24.0 + SIDE / 2.0
    );
    out
}
