//! Reading `[[device.curves]]`.

use partita_ir::work::LaneStep;
use toml::Spanned;
use toml::de::DeValue;

use super::{Bound, Place, Reader, as_f64};
use crate::cluster::curves::{Curve, Curves, LIES, TIMED};

/// The keys of a table of curves whose values are numbers or tables.
const PLAIN: &[&str] = &["ranks", "threads", "kernel_us", "row_ns", "block_ns", "step_ns", "lane_ns", "sizes"];

impl Reader<'_> {
    /// The optional list of tables `curves` of a device.
    pub(super) fn curves(&mut self, device: &Place<'_>) -> Vec<Curves> {
        let mut all: Vec<Curves> = Vec::new();
        if !device.table.contains_key("curves") {
            return all;
        }
        for place in self.tables(device, "curves").map_or_else(Vec::new, |(_, places)| places) {
            let curves = self.curves_of(&place);
            if all.iter().any(|earlier| (earlier.ranks, earlier.threads) == (curves.ranks, curves.threads)) {
                let message = format!("`{}` is a second one of {} ranks with {} threads each", place.path, curves.ranks, curves.threads);
                self.problem("duplicate_name", place.span.clone(), message, "keep one table for each `ranks` and `threads`");
            }
            all.push(curves);
        }
        all
    }

    fn curves_of(&mut self, place: &Place<'_>) -> Curves {
        let timed = TIMED.map(|what| format!("{what}_us"));
        let matmul = LIES.map(|lies| format!("matmul_{lies}_gflop_per_s"));
        let known: Vec<&str> = PLAIN.iter().copied().chain(timed.iter().chain(&matmul).map(String::as_str)).collect();
        self.known_keys(place, &known);
        let mut curves = Curves { ranks: 1, threads: 1, ..Curves::default() };
        if self.required(place, "ranks", "the number of ranks that computed at the same time").is_some() {
            self.whole(place, "ranks", Bound::Positive, &mut curves.ranks);
        }
        self.whole(place, "threads", Bound::Positive, &mut curves.threads);
        let starts = [
            ("kernel_us", &mut curves.kernel_us),
            ("row_ns", &mut curves.row_ns),
            ("block_ns", &mut curves.block_ns),
            ("step_ns", &mut curves.step_ns),
        ];
        for (key, field) in starts {
            if place.table.contains_key(key) {
                self.number(place, key, Bound::NotNegative, field.insert(0.0));
            }
        }
        match place.table.get("lane_ns").map(|value| (value.span(), value.get_ref())) {
            None => {}
            Some((span, DeValue::Table(table))) => {
                let inner = Place { path: place.key("lane_ns"), span, table };
                let words: Vec<&str> = LaneStep::ALL.iter().map(|row| row.1).collect();
                self.known_keys(&inner, &words);
                for word in words.into_iter().filter(|word| table.contains_key(*word)) {
                    let mut ns = 0.0;
                    self.number_of(&inner, word, Bound::NotNegative, "nanoseconds a lane", &mut ns);
                    curves.lane_ns.insert(word.to_owned(), ns);
                }
            }
            Some((span, _)) => {
                let message = format!("`{}` must be a table by kind of step", place.key("lane_ns"));
                self.problem("wrong_type", span, message, "such as `lane_ns = { arithmetic = 0.05, exp = 0.6 }`");
            }
        }
        if let Some(value) = place.table.get("sizes") {
            let sizes = self.list(value, &place.key("sizes"), "such as `sizes = [8, 32, 128]`");
            let numbers: Vec<f64> = sizes.iter().filter_map(|size| self.positive(size, &place.key("sizes"))).collect();
            self.ascending(value, &place.key("sizes"), &numbers);
            curves.sizes = numbers.iter().map(|size| *size as u64).collect();
        }
        for (lies, key) in LIES.iter().zip(&matmul) {
            if let Some(value) = place.table.get(key.as_str()) {
                let grid = self.cube(value, &place.key(key), curves.sizes.len());
                curves.matmul.extend(grid.map(|grid| ((*lies).to_owned(), grid)));
            }
        }
        for (what, key) in TIMED.iter().zip(&timed) {
            if let Some(value) = place.table.get(key.as_str()) {
                let curve = self.curve(value, &place.key(key));
                curves.times.insert((*what).to_owned(), curve);
            }
        }
        curves
    }

    /// The entries of a list that is not empty.
    fn list<'t>(&mut self, value: &'t Spanned<DeValue<'t>>, path: &str, help: &str) -> &'t [Spanned<DeValue<'t>>] {
        match value.get_ref() {
            DeValue::Array(entries) if !entries.is_empty() => entries,
            _ => {
                self.problem("wrong_type", value.span(), format!("`{path}` must be a list, not empty"), help);
                &[]
            }
        }
    }

    fn positive(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Option<f64> {
        let number = as_f64(value.get_ref()).filter(|number| number.is_finite() && *number > 0.0);
        if number.is_none() {
            let message = format!("`{path}` has {}, which is no finite number above 0", &self.text[value.span()]);
            self.problem("out_of_range", value.span(), message, "`partita profile` writes curves that are measured");
        }
        number
    }

    fn ascending(&mut self, value: &Spanned<DeValue<'_>>, path: &str, numbers: &[f64]) {
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
            let message = format!("`{path}` has {} after {}", pair[1], pair[0]);
            self.problem("not_ascending", value.span(), message, "sizes ascend, each given once");
        }
    }

    /// Rates by place of m, n and k among `n` sizes.
    fn cube(&mut self, value: &Spanned<DeValue<'_>>, path: &str, n: usize) -> Option<Vec<Vec<Vec<f64>>>> {
        let before = self.problems.len();
        let help = "rates stand in lists by m, of lists by n, of numbers by k, one for each of `sizes`";
        let of_size = |reader: &mut Self, value: &Spanned<DeValue<'_>>, found: usize| {
            if found != n {
                reader.problem("wrong_count", value.span(), format!("`{path}` has a list of {found} where `sizes` has {n}"), help);
            }
        };
        let mut grid = Vec::new();
        let planes = self.list(value, path, help);
        of_size(self, value, planes.len());
        for plane in planes {
            let rows = self.list(plane, path, help);
            of_size(self, plane, rows.len());
            let mut rates = Vec::new();
            for row in rows {
                let numbers = self.list(row, path, help);
                of_size(self, row, numbers.len());
                rates.push(numbers.iter().filter_map(|number| self.positive(number, path)).collect());
            }
            grid.push(rates);
        }
        (self.problems.len() == before).then_some(grid)
    }

    /// Times by bytes.
    fn curve(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Curve {
        let help = "such as `[[4, 2.5], [65536, 9]]`: bytes and microseconds";
        let mut points = Vec::new();
        for point in self.list(value, path, help) {
            let pair = self.list(point, path, help);
            if pair.len() != 2 {
                let message = format!("`{path}` has a point of {} numbers, and a point is bytes and microseconds", pair.len());
                self.problem("wrong_count", point.span(), message, help);
                continue;
            }
            let numbers = [self.positive(&pair[0], path), self.positive(&pair[1], path)];
            if let [Some(bytes), Some(us)] = numbers {
                points.push((bytes, us));
            }
        }
        self.ascending(value, path, &points.iter().map(|point| point.0).collect::<Vec<_>>());
        if let Some(pair) = points.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            let message = format!("`{path}` takes {} us for {} bytes after {} us for {}", pair[1].1, pair[1].0, pair[0].1, pair[0].0);
            self.problem("not_ascending", value.span(), message, "more bytes never take less time: raise the later time");
        }
        Curve(points.into_iter().map(|(bytes, us)| (bytes as u64, us)).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::{Cluster, ClusterError};

    fn read(curves: &str) -> Result<Cluster, ClusterError> {
        let text = format!(
            "name = 'x'\n[device]\nkind = 'cpu-core'\n[[level]]\nname = 'threads'\ncount = 2\n[[device.curves]]\nranks = 1\n{curves}"
        );
        Cluster::parse(&text, "c.toml")
    }

    #[test]
    fn curves_come_back_as_they_were_written() {
        let text = "kernel_us = 0.5\nrow_ns = 20\nstep_ns = 7\nlane_ns = { arithmetic = 0.05, exp = 0.6 }\nsizes = [8, 64]\n\
                    matmul_plain_gflop_per_s = [[[1, 2], [3, 4]], [[5, 6], [7, 8.5]]]\nreuse_us = [[1024, 0.1], [4096, 0.4]]\n\
                    send_us = [[4, 3]]\n[[device.curves]]\nranks = 2\n";
        let cluster = read(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(cluster.device.curves.len(), 2);
        assert_eq!(cluster.device.curves[0].matmul["plain"][1][1], [7.0, 8.5]);
        let tables: String = cluster.device.curves.iter().map(super::Curves::to_toml).collect();
        let again = format!("name = 'x'\n[device]\nkind = 'cpu-core'\n{tables}[[level]]\nname = 'threads'\ncount = 2\n");
        assert_eq!(Cluster::parse(&again, "c.toml").unwrap_or_else(|error| panic!("{again}\n{error}")), cluster);
    }

    #[test]
    fn malformed_curves_are_told_at_their_place() {
        for (text, code, words) in [
            ("sizes = [8, 8]", "not_ascending", "`device.curves[0].sizes` has 8 after 8"),
            ("sizes = [8, -1]", "out_of_range", "-1"),
            ("sizes = 3", "wrong_type", "must be a list"),
            (
                "sizes = [8, 9]\nmatmul_plain_gflop_per_s = [[[1, 2], [3]], [[5, 6], [7, 8]]]",
                "wrong_count",
                "a list of 1 where `sizes` has 2",
            ),
            ("matmul_left_turned_gflop_per_s = [[[1]]]", "wrong_count", "a list of 1 where `sizes` has 0"),
            ("reuse_us = [[4096, 1], [1024, 2]]", "not_ascending", "has 1024 after 4096"),
            ("reuse_us = [[1024, 2], [4096, 1]]", "not_ascending", "takes 1 us for 4096 bytes after 2 us for 1024"),
            ("reuse_us = [[1024]]", "wrong_count", "a point of 1 numbers"),
            ("send_us = [[1024, nan]]", "out_of_range", "nan"),
            ("lane_ns = { expp = 1 }", "unknown_key", "`device.curves[0].lane_ns.expp`"),
            ("lane_ns = { exp = -1 }", "out_of_range", "lane_ns.exp"),
            ("lane_ns = 4", "wrong_type", "must be a table"),
            ("row_ns = 'a'", "wrong_type", "row_ns"),
            ("matmul = 1", "unknown_key", "`device.curves[0].matmul`"),
            ("[[device.curves]]\nranks = 1", "duplicate_name", "a second one of 1 ranks with 1 threads each"),
            ("[[device.curves]]\nthreads = 1", "missing_key", "`device.curves[1].ranks` is missing"),
        ] {
            let ClusterError { problems, .. } = read(text).expect_err(text);
            let told = problems.iter().find(|problem| problem.code == format!("partita::cluster::{code}"));
            let told = told.unwrap_or_else(|| panic!("{text}: {problems:?}"));
            assert!(told.message.contains(words) && told.line >= 7 && !told.help.is_empty(), "{text}: {told:?}");
        }
    }
}
