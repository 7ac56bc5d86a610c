//! Precision as a recipe: in which types a training step holds and computes its numbers.
//!
//! A recipe is a row of [`RECIPES`]; [`Precision`] is a row with single columns perhaps replaced. Planner, code generation
//! and estimates read nothing else. [`types`] puts a recipe into a graph.

mod scale;
mod types;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

pub use scale::LossScale;
pub(crate) use types::assign;

/// The types of one way to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Precision {
    /// The row that it began as.
    pub recipe: Recipe,
    /// Operands of matrix products as the device multiplies them.
    pub product: DType,
    /// Parameters as they are read, and what operators make of them.
    pub parameter: DType,
    /// Gradients of parameters: as they are computed, pending between ranks, and added up over micro-batches.
    pub gradient: DType,
    /// What the optimizer updates: a copy of its own where it is not the parameter's type.
    pub master: DType,
    /// Moments.
    pub moments: DType,
    /// Arithmetic of every operator and its sums, the statistics of norms and softmaxes, and the loss.
    pub accumulate: DType,
    /// What is pending between ranks is merged in this type and rounded once.
    pub reduce: DType,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Everything in 64 bits.
    F64,
    /// Everything in 32 bits.
    F32,
    /// bfloat16 with a master copy (Kalamkar et al., 2019): the range of f32, so nothing is scaled.
    Bf16,
    /// Half precision with a master copy and a scaled loss (Micikevicius et al., 2018).
    Fp16,
    /// Products of 8 bits scaled by tensor, all else as bf16 (Micikevicius et al., 2022; NVIDIA's Transformer Engine).
    Fp8,
    /// Products of 8 bits scaled by tiles of 1×128 and 128×128, moments in bf16 (DeepSeek-V3, 2024, section 3.3).
    Fp8Block,
    /// Products of 4 bits scaled by blocks of 16, all else as bf16 (NVIDIA, 2025, NVFP4).
    Fp4,
}

/// Every recipe with its word and its columns: product, parameter, gradient, master, moments, accumulate, reduce.
pub const RECIPES: [(Recipe, &str, [DType; 7]); 7] = {
    use DType::{Bf16, F32, F64, Fp4, Fp8, Fp16};
    [
        (Recipe::F64, "f64", [F64, F64, F64, F64, F64, F64, F64]),
        (Recipe::F32, "f32", [F32, F32, F32, F32, F32, F32, F32]),
        (Recipe::Bf16, "bf16", [Bf16, Bf16, F32, F32, F32, F32, F32]),
        (Recipe::Fp16, "fp16", [Fp16, Fp16, F32, F32, F32, F32, F32]),
        (Recipe::Fp8, "fp8", [Fp8, Bf16, F32, F32, F32, F32, F32]),
        (Recipe::Fp8Block, "fp8_block", [Fp8, Bf16, F32, F32, Bf16, F32, F32]),
        (Recipe::Fp4, "fp4", [Fp4, Bf16, F32, F32, F32, F32, F32]),
    ]
};

impl Recipe {
    fn row(self) -> (Recipe, &'static str, [DType; 7]) {
        RECIPES.into_iter().find(|row| row.0 == self).expect("every recipe has a row")
    }

    /// The word that model files use.
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// The recipe that `word` names.
    pub fn from_word(word: &str) -> Option<Recipe> {
        RECIPES.into_iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// Its columns as the table has them.
    pub const fn precision(self) -> Precision {
        let mut n = 0;
        while RECIPES[n].0 as usize != self as usize {
            n += 1;
        }
        let (recipe, _, [product, parameter, gradient, master, moments, accumulate, reduce]) = RECIPES[n];
        Precision { recipe, product, parameter, gradient, master, moments, accumulate, reduce }
    }
}

/// The columns that may be replaced, with their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// [`Precision::gradient`].
    Gradient,
    /// [`Precision::master`].
    Master,
    /// [`Precision::moments`].
    Moments,
    /// [`Precision::reduce`].
    Reduce,
}

