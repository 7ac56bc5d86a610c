//! Reading a cluster file: every key checked, every problem told at its place.

mod curves;
mod groups;

use std::collections::BTreeMap;
use std::ops::Range;

use partita_ir::dtype::DType;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Cluster, Device, Level, MAX_RANKS, Problem};
use crate::catalogue;
use crate::estimate::constants::Reach;
use crate::nearest::did_you_mean;
use crate::units::Bytes;

const TOP: &[&str] = &["name", "device", "level", "group"];
const LEVEL: &[&str] = &["name", "count", "bandwidth_gb_per_s", "latency_us", "efficiency", "oversubscription"];
const DEVICE: &[&str] = &[
    "kind",
    "memory_bytes",
    "flops",
    "compute_units",
    "memory_gb_per_s",
    "launch_us",
    "link_gb_per_s",
    "link_latency_us",
    "link_efficiency",
    "nic_gb_per_s",
    "nic_latency_us",
    "nic_efficiency",
    "collective_us",
    "collective_ramp_us",
    "switch_reduce_gb_per_s",
    "host_memory_bytes",
    "host_link_gb_per_s",
    "nvme_bytes",
    "nvme_gb_per_s",
    "power_w",
    "usd_per_hour",
    "cores",
    "reach",
    "curves",
];
const SHAPE: &str = "a cluster has `name`, a table `[device]` with `kind`, and one or more `[[level]]` with `name` and `count`; \
     one of several kinds of devices has these in each `[[group]]`, and a `[[level]]` that joins the groups";

/// The cluster of a file's text, or everything that is wrong with it.
pub(super) fn cluster(text: &str) -> Result<Cluster, Vec<Problem>> {
    let mut reader = Reader { text, problems: Vec::new() };
    let cluster = match DeTable::parse(text) {
        Ok(table) => reader.cluster(&Place { path: String::new(), span: 0..0, table: table.get_ref() }),
        Err(error) => {
            reader.problem("syntax", error.span().unwrap_or(0..0), error.message().to_owned(), "the file is TOML: `key = value` lines");
            None
        }
    };
    reader.problems.sort_by_key(|problem| problem.span.start);
    match cluster {
        Some(cluster) if reader.problems.is_empty() => Ok(cluster),
        _ => Err(reader.problems),
    }
}

/// A table of the file and where it stands.
struct Place<'a> {
    /// Dotted path, empty at the top.
    path: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
}

impl Place<'_> {
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

/// Which numbers a key takes.
#[derive(Clone, Copy)]
enum Bound {
    /// Above 0.
    Positive,
    /// 0 or above.
    NotNegative,
    /// Above 0, and 1 at most.
    Part,
    /// 1 or above.
    Times,
}

