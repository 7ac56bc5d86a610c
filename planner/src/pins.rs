//! Pins: what a person fixes of a plan before the search, as `dp=2,tp=2,sp=true`.
//!
//! A pin is a constraint on layouts, placements or time, checked on the finished plan; it is never a template. A pin
//! that is left out, or given as `*`, is open: the search decides.
//!
//! | pin | values | what it fixes |
//! |---|---|---|
//! | `dp` | 1 .. | ranks over which activations are split by batch |
//! | `tp` | 1 .. | ranks over which every contraction weight is split in use |
//! | `cp` | 1 .. | ranks over which positions are split: of a sequence through attention, of an image (`spatial` axes) through windows |
//! | `pp` | 1 .. | pipeline stages; dp · tp · cp · pp is the number of ranks |
//! | `ep` | 1 .. | ranks over which experts are split, samples exchanged with them; experts tile a stage's ranks again |
//! | `etp` | 1 .. | ranks over which the weights of one expert are split |
//! | `vpp` | 1 .. | pieces of the model that one stage holds |
//! | `zero-group` | 1 .. | ranks over which ZeRO splits what is at rest, among the dp ranks |
//! | `mbs` | 1 .. | sequences per data-parallel rank and micro-batch |
//! | `sp` | true, false | whether norms, dropout and residuals are split by sequence over the tensor ranks |
//! | `zero` | 0 .. 3 | at rest over data ranks: 1 optimizer state, 2 and gradients, 3 and parameters |
//! | `recompute` | none, selective, full | what backward computes again |
//! | `schedule` | see [`ScheduleKind`] | the order of micro-batches in the pipeline |

use std::fmt;

use partita_ir::grad::Recompute;
use serde::{Deserialize, Serialize};

use crate::mesh::{Degrees, ExpertDegrees};
use crate::nearest::did_you_mean;

/// The order in which a pipeline runs its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ScheduleKind {
    /// All forward passes, then all backward passes.
    #[serde(rename = "gpipe")]
    GPipe,
    /// One forward and one backward in turn, after a warm-up that fills the pipeline.
    #[serde(rename = "1f1b")]
    OneFOneB,
    /// 1F1B over several pieces of the model per stage.
    #[serde(rename = "interleaved")]
    Interleaved,
    /// Zero bubble with the memory of 1F1B: weight gradients fill part of the bubble.
    #[serde(rename = "zb-h1")]
    ZbH1,
    /// Zero bubble with twice the memory of 1F1B.
    #[serde(rename = "zb-h2")]
    ZbH2,
    /// Zero bubble over two pieces per stage that fold back, with the memory of 1F1B.
    #[serde(rename = "zb-v")]
    ZbV,
    /// Two pieces per stage that fold back, forward and backward of different micro-batches at once.
    #[serde(rename = "dualpipev")]
    DualPipeV,
}