impl Column {
    /// Every column that may be replaced, with its word.
    pub const ALL: [(Column, &'static str); 4] =
        [(Column::Gradient, "gradient"), (Column::Master, "master"), (Column::Moments, "moments"), (Column::Reduce, "reduce")];

    /// The column that `word` names.
    pub fn from_word(word: &str) -> Option<Column> {
        Self::ALL.into_iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

impl Precision {
    /// 32 bits throughout.
    pub const F32: Precision = Recipe::F32.precision();
    /// 64 bits throughout.
    pub const F64: Precision = Recipe::F64.precision();

    /// The type in a column.
    pub fn column(&self, column: Column) -> DType {
        match column {
            Column::Gradient => self.gradient,
            Column::Master => self.master,
            Column::Moments => self.moments,
            Column::Reduce => self.reduce,
        }
    }

    /// The types that a column may have: that of the arithmetic, the parameter's, and for moments any of 16 bits.
    pub fn choices(&self, column: Column) -> Vec<DType> {
        let mut choices = vec![self.accumulate];
        match column {
            // merged in the arithmetic's type: rounding after each rank would make sums depend on their number
            Column::Reduce => {}
            Column::Moments => choices.extend([DType::Bf16, DType::Fp16]),
            Column::Gradient | Column::Master => choices.push(self.parameter),
        }
        choices.dedup();
        choices
    }

    /// The same with a column replaced by one of its [`Precision::choices`].
    #[must_use]
    pub fn with(mut self, column: Column, dtype: DType) -> Self {
        match column {
            Column::Gradient => self.gradient = dtype,
            Column::Master => self.master = dtype,
            Column::Moments => self.moments = dtype,
            Column::Reduce => self.reduce = dtype,
        }
        self
    }

    /// Whether the optimizer updates a copy of its own.
    pub fn has_master(&self) -> bool {
        self.master != self.parameter
    }

    /// Whether products are multiplied as they are held; others are planned and not run.
    pub fn is_held(&self) -> bool {
        self.product == self.parameter
    }

    /// What the loss is multiplied by unless the model says otherwise: gradients of half precision fall out of its range.
    pub fn loss_scale(&self) -> Option<LossScale> {
        (self.parameter == DType::Fp16).then(LossScale::dynamic)
    }

    /// Whether values may be of this floating-point type.
    pub fn holds(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::F64) || [self.parameter, self.gradient, self.master, self.moments].contains(&dtype)
    }

    /// Whether every value has the type of the arithmetic.
    fn is_uniform(&self) -> bool {
        [self.parameter, self.gradient, self.master, self.moments].iter().all(|dtype| *dtype == self.accumulate)
    }
}

/// As model files write it: `bf16`, or `bf16(moments = bf16)` where columns are not the recipe's.
impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = self.recipe.precision();
        let replaced: Vec<String> = Column::ALL
            .into_iter()
            .filter(|(column, _)| self.column(*column) != plain.column(*column))
            .map(|(column, word)| format!("{word} = {}", self.column(column)))
            .collect();
        f.write_str(self.recipe.word())?;
        if replaced.is_empty() { Ok(()) } else { write!(f, "({})", replaced.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_in_order_and_told_as_they_are_written() {
        for (recipe, word, _) in RECIPES {
            assert_eq!((Recipe::from_word(word), recipe.precision().to_string()), (Some(recipe), word.to_owned()));
            let precision = recipe.precision();
            for (column, _) in Column::ALL {
                assert!(precision.choices(column).contains(&precision.column(column)), "{word} {column:?}");
            }
        }
        let narrow = Recipe::Bf16.precision().with(Column::Moments, DType::Bf16).with(Column::Gradient, DType::Bf16);
        assert_eq!(narrow.to_string(), "bf16(gradient = bf16, moments = bf16)");
    }
}