impl Reader<'_> {
    fn problem(&mut self, code: &'static str, span: Range<usize>, message: String, help: impl Into<String>) {
        let code = match code {
            "syntax" => "partita::cluster::syntax",
            "unknown_key" => "partita::cluster::unknown_key",
            "missing_key" => "partita::cluster::missing_key",
            "wrong_type" => "partita::cluster::wrong_type",
            "out_of_range" => "partita::cluster::out_of_range",
            "unknown_kind" => "partita::cluster::unknown_kind",
            "too_many_ranks" => "partita::cluster::too_many_ranks",
            "two_forms" => "partita::cluster::two_forms",
            "wrong_count" => "partita::cluster::wrong_count",
            "not_ascending" => "partita::cluster::not_ascending",
            _ => "partita::cluster::duplicate_name",
        };
        let line = self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1;
        self.problems.push(Problem { code, span, line, message, help: help.into() });
    }

    fn cluster(&mut self, top: &Place<'_>) -> Option<Cluster> {
        self.known_keys(top, TOP);
        let name = self.name(top);
        if top.table.contains_key("group") {
            return self.mixed(top, name);
        }
        let device = self.device(top);
        let levels = self.levels(top, device.as_ref());
        Some(Cluster { name: name?, device: device?, levels: levels?, groups: Vec::new() })
    }

    fn known_keys(&mut self, place: &Place<'_>, known: &[&str]) {
        for key in place.table.keys() {
            let word: &str = key.get_ref();
            if !known.contains(&word) {
                let path = place.key(word);
                self.problem("unknown_key", key.span(), format!("unknown key `{path}`"), did_you_mean(word, known));
            }
        }
    }

    fn required<'t>(&mut self, place: &Place<'t>, key: &str, help: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let found = place.table.get(key);
        if found.is_none() {
            self.problem("missing_key", place.span.clone(), format!("`{}` is missing", place.key(key)), help);
        }
        found
    }

    /// The required, not empty text at `name`.
    fn name(&mut self, place: &Place<'_>) -> Option<String> {
        let value = self.required(place, "name", SHAPE)?;
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Some(text.clone().into_owned()),
            _ => {
                let path = place.key("name");
                self.problem(
                    "wrong_type",
                    value.span(),
                    format!("`{path}` must be a text in quotes, not empty"),
                    "such as `name = \"threads\"`",
                );
                None
            }
        }
    }

    /// The required table `device`.
    fn device(&mut self, holder: &Place<'_>) -> Option<Device> {
        let value = self.required(holder, "device", SHAPE)?;
        let path = holder.key("device");
        let DeValue::Table(table) = value.get_ref() else {
            self.problem("wrong_type", value.span(), format!("`{path}` must be a table"), "such as `device = { kind = \"cpu-core\" }`");
            return None;
        };
        let place = &Place { path, span: value.span(), table };
        self.known_keys(place, DEVICE);
        let kinds = format!("kinds: {}", catalogue::KINDS.join(", "));
        let kind = self.required(place, "kind", &kinds)?;
        let found = match kind.get_ref() {
            DeValue::String(word) => catalogue::device(word).ok_or_else(|| did_you_mean(word, catalogue::KINDS)),
            _ => Err(kinds),
        };
        let mut device = match found {
            Ok(device) => device,
            Err(help) => {
                let message = format!("`{}` = {} is not in the catalogue", place.key("kind"), &self.text[kind.span()]);
                self.problem("unknown_kind", kind.span(), message, help);
                return None;
            }
        };
        self.whole(place, "memory_bytes", Bound::Positive, &mut device.memory_bytes);
        self.whole(place, "compute_units", Bound::Positive, &mut device.compute_units);
        self.whole(place, "host_memory_bytes", Bound::NotNegative, &mut device.host_memory_bytes);
        self.whole(place, "nvme_bytes", Bound::NotNegative, &mut device.nvme_bytes);
        if place.table.contains_key("cores") {
            let mut cores = 1;
            self.whole(place, "cores", Bound::Positive, &mut cores);
            device.cores = Some(cores);
        }
        for (key, bound, field) in [
            ("memory_gb_per_s", Bound::Positive, &mut device.memory_gb_per_s),
            ("launch_us", Bound::NotNegative, &mut device.launch_us),
            ("link_gb_per_s", Bound::Positive, &mut device.link_gb_per_s),
            ("link_latency_us", Bound::NotNegative, &mut device.link_latency_us),
            ("nic_gb_per_s", Bound::Positive, &mut device.nic_gb_per_s),
            ("nic_latency_us", Bound::NotNegative, &mut device.nic_latency_us),
            ("link_efficiency", Bound::Part, &mut device.link_efficiency),
            ("nic_efficiency", Bound::Part, &mut device.nic_efficiency),
            ("collective_us", Bound::NotNegative, &mut device.collective_us),
            ("collective_ramp_us", Bound::NotNegative, &mut device.collective_ramp_us),
            ("switch_reduce_gb_per_s", Bound::NotNegative, &mut device.switch_reduce_gb_per_s),
            ("host_link_gb_per_s", Bound::Positive, &mut device.host_link_gb_per_s),
            ("nvme_gb_per_s", Bound::Positive, &mut device.nvme_gb_per_s),
            ("power_w", Bound::Positive, &mut device.power_w),
            ("usd_per_hour", Bound::NotNegative, &mut device.usd_per_hour),
        ] {
            self.number(place, key, bound, field);
        }
        match place.table.get("flops").map(|value| (value.span(), value.get_ref())) {
            None => {}
            Some((span, DeValue::Table(table))) => self.flops(&Place { path: place.key("flops"), span, table }, &mut device),
            Some((span, _)) => {
                let message = format!("`{}` must be a table by element type", place.key("flops"));
                self.problem("wrong_type", span, message, "such as `flops = { f32 = 60e9 }`");
            }
        }
        match place.table.get("reach").map(|value| (value.span(), value.get_ref())) {
            None => {}
            Some((span, DeValue::Table(table))) => device.reach = self.reach(&Place { path: place.key("reach"), span, table }),
            Some((span, _)) => {
                let message = format!("`{}` must be a table of what kernels reach", place.key("reach"));
                self.problem("wrong_type", span, message, "such as `reach = { gemm = 0.68, memory = 0.9 }`");
            }
        }
        device.curves = self.curves(place);
        Some(device)
    }

    fn flops(&mut self, place: &Place<'_>, device: &mut Device) {
        let words = DType::ALL.map(|(_, word, _)| word);
        self.known_keys(place, &words);
        for (dtype, word, _) in DType::ALL {
            if place.table.contains_key(word) {
                let mut peak = 0.0;
                self.number(place, word, Bound::Positive, &mut peak);
                device.flops.insert(dtype, peak);
            }
        }
    }

    fn reach(&mut self, place: &Place<'_>) -> BTreeMap<String, f64> {
        let words = Reach::words();
        self.known_keys(place, &words);
        let mut reach = BTreeMap::new();
        for word in words.into_iter().filter(|word| place.table.contains_key(*word)) {
            let bound = if Reach::is_part(word) { Bound::Part } else { Bound::NotNegative };
            let mut number = 0.0;
            self.number_of(place, word, bound, "a part of the peak, or times", &mut number);
            reach.insert(word.to_owned(), number);
        }
        reach
    }

    /// The required list of tables `[[key]]`, and where all of it stands; entries that are no tables are left out.
    fn tables<'t>(&mut self, holder: &Place<'t>, key: &str) -> Option<(Range<usize>, Vec<Place<'t>>)> {
        let value = self.required(holder, key, SHAPE)?;
        let path = holder.key(key);
        let header = path.split('[').next().unwrap_or_default();
        let header = if header == path { path.clone() } else { format!("{header}.{key}") };
        let help = format!("begin each {key} with `[[{header}]]`");
        let entries = match value.get_ref() {
            DeValue::Array(entries) if !entries.is_empty() => entries,
            _ => {
                self.problem("wrong_type", value.span(), format!("`{path}` must be a list of tables, not empty"), help);
                return None;
            }
        };
        let mut places = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            let path = format!("{path}[{position}]");
            match entry.get_ref() {
                DeValue::Table(table) => places.push(Place { path, span: entry.span(), table }),
                _ => self.problem("wrong_type", entry.span(), format!("`{path}` must be a table"), help.clone()),
            }
        }
        Some((value.span(), places))
    }

    /// The levels of devices of one kind.
    fn levels(&mut self, holder: &Place<'_>, device: Option<&Device>) -> Option<Vec<Level>> {
        let (span, places) = self.tables(holder, "level")?;
        let mut levels: Vec<Level> = Vec::new();
        for (position, place) in places.iter().enumerate() {
            // the innermost level is the device's own link, outer ones its network card
            let usual = device.map(|device| if position == 0 { own_link(device) } else { network(device) });
            let mut level = self.level(place, usual);
            if !level.name.is_empty() && levels.iter().any(|earlier| earlier.name == level.name) {
                let span = place.table.get("name").map_or(place.span.clone(), Spanned::span);
                let message = format!("`{}.name` = \"{}\" is the name of an earlier level", place.path, level.name);
                self.problem("duplicate_name", span, message, "give every level its own name");
            }
            if self.required(place, "count", "the number of devices (or of inner levels) that this level joins").is_some() {
                self.whole(place, "count", Bound::Positive, &mut level.count);
            }
            levels.push(level);
        }
        if ranks(&levels).is_none() {
            let counts = levels.iter().map(|level| level.count.to_string()).collect::<Vec<_>>().join(" x ");
            self.too_many_ranks(span, &counts);
        }
        Some(levels)
    }

    /// A level but for its `count`, which is left at 1.
    fn level(&mut self, place: &Place<'_>, usual: Option<[f64; 3]>) -> Level {
        self.known_keys(place, LEVEL);
        let name = self.name(place).unwrap_or_default();
        let [bandwidth_gb_per_s, latency_us, efficiency] = usual.unwrap_or([1.0, 0.0, 1.0]);
        let mut level = Level { name, count: 1, bandwidth_gb_per_s, latency_us, efficiency, oversubscription: 1.0 };
        self.number(place, "bandwidth_gb_per_s", Bound::Positive, &mut level.bandwidth_gb_per_s);
        self.number(place, "latency_us", Bound::NotNegative, &mut level.latency_us);
        self.number(place, "efficiency", Bound::Part, &mut level.efficiency);
        self.number(place, "oversubscription", Bound::Times, &mut level.oversubscription);
        level
    }

    fn too_many_ranks(&mut self, span: Range<usize>, counts: &str) {
        let message = format!("{counts} is more than {MAX_RANKS} ranks");
        self.problem("too_many_ranks", span, message, format!("the ranks of all counts may be {MAX_RANKS} at most"));
    }

    /// Overrides `field` by the number at `key`, if there is one.
    fn number(&mut self, place: &Place<'_>, key: &str, bound: Bound, field: &mut f64) {
        let unit = match key.rsplit_once("_per_").or(key.rsplit_once('_')) {
            Some((rest, "s")) if rest.ends_with("gb") => "10^9 bytes per second",
            Some((_, "us")) => "microseconds",
            Some((_, "ns")) => "nanoseconds",
            Some((_, "w")) => "watts",
            Some((_, "hour")) => "US dollars per hour",
            _ if key.ends_with("efficiency") => "a part of the bandwidth",
            _ if key == "oversubscription" => "the bandwidth into the level for each that it carries across",
            _ => "FLOP per second",
        };
        self.number_of(place, key, bound, unit, field);
    }

    /// The same, of this unit.
    fn number_of(&mut self, place: &Place<'_>, key: &str, bound: Bound, unit: &str, field: &mut f64) {
        let Some(value) = place.table.get(key) else { return };
        let shown = || format!("`{}` = {}", place.key(key), &self.text[value.span()]);
        let Some(number) = as_f64(value.get_ref()) else {
            return self.problem("wrong_type", value.span(), format!("{} must be a number", shown()), "write it without quotes or units");
        };
        let (holds, needed) = match bound {
            Bound::Positive => (number > 0.0, "above 0"),
            Bound::NotNegative => (number >= 0.0, "0 or above"),
            Bound::Part => (number > 0.0 && number <= 1.0, "above 0 and 1 at most"),
            Bound::Times => (number >= 1.0, "1 or above"),
        };
        if holds && number.is_finite() {
            *field = number;
        } else {
            self.problem("out_of_range", value.span(), format!("{} must be finite and {needed}", shown()), format!("the unit is {unit}"));
        }
    }

    /// Overrides `field` by the whole number at `key`, if there is one.
    fn whole(&mut self, place: &Place<'_>, key: &str, bound: Bound, field: &mut u64) {
        let Some(value) = place.table.get(key) else { return };
        let shown = || format!("`{}` = {}", place.key(key), &self.text[value.span()]);
        let number = match value.get_ref() {
            DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).ok(),
            // 96e9 bytes is a float to TOML; a float below 2^63 that is whole converts without loss
            DeValue::Float(float) => float
                .as_str()
                .parse::<f64>()
                .ok()
                .filter(|number| number.fract() == 0.0 && number.abs() < 9.2e18)
                .map(|number| number as i128),
            _ => None,
        };
        let Some(number) = number else {
            let message = format!("{} must be a whole number", shown());
            return self.problem("wrong_type", value.span(), message, format!("such as `{key} = 4`"));
        };
        let least = match bound {
            Bound::Positive | Bound::Part | Bound::Times => 1,
            Bound::NotNegative => 0,
        };
        match u64::try_from(number) {
            Ok(number) if number >= least && i64::try_from(number).is_ok() => *field = number,
            _ => {
                let help = if key.ends_with("_bytes") {
                    format!("the catalogue has {}; leave the key out to keep it", Bytes(*field))
                } else {
                    "leave the key out, or count at least one".to_owned()
                };
                self.problem("out_of_range", value.span(), format!("{} must be at least {least} and below 2^63", shown()), help);
            }
        }
    }
}