impl ScheduleKind {
    /// Every schedule with its word.
    pub const ALL: [(ScheduleKind, &'static str); 7] = [
        (ScheduleKind::GPipe, "gpipe"),
        (ScheduleKind::OneFOneB, "1f1b"),
        (ScheduleKind::Interleaved, "interleaved"),
        (ScheduleKind::ZbH1, "zb-h1"),
        (ScheduleKind::ZbH2, "zb-h2"),
        (ScheduleKind::ZbV, "zb-v"),
        (ScheduleKind::DualPipeV, "dualpipev"),
    ];

    /// The word of this schedule.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The schedule that `word` names.
    pub fn from_word(word: &str) -> Option<ScheduleKind> {
        Self::ALL.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What a person fixes of a plan; `None` is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub struct Pins {
    /// Data-parallel ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp: Option<u64>,
    /// Tensor-parallel ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tp: Option<u64>,
    /// Context-parallel ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cp: Option<u64>,
    /// Pipeline stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pp: Option<u64>,
    /// Expert-parallel ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ep: Option<u64>,
    /// Tensor-parallel ranks of one expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etp: Option<u64>,
    /// Pieces of the model per stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpp: Option<u64>,
    /// Data-parallel ranks over which ZeRO splits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_group: Option<u64>,
    /// Sequences per data-parallel rank and micro-batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbs: Option<u64>,
    /// Sequence parallelism of norms, dropout and residuals over the tensor ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sp: Option<bool>,
    /// ZeRO stage, 0 to 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero: Option<u8>,
    /// What backward computes again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
    /// Schedule of the pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleKind>,
    /// Whether every split must be even. A flag of the command line, no pin of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub even: bool,
}

/// Every pin in the order in which they are printed.
const NAMES: [&str; 13] = ["dp", "tp", "cp", "pp", "ep", "etp", "vpp", "zero-group", "mbs", "sp", "zero", "recompute", "schedule"];

/// A pin that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// No pin has this name.
    #[error("unknown pin `{name}`")]
    Unknown {
        /// As written.
        name: String,
    },
    /// Not of the form `name=value`.
    #[error("`{text}` is no pin")]
    Form {
        /// As written.
        text: String,
    },
    /// The value is none that this pin takes.
    #[error("pin `{name}={value}`: `{name}` takes {takes}")]
    Value {
        /// The pin.
        name: &'static str,
        /// As written.
        value: String,
        /// What it takes.
        takes: String,
    },
    /// Given twice with different values.
    #[error("pin `{name}` is given as {first} and as {second}")]
    Twice {
        /// The pin.
        name: &'static str,
        /// The earlier value.
        first: String,
        /// The later value.
        second: String,
    },
    /// Degrees that do not tile the ranks.
    #[error("{pins} = {product} {} {ranks} {of}", if *.whole { "is not the" } else { "does not divide the" })]
    Degrees {
        /// The pins in question, multiplied.
        pins: String,
        /// Their product, saturated.
        product: u64,
        /// What there is.
        ranks: u64,
        /// Of what: ranks, or ranks of a stage.
        of: &'static str,
        /// Whether the product must be all of it.
        whole: bool,
    },
    /// Experts that there are not.
    #[error(
        "pin `{name}={degree}`: the model has {}",
        if *.experts == 0 { "no experts".to_owned() } else { format!("{experts} experts") }
    )]
    Experts {
        /// The pin.
        name: &'static str,
        /// Its value.
        degree: u64,
        /// Experts of the model.
        experts: u64,
    },
    /// Two tilings of the same ranks with no common refinement.
    #[error("experts cannot tile the ranks of a stage as {experts} beside {dense}: a block of one tiling crosses a block of the other")]
    Tiling {
        /// `etp=1 * ep=3 * edp=2`.
        experts: String,
        /// `tp=2 * cp=1 * dp=3`.
        dense: String,
    },
    /// A pin that this version does not honour.
    #[error("pin `{name}={value}` is not supported by this version")]
    Unsupported {
        /// The pin.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        instead: String,
    },
}

impl PinError {
    /// The tilings of these degrees have no common refinement.
    pub fn no_common_tiling(degrees: Degrees) -> PinError {
        let ExpertDegrees { ep, etp } = degrees.tiling();
        let experts = format!("etp={etp} * ep={ep} * edp={}", degrees.edp());
        PinError::Tiling { experts, dense: format!("tp={} * cp={} * dp={}", degrees.tp, degrees.cp, degrees.dp) }
    }

