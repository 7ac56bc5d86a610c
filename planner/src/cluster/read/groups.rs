//! Reading the groups of a mixed cluster and the level that joins them.

use std::ops::Range;

use toml::Spanned;

use super::super::groups::combined;
use super::super::{Cluster, Device, Group, Level, MAX_RANKS};
use super::{Bound, Place, Reader, network, ranks};

const GROUP: &[&str] = &["name", "device", "level"];

impl Reader<'_> {
    /// A cluster with groups.
    pub(super) fn mixed(&mut self, top: &Place<'_>, name: Option<String>) -> Option<Cluster> {
        if let Some((key, _)) = top.table.get_key_value("device") {
            let help = "give every group its own `[group.device]` and leave `[device]` out, or the groups";
            self.problem("two_forms", key.span(), "`device` and `group` are both given".into(), help);
        }
        let (span, places) = self.tables(top, "group")?;
        let groups: Vec<Option<Group>> = places.iter().map(|place| self.group(place)).collect();
        self.all_ranks(span, &groups);
        let groups: Option<Vec<Group>> = groups.into_iter().collect();
        let device = groups.as_ref().filter(|_| self.problems.is_empty()).map(|groups| combined(groups));
        let level = self.joining(top, places.len() as u64, device.as_ref());
        Some(Cluster { name: name?, device: device?, levels: vec![level?], groups: groups? })
    }

    fn group(&mut self, place: &Place<'_>) -> Option<Group> {
        self.known_keys(place, GROUP);
        let named = place.table.contains_key("name").then(|| self.name(place));
        let device = self.device(place);
        let levels = self.levels(place, device.as_ref());
        let device = device?;
        Some(Group { name: named.unwrap_or_else(|| Some(device.kind.clone()))?, device, levels: levels? })
    }

    /// That all groups together are not too many ranks, where each is told not to be.
    fn all_ranks(&mut self, span: Range<usize>, groups: &[Option<Group>]) {
        let counts: Option<Vec<u64>> = groups.iter().map(|group| ranks(&group.as_ref()?.levels)).collect();
        let Some(counts) = counts else { return };
        if counts.iter().sum::<u64>() > MAX_RANKS {
            let shown = counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" + ");
            self.too_many_ranks(span, &shown);
        }
    }

    /// The one level that joins all groups. Its usual link is that of the slowest network card.
    fn joining(&mut self, top: &Place<'_>, n_groups: u64, device: Option<&Device>) -> Option<Level> {
        let (_, places) = self.tables(top, "level")?;
        let place = places.first()?;
        let mut level = self.level(place, device.map(network));
        level.count = n_groups;
        self.whole(place, "count", Bound::Positive, &mut level.count);
        if level.count != n_groups {
            let span = place.table.get("count").map_or(place.span.clone(), Spanned::span);
            let message = format!("`{}` = {}, and there are {n_groups} groups", place.key("count"), level.count);
            self.problem("wrong_count", span, message, "leave it out: the level that joins groups joins all of them");
        }
        if let Some(second) = places.get(1) {
            let message = format!("`level` has {} entries, and one joins the groups", places.len());
            self.problem("wrong_count", second.span.clone(), message, "levels inside a group begin with `[[group.level]]`");
        }
        Some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "[[group]]\ndevice = { kind = 'cpu-core' }\n[[group.level]]\nname = 'a'\ncount = 4\n";
    const JOINING: &str = "[[level]]\nname = 'b'\n";

    fn read(text: &str) -> Result<Cluster, String> {
        Cluster::parse(&format!("name = 'x'\n{text}"), "c.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn the_joining_level_is_as_the_slowest_card_unless_it_says_otherwise() {
        let group = |latency: u64, gb: f64| GROUP.replace("-core'", &format!("-core', nic_latency_us = {latency}, nic_gb_per_s = {gb}"));
        let groups = group(7, 0.5) + &group(9, 3.0);
        let level = read(&format!("{groups}{JOINING}")).unwrap().levels.remove(0);
        let expected =
            Level { name: "b".into(), count: 2, bandwidth_gb_per_s: 0.5, latency_us: 9.0, efficiency: 1.0, oversubscription: 1.0 };
        assert_eq!(level, expected);
        let more = "count = 2\nbandwidth_gb_per_s = 4\noversubscription = 2.5\n";
        let level = read(&format!("{groups}{JOINING}{more}")).unwrap().levels.remove(0);
        assert_eq!((level.bandwidth_gb_per_s, level.oversubscription), (4.0, 2.5));
    }

    #[test]
    fn everything_wrong_with_groups_is_told_in_one_run() {
        let text = "[device]\nkind = 'cpu-core'\n[[group]]\n[[group.level]]\nname = 'a'\n[[group]]\ndevice = { kind = 'cpu-cor' }\nnam = 'y'\n\
                    level = []\n[[level]]\nname = 'b'\ncount = 3\n[[level]]\nname = 'c'\ncount = 4\noversubscription = 0.5\n";
        let shape = "a cluster has `name`, a table `[device]` with `kind`, and one or more `[[level]]` with `name` and `count`; \
                     one of several kinds of devices has these in each `[[group]]`, and a `[[level]]` that joins the groups";
        assert_eq!(
            read(text).unwrap_err(),
            format!(
                "c.toml:2: `device` and `group` are both given (partita::cluster::two_forms)\n  help: give every group its own `[group.device]` and leave `[device]` out, or the groups\n\
                 c.toml:4: `group[0].device` is missing (partita::cluster::missing_key)\n  help: {shape}\n\
                 c.toml:5: `group[0].level[0].count` is missing (partita::cluster::missing_key)\n  help: the number of devices (or of inner levels) that this level joins\n\
                 c.toml:8: `group[1].device.kind` = 'cpu-cor' is not in the catalogue (partita::cluster::unknown_kind)\n  help: did you mean `cpu-core`?\n\
                 c.toml:9: unknown key `group[1].nam` (partita::cluster::unknown_key)\n  help: did you mean `name`?\n\
                 c.toml:10: `group[1].level` must be a list of tables, not empty (partita::cluster::wrong_type)\n  help: begin each level with `[[group.level]]`\n\
                 c.toml:13: `level[0].count` = 3, and there are 2 groups (partita::cluster::wrong_count)\n  help: leave it out: the level that joins groups joins all of them\n\
                 c.toml:14: `level` has 2 entries, and one joins the groups (partita::cluster::wrong_count)\n  help: levels inside a group begin with `[[group.level]]`"
            )
        );
        let number = read(&format!("{GROUP}{GROUP}{JOINING}oversubscription = 0.5\n")).unwrap_err();
        assert_eq!(
            number,
            "c.toml:14: `level[0].oversubscription` = 0.5 must be finite and 1 or above (partita::cluster::out_of_range)\n  help: the unit is the bandwidth into the level for each that it carries across"
        );
    }

    #[test]
    fn one_problem_at_a_time() {
        let many = GROUP.replace('4', "600000");
        for (text, words) in [
            (format!("{GROUP}{GROUP}"), "`level` is missing"),
            (format!("{many}{many}{JOINING}"), "600000 + 600000 is more than 1000000 ranks"),
            (format!("{}{GROUP}{JOINING}", GROUP.replace('4', "2000000")), "c.toml:4: 2000000 is more than 1000000 ranks"),
            ("group = 3\nlevel = 3\n".into(), "`group` must be a list of tables, not empty"),
            (format!("group = [1]\n{JOINING}"), "`group[0]` must be a table"),
            (format!("{GROUP}[group.level.device]\n{JOINING}"), "unknown key `group[0].level[0].device`"),
            (format!("{}{JOINING}", GROUP.replace("{ kind = 'cpu-core' }", "3")), "`group[0].device` must be a table"),
            (format!("{}{JOINING}", GROUP.replace("'cpu-core'", "'cpu-core', flops = 3")), "`group[0].device.flops` must be a table"),
            (format!("{GROUP}name = 'a'\n[[level]]\n"), "duplicate"),
            (format!("[[group]]\nname = ''\n{}{JOINING}", GROUP.replace("[[group]]\n", "")), "`group[0].name` must be a text"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(words), "{text}\n{error}");
        }
    }
}