/// Bandwidth, latency and efficiency between devices of the innermost level.
fn own_link(device: &Device) -> [f64; 3] {
    [device.link_gb_per_s, device.link_latency_us, device.link_efficiency]
}

/// Bandwidth, latency and efficiency of a network.
fn network(device: &Device) -> [f64; 3] {
    [device.nic_gb_per_s, device.nic_latency_us, device.nic_efficiency]
}

/// The ranks of levels, unless they are too many.
fn ranks(levels: &[Level]) -> Option<u64> {
    levels.iter().try_fold(1_u64, |ranks, level| ranks.checked_mul(level.count)).filter(|ranks| *ranks <= MAX_RANKS)
}

fn as_f64(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).ok().map(|number| number as f64),
        DeValue::Float(float) => float.as_str().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterError;
    use crate::estimate::constants::reach;

    fn errors(text: &str) -> String {
        Cluster::parse(text, "c.toml").unwrap_err().to_string()
    }

    #[test]
    fn fields_override_the_catalogue() {
        let text = "name = 'x'\n[device]\nkind = 'cpu-core'\nmemory_bytes = 96e9\nflops = { bf16 = 1e12 }\nlink_latency_us = 0\n[[level]]\nname = 'a'\ncount = 0x4\n[[level]]\nname = 'b'\ncount = 2\n";
        let cluster = Cluster::parse(text, "c.toml").unwrap();
        assert_eq!(cluster.device.memory_bytes, 96_000_000_000);
        assert_eq!(cluster.device.peak(DType::Bf16).0, 1e12);
        assert_eq!(cluster.device.peak(DType::F32).0, 60e9);
        let links: Vec<(f64, f64)> = cluster.levels.iter().map(|level| (level.bandwidth_gb_per_s, level.latency_us)).collect();
        assert_eq!(links, [(6.0, 0.0), (0.15, 50.0)]);
    }

    #[test]
    fn a_file_says_what_kernels_reach() {
        let with = |reach: &str| format!("name = 'x'\n[device]\nkind = 'h100'\n{reach}\n[[level]]\nname = 'a'\ncount = 8\n");
        let cluster = Cluster::parse(&with("reach = { gemm = 0.5, scores = 3 }"), "c.toml").unwrap();
        let (given, plain) = (reach(&cluster.device), reach(&Cluster::parse(&with(""), "c.toml").unwrap().device));
        assert_eq!(given, Reach { gemm: 0.5, scores: 3.0, ..plain });
        for (text, words) in [
            ("reach = { gem = 0.5 }", "did you mean `gemm`"),
            ("reach = { gemm = 1.5 }", "must be finite and above 0 and 1 at most"),
            ("reach = { memory = 0 }", "`device.reach.memory` = 0"),
            ("reach = 0.5", "must be a table"),
        ] {
            let told = errors(&with(text));
            assert!(told.contains(words), "{text}: {told}");
        }
    }

    #[test]
    fn everything_wrong_is_told_in_one_run() {
        let text = "nam = 'x'\n[device]\nkind = 'cpu-cor'\n[[level]]\nname = 'a'\nconut = 4\nbandwidth_gb_per_s = -1\nlatency_us = nan\n";
        assert_eq!(
            errors(text),
            "c.toml:1: unknown key `nam` (partita::cluster::unknown_key)\n  help: did you mean `name`?\n\
             c.toml:1: `name` is missing (partita::cluster::missing_key)\n  help: a cluster has `name`, a table `[device]` with `kind`, and one or more `[[level]]` with `name` and `count`; one of several kinds of devices has these in each `[[group]]`, and a `[[level]]` that joins the groups\n\
             c.toml:3: `device.kind` = 'cpu-cor' is not in the catalogue (partita::cluster::unknown_kind)\n  help: did you mean `cpu-core`?\n\
             c.toml:4: `level[0].count` is missing (partita::cluster::missing_key)\n  help: the number of devices (or of inner levels) that this level joins\n\
             c.toml:6: unknown key `level[0].conut` (partita::cluster::unknown_key)\n  help: did you mean `count`?\n\
             c.toml:7: `level[0].bandwidth_gb_per_s` = -1 must be finite and above 0 (partita::cluster::out_of_range)\n  help: the unit is 10^9 bytes per second\n\
             c.toml:8: `level[0].latency_us` = nan must be finite and 0 or above (partita::cluster::out_of_range)\n  help: the unit is microseconds"
        );
    }

    #[test]
    fn counts_are_whole_and_not_too_many() {
        let with = |count: &str| format!("name = 'x'\n[device]\nkind = 'cpu-core'\n[[level]]\nname = 'a'\ncount = {count}\n");
        assert!(Cluster::parse(&with("1_000_000"), "c.toml").is_ok());
        for (count, code) in [
            ("0", "out_of_range"),
            ("-3", "out_of_range"),
            ("1.5", "wrong_type"),
            ("inf", "wrong_type"),
            ("'4'", "wrong_type"),
            ("1000001", "too_many_ranks"),
            ("9223372036854775807", "too_many_ranks"),
            ("99999999999999999999999999999999999999999999", "syntax"),
        ] {
            let ClusterError { problems, .. } = Cluster::parse(&with(count), "c.toml").unwrap_err();
            // an integer that TOML itself refuses is either's problem to tell
            assert!(problems[0].code.ends_with(code) || count.len() > 20, "{count}: {problems:?}");
        }
        let twice = with("1000") + "[[level]]\nname = 'a'\ncount = 1001\n";
        let shown = errors(&twice);
        assert!(shown.contains("duplicate_name") && shown.contains("1000 x 1001"), "{shown}");
    }

    #[test]
    fn no_shape_of_file_panics() {
        for text in [
            "",
            "level = 3",
            "level = []",
            "level = [1]",
            "device = 1",
            "name = ''",
            "[device]\nflops = 3",
            "= 1",
            "[[device]]",
            "name = \"\\u{1}",
            "é = 1",
        ] {
            errors(text);
        }
    }
}