    /// Stable code such as `partita::pin::unknown`.
    pub fn code(&self) -> &'static str {
        match self {
            PinError::Unknown { .. } => "partita::pin::unknown",
            PinError::Form { .. } => "partita::pin::form",
            PinError::Value { .. } => "partita::pin::value",
            PinError::Twice { .. } => "partita::pin::twice",
            PinError::Degrees { .. } => "partita::pin::degrees",
            PinError::Experts { .. } => "partita::pin::experts",
            PinError::Tiling { .. } => "partita::pin::tiling",
            PinError::Unsupported { .. } => "partita::pin::unsupported",
        }
    }

    /// What would fix it.
    pub fn help(&self) -> String {
        match self {
            PinError::Unknown { name } => did_you_mean(name, &NAMES),
            PinError::Form { .. } => "write pins as `dp=2,tp=2`; `tp=*` leaves one open".into(),
            PinError::Value { name, .. } => format!("or leave it open with `{name}=*`"),
            PinError::Twice { name, .. } => format!("give `{name}` once"),
            PinError::Degrees { ranks, whole: true, .. } => {
                format!("leave one of them open with `*`, or take a cluster of as many ranks; {}", divisors(*ranks))
            }
            PinError::Degrees { ranks, .. } => divisors(*ranks),
            PinError::Experts { name, .. } => format!("use `{name}=1`, or leave it open"),
            PinError::Tiling { .. } => {
                "counted from the innermost rank, tp, tp * cp and etp, etp * ep must divide each other: choose other degrees, or leave `ep` and `etp` open".into()
            }
            PinError::Unsupported { instead, .. } => instead.clone(),
        }
    }
}

/// `1, 2 and 4 divide 4`.
fn divisors(n: u64) -> String {
    let all: Vec<String> = (1..=n).filter(|part| n.is_multiple_of(*part)).map(|part| part.to_string()).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last} divide {n}", rest.join(", ")),
        _ => format!("only 1 divides {n}"),
    }
}

