//! The catalogue of devices: what a cluster file's `kind` stands for, each constant with its source.
//!
//! A cluster file may override any field. The figures are where a plan starts from, not what a machine at hand does.
//!
//! Sources, unless a device says otherwise. Most were written down from memory of the named source: where money depends on a
//! figure, look it up or measure it.
//! - `flops`, `power_w`, NVLink and PCIe: NVIDIA's data sheets (V100 2018, A100 2021, H100 2023, H200 2024, HGX and GB200 NVL72
//!   2024, HGX B300 and GB300 NVL72 2025; Ada architecture paper 2022), dense, without sparsity. What a device has no units for
//!   it computes in the next wider type that it has.
//! - `memory_gb_per_s`, NVLink and network cards: also collected in stas00/ml-engineering (network and accelerator pages).
//! - `memory_bytes`: what the driver reports as the total (`nvidia-smi`), a little below or above the name of the device.
//! - `launch_us`, `nic_latency_us`, disks, and what PCIe's protocol takes: rough.
//! - `compute_units`: streaming multiprocessors that are enabled in the product.
//! - `host_memory_bytes`, `nvme_bytes`: an eighth (NVL72: a quarter of a tray) of what the usual server of its time has.
//! - `usd_per_hour`: roughly what large clouds asked on demand at the end of 2025, per device; rents differ by factors.

use std::collections::BTreeMap;

use partita_ir::dtype::DType;

use crate::cluster::Device;

/// The kinds, in the order that error messages list them.
pub const KINDS: &[&str] = &[
    "cpu-core",
    "v100-16gb",
    "v100-32gb",
    "a100-40gb",
    "a100-80gb",
    "a800",
    "h100",
    "h100-500w",
    "h800",
    "h200",
    "b200",
    "b300",
    "gb200",
    "gb300",
    "rtx4090",
];

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TB: u64 = 1_000_000_000_000;

/// The device that `kind` names.
pub fn device(kind: &str) -> Option<Device> {
    let device = match kind {
        "cpu-core" => cpu_core(),
        "v100-16gb" => v100(),
        "v100-32gb" => Device { memory_bytes: 32_510 * MIB, ..v100() },
        // the first A100 has HBM2, later ones HBM2e
        "a100-40gb" => Device { memory_bytes: 40_536 * MIB, memory_gb_per_s: 1555.0, usd_per_hour: 4.1, ..a100() },
        "a100-80gb" => a100(),
        // 8 of 12 NVLinks, 200 GB/s a direction
        "a800" => Device { link_gb_per_s: 200.0, ..a100() },
        "h100" => h100(),
        // 96 GB of HBM2e at 2.4 TB/s, held at 500 W: the machines of torchtitan's tables (pytorch/torchtitan, docs/performance.md)
        "h100-500w" => Device { memory_bytes: 97_871 * MIB, memory_gb_per_s: 2400.0, power_w: 500.0, ..h100() },
        // NVLink of 200 GB/s a direction; FP64 is cut to 1 TFLOP/s
        "h800" => Device { flops: flops([1.0, 67.0, 989.0, 989.0, 1979.0, 1979.0]), link_gb_per_s: 200.0, ..h100() },
        "h200" => Device { memory_bytes: 143_771 * MIB, memory_gb_per_s: 4800.0, usd_per_hour: 7.9, ..h100() },
        "b200" => b200(),
        "b300" => Device {
            flops: flops([1.25, 75.0, 2250.0, 2250.0, 4500.0, 13_500.0]),
            memory_bytes: 275_040 * MIB,
            // ConnectX-8, 800 Gbit/s a device; PCIe 6
            nic_gb_per_s: 100.0,
            host_link_gb_per_s: 110.0,
            power_w: 1100.0,
            usd_per_hour: 16.0,
            ..b200()
        },
        "gb200" => gb200(),
        "gb300" => Device {
            flops: flops([1.39, 80.0, 2500.0, 2500.0, 5000.0, 15_000.0]),
            memory_bytes: 284_208 * MIB,
            nic_gb_per_s: 100.0,
            power_w: 1400.0,
            usd_per_hour: 18.0,
            ..gb200()
        },
        "rtx4090" => rtx4090(),
        _ => return None,
    };
    Some(Device { kind: kind.to_owned(), ..device })
}

/// TFLOP/s in f64, f32, bf16, fp16, fp8, fp4.
fn flops([f64, f32, bf16, fp16, fp8, fp4]: [f64; 6]) -> BTreeMap<DType, f64> {
    let types = [DType::F64, DType::F32, DType::Bf16, DType::Fp16, DType::Fp8, DType::Fp4];
    types.into_iter().zip([f64, f32, bf16, fp16, fp8, fp4]).map(|(dtype, tera)| (dtype, tera * 1e12)).collect()
}

