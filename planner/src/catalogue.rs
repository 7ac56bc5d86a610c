//! The catalogue of devices: what a cluster file's `kind` stands for, each constant with its source.
//!
//! A cluster file may override any field. The figures are where a plan starts from, not what a machine at hand does.

use std::collections::BTreeMap;

use partita_ir::dtype::DType;

use crate::cluster::Device;

/// The kinds, in the order that error messages list them.
pub const KINDS: &[&str] = &["cpu-core"];

/// The device that `kind` names.
pub fn device(kind: &str) -> Option<Device> {
    match kind {
        "cpu-core" => Some(cpu_core()),
        _ => None,
    }
}

/// One core of a server's CPU with AVX2 or AVX-512. Every figure is a rough default of this project's own, for planning
/// before anything was measured.
fn cpu_core() -> Device {
    // Sustained by a library GEMM at the sizes of a small training step, not the peak of a large one: matrices of 2048
    // reached 190 to 200 GFLOP/s in f32 on one AVX-512 core.
    let f32_rate = 60e9;
    // Half as many lanes.
    let f64_rate = 30e9;
    // Narrower types compute in f32 after a conversion: no kernel uses the CPU's own bf16 or fp16 units.
    let flops = DType::ALL.into_iter().map(|(dtype, _, _)| (dtype, if dtype == DType::F64 { f64_rate } else { f32_rate }));
    Device {
        kind: "cpu-core".to_owned(),
        // A usual server's ratio of memory to cores; a machine that has another says so.
        memory_bytes: 4 << 30,
        flops: flops.collect::<BTreeMap<_, _>>(),
        // A core's share of the sockets' bandwidth when all cores stream; one core alone reaches several times this.
        memory_gb_per_s: 8.0,
        // Handing one loop nest to a pool of threads that waits.
        launch_us: 2.0,
        // Between two threads: a copy through the shared cache or memory, each byte read once and written once.
        link_gb_per_s: 6.0,
        // Waking threads that blocked, at a meeting of ranks that may outnumber the cores.
        link_latency_us: 20.0,
        // 10 Gbit/s Ethernet for the whole machine, of which a core is taken to have an eighth.
        nic_gb_per_s: 0.15,
        // A TCP round through the kernel within one data centre.
        nic_latency_us: 50.0,
        cores: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_there_and_computes_every_type() {
        for kind in KINDS {
            let device = device(kind).unwrap();
            assert_eq!(device.kind, *kind);
            for (dtype, _, _) in DType::ALL {
                assert!(device.peak(dtype).0 > 0.0, "{kind} {dtype}");
            }
        }
        assert!(device("abacus").is_none());
    }
}
