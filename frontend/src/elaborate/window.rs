//! Axes seen through windows: convolutions and poolings.

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};
use partita_ir::library::Window;

use super::Elaborator;
use super::call::{Checked, OptionValue};
use crate::diagnostics::Diagnostic;
use crate::evaluate::{Num, Whole};
use crate::operators::Pool;
use crate::syntax::{Name, Window as Written};

/// Largest stride, dilation and pad.
const WIDEST: i64 = 1 << 20;

impl<'a> Elaborator<'a> {
    pub(super) fn conv(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let (x, (weight, weight_span)) = (checked.tensors[0], checked.tensors[1]);
        let windows = self.windows(checked, x)?;
        let dims = self.builder.dims(weight);
        for (window, written) in windows.iter().zip(&checked.call.windows) {
            if !self.among(&dims, weight_span, "the weight", window.taps, written.taps.span) {
                return None;
            }
            for (axis, name) in [(window.axis, &written.axis), (window.out, &written.out)] {
                if dims.contains(&axis) {
                    let message = format!("the weight has axis `{}`, which windows walk", name.text);
                    self.diagnostics.push(
                        Diagnostic::new("partita::axis::twice", message)
                            .label(weight_span, format!("has axes {}", self.shown(&dims)))
                            .label(name.span, "seen through a window"),
                    );
                    return None;
                }
            }
        }
        let OptionValue::Axis(groups) = self.option(checked, "groups") else { return None };
        for (value, span, what) in [(x.0, x.1, "the argument"), (weight, weight_span, "the weight")] {
            if let Some((axis, at)) = groups
                && !self.has_axis(value, span, what, axis, at)
            {
                return None;
            }
        }
        let out = self.builder.dims(x.0).into_iter().chain(dims).collect::<Vec<_>>();
        if !self.fits(&out, checked.span) {
            return None;
        }
        Some(self.builder.conv(name, x.0, weight, &windows, groups.map(|(axis, _)| axis)))
    }

    pub(super) fn pool(&mut self, pool: Pool, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let x = checked.tensors[0];
        let windows = self.windows(checked, x)?;
        for (window, written) in windows.iter().zip(&checked.call.windows) {
            let reach = window.dilation * (self.size(window.taps)? - 1) + 1;
            if 2 * window.pad > reach {
                let message = format!("a pad of {} is more than half of a window of {reach}", window.pad);
                self.diagnostics.push(
                    Diagnostic::new("partita::number::out_of_range", message)
                        .label(written.taps.span, "a window would see nothing but the pad")
                        .help(format!("pad = {} is the most", reach / 2)),
                );
                return None;
            }
        }
        Some(match pool {
            Pool::Max => self.builder.max_pool(name, x.0, &windows),
            Pool::Mean => self.builder.mean_pool(name, x.0, &windows),
        })
    }

    /// The windows in the brackets of a call, through which its first argument is seen.
    fn windows(&mut self, checked: &Checked<'a>, (x, x_span): (ValueId, Span)) -> Option<Vec<Window>> {
        let stride = self.count(checked, "stride", 1);
        let pad = self.count(checked, "pad", 0);
        let dilation = self.count(checked, "dilation", 1);
        let (stride, pad, dilation) = (stride?, pad?, dilation?);
        let mut windows = Vec::new();
        for written in &checked.call.windows {
            let axes = (self.axis(&written.axis), self.axis(&written.out), self.axis(&written.taps));
            let window = Window { axis: axes.0?, out: axes.1?, taps: axes.2?, stride, dilation, pad };
            if !self.has_axis(x, x_span, "the argument", window.axis, written.axis.span) {
                return None;
            }
            windows.push(window);
        }
        self.new_axes(&checked.call.windows, &windows, x, x_span)?;
        for (window, written) in windows.iter().zip(&checked.call.windows) {
            self.follows(window, written)?;
        }
        Some(windows)
    }

    /// Whether the axes that windows make and walk are new and apart.
    fn new_axes(&mut self, written: &[Written], windows: &[Window], x: ValueId, x_span: Span) -> Option<()> {
        let dims = self.builder.dims(x);
        let mut seen: Vec<(AxisId, &Name)> = Vec::new();
        for (window, names) in windows.iter().zip(written) {
            let (out, taps) = ((window.out, &names.out), (window.taps, &names.taps));
            for (axis, name) in [out, taps] {
                let own = axis == window.axis && axis == window.out && axis != window.taps;
                let before = seen.iter().find(|known| known.0 == axis).map(|known| known.1.span);
                if (dims.contains(&axis) && !own) || before.is_some() {
                    let (place, text) = match before {
                        Some(span) => (span, "once".to_owned()),
                        None => (x_span, format!("has axes {}", self.shown(&dims))),
                    };
                    self.diagnostics.push(
                        Diagnostic::new("partita::axis::twice", format!("axis `{}` would stand for two axes of this operator", name.text))
                            .label(name.span, "again")
                            .label(place, text)
                            .help(format!("declare a second name for the same size: `axis {0}_2 = {0}`", name.text)),
                    );
                    return None;
                }
                seen.push((axis, name));
            }
        }
        Some(())
    }

    /// Whether the size of what an axis becomes follows from its window.
    fn follows(&mut self, window: &Window, written: &Written) -> Option<()> {
        let (size, out, taps) = (self.size(window.axis)?, self.size(window.out)?, self.size(window.taps)?);
        let Window { stride, dilation, pad, .. } = *window;
        let places = Window::places(size, taps, stride, dilation, pad);
        if places == out {
            return Some(());
        }
        let (axis, becomes) = (&written.axis.text, &written.out.text);
        let reach = dilation * (taps - 1) + 1;
        let padded = if pad == 0 { size.to_string() } else { format!("{size} + 2 × {pad}") };
        if places == 0 {
            let message = format!("a window of {reach} does not fit on axis `{axis}`, which has {padded} elements");
            self.diagnostics.push(
                Diagnostic::new("partita::shape::window", message)
                    .label(written.taps.span, format!("{reach} > {padded}"))
                    .help(format!("a pad of {} is enough", (reach - size).div_ceil(2))),
            );
            return None;
        }
        let message = format!("axis `{becomes}` has {out} elements, and a window of {reach} gives {places}");
        let same = (out - 1) * stride + reach;
        let even = same >= size && (same - size).is_multiple_of(2) && (same - size) / 2 != pad;
        let pads = if even { format!("; or pad = {}", (same - size) / 2) } else { String::new() };
        self.diagnostics.push(
            Diagnostic::new("partita::shape::window", message)
                .label(written.out.span, format!("floor(({padded} - {reach}) / {stride}) + 1 = {places}"))
                .help(format!("an axis of its own for the result: `{axis} -> name` with `axis name = {places}`{pads}")),
        );
        None
    }

    /// An option that is a whole number.
    fn count(&mut self, checked: &Checked<'a>, name: &str, least: i64) -> Option<u64> {
        let OptionValue::Number(value, span) = self.option(checked, name) else { return None };
        let what = format!("`{name}`");
        let bounds = Whole { what: &what, least, most: WIDEST };
        let value = Num::of(value);
        bounds.check(value, None, span.or(Some(checked.span)), self.settings, self.diagnostics).map(|whole| whole as u64)
    }
}