/// V100-SXM2 with 16 GB, as in AWS p3.16xlarge.
fn v100() -> Device {
    Device {
        kind: String::new(),
        memory_bytes: 16_160 * MIB,
        // tensor cores take fp16 only
        flops: flops([7.8, 15.7, 15.7, 125.0, 125.0, 125.0]),
        compute_units: 80,
        memory_gb_per_s: 900.0,
        // from one kernel to the next in a stream that is never empty; 2 to 3 us is what is commonly measured
        launch_us: 2.5,
        // NVLink 2, 6 links of 25 GB/s
        link_gb_per_s: 150.0,
        // nccl-tests of stas00/ml-engineering: an all-reduce of 32 KiB takes 44 us on 8 A100 (14 hops), 40 us on 8 H200, 68 us on 4
        // nodes of 8 A100; large ones reach 235 of 300 GB/s (A100), 366 of 450 (H200), 680 of 900 (B200); V100 122 of 150
        // (NVIDIA, GTC 2024, S62129)
        link_latency_us: 1.5,
        link_efficiency: 0.79,
        collective_us: 20.0,
        // fitted on the curves of A100, H200 and B200
        collective_ramp_us: 90.0,
        switch_reduce_gb_per_s: 0.0,
        // 25 Gbit/s Ethernet for 8 devices
        nic_gb_per_s: 3.125 / 8.0,
        // a TCP round through the kernel within one data centre; sockets carry 10 of 12.5 GB/s (GTC 2024, S62129)
        nic_latency_us: 30.0,
        nic_efficiency: 0.8,
        // p3.16xlarge: 488 GiB for 8
        host_memory_bytes: 61 * GIB,
        // PCIe 3 x16, 16 GB/s less what its protocol takes
        host_link_gb_per_s: 12.0,
        nvme_bytes: 0,
        nvme_gb_per_s: 1.0,
        power_w: 300.0,
        usd_per_hour: 3.06,
        cores: None,
        reach: BTreeMap::new(),
        curves: Vec::new(),
    }
}

/// A100-SXM4 with 80 GB, as in DGX A100.
fn a100() -> Device {
    Device {
        memory_bytes: 81_920 * MIB,
        flops: flops([19.5, 19.5, 312.0, 312.0, 312.0, 312.0]),
        compute_units: 108,
        memory_gb_per_s: 2039.0,
        // NVLink 3, 12 links of 25 GB/s
        link_gb_per_s: 300.0,
        // HDR InfiniBand, 200 Gbit/s a device
        nic_gb_per_s: 25.0,
        // a hop over RDMA: a few us of the network and as much of the proxy that posts it; large all-reduces reach 192 of 200 GB/s a
        // node with HDR, 380 of 400 with NDR (GTC 2024, S62129), 382 of 400 with EFA
        nic_latency_us: 6.5,
        nic_efficiency: 0.955,
        // DGX A100: 2 TB for 8
        host_memory_bytes: 250 * GIB,
        // PCIe 4 x16, 32 GB/s less what its protocol takes
        host_link_gb_per_s: 25.0,
        // DGX A100: 8 disks of 3.84 TB
        nvme_bytes: 38 * TB / 10,
        nvme_gb_per_s: 3.2,
        power_w: 400.0,
        usd_per_hour: 5.1,
        ..v100()
    }
}

/// H100-SXM5 with 80 GB of HBM3, as in DGX H100.
fn h100() -> Device {
    Device {
        memory_bytes: 81_559 * MIB,
        flops: flops([67.0, 67.0, 989.0, 989.0, 1979.0, 1979.0]),
        compute_units: 132,
        memory_gb_per_s: 3350.0,
        launch_us: 2.0,
        // NVLink 4, 18 links of 25 GB/s
        link_gb_per_s: 450.0,
        // NVLS: an all-reduce of 16 GiB takes as long as its traffic at 308 GB/s, on 5 to 8 H200 (nccl-tests, stas00/ml-engineering)
        switch_reduce_gb_per_s: 308.0,
        // NDR InfiniBand, 400 Gbit/s a device
        nic_gb_per_s: 50.0,
        // PCIe 5 x16, 64 GB/s less what its protocol takes
        host_link_gb_per_s: 50.0,
        nvme_gb_per_s: 6.0,
        power_w: 700.0,
        usd_per_hour: 6.9,
        ..a100()
    }
}

/// B200-SXM with 180 GB, as in DGX B200.
fn b200() -> Device {
    Device {
        memory_bytes: 183_359 * MIB,
        flops: flops([37.0, 75.0, 2250.0, 2250.0, 4500.0, 9000.0]),
        compute_units: 148,
        memory_gb_per_s: 8000.0,
        // NVLink 5, 18 links of 50 GB/s
        link_gb_per_s: 900.0,
        // the same on 6 to 8 B200
        switch_reduce_gb_per_s: 541.0,
        power_w: 1000.0,
        usd_per_hour: 14.2,
        ..h100()
    }
}