impl Pins {
    /// Reads `dp=2,tp=*,sp=true`.
    pub fn parse(text: &str) -> Result<Pins, PinError> {
        let mut pins = Pins::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let form = || PinError::Form { text: part.to_owned() };
            let (name, value) = part.split_once('=').ok_or_else(form)?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() || value.is_empty() {
                return Err(form());
            }
            let one = Pins::one(name, value)?;
            pins.merge(&one)?;
        }
        Ok(pins)
    }

    /// The pins with `name` alone.
    fn one(name: &str, value: &str) -> Result<Pins, PinError> {
        let unknown = || PinError::Unknown { name: name.to_owned() };
        let name = NAMES.into_iter().find(|known| *known == name).ok_or_else(unknown)?;
        let mut pins = Pins::default();
        if value == "*" {
            return Ok(pins);
        }
        let takes = |takes: String| PinError::Value { name, value: value.to_owned(), takes };
        if let Some(degree) = pins.degree(name) {
            let parsed = value.parse().ok().filter(|degree| *degree >= 1);
            *degree = Some(parsed.ok_or_else(|| takes("a whole number from 1 on".into()))?);
            return Ok(pins);
        }
        fn words<T>(rows: &[(T, &str)]) -> String {
            rows.iter().map(|row| row.1).collect::<Vec<_>>().join(", ")
        }
        match name {
            "sp" => pins.sp = Some(value.parse().map_err(|_| takes("true or false".into()))?),
            "zero" => {
                let stage = value.parse().ok().filter(|stage| *stage <= 3);
                pins.zero = Some(stage.ok_or_else(|| takes("0, 1, 2 or 3".into()))?);
            }
            "recompute" => {
                let found = Recompute::from_word(value);
                pins.recompute = Some(found.ok_or_else(|| takes(words(&Recompute::ALL)))?);
            }
            _ => {
                let found = ScheduleKind::from_word(value);
                pins.schedule = Some(found.ok_or_else(|| takes(words(&ScheduleKind::ALL)))?);
            }
        }
        Ok(pins)
    }

    /// The field of a pin that is a whole number.
    fn degree(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "dp" => &mut self.dp,
            "tp" => &mut self.tp,
            "cp" => &mut self.cp,
            "pp" => &mut self.pp,
            "ep" => &mut self.ep,
            "etp" => &mut self.etp,
            "vpp" => &mut self.vpp,
            "zero-group" => &mut self.zero_group,
            "mbs" => &mut self.mbs,
            _ => return None,
        })
    }

    /// Adds the pins of another `--pin`; the same pin may come again with the same value.
    pub fn merge(&mut self, other: &Pins) -> Result<(), PinError> {
        fn join<T: Copy + PartialEq>(
            name: &'static str,
            mine: &mut Option<T>,
            theirs: Option<T>,
            word: impl Fn(T) -> String,
        ) -> Result<(), PinError> {
            match (*mine, theirs) {
                (Some(first), Some(second)) if first != second => Err(PinError::Twice { name, first: word(first), second: word(second) }),
                (None, Some(_)) => {
                    *mine = theirs;
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        let mut other = other.clone();
        for name in NAMES {
            if let Some(theirs) = other.degree(name).map(|field| *field) {
                let mine = self.degree(name).expect("both have the same fields");
                join(name, mine, theirs, |degree| degree.to_string())?;
            }
        }
        join("sp", &mut self.sp, other.sp, |sp| sp.to_string())?;
        join("zero", &mut self.zero, other.zero, |zero| zero.to_string())?;
        join("recompute", &mut self.recompute, other.recompute, |recompute| recompute.word().to_owned())?;
        join("schedule", &mut self.schedule, other.schedule, |schedule| schedule.to_string())?;
        self.even |= other.even;
        Ok(())
    }

    /// Whether some plan on `ranks` ranks can satisfy them, as far as the degrees tell.
    pub fn check(&self, ranks: u64) -> Result<(), PinError> {
        fn tile(pins: &[(&str, Option<u64>)], ranks: u64, of: &'static str, whole: bool) -> Result<(), PinError> {
            let given: Vec<(&str, u64)> = pins.iter().filter_map(|(name, degree)| degree.map(|degree| (*name, degree))).collect();
            let product = given.iter().fold(1_u64, |product, (_, degree)| product.saturating_mul(*degree));
            let whole = whole && given.len() == pins.len();
            if product == ranks || (!whole && ranks.is_multiple_of(product)) {
                return Ok(());
            }
            let pins = given.iter().map(|(name, degree)| format!("{name}={degree}")).collect::<Vec<_>>().join(" * ");
            Err(PinError::Degrees { pins, product, ranks, of, whole })
        }
        tile(&[("dp", self.dp), ("tp", self.tp), ("cp", self.cp), ("pp", self.pp)], ranks, "ranks", true)?;
        // experts tile the ranks of one stage again
        tile(&[("ep", self.ep), ("etp", self.etp), ("pp", self.pp)], ranks, "ranks", false)?;
        tile(&[("zero-group", self.zero_group)], self.dp.unwrap_or(ranks), "data-parallel ranks", false)
    }

    /// Refuses, by name, the first pin that this version does not honour. Neutral values are always honoured, and so is
    /// every schedule where there is one stage; where `pp` is open, ask [`Pins::unsupported_in`] for each number of stages.
    pub fn unsupported(&self) -> Result<(), PinError> {
        self.unsupported_in(self.pp.unwrap_or(1))
    }

    /// Refuses pins about experts for a model that has none, and more ranks than there are experts.
    pub fn check_experts(&self, experts: Option<u64>) -> Result<(), PinError> {
        for (name, degree) in [("ep", self.ep), ("etp", self.etp)] {
            if let Some(degree) = degree.filter(|degree| *degree != 1 && experts.is_none()) {
                return Err(PinError::Experts { name, degree, experts: 0 });
            }
        }
        match (self.ep, experts) {
            (Some(degree), Some(experts)) if degree > experts => Err(PinError::Experts { name: "ep", degree, experts }),
            _ => Ok(()),
        }
    }

    /// Refuses what not even an estimate honours: schedules whose two pieces a rank fold back with another number of pieces.
    pub fn unsupported_when_estimated(&self) -> Result<(), PinError> {
        let folded = matches!(self.schedule, Some(ScheduleKind::ZbV | ScheduleKind::DualPipeV));
        let plain = matches!(self.schedule, Some(ScheduleKind::OneFOneB | ScheduleKind::GPipe | ScheduleKind::ZbH1 | ScheduleKind::ZbH2));
        match self.vpp {
            Some(vpp) if folded && vpp != 2 => {
                let instead = "its two pieces a rank fold back: use `vpp=2`, or leave `vpp` open".to_owned();
                Err(PinError::Unsupported { name: "vpp", value: vpp.to_string(), instead })
            }
            Some(vpp) if plain && vpp != 1 => {
                let instead = "this schedule has one piece a rank: use `vpp=1` or `schedule=interleaved`".to_owned();
                Err(PinError::Unsupported { name: "vpp", value: vpp.to_string(), instead })
            }
            _ => Ok(()),
        }
    }

    /// [`Pins::unsupported`] in a pipeline of `stages` stages.
    pub fn unsupported_in(&self, stages: u64) -> Result<(), PinError> {
        for (name, degree) in [("vpp", self.vpp), ("zero-group", self.zero_group)] {
            // a group of all data-parallel ranks is what ZeRO does by itself
            let neutral = |degree| degree == 1 || (name == "zero-group" && Some(degree) == self.dp);
            if let Some(degree) = degree.filter(|degree| !neutral(*degree)) {
                let instead = format!("use `{name}=1`, or leave it open");
                return Err(PinError::Unsupported { name, value: degree.to_string(), instead });
            }
        }
        match self.schedule {
            None | Some(ScheduleKind::OneFOneB | ScheduleKind::GPipe) => Ok(()),
            Some(_) if stages == 1 => Ok(()),
            Some(schedule) => {
                let instead = "with more than one stage use `schedule=1f1b` or `schedule=gpipe`".to_owned();
                Err(PinError::Unsupported { name: "schedule", value: schedule.to_string(), instead })
            }
        }
    }
}

/// As `--pin` takes them: `dp=2,tp=2`; nothing if all are open.
impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = self.clone();
        let parts = NAMES.into_iter().filter_map(|name| {
            let value = match name {
                "sp" => self.sp.map(|sp| sp.to_string()),
                "zero" => self.zero.map(|zero| zero.to_string()),
                "recompute" => self.recompute.map(|recompute| recompute.word().to_owned()),
                "schedule" => self.schedule.map(|schedule| schedule.to_string()),
                _ => copy.degree(name).and_then(|degree| *degree).map(|degree| degree.to_string()),
            };
            value.map(|value| format!("{name}={value}"))
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(text: &str) -> Pins {
        Pins::parse(text).unwrap()
    }

    const ALL: &str = "dp=2,tp=3,cp=4,pp=5,ep=6,etp=7,vpp=8,zero-group=9,mbs=10,sp=false,zero=3,recompute=full,schedule=zb-h1";

    #[test]
    fn every_pin_is_read_and_printed() {
        assert_eq!(pins(ALL).to_string(), ALL);
        assert_eq!(pins(" tp = 2 , dp=*,").to_string(), "tp=2");
        for (schedule, word) in ScheduleKind::ALL {
            assert_eq!(pins(&format!("schedule={word}")).schedule, Some(schedule));
        }
    }

    #[test]
    fn json_holds_what_is_pinned_under_the_same_names() {
        assert_eq!(
            serde_json::to_string(&pins("zero-group=2,schedule=1f1b,recompute=none")).unwrap(),
            r#"{"zero-group":2,"recompute":"none","schedule":"1f1b"}"#
        );
        assert_eq!(serde_json::from_str::<Pins>(&serde_json::to_string(&pins(ALL)).unwrap()).unwrap(), pins(ALL));
    }

    #[test]
    fn bad_pins_say_what_would_do() {
        for (text, message, help) in [
            ("zerogroup=2", "unknown pin `zerogroup`", "did you mean `zero-group`?"),
            ("dp", "`dp` is no pin", "write pins as `dp=2,tp=2`; `tp=*` leaves one open"),
            ("dp=0", "pin `dp=0`: `dp` takes a whole number from 1 on", "or leave it open with `dp=*`"),
            ("zero=4", "pin `zero=4`: `zero` takes 0, 1, 2 or 3", "or leave it open with `zero=*`"),
            ("tp=-1", "pin `tp=-1`: `tp` takes a whole number from 1 on", "or leave it open with `tp=*`"),
            ("recompute=all", "pin `recompute=all`: `recompute` takes none, selective, full", "or leave it open with `recompute=*`"),
            ("dp=2,dp=4", "pin `dp` is given as 2 and as 4", "give `dp` once"),
        ] {
            let error = Pins::parse(text).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.help().as_str()), (message, help));
        }
        let mut merged = pins("dp=2");
        merged.merge(&pins("tp=2,dp=2")).unwrap();
        assert_eq!(merged, pins("dp=2,tp=2"));
        assert_eq!(merged.merge(&pins("tp=4")).unwrap_err().code(), "partita::pin::twice");
    }

    #[test]
    fn degrees_tile_the_ranks() {
        for (text, ranks) in
            [("", 4), ("dp=2,tp=2", 4), ("dp=2,tp=2,cp=1,pp=2", 8), ("dp=2", 6), ("ep=4,etp=2,pp=2", 16), ("zero-group=2,dp=4", 8)]
        {
            assert_eq!(pins(text).check(ranks), Ok(()), "{text}");
        }
        for (text, ranks, message) in [
            ("dp=3", 4, "dp=3 = 3 does not divide the 4 ranks"),
            ("dp=2,tp=4", 4, "dp=2 * tp=4 = 8 does not divide the 4 ranks"),
            ("dp=2,tp=1,cp=1,pp=1", 4, "dp=2 * tp=1 * cp=1 * pp=1 = 2 is not the 4 ranks"),
            ("zero-group=3,dp=4", 8, "zero-group=3 = 3 does not divide the 4 data-parallel ranks"),
            ("dp=18446744073709551615,tp=2", 8, "dp=18446744073709551615 * tp=2 = 18446744073709551615 does not divide the 8 ranks"),
        ] {
            let error = pins(text).check(ranks).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        assert_eq!(pins("dp=3").check(4).unwrap_err().help(), "1, 2 and 4 divide 4");
    }

    #[test]
    fn neutral_values_are_always_honoured() {
        assert_eq!(pins("ep=1,etp=1,vpp=1,zero-group=1,zero=0,recompute=none,schedule=dualpipev,pp=1").unsupported(), Ok(()));
        assert_eq!(pins("dp=4,zero=2,zero-group=4,recompute=selective,schedule=gpipe,pp=4").unsupported(), Ok(()));
        for (text, refused) in [("pp=2,vpp=2", "vpp=2"), ("schedule=zb-v,pp=2", "schedule=zb-v"), ("zero-group=2", "zero-group=2")] {
            let error = pins(text).unsupported().unwrap_err();
            assert_eq!(error.to_string(), format!("pin `{refused}` is not supported by this version"));
        }
        // an open pp may still become 1
        assert_eq!(pins("schedule=zb-v").unsupported(), Ok(()));
        assert!(pins("schedule=zb-v").unsupported_in(2).is_err());
    }

    #[test]
    fn experts_are_those_of_the_model() {
        let told = |text: &str, experts| pins(text).check_experts(experts).map_err(|error| error.to_string());
        assert_eq!(told("ep=1,etp=1", None), Ok(()));
        assert_eq!(told("ep=4,etp=2", Some(8)), Ok(()));
        assert_eq!(told("ep=2", None), Err("pin `ep=2`: the model has no experts".to_owned()));
        assert_eq!(told("etp=2", None), Err("pin `etp=2`: the model has no experts".to_owned()));
        assert_eq!(told("ep=16", Some(8)), Err("pin `ep=16`: the model has 8 experts".to_owned()));
    }
}
