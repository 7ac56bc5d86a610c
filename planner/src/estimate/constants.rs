//! What devices reach of their peaks. Fitted on published runs unless another source is named; `make validate` lists each
//! with its meaning.

use partita_ir::dtype::DType;

use super::stack::Attention;
use crate::cluster::Device;

/// What kernels reach on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// Of the peak, in large 16-bit matrix products.
    pub gemm: f64,
    /// Of the peak, in large 8-bit matrix products with their casts.
    pub gemm_fp8: f64,
    /// Elements of the summed dimension that filling and draining a tile takes the time of.
    pub ramp_k: f64,
    /// Of the memory bandwidth, in streaming kernels: 0.85, about what BabelStream's copies reach on A100 and H100; not fitted.
    pub memory: f64,
    /// Of the 16-bit peak, in the forward pass of each attention kernel.
    pub flash1: f64,
    /// Likewise.
    pub flash2: f64,
    /// Likewise.
    pub cudnn: f64,
    /// What the backward pass reaches of the forward pass.
    pub attention_backward: f64,
    /// Times the memory traffic of passes over scores.
    pub scores: f64,
    /// What a batched product reaches where a dimension is no multiple of 8 elements (16 bytes).
    pub misaligned: f64,
}

/// What a device reaches: by its kind, and what its cluster file says.
pub fn reach(device: &Device) -> Reach {
    let mut reach = of_kind(device);
    for (word, field) in reach.fields() {
        if let Some(given) = device.reach.get(word) {
            *field = *given;
        }
    }
    reach
}

fn of_kind(device: &Device) -> Reach {
    let is_hopper = ["h100", "h100-500w", "h800", "h200"].contains(&device.kind.as_str());
    let is_blackwell = ["b200", "b300", "gb200", "gb300"].contains(&device.kind.as_str());
    if device.kind == "cpu-core" {
        return Reach {
            gemm: 1.0,
            gemm_fp8: 1.0,
            ramp_k: 0.0,
            memory: 1.0,
            flash1: 0.5,
            flash2: 0.5,
            cudnn: 0.5,
            attention_backward: 1.0,
            scores: 1.0,
            misaligned: 1.0,
        };
    }
    if !is_hopper && !is_blackwell {
        return ampere();
    }
    let hopper = hopper();
    // what the best measured product reaches beside Hopper's best (stas00/ml-engineering, accelerator page: H100 0.803 in
    // 16 and 0.709 in 8 bits); other kernels as on Hopper
    let beside = |sixteen: f64, eight: f64| Reach {
        gemm: hopper.gemm * sixteen / 0.803,
        gemm_fp8: hopper.gemm_fp8 * eight / 0.709,
        // the exponentials did not become faster with the products: about 1.0 of 2.25 PFLOP/s (rough)
        cudnn: 0.45,
        ..hopper.clone()
    };
    match device.kind.as_str() {
        "b200" => beside(0.776, 0.763),
        "b300" => beside(0.786, 0.745),
        "gb200" | "gb300" => beside(0.729, 0.723),
        _ => hopper,
    }
}

fn ampere() -> Reach {
    Reach {
        gemm: 0.740,
        gemm_fp8: 0.508,
        ramp_k: 32.0,
        memory: 0.85,
        flash1: 0.429,
        flash2: 0.62,
        cudnn: 0.6,
        attention_backward: 0.644,
        scores: 2.332,
        misaligned: 0.063,
    }
}

fn hopper() -> Reach {
    Reach { gemm: 0.622, flash1: 0.242, flash2: 0.36, cudnn: 0.628, ..ampere() }
}

impl Reach {
    /// Its numbers by the words of cluster files.
    fn fields(&mut self) -> [(&'static str, &mut f64); 10] {
        [
            ("gemm", &mut self.gemm),
            ("gemm_fp8", &mut self.gemm_fp8),
            ("ramp_k", &mut self.ramp_k),
            ("memory", &mut self.memory),
            ("flash1", &mut self.flash1),
            ("flash2", &mut self.flash2),
            ("cudnn", &mut self.cudnn),
            ("attention_backward", &mut self.attention_backward),
            ("scores", &mut self.scores),
            ("misaligned", &mut self.misaligned),
        ]
    }

    /// The words that cluster files have for them.
    pub fn words() -> Vec<&'static str> {
        let mut any = hopper();
        any.fields().map(|(word, _)| word).to_vec()
    }

    /// Whether a word is a part of a peak, not a number of elements or times.
    pub fn is_part(word: &str) -> bool {
        !["ramp_k", "scores"].contains(&word)
    }

    /// What an attention kernel reaches.
    pub fn attention(&self, kernel: Attention) -> f64 {
        match kernel {
            Attention::Flash1 => self.flash1,
            Attention::Flash2 | Attention::Unfused => self.flash2,
            Attention::Cudnn => self.cudnn,
        }
    }

    /// What matrix products of a type reach.
    pub fn of_gemm(&self, dtype: DType) -> f64 {
        if matches!(dtype, DType::Fp8 | DType::Fp4) { self.gemm_fp8 } else { self.gemm }
    }
}