/// A device of GB200 NVL72: NVLink joins all 72, and a Grace CPU serves two.
fn gb200() -> Device {
    Device {
        memory_bytes: 189_471 * MIB,
        flops: flops([40.0, 80.0, 2500.0, 2500.0, 5000.0, 10_000.0]),
        compute_units: 152,
        // Grace: 480 GB of LPDDR5X for two devices, joined by NVLink-C2C of 450 GB/s a direction, which two share
        host_memory_bytes: 223 * GIB,
        host_link_gb_per_s: 225.0,
        power_w: 1200.0,
        usd_per_hour: 15.0,
        ..b200()
    }
}

/// `GeForce` RTX 4090, as in a server of 8 on PCIe 4.
fn rtx4090() -> Device {
    Device {
        memory_bytes: 24_564 * MIB,
        // tensor cores with sums in f32, as training needs; sums in fp16 are twice as fast
        flops: flops([1.29, 82.6, 165.2, 165.2, 330.3, 330.3]),
        compute_units: 128,
        memory_gb_per_s: 1008.0,
        // no NVLink, no direct access between devices: through host memory over PCIe 4, both ways at once
        link_gb_per_s: 12.0,
        link_latency_us: 10.0,
        link_efficiency: 1.0,
        switch_reduce_gb_per_s: 0.0,
        // 100 Gbit/s for 8 devices
        nic_gb_per_s: 12.5 / 8.0,
        nic_latency_us: 10.0,
        host_memory_bytes: 64 * GIB,
        host_link_gb_per_s: 25.0,
        nvme_bytes: TB,
        nvme_gb_per_s: 1.5,
        power_w: 450.0,
        usd_per_hour: 0.7,
        ..h100()
    }
}

/// One core of a server's CPU with AVX2 or AVX-512. Every figure is a rough default of this project's own, for planning
/// before anything was measured.
fn cpu_core() -> Device {
    // Sustained by a library GEMM at the sizes of a small training step, not the peak of a large one: matrices of 2048
    // reached 190 to 200 GFLOP/s in f32 on one AVX-512 core. In f64 there are half as many lanes. Narrower types compute in
    // f32 after a conversion: no kernel uses the CPU's own bf16 or fp16 units.
    let flops = flops([0.03, 0.06, 0.06, 0.06, 0.06, 0.06]);
    Device {
        kind: String::new(),
        // A usual server's ratio of memory to cores; a machine that has another says so.
        memory_bytes: 4 * GIB,
        flops,
        compute_units: 1,
        // A core's share of the sockets' bandwidth when all cores stream; one core alone reaches several times this.
        memory_gb_per_s: 8.0,
        // Handing one loop nest to a pool of threads that waits.
        launch_us: 2.0,
        // Between two threads: a copy through the shared cache or memory, each byte read once and written once.
        link_gb_per_s: 6.0,
        // Waking threads that blocked, at a meeting of ranks that may outnumber the cores.
        link_latency_us: 20.0,
        link_efficiency: 1.0,
        collective_us: 0.0,
        collective_ramp_us: 0.0,
        switch_reduce_gb_per_s: 0.0,
        // 10 Gbit/s Ethernet for the whole machine, of which a core is taken to have an eighth.
        nic_gb_per_s: 0.15,
        // A TCP round through the kernel within one data centre.
        nic_latency_us: 50.0,
        nic_efficiency: 1.0,
        // Its memory is the host's.
        host_memory_bytes: 0,
        host_link_gb_per_s: 8.0,
        nvme_bytes: 0,
        nvme_gb_per_s: 0.5,
        // A socket's power over its cores, and what clouds ask for a core.
        power_w: 5.0,
        usd_per_hour: 0.05,
        cores: None,
        reach: BTreeMap::new(),
        curves: Vec::new(),
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

    /// A slip of a digit is a device that is out of line with the others.
    #[test]
    fn figures_are_in_line() {
        for kind in KINDS.iter().filter(|kind| **kind != "cpu-core") {
            let device = device(kind).unwrap();
            let peak = |dtype| device.peak(dtype).0 / 1e12;
            let wider = [DType::F64, DType::F32, DType::Fp16, DType::Fp8, DType::Fp4];
            assert!(wider.windows(2).all(|pair| peak(pair[0]) <= peak(pair[1])), "{kind}: {:?}", device.flops);
            // FLOP a byte of memory traffic at which a matrix product stops being bound by it
            let balance = peak(DType::Fp16) * 1e3 / device.memory_gb_per_s;
            assert!((100.0..420.0).contains(&balance), "{kind}: {balance}");
            let of_unit = peak(DType::Fp16) / device.compute_units as f64;
            assert!((1.0..20.0).contains(&of_unit), "{kind}: {of_unit}");
            assert!(device.link_gb_per_s < device.memory_gb_per_s && device.nic_gb_per_s <= device.link_gb_per_s, "{kind}");
            assert!((15 * GIB..280 * GIB).contains(&device.memory_bytes), "{kind}");
            assert!((300.0..=1400.0).contains(&device.power_w), "{kind}");
        }
    }
}
